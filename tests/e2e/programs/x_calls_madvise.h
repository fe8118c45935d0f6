/* SPDX-License-Identifier: Apache-2.0 */
/* X: every kind of madvise that this kernel knows, and process_madvise, on merged pages. Left out are
 * the two that take the page itself out of use for everybody (HWPOISON, SOFT_OFFLINE). */
#ifndef SP_E2E_X_CALLS_MADVISE_H
#define SP_E2E_X_CALLS_MADVISE_H

#include <sys/uio.h>

#include "x_calls.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#define PIDFD_OF_SELF (-10000) /* Linux 6.14: stands for the calling thread */

/* Pages 7 to 67 get the advice, which keeps their bytes; what it says of them is in force, also on
 * what is un-merged later; another advice takes it back. */
static void advise_keeping(struct area *a, int advice, int undo)
{
    CALL(madvise, place(a, 7), 60 * PAGE, advice);
    same(a, 0, AREA_PAGES, "after advice that keeps the bytes");
    told_smaps(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "after advice that keeps the bytes");
    CALL(madvise, place(a, 7), 60 * PAGE, undo);
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 7), 20 * PAGE, MADV_DONTNEED);
    zero(a, 7, 20, "after advice that keeps the bytes, then MADV_DONTNEED");
    same(a, 27, AREA_PAGES - 27, "above what was dropped");
    usable(a, 0, AREA_PAGES, "after advice that keeps the bytes");
}

#define KEEPING_ROW(function, advice, undo)                                                        \
    static void function(struct area *a)                                                           \
    {                                                                                              \
        advise_keeping(a, advice, undo);                                                           \
    }

KEEPING_ROW(madvise_normal, MADV_NORMAL, MADV_NORMAL)
KEEPING_ROW(madvise_random, MADV_RANDOM, MADV_NORMAL)
KEEPING_ROW(madvise_sequential, MADV_SEQUENTIAL, MADV_NORMAL)
KEEPING_ROW(madvise_willneed, MADV_WILLNEED, MADV_NORMAL)
KEEPING_ROW(madvise_cold, MADV_COLD, MADV_NORMAL)
KEEPING_ROW(madvise_pageout, MADV_PAGEOUT, MADV_NORMAL)
KEEPING_ROW(madvise_populate_read, MADV_POPULATE_READ, MADV_NORMAL)
KEEPING_ROW(madvise_populate_write, MADV_POPULATE_WRITE, MADV_NORMAL)
KEEPING_ROW(madvise_dontdump, MADV_DONTDUMP, MADV_DODUMP)
KEEPING_ROW(madvise_hugepage, MADV_HUGEPAGE, MADV_NOHUGEPAGE)
KEEPING_ROW(madvise_collapse, MADV_COLLAPSE, MADV_NORMAL)
KEEPING_ROW(madvise_remove, MADV_REMOVE, MADV_NORMAL)
KEEPING_ROW(madvise_mergeable, MADV_MERGEABLE, MADV_NORMAL)
KEEPING_ROW(madvise_unmergeable, MADV_UNMERGEABLE, MADV_NORMAL)
KEEPING_ROW(madvise_unknown, 9999, -1)

/* Advice that begins where merged pages end: what is un-merged has its own, not its neighbour's. */
static void madvise_hugepage_behind(struct area *a)
{
    CALL(madvise, place(a, 5), 75 * PAGE, MADV_HUGEPAGE);
    await_tracked(place(a, 7)); /* the agent knows it as it is now */
    ask("unmerge");
    CALL(madvise, place(a, 5), 75 * PAGE, MADV_NOHUGEPAGE);
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "advised behind merged pages");
}

static void madvise_dontneed(struct area *a)
{
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTNEED);
    zero(a, 7, 60, "after MADV_DONTNEED");
    same(a, 0, 7, "below what was dropped");
    same(a, 67, AREA_PAGES - 67, "above what was dropped");
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTNEED);
    zero(a, 7, 60, "after MADV_DONTNEED again");
    usable(a, 7, 60, "after MADV_DONTNEED");
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTNEED);
    zero(a, 7, 60, "written, then MADV_DONTNEED");
}

static void madvise_free(struct area *a)
{
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_FREE);
    same_or_zero(a, 7, 60, "after MADV_FREE");
    same(a, 0, 7, "below what was freed");
    same(a, 67, AREA_PAGES - 67, "above what was freed");
    usable(a, 7, 60, "after MADV_FREE");
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTNEED);
    zero(a, 7, 60, "freed, then MADV_DONTNEED");
    told_smaps(place(a, 0), AREA_PAGES);
}

/* What lies on both sides of a hole is dropped, and the call says that there was one. */
static void dropped_beside_hole(struct area *a, int advice)
{
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    CALL(madvise, place(a, 10), 60 * PAGE, advice);
    same(a, 0, 10, "below what was dropped");
    same(a, 70, AREA_PAGES - 70, "above what was dropped");
    if (advice == MADV_DONTNEED) {
        zero(a, 10, 20, "below a hole");
        zero(a, 34, 36, "above a hole");
    }
    usable(a, 10, 20, "below a hole");
    usable(a, 34, 36, "above a hole");
    told_mapped(place(a, 0), AREA_PAGES);
}

static void madvise_dontneed_hole(struct area *a)
{
    dropped_beside_hole(a, MADV_DONTNEED);
}

/* Locked memory is refused; what lies before it was dropped by then, what lies behind it was not. */
static void dropped_up_to_lock(struct area *a, int advice)
{
    CALL(mlock, place(a, 40), 4 * PAGE);
    CALL(madvise, place(a, 10), 60 * PAGE, advice);
    same(a, 0, 10, "below what was dropped");
    if (advice == MADV_DONTNEED)
        zero(a, 10, 30, "below a lock");
    same(a, 40, AREA_PAGES - 40, "locked, and above that");
    CALL(munlock, place(a, 40), 4 * PAGE);
    usable(a, 10, 60, "below and above a lock");
    told_smaps(place(a, 0), AREA_PAGES);
}

static void madvise_dontneed_up_to_lock(struct area *a)
{
    dropped_up_to_lock(a, MADV_DONTNEED);
}

static void madvise_free_up_to_lock(struct area *a)
{
    dropped_up_to_lock(a, MADV_FREE);
}

static void madvise_free_hole(struct area *a)
{
    dropped_beside_hole(a, MADV_FREE);
}

static void madvise_hole(struct area *a)
{
    static const int advice[] = { MADV_NORMAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_COLD,
                                  MADV_HUGEPAGE, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_DONTFORK,
                                  MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_WIPEONFORK,
                                  MADV_REMOVE };

    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++)
        CALL(madvise, place(a, 10), 60 * PAGE, advice[i]);
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
}

static void madvise_refused(struct area *a)
{
    static const int advice[] = { MADV_NORMAL, MADV_DONTNEED, MADV_FREE, MADV_MERGEABLE,
                                  MADV_UNMERGEABLE, MADV_WIPEONFORK, MADV_GUARD_INSTALL,
                                  MADV_POPULATE_WRITE, MADV_COLLAPSE, 9999 };

    for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
        CALL(madvise, place(a, 7), 0, advice[i]);
        CALL(madvise, place(a, 7) + 8, PAGE, advice[i]);
        CALL(madvise, place(a, 7), ~(size_t)0 - PAGE, advice[i]);
        CALL(madvise, place(a, 7), ~(size_t)0, advice[i]);
    }
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "after advice that was refused");
}

static void check_wiped(struct area *a)
{
    same(a, 0, 7, "in the child");
    zero(a, 7, 60, "in the child, wiped");
    same(a, 67, AREA_PAGES - 67, "in the child");
}

static void check_whole(struct area *a)
{
    same(a, 0, AREA_PAGES, "in the child");
}

static void madvise_wipeonfork(struct area *a)
{
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_WIPEONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    ask("merge");
    in_child(check_wiped, a);
    same(a, 0, AREA_PAGES, "in the parent");
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_KEEPONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    in_child(check_whole, a);
    same(a, 0, AREA_PAGES, "in the parent");
}

/* Advice that no file's mapping takes, where what was written after it was merged has another protection. */
static void protected_wipeonfork(struct area *a, int prot)
{
    CALL(mprotect, place(a, 7), 60 * PAGE, prot);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_WIPEONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    told_access(place(a, 0), AREA_PAGES);
    in_child(check_wiped, a);
    same(a, 0, AREA_PAGES, "in the parent");
    CALL(mprotect, place(a, 7), 60 * PAGE, PROT_READ | PROT_WRITE);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_KEEPONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    told_access(place(a, 0), AREA_PAGES);
    usable(a, 0, AREA_PAGES, "once protected");
}

static void mprotect_read_wipeonfork(struct area *a)
{
    protected_wipeonfork(a, PROT_READ);
}

static void mprotect_write_wipeonfork(struct area *a)
{
    protected_wipeonfork(a, PROT_WRITE);
}

static void mprotect_exec_wipeonfork(struct area *a)
{
    protected_wipeonfork(a, PROT_READ | PROT_EXEC);
}

static void mprotect_rwx_wipeonfork(struct area *a)
{
    protected_wipeonfork(a, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void mlock_read_wipeonfork(struct area *a)
{
    CALL(mlock, place(a, 0), AREA_PAGES * PAGE);
    protected_wipeonfork(a, PROT_READ);
    told_locked();
}

/* What was written after it was merged is locked where it lies; then the advice takes it away from there, and
 * the lock is in force where it goes. */
static void locked_wipeonfork(struct area *a)
{
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_WIPEONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    told_locked();
    ask("merge");
    in_child(check_wiped, a);
    same(a, 0, AREA_PAGES, "in the parent");
    CALL(munlock, place(a, 20), 10 * PAGE);
    told_smaps(place(a, 0), AREA_PAGES);
    told_locked();
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_KEEPONFORK);
    CALL(munlock, place(a, 0), AREA_PAGES * PAGE);
    told_smaps(place(a, 0), AREA_PAGES);
    told_locked();
    in_child(check_whole, a);
    usable(a, 0, AREA_PAGES, "unlocked");
}

static void mlock_wipeonfork(struct area *a)
{
    CALL(mlock, place(a, 0), AREA_PAGES * PAGE);
    locked_wipeonfork(a);
}

static void mlock2_wipeonfork(struct area *a)
{
    CALL(mlock2, place(a, 3), 70 * PAGE, MLOCK_ONFAULT);
    locked_wipeonfork(a);
}

/* Not all that it names is locked, and not all of that alike. */
static void mlock_some_wipeonfork(struct area *a)
{
    CALL(mlock, place(a, 5), 10 * PAGE);
    CALL(mlock2, place(a, 15), 30 * PAGE, MLOCK_ONFAULT);
    locked_wipeonfork(a);
}

static void check_missing(struct area *a)
{
    size_t mapped = 0;

    for (size_t i = 0; i < AREA_PAGES; i++)
        mapped += !msync(place(a, i), PAGE, MS_ASYNC);
    same(a, 0, 7, "in the child");
    same(a, 67, AREA_PAGES - 67, "in the child");
    if (mapped != AREA_PAGES - 60)
        _exit(9);
}

static void madvise_dontfork(struct area *a)
{
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    in_child(check_missing, a);
    ask("unmerge");
    in_child(check_missing, a);
    same(a, 0, AREA_PAGES, "in the parent");
    CALL(madvise, place(a, 7), 20 * PAGE, MADV_DONTNEED);
    zero(a, 7, 20, "what fork does not copy, dropped");
    in_child(check_missing, a);
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DOFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 27, AREA_PAGES - 27, "in the parent");
}

static void madvise_guard(struct area *a)
{
    long ret = CALL(madvise, place(a, 7), 60 * PAGE, MADV_GUARD_INSTALL);

    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, 7, "below guards");
    same(a, 67, AREA_PAGES - 67, "above guards");
    ask("merge");
    told_access(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_GUARD_REMOVE);
    told_access(place(a, 0), AREA_PAGES);
    if (ret == 0) {
        zero(a, 7, 40, "where a guard was");
        usable(a, 7, 40, "where a guard was");
    }
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_GUARD_INSTALL);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_DONTNEED);
    told_access(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_GUARD_REMOVE);
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, 7, "below guards");
    same(a, 67, AREA_PAGES - 67, "above guards");
}

/* Refused at what is locked, and what lies behind that stays. Then in two steps, round it. */
static void madvise_guard_up_to_lock(struct area *a)
{
    CALL(mlock, place(a, 30), 10 * PAGE);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_GUARD_INSTALL);
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, 7, "below guards");
    same(a, 30, AREA_PAGES - 30, "from what is locked on");
    ask("merge");
    CALL(madvise, place(a, 20), 40 * PAGE, MADV_GUARD_INSTALL);
    same(a, 30, AREA_PAGES - 30, "from what is locked on");
    CALL(madvise, place(a, 40), 10 * PAGE, MADV_GUARD_INSTALL);
    told_access(place(a, 0), AREA_PAGES);
    CALL(munlock, place(a, 30), 10 * PAGE);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_GUARD_REMOVE);
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, 7, "below guards");
    same(a, 30, 10, "what was locked");
    same(a, 50, AREA_PAGES - 50, "above guards");
}

/* Where a guard was is nothing, whatever may be done to the memory. */
static void madvise_guard_readonly(struct area *a)
{
    CALL(mprotect, place(a, 7), 60 * PAGE, PROT_READ);
    CALL(mprotect, place(a, 20), 20 * PAGE, PROT_NONE);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_GUARD_INSTALL);
    told_access(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 7), 60 * PAGE, MADV_GUARD_REMOVE);
    told_access(place(a, 0), AREA_PAGES);
    told_smaps(place(a, 0), AREA_PAGES);
    if (CALL(mprotect, place(a, 7), 60 * PAGE, PROT_READ | PROT_WRITE) == 0)
        zero(a, 7, 60, "where a guard was");
    same(a, 0, 7, "below guards");
    same(a, 67, AREA_PAGES - 67, "above guards");
}

static void madvise_readonly(struct area *a)
{
    must(!mprotect(place(a, 7), 40 * PAGE, PROT_READ), "mprotect");
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_POPULATE_READ);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_POPULATE_WRITE);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_WILLNEED);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_COLD);
    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, MADV_REMOVE);
    same(a, 0, AREA_PAGES, "advised while it could not be written");
    CALL(madvise, place(a, 0), 60 * PAGE, MADV_FREE);
    told_access(place(a, 0), AREA_PAGES);
    same_or_zero(a, 0, 60, "freed while it could not be written");
    told_smaps(place(a, 0), AREA_PAGES);
}

/*
 * process_madvise on itself: through a pidfd, and through the number that stands for oneself.
 */

static int own_pidfd(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static long advise_self(struct area *a, int pidfd, int advice)
{
    struct iovec parts[3] = { { place(a, 7), 20 * PAGE }, { place(a, 40), 10 * PAGE },
                              { place(a, 60), PAGE } };

    return told("process_madvise", syscall(SYS_process_madvise, pidfd, parts, 3, advice, 0));
}

static void process_madvise_keeping(struct area *a)
{
    static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_COLLAPSE, MADV_NORMAL,
                                  MADV_DONTDUMP, MADV_DODUMP, MADV_HUGEPAGE, MADV_MERGEABLE,
                                  MADV_UNMERGEABLE, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
                                  MADV_REMOVE, 9999 };
    int pidfd = own_pidfd();

    for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++)
        advise_self(a, pidfd, advice[i]);
    advise_self(a, pidfd, MADV_DONTFORK);
    advise_self(a, pidfd, MADV_WIPEONFORK);
    told_smaps(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "after process_madvise that keeps the bytes");
    close(pidfd);
}

static void process_madvise_dropping(struct area *a, int pidfd, int advice)
{
    long ret = advise_self(a, pidfd, advice);

    for (size_t i = 0; i < AREA_PAGES; i++) {
        bool named = (i >= 7 && i < 27) || (i >= 40 && i < 50) || i == 60;

        if (ret == 31 * (long)PAGE && named && advice == MADV_DONTNEED)
            zero(a, i, 1, "after process_madvise with MADV_DONTNEED");
        else if (ret == 31 * (long)PAGE && named)
            same_or_zero(a, i, 1, "after process_madvise with MADV_FREE");
        else
            same(a, i, 1, "beside what process_madvise named");
    }
    told_smaps(place(a, 0), AREA_PAGES);
}

static void process_madvise_dontneed(struct area *a)
{
    int pidfd = own_pidfd();

    process_madvise_dropping(a, pidfd, MADV_DONTNEED);
    close(pidfd);
}

static void process_madvise_free(struct area *a)
{
    int pidfd = own_pidfd();

    process_madvise_dropping(a, pidfd, MADV_FREE);
    close(pidfd);
}

static void process_madvise_self(struct area *a)
{
    process_madvise_dropping(a, PIDFD_OF_SELF, MADV_DONTNEED);
}

static void process_madvise_guard(struct area *a)
{
    int pidfd = own_pidfd();

    advise_self(a, pidfd, MADV_GUARD_INSTALL);
    told_access(place(a, 0), AREA_PAGES);
    advise_self(a, pidfd, MADV_GUARD_REMOVE);
    told_access(place(a, 0), AREA_PAGES);
    close(pidfd);
}

/* It stops at what it cannot do, and tells how far it came. */
static void process_madvise_hole(struct area *a)
{
    struct iovec parts[2] = { { place(a, 7), 20 * PAGE }, { place(a, 27), 20 * PAGE } };
    int pidfd = own_pidfd();

    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    RAW(process_madvise, pidfd, parts, 2, MADV_DONTNEED, 0);
    same(a, 0, 7, "below what was dropped");
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
    for (size_t i = 7; i < 47; i++)
        if (i < 30 || i >= 34)
            note("%d", *place(a, i) == 0);
    close(pidfd);
}

static void process_madvise_refused(struct area *a)
{
    struct iovec part = { place(a, 7), 20 * PAGE }, odd = { place(a, 7) + 8, PAGE };
    int pidfd = own_pidfd();

    RAW(process_madvise, pidfd, NULL, 1, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, (struct iovec *)8, 1, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, place(a, AREA_PAGES), 1, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, &part, 0, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, &part, 100000, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, &part, 1, MADV_DONTNEED, 1);
    RAW(process_madvise, -1, &part, 1, MADV_DONTNEED, 0);
    RAW(process_madvise, 0, &part, 1, MADV_DONTNEED, 0);
    RAW(process_madvise, pidfd, &odd, 1, MADV_DONTNEED, 0);
    same(a, 0, AREA_PAGES, "after process_madvise was refused");
    close(pidfd);
}

#define MADVISE_ROWS                                                                               \
    { "madvise-normal", madvise_normal }, { "madvise-random", madvise_random },                    \
        { "madvise-sequential", madvise_sequential }, { "madvise-willneed", madvise_willneed },    \
        { "madvise-cold", madvise_cold }, { "madvise-pageout", madvise_pageout },                  \
        { "madvise-populate-read", madvise_populate_read },                                        \
        { "madvise-populate-write", madvise_populate_write },                                      \
        { "madvise-dontdump", madvise_dontdump }, { "madvise-hugepage", madvise_hugepage },        \
        { "madvise-hugepage-behind", madvise_hugepage_behind },                                    \
        { "madvise-collapse", madvise_collapse }, { "madvise-remove", madvise_remove },            \
        { "madvise-mergeable", madvise_mergeable },                                                \
        { "madvise-unmergeable", madvise_unmergeable }, { "madvise-unknown", madvise_unknown },    \
        { "madvise-dontneed", madvise_dontneed }, { "madvise-free", madvise_free },                \
        { "madvise-dontneed-hole", madvise_dontneed_hole },                                        \
        { "madvise-dontneed-lock", madvise_dontneed_up_to_lock },                                  \
        { "madvise-free-lock", madvise_free_up_to_lock },                                          \
        { "madvise-free-hole", madvise_free_hole }, { "madvise-hole", madvise_hole },              \
        { "madvise-refused", madvise_refused }, { "madvise-wipeonfork", madvise_wipeonfork },      \
        { "mlock-wipeonfork", mlock_wipeonfork }, { "mlock2-wipeonfork", mlock2_wipeonfork },      \
        { "mlock-some-wipeonfork", mlock_some_wipeonfork },                                        \
        { "mlock-read-wipeonfork", mlock_read_wipeonfork },                                        \
        { "mprotect-read-wipeonfork", mprotect_read_wipeonfork },                                  \
        { "mprotect-write-wipeonfork", mprotect_write_wipeonfork },                                \
        { "mprotect-exec-wipeonfork", mprotect_exec_wipeonfork },                                  \
        { "mprotect-rwx-wipeonfork", mprotect_rwx_wipeonfork },                                    \
        { "madvise-dontfork", madvise_dontfork }, { "madvise-guard", madvise_guard },              \
        { "madvise-guard-lock", madvise_guard_up_to_lock },                                        \
        { "madvise-guard-readonly", madvise_guard_readonly },                                      \
        { "madvise-readonly", madvise_readonly }, { "process-madvise", process_madvise_keeping },  \
        { "process-madvise-dontneed", process_madvise_dontneed },                                  \
        { "process-madvise-free", process_madvise_free },                                          \
        { "process-madvise-self", process_madvise_self },                                          \
        { "process-madvise-guard", process_madvise_guard },                                        \
        { "process-madvise-hole", process_madvise_hole },                                          \
        { "process-madvise-refused", process_madvise_refused }

#endif
