/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Un-merging of what was written after its merge, and is locked, executable or not to be written
 * now, for calls that would be wrong on it where it is (X).
 *
 * What takes its place must be so, too. The agent has no right to lock anything, nor to make code;
 * the thread that calls has what rights the program has. So it makes the memory, and locks it; the
 * agent fills that and moves it over, which needs no right, and the lock comes along.
 */
#include <errno.h>

#include <linux/mman.h>

#include "attributes.h"
#include "gate_inside.h"
#include "sitemap.h"
#include "sys.h"
#include "wire.h"

#define SET_MASK 2 /* of rt_sigprocmask */
#define LOCK     (SP_RANGE_LOCKED | SP_RANGE_ONFAULT)

/* What is to be un-merged: sites, all with the same attributes. */
struct left {
    uint64_t start, length;
    uint32_t attributes;
};

/* New memory with the same attributes. 0 if the kernel refuses that. */
static uint64_t map_alike(const struct left *l)
{
    long copy = sp_map_with(0, l->length, 0, l->attributes & ~LOCK);

    if (sp_is_err(copy))
        return 0;
    if (!(l->attributes & SP_RANGE_LOCKED) ||
        sp_lock_as((uint64_t)copy, l->length, l->attributes) == 0)
        return (uint64_t)copy;
    sp_sys(__NR_munmap, copy, l->length);
    return 0;
}

/*
 * The copy is counted, too, until it takes the place. If RLIMIT_MEMLOCK is too low for that the
 * lock is taken from the place first, which is only done if it could be put there again: to lock
 * what is locked is counted once.
 */
static uint64_t map_instead(const struct left *l)
{
    uint64_t copy;

    if (!(l->attributes & SP_RANGE_LOCKED) || sp_lock_as(l->start, l->length, l->attributes) != 0 ||
        sp_sys(__NR_munlock, l->start, l->length) != 0)
        return 0;
    copy = map_alike(l);
    if (!copy)
        sp_lock_as(l->start, l->length, l->attributes);
    return copy;
}

/* If the agent dies meanwhile nobody knows where the copy is: then it stays. */
static void put_alike(struct sp_gate_pass *pass, const struct left *l)
{
    uint64_t copy = map_alike(l);
    bool unlocked = false;
    long ret;

    if (!copy) {
        copy = map_instead(l);
        unlocked = true;
    }
    if (!copy)
        return;
    ret = sp_gate_ask_into(pass, l->start, l->start + l->length, copy,
                           unlocked ? l->attributes & ~LOCK : l->attributes);
    if (ret != 0 && ret != -ESRCH)
        sp_sys(__NR_munmap, copy, l->length);
    if (ret != 0 && unlocked)
        sp_lock_as(l->start, l->length, l->attributes);
}

/* Is it what the agent could not make, and can read? */
static bool is_for_us(long attributes)
{
    return !sp_is_err(attributes) && (attributes & SP_RANGE_RW) &&
           ((attributes & (SP_RANGE_LOCKED | SP_RANGE_EXEC)) ||
            (attributes & SP_RANGE_RW) != SP_RANGE_RW);
}

/* The sites from start to stop, or fewer: returns where they end. */
static uint64_t replace_run(struct sp_gate_pass *pass, uint64_t start, uint64_t stop)
{
    uint64_t page = sp_gate.page_size;
    long attributes;

    if (stop - start > SP_LIFT_PAGES * page)
        stop = start + SP_LIFT_PAGES * page;
    attributes = sp_gate_ask(pass, SP_GATE_LEFT, start, stop);
    if (attributes == -EFAULT) { /* not all of it has the same */
        stop = start + page;
        attributes = sp_gate_ask(pass, SP_GATE_LEFT, start, stop);
    }
    if (is_for_us(attributes))
        put_alike(pass, &(struct left){start, stop - start, (uint32_t)attributes});
    return stop;
}

void sp_replace_left(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    uint64_t all = ~(uint64_t)0, old = 0, start, stop;

    if (!sp_sitemap_any(addr, end) ||
        __atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) != SP_GATE_AGENT)
        return;
    /* A handler that jumped out of this would leave the copy behind. */
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    while (sp_sitemap_next(addr, end, &start, &stop))
        addr = replace_run(pass, start, stop);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
}
