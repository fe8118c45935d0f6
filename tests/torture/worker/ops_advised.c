/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that the program advises itself, locked (S4) or bound to a node (K17): it is merged all
 * the same. Each thread has some of either kind, outside of the blocks, so that it stays as it is
 * until the thread comes by again.
 */
#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

#define PAGES  512u
#define NUMBER 0x7f000000u /* of the first page: as all threads of all workers have it */

/* true: DONE */
static bool lock(void *at, size_t bytes, uint64_t *state)
{
    if (!syscall(SYS_mlock2, at, bytes, chance(state) % 2 ? MLOCK_ONFAULT : 0))
        return true;
    if (errno != EAGAIN && !lacking("mlock-advised"))
        wrong("mlock2 failed", "mlock-advised");
    return false;
}

static bool bind_to(void *at, size_t bytes, int mode, unsigned flags)
{
    unsigned long node = 1;

    if (!syscall(SYS_mbind, at, bytes, mode, mode == MPOL_DEFAULT ? NULL : &node,
                 mode == MPOL_DEFAULT ? 0 : 8, flags))
        return true;
    if (errno != ENOSYS && errno != EPERM && errno != EIO && !lacking("mbind-advised"))
        wrong("mbind failed", "mbind-advised");
    return false;
}

static void rewrite(struct advised *m, uint32_t i, uint32_t version)
{
    m->page[i] = (struct page){.kind = KIND_EQUAL, .number = NUMBER + i, .version = version};
    page_fill(m->base + (size_t)i * PAGE, &m->page[i]);
}

static void forget(struct advised *m)
{
    munmap(m->base, (size_t)PAGES * PAGE);
    m->base = NULL;
    m->merged = false;
}

/* The records lie in shared memory, which is never merged. */
static bool make(struct advised *m)
{
    size_t bytes = (size_t)PAGES * PAGE;
    void *map;

    if (!m->page) {
        map = mmap(NULL, PAGES * sizeof(*m->page), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED)
            return false;
        m->page = map;
    }
    map = pages_map(NULL, PAGES, 0);
    if (map == MAP_FAILED)
        return false;
    m->base = map;
    for (uint32_t i = 0; i < PAGES; i++)
        rewrite(m, i, 0);
    if (madvise(map, bytes, MADV_MERGEABLE))
        forget(m);
    return m->base;
}

static uint32_t merged_pages(const struct advised *m)
{
    uint32_t merged = 0;

    for (uint32_t i = 0; i < PAGES; i++)
        merged += page_is_merged(m->base + (size_t)i * PAGE);
    return merged;
}

static void check(const struct advised *m, const char *what)
{
    for (uint32_t i = 0; i < PAGES; i++)
        page_check(m->base + (size_t)i * PAGE, &m->page[i], true, what);
}

void advised_check(const struct actor *a, const char *when)
{
    if (a->locked.base)
        check(&a->locked, when);
    if (a->bound.base)
        check(&a->bound, when);
}

/* Some are written, or all mapped anew. What was written stays private while it may be pinned (K6).
 */
static void change(struct advised *m, uint64_t *state)
{
    uint32_t i = (uint32_t)(chance(state) % PAGES), end = i + (uint32_t)(chance(state) % 32);

    if (chance(state) % 8 == 0) {
        forget(m);
        return;
    }
    for (; i < PAGES && i < end; i++)
        if (chance(state) % 2)
            page_add(m->base + (size_t)i * PAGE, &m->page[i]);
        else
            rewrite(m, i, 0);
    check(m, "written");
}

/* Is it merged? Where it is no more, it is not again soon: it is mapped anew. */
static bool is_merged(struct advised *m)
{
    bool merged = merged_pages(m), was = m->merged;

    m->merged = merged;
    if (was && !merged)
        forget(m);
    return merged;
}

/* Done: it was merged, locked. */
OP(op_mlock_advised)
{
    struct advised *m = &a->locked;

    if (!m->base) {
        if (make(m) && !lock(m->base, (size_t)PAGES * PAGE, state))
            forget(m);
        return NOT_NOW;
    }
    check(m, "mlock-advised");
    if (!is_merged(m))
        return NOT_NOW;
    if (chance(state) % 4 == 0)
        lock(m->base, (size_t)PAGES * PAGE, state);
    change(m, state);
    return DONE;
}

/* Done: it was merged, and bound then. Every second time it stays bound. */
OP(op_mbind_advised)
{
    struct advised *m = &a->bound;
    size_t bytes = (size_t)PAGES * PAGE;
    bool done;

    if (!m->base) {
        make(m);
        return NOT_NOW;
    }
    check(m, "mbind-advised");
    if (!is_merged(m))
        return NOT_NOW;
    done = bind_to(m->base, bytes, MPOL_BIND, chance(state) % 2 ? MPOL_MF_MOVE : 0);
    pause_ms((unsigned)chance(state) % 16);
    check(m, "bound");
    while (chance(state) % 2 && !bind_to(m->base, bytes, MPOL_DEFAULT, 0))
        pause_ms(10);
    check(m, "bound, or not any more");
    change(m, state);
    return done ? DONE : NOT_NOW;
}
