/* SPDX-License-Identifier: Apache-2.0 */
/* X: madvise, each kind, on merged pages too: what it promises, and nothing else. */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

/* What locked memory refuses (another thread may have all locked by mlockall), or this kernel. */
static bool may_refuse(int advice)
{
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_COLLAPSE:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_GUARD_INSTALL:
    case MADV_DONTNEED_LOCKED:
        return true;
    }
    return false;
}

/* By libc's function or by syscall(2). 0, or -1 where it could not be done now. */
static int advise(struct block *b, uint32_t first, uint32_t n, int advice, uint64_t *state,
                  const char *what)
{
    void *at = page_at(b, first);
    size_t bytes = (size_t)n * PAGE;
    int ret = chance(state) % 2 ? madvise(at, bytes, advice)
                                : (int)syscall(SYS_madvise, at, bytes, advice);

    if (!ret || lacking(what))
        return ret;
    if (advice == MADV_WIPEONFORK && errno == EINVAL && (options.store || agent_killed()))
        return -1;
    if (!may_refuse(advice) || (errno != EINVAL && errno != EAGAIN && errno != EBUSY))
        wrong("madvise failed", what);
    return -1;
}

/* What must come back into force whatever it takes. */
static void advise_back(struct block *b, uint32_t first, uint32_t n, int advice, const char *what)
{
    while (madvise(page_at(b, first), (size_t)n * PAGE, advice)) {
        if (!lacking(what) && errno != EAGAIN)
            wrong("madvise failed", what);
        pause_ms(10);
    }
}

/* Advice and its opposite, with a look at the bytes in between. */
static bool there_and_back(struct block *b, uint64_t *state, int advice, int back, const char *what)
{
    uint32_t first, n;
    int ret;

    block_stretch(b, state, 64, &first, &n);
    ret = advise(b, first, n, advice, state, what);
    block_check(b, first, n, what);
    if (chance(state) % 4 == 0)
        pause_ms(1 + (unsigned)chance(state) % 4);
    block_rewrite(b, first, page_chosen(b, first, state));
    block_check(b, first, n, what);
    if (back >= 0 && (!ret || errno == ENOMEM))
        advise_back(b, first, n, back, what);
    block_check(b, first, n, what);
    return !ret;
}

/* A call that was refused at memory which another thread had locked: what is before that was
 * dropped, if it was mapped anew since and so is not locked. */
static void dropped_in_part(struct block *b, uint32_t first, uint32_t n, const char *what)
{
    static const struct page zero = {.kind = KIND_ZERO};

    for (uint32_t i = first; i < first + n; i++)
        if (page_is(page_at(b, i), &zero))
            b->page[i] = zero;
        else
            page_check(page_at(b, i), &b->page[i], true, what);
}

static bool dropped(struct block *b, uint64_t *state, int advice, const char *what)
{
    uint32_t first, n;

    block_stretch(b, state, chance(state) % 4 ? 64 : 2048, &first, &n);
    block_check(b, first, n, what);
    if (advise(b, first, n, advice, state, what)) {
        dropped_in_part(b, first, n, what);
        return false;
    }
    if (chance(state) % 4 == 0)
        pause_ms(1);
    block_zeroed(b, first, n, what);
    block_refill(b, first, n, state);
    block_check_some(b, state, what);
    return true;
}

OP(op_dontneed)
{
    return dropped(b, state, MADV_DONTNEED, "madvise-dontneed");
}

OP(op_dontneed_locked)
{
    return dropped(b, state, MADV_DONTNEED_LOCKED, "madvise-dontneed-locked");
}

/*
 * Zeros or the old bytes, page by page, until it is written again. Not where a child shares the
 * pages: Linux (6.18) takes a shared page from the child, too, if the child's is clean, as it is
 * where direct I/O once read from it, and gives the child zeros when memory gets short (README.md).
 */
OP(op_free)
{
    static const struct page zero = {.kind = KIND_ZERO};
    uint32_t first, n;
    int ret;

    if (__atomic_load_n(&b->stays, __ATOMIC_SEQ_CST))
        return NOT_NOW;
    block_stretch(b, state, 256, &first, &n);
    block_check(b, first, n, "before madvise-free");
    ret =
        advise(b, first, n, MADV_FREE, state, "madvise-free"); /* refused, it may be done in part */
    for (uint32_t i = first; i < first + n; i++)
        if (!page_is(page_at(b, i), &zero) && !page_is(page_at(b, i), &b->page[i]))
            page_check(page_at(b, i), &b->page[i], true, "madvise-free");
    pause_ms((unsigned)chance(state) % 3);
    block_refill(b, first, n, state);
    block_check(b, first, n, "written after madvise-free");
    return !ret;
}

/* Private anonymous memory refuses it. */
OP(op_remove)
{
    uint32_t first, n;

    block_stretch(b, state, 64, &first, &n);
    if (madvise(page_at(b, first), (size_t)n * PAGE, MADV_REMOVE) != -1 || errno != EINVAL)
        wrong("it was not refused with EINVAL", "madvise-remove");
    block_check(b, first, n, "madvise-remove");
    return true;
}

OP(op_read_advice)
{
    int advice = chance(state) % 2 ? MADV_RANDOM : MADV_SEQUENTIAL;

    return there_and_back(b, state, advice, MADV_NORMAL, "madvise-random");
}

OP(op_willneed)
{
    return there_and_back(b, state, MADV_WILLNEED, -1, "madvise-willneed");
}

OP(op_cold)
{
    return there_and_back(b, state, MADV_COLD, -1, "madvise-cold");
}

OP(op_pageout)
{
    return there_and_back(b, state, MADV_PAGEOUT, -1, "madvise-pageout");
}

OP(op_dontdump)
{
    return there_and_back(b, state, MADV_DONTDUMP, MADV_DODUMP, "madvise-dontdump");
}

OP(op_hugepage)
{
    return there_and_back(b, state, MADV_HUGEPAGE, MADV_NOHUGEPAGE, "madvise-hugepage");
}

OP(op_collapse)
{
    return there_and_back(b, state, MADV_COLLAPSE, -1, "madvise-collapse") || errno == EINVAL;
}

OP(op_populate)
{
    int advice = chance(state) % 2 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;

    return there_and_back(b, state, advice, -1, "madvise-populate");
}

OP(op_unmergeable)
{
    bool some = chance(state) % 4 == 0;
    uint32_t first = 0, n = b->npages;
    int ret;

    if (some)
        block_stretch(b, state, 256, &first, &n);
    ret = advise(b, first, n, MADV_UNMERGEABLE, state, "madvise-unmergeable");
    block_check_some(b, state, "madvise-unmergeable");
    advise_back(b, first, n, MADV_MERGEABLE, "madvise-mergeable");
    return !ret;
}

/* What the process has advised is so no more: without this, such a worker would hardly be merged
 * again. */
static void advise_all_again(void)
{
    for (uint32_t i = 0; i < nblocks; i++) {
        struct block *b = &block[i];

        pthread_rwlock_rdlock(&b->lock); /* it stays where it is */
        if (madvise(b->base, (size_t)b->npages * PAGE, MADV_MERGEABLE) &&
            !lacking("memory-merge") && errno != EINVAL && errno != EAGAIN)
            wrong("madvise failed", "memory-merge");
        pthread_rwlock_unlock(&b->lock);
    }
}

/* For the whole process, once in a while. */
OP(op_memory_merge)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int ret;

    if (pthread_mutex_trylock(&lock))
        return false;
    ret = prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    if (ret && errno != EINVAL && !lacking("memory-merge"))
        wrong("prctl failed", "memory-merge");
    prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
    if (options.advise) {
        prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
        advise_all_again();
    }
    pthread_mutex_unlock(&lock);
    return !ret;
}

/* In a child: what fork was told not to copy is not there, or zeros. */
static void forked_without(struct actor *a, struct block *b, uint32_t first, uint32_t n, bool wiped,
                           const char *what)
{
    pid_t pid = fork_with(a, b, 0);
    unsigned char map;

    if (pid < 0)
        return;
    if (pid) {
        child_wait(pid, what, 0);
        return;
    }
    for (uint32_t i = 0; i < b->npages; i++) {
        if (i < first || i >= first + n)
            page_check(page_at(b, i), &a->snapshot[i], true, what);
        else if (wiped)
            page_check_zero(page_at(b, i), what);
        else if (!mincore(page_at(b, i), PAGE, &map) || errno != ENOMEM)
            wrong("a page was copied all the same", what);
    }
    _exit(0);
}

OP(op_dontfork)
{
    uint32_t first, n;
    int ret;

    if (b->npages > 512)
        return false;
    block_stretch(b, state, 32, &first, &n);
    ret = advise(b, first, n, MADV_DONTFORK, state, "madvise-dontfork");
    block_check(b, first, n, "madvise-dontfork");
    pause_ms((unsigned)chance(state) % 4);
    if (!ret)
        forked_without(a, b, first, n, false, "madvise-dontfork");
    advise_back(b, first, n, MADV_DOFORK, "madvise-dofork");
    block_check(b, first, n, "madvise-dofork");
    return !ret;
}

OP(op_wipeonfork)
{
    uint32_t first, n;
    int ret;

    if (b->npages > 512)
        return false;
    block_stretch(b, state, 32, &first, &n);
    ret = advise(b, first, n, MADV_WIPEONFORK, state, "madvise-wipeonfork");
    block_check(b, first, n, "madvise-wipeonfork");
    pause_ms((unsigned)chance(state) % 4);
    if (!ret)
        forked_without(a, b, first, n, true, "madvise-wipeonfork");
    advise_back(b, first, n, MADV_KEEPONFORK, "madvise-keeponfork");
    block_check(b, first, n, "madvise-keeponfork");
    return !ret;
}

/* Guards, which the kernel cannot be asked about but by touching: in vain, by a call of its own. */
OP(op_guard)
{
    uint32_t first, n;
    int ret;

    block_stretch(b, state, 32, &first, &n);
    ret = advise(b, first, n, MADV_GUARD_INSTALL, state, "madvise-guard");
    if (ret) {
        while (madvise(page_at(b, first), (size_t)n * PAGE, MADV_GUARD_REMOVE) && errno != EINVAL)
            pause_ms(10);
        dropped_in_part(b, first, n, "madvise-guard");
        return false;
    }
    pause_ms((unsigned)chance(state) % 3);
    for (uint32_t i = first; i < first + n; i++)
        if (write(a->pipe[1], page_at(b, i), 8) != -1 || errno != EFAULT)
            wrong("a guarded page can be read", "madvise-guard");
    advise_back(b, first, n, MADV_GUARD_REMOVE, "madvise-guard-remove");
    block_zeroed(b, first, n, "madvise-guard-remove");
    block_check_some(b, state, "beside madvise-guard");
    return true;
}

OP(op_process_madvise)
{
    static const int advice[] = {MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_COLLAPSE};
    uint32_t first, n;
    struct iovec range;
    long ret;
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

    if (self < 0)
        return false;
    block_stretch(b, state, 64, &first, &n);
    range = (struct iovec){page_at(b, first), (size_t)n * PAGE};
    ret = syscall(SYS_process_madvise, self, &range, 1, advice[chance(state) % 4], 0);
    close(self);
    block_check(b, first, n, "process-madvise");
    return ret >= 0 || errno == EINVAL;
}
