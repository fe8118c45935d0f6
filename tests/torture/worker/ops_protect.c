/* SPDX-License-Identifier: Apache-2.0 */
/* X: mprotect, pkey_mprotect, mlock, mlock2, mlockall, mbind: in force afterwards, on merged pages
 * too. And names of mappings, which are lost without harm. */
#include <errno.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef __NR_set_mempolicy_home_node
#define __NR_set_mempolicy_home_node 450
#endif

#define RW (PROT_READ | PROT_WRITE)

/* What this thread expects to fault: a write to a page made read-only. */
static __thread char *volatile guarded, *volatile guarded_end;
static __thread volatile unsigned faults;
static int pkey = -1;

/* The program's own handler: puts the page right, as collectors and databases do. */
static void on_segv(int sig, siginfo_t *info, void *context)
{
    char *at = info->si_addr;

    if (!guarded || at < guarded || at >= guarded_end || info->si_code != SEGV_ACCERR)
        wrong("a fault that nobody expects", "SIGSEGV");
    faults++;
    while (mprotect((void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1)), PAGE, RW))
        ;
}

bool protect_init(void)
{
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};

    pkey = (int)syscall(SYS_pkey_alloc, 0, 0);
    return !sigaction(SIGSEGV, &action, NULL);
}

/* The protection must be given back, or nobody can write there. */
static void protect_back(const struct block *b, uint32_t first, uint32_t n)
{
    while (mprotect(page_at(b, first), (size_t)n * PAGE, RW)) {
        if (!lacking("mprotect: back"))
            wrong("mprotect failed", "mprotect: back");
        pause_ms(10);
    }
}

OP(op_mprotect)
{
    uint32_t first, n;

    block_stretch(b, state, chance(state) % 4 ? 64 : 4096, &first, &n);
    if (mprotect(page_at(b, first), (size_t)n * PAGE, PROT_READ) && !lacking("mprotect"))
        wrong("mprotect failed", "mprotect");
    block_check(b, first, n, "read-only");
    protect_back(b, first, n);
    block_check(b, first, n, "writable again");
    return true;
}

OP(op_mprotect_handler)
{
    uint32_t first, n, written = 0;

    block_stretch(b, state, 32, &first, &n);
    if (mprotect(page_at(b, first), (size_t)n * PAGE, chance(state) % 2 ? PROT_READ : PROT_NONE)) {
        if (!lacking("mprotect-handler"))
            wrong("mprotect failed", "mprotect-handler");
        protect_back(b, first, n);
        return false;
    }
    guarded = page_at(b, first);
    guarded_end = page_at(b, first + n);
    faults = 0;
    for (uint32_t i = first; i < first + n; i += 1 + (uint32_t)(chance(state) % 4), written++)
        page_add(page_at(b, i), &b->page[i]);
    if (faults != written)
        wrong("a write to a protected page did not fault, or more than once", "mprotect-handler");
    guarded = guarded_end = NULL;
    protect_back(b, first, n);
    block_check(b, first, n, "mprotect-handler");
    return true;
}

OP(op_pkey_mprotect)
{
    uint32_t first, n;

    if (pkey < 0)
        return NOT_HERE;
    block_stretch(b, state, 64, &first, &n);
    if (syscall(SYS_pkey_mprotect, page_at(b, first), (size_t)n * PAGE, RW, pkey) &&
        !lacking("pkey-mprotect"))
        wrong("pkey_mprotect failed", "pkey-mprotect");
    pause_ms((unsigned)chance(state) % 3);
    block_check(b, first, n, "keyed");
    while (syscall(SYS_pkey_mprotect, page_at(b, first), (size_t)n * PAGE, RW, 0)) {
        if (!lacking("pkey-mprotect: back"))
            wrong("pkey_mprotect failed", "pkey-mprotect: back");
        pause_ms(10);
    }
    block_check(b, first, n, "without a key again");
    return true;
}

static bool locked(struct block *b, uint64_t *state, int flags, const char *what)
{
    uint32_t first, n;

    block_stretch(b, state, 64, &first, &n);
    if (syscall(SYS_mlock2, page_at(b, first), (size_t)n * PAGE, flags)) {
        if (errno != EAGAIN && !lacking(what))
            wrong("it failed", what);
        munlock(page_at(b, first), (size_t)n * PAGE);
        return false;
    }
    block_check(b, first, n, what);
    block_rewrite(b, first, page_chosen(b, first, state));
    pause_ms((unsigned)chance(state) % 4);
    block_check(b, first, n, what);
    if (munlock(page_at(b, first), (size_t)n * PAGE) && !lacking("munlock"))
        wrong("munlock failed", what);
    block_check(b, first, n, "unlocked");
    return true;
}

OP(op_mlock)
{
    return locked(b, state, 0, "mlock");
}

OP(op_mlock2)
{
    return locked(b, state, MLOCK_ONFAULT, "mlock2");
}

/* All that is there now; what comes, for a moment, in a child only (ops_child.c): it stops merging.
 */
OP(op_mlockall)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    bool done;

    if (pthread_mutex_trylock(&lock))
        return false;
    done = !mlockall(MCL_CURRENT | (chance(state) % 2 ? MCL_ONFAULT : 0));
    if (!done && errno != EAGAIN && !lacking("mlockall"))
        wrong("mlockall failed", "mlockall");
    pause_ms((unsigned)chance(state) % 8);
    if (munlockall() && !lacking("munlockall"))
        wrong("munlockall failed", "mlockall");
    pthread_mutex_unlock(&lock);
    return done;
}

static bool bind_to(struct block *b, uint32_t first, uint32_t n, int mode, unsigned flags)
{
    unsigned long node = mode == MPOL_DEFAULT ? 0 : 1;

    if (!syscall(SYS_mbind, page_at(b, first), (size_t)n * PAGE, mode, node ? &node : NULL,
                 node ? 8 : 0, flags))
        return true;
    if (errno == ENOSYS || errno == EPERM || errno == EIO || lacking("mbind"))
        return false;
    wrong("mbind failed", "mbind");
}

OP(op_mbind)
{
    uint32_t first, n;
    bool done;

    block_stretch(b, state, 64, &first, &n);
    done = bind_to(b, first, n, MPOL_BIND, chance(state) % 2 ? MPOL_MF_MOVE : 0);
    block_check(b, first, n, "bound");
    pause_ms((unsigned)chance(state) % 3);
    while (done && !bind_to(b, first, n, MPOL_DEFAULT, 0))
        pause_ms(10);
    block_check(b, first, n, "not bound any more");
    return done;
}

OP(op_home_node)
{
    uint32_t first, n;
    bool done;

    block_stretch(b, state, 16, &first, &n);
    if (!bind_to(b, first, n, MPOL_BIND, 0))
        return false;
    done = !syscall(__NR_set_mempolicy_home_node, page_at(b, first), (size_t)n * PAGE, 0, 0);
    block_check(b, first, n, "with a home node");
    while (!bind_to(b, first, n, MPOL_DEFAULT, 0))
        pause_ms(10);
    block_check(b, first, n, "without a home node");
    return done;
}

OP(op_name)
{
    uint32_t first, n;
    int ret, err;

    block_stretch(b, state, 64, &first, &n);
    ret = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, page_at(b, first), (size_t)n * PAGE, "torture");
    err = errno;
    block_check(b, first, n, "named");
    if (!ret)
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, page_at(b, first), (size_t)n * PAGE, NULL);
    block_check(b, first, n, "without a name again");
    return !ret ? DONE : err == EINVAL ? NOT_HERE : NOT_NOW;
}
