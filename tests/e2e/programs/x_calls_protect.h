/* SPDX-License-Identifier: Apache-2.0 */
/* X: mprotect, pkey_mprotect, mlock and its kin, mseal on merged pages. */
#ifndef SP_E2E_X_CALLS_PROTECT_H
#define SP_E2E_X_CALLS_PROTECT_H

#include "x_calls.h"

#define READ_WRITE (PROT_READ | PROT_WRITE)
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* Pages 7 to 67 get prot, which must be in force, also on what is un-merged later; then they can be
 * read and written again. */
static void protect(struct area *a, int prot)
{
    CALL(mprotect, place(a, 7), 60 * PAGE, prot);
    told_access(place(a, 0), AREA_PAGES);
    told_smaps(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_access(place(a, 0), AREA_PAGES);
    told_smaps(place(a, 0), AREA_PAGES);
    if (prot & PROT_READ)
        same(a, 0, AREA_PAGES, "with another protection");
    CALL(mprotect, place(a, 7), 60 * PAGE, READ_WRITE);
    same(a, 0, AREA_PAGES, "after another protection");
    usable(a, 7, 60, "after another protection");
}

static void mprotect_read(struct area *a)
{
    protect(a, PROT_READ);
}

static void mprotect_none(struct area *a)
{
    protect(a, PROT_NONE);
}

static void mprotect_write(struct area *a)
{
    protect(a, PROT_WRITE);
}

static void mprotect_exec(struct area *a)
{
    protect(a, PROT_READ | PROT_EXEC);
}

static void mprotect_rwx(struct area *a)
{
    protect(a, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void mprotect_rw(struct area *a)
{
    protect(a, READ_WRITE);
}

/* What is before the hole is changed all the same. */
static void mprotect_hole(struct area *a)
{
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    CALL(mprotect, place(a, 10), 60 * PAGE, PROT_READ);
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(mprotect, place(a, 0), 30 * PAGE, READ_WRITE);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
}

static void mprotect_refused(struct area *a)
{
    CALL(mprotect, place(a, 3) + 8, PAGE, PROT_READ);
    CALL(mprotect, place(a, 3), 0, PROT_READ);
    CALL(mprotect, place(a, 3), ~(size_t)0 - PAGE, PROT_READ);
    CALL(mprotect, place(a, 3), PAGE, 0x700);
    CALL(mprotect, place(a, 3), PAGE, PROT_READ | PROT_GROWSDOWN);
    CALL(mprotect, place(a, 3), PAGE, PROT_READ | PROT_GROWSUP);
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "after mprotect was refused");
}

/* Memory that may only be read can be dropped, and stays so. */
static void mprotect_read_dontneed(struct area *a)
{
    CALL(mprotect, place(a, 7), 60 * PAGE, PROT_READ);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED);
    told_access(place(a, 0), AREA_PAGES);
    told_smaps(place(a, 0), AREA_PAGES);
    zero(a, 7, 40, "dropped while it could not be written");
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
    CALL(mprotect, place(a, 7), 60 * PAGE, READ_WRITE);
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
    usable(a, 7, 40, "dropped while it could not be written");
}

static void mprotect_none_dontneed(struct area *a)
{
    CALL(mprotect, place(a, 7), 60 * PAGE, PROT_NONE);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_FREE);
    told_access(place(a, 0), AREA_PAGES);
    CALL(mprotect, place(a, 7), 60 * PAGE, READ_WRITE);
    zero(a, 7, 40, "dropped while nobody could touch it");
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
}

static void pkey_default(struct area *a)
{
    if (raw_calls)
        told("pkey_mprotect", syscall(SYS_pkey_mprotect, place(a, 7), 60 * PAGE, PROT_READ, -1));
    else
        told("pkey_mprotect", pkey_mprotect(place(a, 7), 60 * PAGE, PROT_READ, -1));
    told_access(place(a, 0), AREA_PAGES);
    RAW(pkey_mprotect, place(a, 7), 60 * PAGE, PROT_READ, 0);
    RAW(pkey_mprotect, place(a, 7), 60 * PAGE, PROT_READ, 15);
    same(a, 0, AREA_PAGES, "after pkey_mprotect");
    RAW(pkey_mprotect, place(a, 7), 60 * PAGE, READ_WRITE, -1);
    told_access(place(a, 0), AREA_PAGES);
}

static void pkey_own(struct area *a)
{
    int key = pkey_alloc(0, PKEY_DISABLE_WRITE);

    if (key < 0) {
        note("skip this machine has no protection keys");
        return;
    }
    fault_key = key;
    CALL(pkey_mprotect, place(a, 7), 60 * PAGE, READ_WRITE, key);
    told_access(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "with a key");
    CALL(pkey_mprotect, place(a, 7), 60 * PAGE, READ_WRITE, 0);
    fault_key = 0;
    pkey_free(key);
    same(a, 0, AREA_PAGES, "without a key");
}

static void told_locks(struct area *a)
{
    told_smaps(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "locked or unlocked");
}

static void mlock_part(struct area *a)
{
    CALL(mlock, place(a, 7), 60 * PAGE);
    told_locks(a);
    CALL(munlock, place(a, 20), 10 * PAGE);
    told_locks(a);
    CALL(munlock, place(a, 0), AREA_PAGES * PAGE);
    told_locks(a);
    usable(a, 0, AREA_PAGES, "unlocked");
}

/* mlock rounds to whole pages by itself. */
static void mlock_unaligned(struct area *a)
{
    CALL(mlock, place(a, 7) + 100, 60 * PAGE);
    told_locks(a);
    ask("merge");
    told_locks(a);
    CALL(munlock, place(a, 7) + 100, 60 * PAGE);
    told_locks(a);
}

static void mlock2_onfault(struct area *a)
{
    CALL(mlock2, place(a, 7), 60 * PAGE, MLOCK_ONFAULT);
    told_locks(a);
    ask("merge");
    told_locks(a);
    CALL(munlock, place(a, 7), 60 * PAGE);
    told_locks(a);
}

static void mlock2_refused(struct area *a)
{
    CALL(mlock2, place(a, 7), 60 * PAGE, 16);
    CALL(mlock2, place(a, 7), 60 * PAGE, 0);
    told_locks(a);
}

static void mlock_hole(struct area *a)
{
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    CALL(mlock, place(a, 10), 60 * PAGE);
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(munlock, place(a, 10), 60 * PAGE);
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
}

static void mlock_refused(struct area *a)
{
    CALL(mlock, place(a, 7), ~(size_t)0 - PAGE);
    CALL(mlock, place(a, 7), 0);
    CALL(munlock, place(a, 7), ~(size_t)0 - PAGE);
    CALL(munlock, place(a, 7), 0);
    told_locks(a);
}

/* Locked memory is not dropped, but by the advice that says so; it stays locked then. */
static void mlock_dropped(struct area *a)
{
    CALL(mlock, place(a, 7), 60 * PAGE);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_FREE);
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_PAGEOUT);
    CALL(msync, place(a, 7), 40 * PAGE, MS_INVALIDATE);
    same(a, 0, AREA_PAGES, "locked, then dropped in vain");
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED_LOCKED);
    zero(a, 7, 40, "after MADV_DONTNEED_LOCKED");
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
    told_smaps(place(a, 0), AREA_PAGES);
    ask("unmerge");
    told_smaps(place(a, 0), AREA_PAGES);
    CALL(munmap, place(a, 20), 10 * PAGE);
    told_smaps(place(a, 0), AREA_PAGES);
}

static void dontneed_locked(struct area *a)
{
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED_LOCKED);
    zero(a, 7, 40, "after MADV_DONTNEED_LOCKED");
    same(a, 47, AREA_PAGES - 47, "above what was dropped");
    usable(a, 7, 40, "after MADV_DONTNEED_LOCKED");
}

static void mlockall_current(struct area *a)
{
    RAW(munlockall, 0);
    CALL(mlockall, MCL_CURRENT);
    told_locks(a);
    ask("merge");
    told_locks(a);
    told("munlockall", raw_calls ? syscall(SYS_munlockall) : munlockall());
    told_locks(a);
    usable(a, 0, AREA_PAGES, "unlocked");
}

static void mlockall_onfault(struct area *a)
{
    CALL(mlockall, MCL_CURRENT | MCL_ONFAULT);
    told_locks(a);
    ask("merge");
    told_locks(a);
    CALL(mlockall, 64);
    told("munlockall", raw_calls ? syscall(SYS_munlockall) : munlockall());
    told_locks(a);
}

static void mlockall_future(struct area *a)
{
    char *p;

    CALL(mlockall, MCL_FUTURE | MCL_ONFAULT);
    told_locks(a);
    p = mmap(NULL, 64 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    told_smaps(p, 64);
    told("munlockall", raw_calls ? syscall(SYS_munlockall) : munlockall());
    told_smaps(p, 64);
    munmap(p, 64 * PAGE);
    told_locks(a);
}

/* A seal is there to stay: nothing that takes memory away goes through. */
static void mseal_part(struct area *a)
{
    RAW(mseal, place(a, 10), 20 * PAGE, 0);
    CALL(munmap, place(a, 5), 20 * PAGE);
    CALL(mprotect, place(a, 5), 20 * PAGE, PROT_READ);
    call_mmap(a, place(a, 5), 20 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
    call_mremap(a, place(a, 10), 20 * PAGE, 10 * PAGE, 0, NULL);
    call_mremap(a, place(a, 10), 20 * PAGE, 40 * PAGE, MREMAP_MAYMOVE, NULL);
    told_mapped(place(a, 0), AREA_PAGES);
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "sealed");
    ask("merge");
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "sealed");
    CALL(madvise, place(a, 10), 20 * PAGE, MADV_DONTNEED);
    zero(a, 10, 20, "sealed, then MADV_DONTNEED");
    told_smaps(place(a, 0), AREA_PAGES);
}

static void mseal_refused(struct area *a)
{
    RAW(mseal, place(a, 10) + 8, 20 * PAGE, 0);
    RAW(mseal, place(a, 10), 20 * PAGE, 1);
    RAW(mseal, place(a, 10), 0, 0);
    RAW(mseal, place(a, 10), ~(size_t)0 - PAGE, 0);
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    RAW(mseal, place(a, 10), 60 * PAGE, 0);
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
}

#define PROTECT_ROWS                                                                               \
    { "mprotect-read", mprotect_read }, { "mprotect-none", mprotect_none },                        \
        { "mprotect-write", mprotect_write }, { "mprotect-exec", mprotect_exec },                  \
        { "mprotect-rwx", mprotect_rwx }, { "mprotect-rw", mprotect_rw },                          \
        { "mprotect-hole", mprotect_hole }, { "mprotect-refused", mprotect_refused },              \
        { "mprotect-read-dontneed", mprotect_read_dontneed },                                      \
        { "mprotect-none-dontneed", mprotect_none_dontneed },                                      \
        { "pkey-mprotect-default", pkey_default }, { "pkey-mprotect", pkey_own },                  \
        { "mlock", mlock_part }, { "mlock-unaligned", mlock_unaligned },                           \
        { "mlock2-onfault", mlock2_onfault }, { "mlock2-refused", mlock2_refused },                \
        { "mlock-hole", mlock_hole }, { "mlock-refused", mlock_refused },                          \
        { "mlock-dropped", mlock_dropped }, { "mlockall-current", mlockall_current },              \
        { "mlockall-onfault", mlockall_onfault }, { "mlockall-future", mlockall_future },          \
        { "mseal", mseal_part }, { "mseal-refused", mseal_refused },                               \
        { "madvise-dontneed-locked", dontneed_locked }

#endif
