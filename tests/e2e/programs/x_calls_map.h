/* SPDX-License-Identifier: Apache-2.0 */
/* X: munmap, mmap over merged pages, shmat, brk. */
#ifndef SP_E2E_X_CALLS_MAP_H
#define SP_E2E_X_CALLS_MAP_H

#include <netinet/in.h>
#include <sys/shm.h>
#include <sys/socket.h>

#include "x_calls.h"

#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

/* A file of n pages with the contents of version 5. */
static int pattern_file(size_t n)
{
    int fd = memfd_create("x_calls", MFD_CLOEXEC);
    static char page[PAGE];

    must(fd >= 0, "memfd_create");
    for (size_t i = 0; i < n; i++) {
        pattern_fill(page, i, 5);
        must(write(fd, page, PAGE) == (ssize_t)PAGE, "write to a memfd");
    }
    return fd;
}

static void munmap_all(struct area *a)
{
    CALL(munmap, place(a, 0), AREA_PAGES * PAGE);
    told_mapped(place(a, 0), AREA_PAGES);
}

static void munmap_part(struct area *a)
{
    CALL(munmap, place(a, 10), 40 * PAGE);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 10, "below what was unmapped");
    same(a, 50, AREA_PAGES - 50, "above what was unmapped");
    call_mmap(a, place(a, 10), 40 * PAGE, PROT_READ | PROT_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE,
              -1);
    zero(a, 10, 40, "new memory where some was unmapped");
    usable(a, 10, 40, "new memory where some was unmapped");
    same(a, 50, AREA_PAGES - 50, "above what was unmapped");
}

static void munmap_hole(struct area *a)
{
    CALL(munmap, place(a, 20), 10 * PAGE);
    CALL(munmap, place(a, 20), 10 * PAGE);
    CALL(munmap, place(a, 10), 50 * PAGE - 100);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 10, "below the hole");
    same(a, 60, AREA_PAGES - 60, "above the hole");
}

static void munmap_refused(struct area *a)
{
    CALL(munmap, place(a, 0), 0);
    CALL(munmap, place(a, 3) + 8, PAGE);
    CALL(munmap, place(a, 0), ~(size_t)0 - PAGE);
    CALL(munmap, place(a, 0), (size_t)1 << 47);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, AREA_PAGES, "after munmap was refused");
}

static void mmap_fixed(struct area *a)
{
    call_mmap(a, place(a, 8), 62 * PAGE, PROT_READ | PROT_WRITE, ANONYMOUS | MAP_FIXED, -1);
    zero(a, 8, 62, "mapped over");
    usable(a, 8, 62, "mapped over");
    same(a, 0, 8, "below what was mapped over");
    same(a, 70, AREA_PAGES - 70, "above what was mapped over");
    told_smaps(place(a, 0), AREA_PAGES);
}

static void mmap_fixed_none(struct area *a)
{
    call_mmap(a, place(a, 8), 62 * PAGE, PROT_NONE, ANONYMOUS | MAP_FIXED, -1);
    told_access(place(a, 0), AREA_PAGES);
    CALL(mprotect, place(a, 8), 62 * PAGE, PROT_READ | PROT_WRITE);
    zero(a, 8, 62, "mapped over without access");
    same(a, 0, 8, "below what was mapped over");
    same(a, 70, AREA_PAGES - 70, "above what was mapped over");
}

static void mmap_fixed_file(struct area *a)
{
    int fd = pattern_file(40);

    call_mmap(a, place(a, 8), 40 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd);
    region_check(place(a, 8), 40, 5, "a file mapped over");
    usable(a, 8, 40, "a file mapped over");
    CALL(madvise, place(a, 8), 40 * PAGE, MADV_DONTNEED);
    region_check(place(a, 8), 40, 5, "a file mapped over, then MADV_DONTNEED");
    same(a, 0, 8, "below the file");
    same(a, 48, AREA_PAGES - 48, "above the file");
    close(fd);
}

static void mmap_fixed_shared(struct area *a)
{
    int fd = pattern_file(40);
    static char page[PAGE];

    call_mmap(a, place(a, 8), 40 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd);
    region_check(place(a, 8), 40, 5, "a shared file mapped over");
    pattern_fill(place(a, 9), 9, 6);
    must(pread(fd, page, PAGE, PAGE) == (ssize_t)PAGE, "pread");
    pattern_check(page, 9, 6, "written through a shared mapping");
    CALL(madvise, place(a, 8), 40 * PAGE, MADV_DONTNEED);
    pattern_check(place(a, 9), 9, 6, "a shared mapping after MADV_DONTNEED");
    same(a, 48, AREA_PAGES - 48, "above the shared file");
    close(fd);
}

static void mmap_fixed_noreplace(struct area *a)
{
    call_mmap(a, place(a, 8), 40 * PAGE, PROT_READ, ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
    call_mmap(a, place(a, 8), 40 * PAGE, PROT_READ, ANONYMOUS | MAP_FIXED | MAP_FIXED_NOREPLACE, -1);
    same(a, 0, AREA_PAGES, "after MAP_FIXED_NOREPLACE was refused");
}

static void mmap_fixed_growsdown(struct area *a)
{
    call_mmap(a, place(a, 32), 8 * PAGE, PROT_READ | PROT_WRITE,
              ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1);
    zero(a, 32, 8, "a stack mapped over");
    usable(a, 32, 8, "a stack mapped over");
    told_access(place(a, 0), AREA_PAGES);
    same(a, 0, 32, "below the stack");
    same(a, 40, AREA_PAGES - 40, "above the stack");
    CALL(mprotect, place(a, 36), PAGE, PROT_READ | PROT_GROWSDOWN);
    CALL(mprotect, place(a, 4), PAGE, PROT_READ | PROT_GROWSDOWN);
    told_smaps(place(a, 0), AREA_PAGES);
}

static void mmap_fixed_locked(struct area *a)
{
    call_mmap(a, place(a, 8), 40 * PAGE, PROT_READ | PROT_WRITE,
              ANONYMOUS | MAP_FIXED | MAP_LOCKED | MAP_POPULATE, -1);
    zero(a, 8, 40, "locked memory mapped over");
    ask("unmerge");
    told_smaps(place(a, 0), AREA_PAGES);
    same(a, 48, AREA_PAGES - 48, "above the locked memory");
}

static void mmap_fixed_refused(struct area *a)
{
    int pipes[2];

    must(!pipe(pipes), "pipe");
    call_mmap(a, place(a, 8), 0, PROT_READ, ANONYMOUS | MAP_FIXED, -1);
    call_mmap(a, place(a, 8) + 8, PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1);
    call_mmap(a, place(a, 8), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1);
    call_mmap(a, place(a, 8), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, pipes[0]);
    call_mmap(a, place(a, 8), ~(size_t)0 - 2 * PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1);
    call_mmap(a, place(a, 8), PAGE, PROT_READ, MAP_ANONYMOUS | MAP_FIXED, -1);
    same(a, 0, AREA_PAGES, "after MAP_FIXED was refused");
    close(pipes[0]);
    close(pipes[1]);
}

/* The kernel first unmaps, then asks the file, whose refusal leaves a hole. What is mapped there
 * afterwards, without MAP_FIXED, is what it is. */
static void mmap_fixed_hole(struct area *a)
{
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = pattern_file(20);

    call_mmap(a, place(a, 16), 20 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, sock);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 16, "below the hole");
    same(a, 36, AREA_PAGES - 36, "above the hole");
    munmap(place(a, 16), 20 * PAGE);
    call_mmap(a, place(a, 16), 20 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    CALL(madvise, place(a, 16), 20 * PAGE, MADV_DONTNEED);
    region_check(place(a, 16), 20, 5, "a file in a hole that mmap left, then MADV_DONTNEED");
    close(fd);
    close(sock);
}

/* As before, but nobody unmaps the hole. */
static void mmap_into_hole(struct area *a)
{
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = pattern_file(20);
    bool hole;

    call_mmap(a, place(a, 16), 20 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, sock);
    hole = msync(place(a, 16), PAGE, MS_ASYNC) != 0;
    note("hole=%d ", hole);
    if (hole) {
        call_mmap(a, place(a, 16), 20 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
        CALL(madvise, place(a, 16), 20 * PAGE, MADV_DONTNEED);
        region_check(place(a, 16), 20, 5, "a file in a hole that mmap left, then MADV_DONTNEED");
    }
    close(fd);
    close(sock);
}

static void mmap_hint(struct area *a)
{
    char *other = call_mmap(a, place(a, 8), PAGE, PROT_READ | PROT_WRITE, ANONYMOUS, -1);

    region_zero(other, 1, "mapped elsewhere");
    munmap(other, PAGE);
    same(a, 0, AREA_PAGES, "after mmap with a hint");
}

/* System V memory over merged pages. */
static void shmat_remap(struct area *a)
{
    int id = shmget(IPC_PRIVATE, 20 * PAGE, 0600);
    char *other = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);

    must(other != MAP_FAILED, "shmat");
    region_fill(other, 20, 5);
    if (raw_calls)
        told_place(a, "shmat", syscall(SYS_shmat, id, place(a, 4), SHM_REMAP));
    else
        told_place(a, "shmat", (long)shmat(id, place(a, 4), SHM_REMAP));
    must(!shmctl(id, IPC_RMID, NULL), "shmctl");
    region_check(place(a, 4), 20, 5, "System V memory over merged pages");
    CALL(madvise, place(a, 4), 20 * PAGE, MADV_DONTNEED);
    region_check(place(a, 4), 20, 5, "System V memory over merged pages, then MADV_DONTNEED");
    pattern_fill(other, 0, 6);
    pattern_check(place(a, 4), 0, 6, "System V memory that another mapping wrote");
    CALL(shmdt, place(a, 4));
    told_mapped(place(a, 0), AREA_PAGES);
    shmdt(other);
    same(a, 0, 4, "below System V memory");
    same(a, 24, AREA_PAGES - 24, "above System V memory");
}

static void call_brk(struct area *a, char *to)
{
    if (raw_calls)
        told_place(a, "brk", syscall(SYS_brk, to));
    else
        told("brk", brk(to));
}

/* The area is the end of the heap. */
static void brk_shrink_grow(struct area *a)
{
    char *end = place(a, AREA_PAGES);

    call_brk(a, place(a, 40));
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 40, "the heap that is left");
    call_brk(a, end);
    zero(a, 40, 40, "the heap grown again");
    usable(a, 40, 40, "the heap grown again");
    same(a, 0, 40, "the old heap");
    call_brk(a, place(a, 20) + 100);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 20, "the heap that is left");
    call_brk(a, end + AREA_PAGES * PAGE);
    zero(a, 21, 2 * AREA_PAGES - 21, "the heap grown beyond");
    same(a, 0, 21, "the old heap");
    call_brk(a, place(a, 3) + 1);
    same(a, 0, 4, "the heap that is left");
    told_mapped(place(a, 0), AREA_PAGES);
    call_brk(a, end);
    zero(a, 4, AREA_PAGES - 4, "the heap grown again");
}

static void brk_dropped(struct area *a)
{
    CALL(madvise, place(a, 10), 60 * PAGE, MADV_DONTNEED);
    zero(a, 10, 60, "heap after MADV_DONTNEED");
    same(a, 0, 10, "heap below what was dropped");
    same(a, 70, AREA_PAGES - 70, "heap above what was dropped");
    call_brk(a, place(a, AREA_PAGES + 30));
    zero(a, AREA_PAGES, 30, "the heap grown");
    same(a, 70, AREA_PAGES - 70, "the old heap");
    CALL(mprotect, place(a, 0), PAGE, PROT_READ);
    call_brk(a, place(a, 60));
    told_access(place(a, 0), 60);
    CALL(mprotect, place(a, 0), PAGE, PROT_READ | PROT_WRITE);
    same(a, 0, 10, "heap below what was dropped");
    call_brk(a, place(a, AREA_PAGES));
}

#define MAP_ROWS                                                                                   \
    { "munmap", munmap_all }, { "munmap-part", munmap_part }, { "munmap-hole", munmap_hole },      \
        { "munmap-refused", munmap_refused }, { "mmap-fixed", mmap_fixed },                        \
        { "mmap-fixed-none", mmap_fixed_none }, { "mmap-fixed-file", mmap_fixed_file },            \
        { "mmap-fixed-shared", mmap_fixed_shared },                                                \
        { "mmap-fixed-noreplace", mmap_fixed_noreplace },                                          \
        { "mmap-fixed-growsdown", mmap_fixed_growsdown },                                          \
        { "mmap-fixed-locked", mmap_fixed_locked }, { "mmap-fixed-refused", mmap_fixed_refused },  \
        { "mmap-fixed-hole", mmap_fixed_hole }, { "mmap-into-hole", mmap_into_hole },              \
        { "mmap-hint", mmap_hint }, { "shmat-remap", shmat_remap },                                \
        { "brk-dropped", brk_dropped, .heap = true },                                              \
        { "brk-shrink-grow", brk_shrink_grow, .heap = true }

#endif
