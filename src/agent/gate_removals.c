/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that may take memory away, or the right to read it: has one been under way since some
 * moment?
 *
 * Who asks is a thread that reads what the kernel has just read for it (gate_own.c). Each such call
 * counts twice, inside the gate: begun before it changes anything, done when it will change nothing
 * more. If as many were done as had begun at the moment, and none has begun since, then nothing was
 * taken away by any. Counting them once would not do: a call that had begun before the moment may
 * take effect after it.
 *
 * There are several pairs of counters, a cache line each, so that threads which do nothing but such
 * calls do not wait for each other; a call has one of them. For each pair it holds by itself, for a
 * time that has what lies between the two looks in it; so it holds for all.
 *
 * A handler that jumps out of such a call leaves it begun for ever. Then nothing is ever sure, and
 * who asks does what it does when something was taken away: it costs time.
 */
#include <errno.h>

#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/shm.h>

#include "gate_inside.h"
#include "sys.h"

#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL, of Linux 6.13 */

/* A range that is empty, or that wraps round, takes nothing away: the kernel refuses it, or does
 * nothing. */
static bool is_range(const long *a)
{
    return sp_gate_page_aligned((uint64_t)a[0]) && a[1] &&
           sp_gate_page_up((uint64_t)a[0] + (uint64_t)a[1]) > (uint64_t)a[0];
}

/* What stays readable by mprotect does so with the key that it has. */
bool sp_removals_may_be(long nr, const long *a)
{
    switch ((int)nr) {
    case __NR_mmap:
        return (a[3] & MAP_FIXED) && !(a[3] & MAP_FIXED_NOREPLACE);
    case __NR_munmap:
    case __NR_pkey_mprotect:
        return is_range(a);
    case __NR_mprotect:
        return !(a[2] & PROT_READ) && is_range(a);
    case __NR_brk:
        return (uint64_t)a[0] < __atomic_load_n(&sp_gate_brk, __ATOMIC_SEQ_CST);
    case __NR_madvise:
        return (int)a[2] == GUARD_INSTALL;
    case __NR_process_madvise:
        return (int)a[3] == GUARD_INSTALL;
    case __NR_shmat:
        return a[2] & SHM_REMAP;
    case __NR_mremap:
    case __NR_shmdt:
    case __NR_remap_file_pages:
    case __NR_ioctl: /* of a userfaultfd, which may answer who reads by a signal */
        return true;
    }
    return false;
}

struct sp_removal sp_removals_begin(const struct sp_gate_pass *pass)
{
    struct sp_removal removal = {.pair = pass->slot % SP_GATE_REMOVALS,
                                 .fork = sp_gate_generation()};

    __atomic_fetch_add(&sp_gate.removals[removal.pair].begun, 1, __ATOMIC_SEQ_CST);
    return removal;
}

/* A handler may have forked meanwhile: the child's counters began anew, with nothing under way. */
void sp_removals_end(struct sp_removal removal)
{
    if (removal.fork == sp_gate_generation())
        __atomic_fetch_add(&sp_gate.removals[removal.pair].done, 1, __ATOMIC_SEQ_CST);
}

void sp_removals_reset(void)
{
    for (unsigned i = 0; i < SP_GATE_REMOVALS; i++)
        sp_gate.removals[i].done = sp_gate.removals[i].begun;
}

/* What is done is read first: what has begun by then is at least as much, and does not become less.
 */
bool sp_removals_none(uint64_t *begun)
{
    bool none = true;

    *begun = 0;
    for (unsigned i = 0; i < SP_GATE_REMOVALS; i++) {
        uint64_t done = __atomic_load_n(&sp_gate.removals[i].done, __ATOMIC_SEQ_CST);
        uint64_t now = __atomic_load_n(&sp_gate.removals[i].begun, __ATOMIC_SEQ_CST);

        none = none && done == now;
        *begun += now;
    }
    return none;
}

bool sp_removals_since(uint64_t begun)
{
    uint64_t now = 0;

    for (unsigned i = 0; i < SP_GATE_REMOVALS; i++)
        now += __atomic_load_n(&sp_gate.removals[i].begun, __ATOMIC_SEQ_CST);
    return now != begun;
}
