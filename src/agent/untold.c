/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child that the program is not told of, not by its figures either.
 *
 * What a process waits for is added to what its children used: getrusage(RUSAGE_CHILDREN) and
 * times() would tell of ours. Not of a child that the kernel takes away by itself, because SIGCHLD
 * is ignored. That holds for all children of the process, and takes back a SIGCHLD that waits to be
 * handled: so it is done only where there can be neither; elsewhere our child is waited for, and
 * counted.
 */
#include <errno.h>
#include <stdint.h>

#include "agent.h"
#include "gate.h"
#include "sys.h"

#define SIGCHLD_NR 17
#define IGNORE     ((void (*)(int))1)
#define P_ALL_IDS  0
#define CHANGES    0x41000005 /* __WALL, WNOWAIT, WNOHANG, WEXITED */

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static struct kernel_sigaction programs;

static bool has_children(void)
{
    return sp_sys(__NR_waitid, P_ALL_IDS, 0, 0, CHANGES, 0) != -ECHILD;
}

static bool has_sigchld(void)
{
    uint64_t pending = ~(uint64_t)0;

    sp_sys(__NR_rt_sigpending, &pending, sizeof(pending));
    return (pending >> (SIGCHLD_NR - 1)) & 1;
}

/* More threads than one may make children meanwhile. */
static bool has_threads(void)
{
    const uint64_t *thread;

    return sp_gate_threads(&thread) > 1;
}

bool sp_untold_begin(bool forked)
{
    struct kernel_sigaction untold = {.handler = IGNORE};

    if (!forked && (has_threads() || has_children() || has_sigchld()))
        return false;
    return sp_sys(__NR_rt_sigaction, SIGCHLD_NR, &untold, &programs, sizeof(untold.mask)) == 0;
}

void sp_untold_end(void)
{
    sp_sys(__NR_rt_sigaction, SIGCHLD_NR, &programs, 0, sizeof(programs.mask));
}
