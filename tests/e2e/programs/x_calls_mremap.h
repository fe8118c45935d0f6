/* SPDX-License-Identifier: Apache-2.0 */
/* X: mremap of merged pages. */
#ifndef SP_E2E_X_CALLS_MREMAP_H
#define SP_E2E_X_CALLS_MREMAP_H

#include "x_calls.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* The whole area, twice as long: where it is now is the caller's. */
static char *grow_maymove(struct area *a)
{
    return call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 2 * AREA_PAGES * PAGE, MREMAP_MAYMOVE,
                       NULL);
}

/* What was added, and then everything, is as it must be. */
static void grown_is_right(char *p, struct area *a)
{
    told_smaps(p, 2 * AREA_PAGES);
    told_smaps(p + AREA_PAGES * PAGE, AREA_PAGES);
    same_at(p, a, 0, AREA_PAGES, "after growing");
    region_zero(p + AREA_PAGES * PAGE, AREA_PAGES, "what mremap added");
}

/* Elsewhere it is nobody's but the row's. */
static void drop(char *p, struct area *a)
{
    if (p != a->at)
        must(!munmap(p, 2 * AREA_PAGES * PAGE), "munmap of what mremap moved");
}

static void mremap_shrink(struct area *a)
{
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 33 * PAGE - 5, 0, NULL);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 33, "after shrinking");
    call_mremap(a, place(a, 10), 10 * PAGE, 5 * PAGE, MREMAP_MAYMOVE, NULL);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 10, 5, "after shrinking in the middle");
    same(a, 20, 13, "above what was shrunk");
}

static void mremap_same(struct area *a)
{
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, AREA_PAGES * PAGE, 0, NULL);
    call_mremap(a, place(a, 3), 40 * PAGE, 40 * PAGE, MREMAP_MAYMOVE, NULL);
    same(a, 0, AREA_PAGES, "after mremap to the same size");
}

static void mremap_grow_in_place(struct area *a)
{
    area_room(a);
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 2 * AREA_PAGES * PAGE, 0, NULL);
    grown_is_right(a->at, a);
    usable(a, 0, 2 * AREA_PAGES, "after growing");
}

/* Two steps: what a first growth added is not tracked yet when the second comes. */
static void mremap_grow_twice(struct area *a)
{
    area_room(a);
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, (AREA_PAGES + 20) * PAGE, 0, NULL);
    call_mremap(a, place(a, 0), (AREA_PAGES + 20) * PAGE, 2 * AREA_PAGES * PAGE, 0, NULL);
    grown_is_right(a->at, a);
    ask("unmerge");
    call_mremap(a, place(a, 0), 2 * AREA_PAGES * PAGE, (2 * AREA_PAGES + 20) * PAGE, 0, NULL);
    grown_is_right(a->at, a);
}

static void mremap_grow_refused(struct area *a)
{
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 2 * AREA_PAGES * PAGE, 0, NULL);
    call_mremap(a, place(a, 10), 20 * PAGE, 30 * PAGE, 0, NULL);
    same(a, 0, AREA_PAGES, "after mremap found no room");
}

static void mremap_grow_maymove(struct area *a)
{
    char *p = grow_maymove(a);

    grown_is_right(p, a);
    told_mapped(place(a, 0), AREA_PAGES);
    usable_at(p, 2 * AREA_PAGES, "after growing");
    drop(p, a);
}

static void mremap_grow_part(struct area *a)
{
    char *p = call_mremap(a, place(a, 20), 20 * PAGE, 60 * PAGE, MREMAP_MAYMOVE, NULL);

    told_mapped(place(a, 0), AREA_PAGES);
    same_at(p, a, 20, 20, "a part that grew");
    region_zero(p + 20 * PAGE, 40, "what mremap added to a part");
    same(a, 0, 20, "below a part that moved");
    same(a, 40, 40, "above a part that moved");
    usable_at(p, 60, "a part that grew");
    munmap(p, 60 * PAGE);
}

static void move_to(struct area *a, size_t first, size_t n, size_t new_n)
{
    char *to = place(a, AREA_PAGES + 100), *p;

    p = call_mremap(a, place(a, first), n * PAGE, new_n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    told_mapped(place(a, 0), AREA_PAGES);
    must(p == to, "mremap to a fixed place");
    same_at(p, a, first, n < new_n ? n : new_n, "moved");
    if (new_n > n)
        region_zero(p + n * PAGE, new_n - n, "what a move added");
    told_smaps(p, new_n);
    same(a, 0, first, "below what was moved");
    same(a, first + n, AREA_PAGES - first - n, "above what was moved");
    usable_at(p, new_n, "moved");
    told_mapped(place(a, first), n);
}

static void mremap_fixed(struct area *a)
{
    move_to(a, 0, AREA_PAGES, AREA_PAGES);
}

static void mremap_fixed_part(struct area *a)
{
    move_to(a, 20, 40, 40);
}

static void mremap_fixed_grow(struct area *a)
{
    move_to(a, 0, AREA_PAGES, 2 * AREA_PAGES);
}

static void mremap_fixed_shrink(struct area *a)
{
    move_to(a, 0, AREA_PAGES, 30);
}

/* There and back, over merged pages: the target is the area's other half. */
static void mremap_fixed_over(struct area *a)
{
    char *p = call_mremap(a, place(a, 0), 30 * PAGE, 30 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                          place(a, 40));

    must(p == place(a, 40), "mremap over merged pages");
    told_mapped(place(a, 0), AREA_PAGES);
    same_at(p, a, 0, 30, "moved over merged pages");
    same(a, 30, 10, "between");
    same(a, 70, 10, "above the target");
    p = call_mremap(a, place(a, 40), 30 * PAGE, 30 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                    place(a, 0));
    same(a, 0, 40, "moved back");
    told_mapped(place(a, 0), AREA_PAGES);
    CALL(madvise, place(a, 0), 30 * PAGE, MADV_DONTNEED);
    zero(a, 0, 30, "moved there and back, then MADV_DONTNEED");
}

static void mremap_refused(struct area *a)
{
    size_t all = AREA_PAGES * PAGE;
    char *to = place(a, AREA_PAGES + 100);

    call_mremap(a, place(a, 0), all, 0, 0, NULL);
    call_mremap(a, place(a, 1) + 8, PAGE, PAGE, 0, NULL);
    call_mremap(a, place(a, 0), all, all, MREMAP_FIXED, to);
    call_mremap(a, place(a, 0), all, all, 64, NULL);
    call_mremap(a, place(a, 0), 0, PAGE, MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 0), all, ~(size_t)0, MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 0), all, (size_t)1 << 48, MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 0), all, all, MREMAP_DONTUNMAP, NULL);
    call_mremap(a, place(a, 0), all, 2 * all, MREMAP_DONTUNMAP | MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 0), all, all, MREMAP_MAYMOVE | MREMAP_FIXED, to + 8);
    call_mremap(a, place(a, 0), all, all, MREMAP_MAYMOVE | MREMAP_FIXED, place(a, 40));
    call_mremap(a, place(a, 40), 40 * PAGE, 50 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place(a, 0));
    call_mremap(a, place(a, 0), all, all, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)(1ul << 47));
    call_mremap(a, place(a, 0), all + 9 * PAGE, 2 * all, MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 0), all, all, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)-(uintptr_t)PAGE);
    told_mapped(place(a, 0), AREA_PAGES + 200);
    same(a, 0, AREA_PAGES, "after mremap was refused");
}

static void dontunmap(struct area *a, int flags, char *to)
{
    size_t all = AREA_PAGES * PAGE;
    char *p = call_mremap(a, place(a, 0), all, all, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | flags, to);

    must(p != MAP_FAILED, "mremap that leaves the old place");
    same_at(p, a, 0, AREA_PAGES, "moved by MREMAP_DONTUNMAP");
    zero(a, 0, AREA_PAGES, "the old place after MREMAP_DONTUNMAP");
    usable(a, 0, AREA_PAGES, "the old place after MREMAP_DONTUNMAP");
    same_at(p, a, 0, AREA_PAGES, "moved by MREMAP_DONTUNMAP");
    CALL(madvise, p, all, MADV_DONTNEED);
    region_zero(p, AREA_PAGES, "moved by MREMAP_DONTUNMAP, then MADV_DONTNEED");
    if (!to)
        munmap(p, all);
}

static void mremap_dontunmap(struct area *a)
{
    dontunmap(a, 0, NULL);
}

static void mremap_dontunmap_fixed(struct area *a)
{
    dontunmap(a, MREMAP_FIXED, place(a, AREA_PAGES + 50));
}

/* A range with a hole: newer kernels move it, none grows it. */
static void mremap_hole(struct area *a)
{
    char *to = place(a, AREA_PAGES + 100), *p;

    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    grow_maymove(a);
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, AREA_PAGES * PAGE, MREMAP_MAYMOVE, NULL);
    call_mremap(a, place(a, 31), 9 * PAGE, 5 * PAGE, MREMAP_MAYMOVE, NULL);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
    p = call_mremap(a, place(a, 0), AREA_PAGES * PAGE, AREA_PAGES * PAGE,
                    MREMAP_MAYMOVE | MREMAP_FIXED, to);
    told_mapped(place(a, 0), AREA_PAGES);
    told_mapped(to, 30);
    told_mapped(to + 34 * PAGE, AREA_PAGES - 34);
    if (p == to) {
        same_at(to, a, 0, 30, "below a hole that moved");
        same_at(to + 34 * PAGE, a, 34, AREA_PAGES - 34, "above a hole that moved");
    } else {
        same(a, 0, 30, "below a hole");
        same(a, 34, AREA_PAGES - 34, "above a hole");
    }
}

static void mremap_hole_shrink(struct area *a)
{
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 50 * PAGE, 0, NULL);
    told_mapped(place(a, 0), AREA_PAGES);
    call_mremap(a, place(a, 0), 50 * PAGE, 20 * PAGE, 0, NULL);
    told_mapped(place(a, 0), AREA_PAGES);
    same(a, 0, 20, "after shrinking a range with a hole");
}

/* Mappings of two kinds: newer kernels move them, none grows them. */
static void mremap_mixed(struct area *a)
{
    char *to = place(a, AREA_PAGES + 100), *p;

    must(!mprotect(place(a, 30), 10 * PAGE, PROT_READ), "mprotect");
    grow_maymove(a);
    area_room(a);
    call_mremap(a, place(a, 0), AREA_PAGES * PAGE, 2 * AREA_PAGES * PAGE, 0, NULL);
    same(a, 0, AREA_PAGES, "mappings of two kinds");
    p = call_mremap(a, place(a, 0), AREA_PAGES * PAGE, AREA_PAGES * PAGE,
                    MREMAP_MAYMOVE | MREMAP_FIXED, to);
    told_mapped(place(a, 0), AREA_PAGES);
    if (p == to)
        same_at(to, a, 0, AREA_PAGES, "mappings of two kinds that moved");
    else
        same(a, 0, AREA_PAGES, "mappings of two kinds");
    told_access(p == to ? to : a->at, AREA_PAGES);
    told_smaps(p == to ? to : a->at, AREA_PAGES);
}

static void mremap_readonly(struct area *a)
{
    char *p;

    must(!mprotect(place(a, 0), AREA_PAGES * PAGE, PROT_READ), "mprotect");
    p = grow_maymove(a);
    told_access(p, 2 * AREA_PAGES);
    grown_is_right(p, a);
    drop(p, a);
}

static void mremap_none(struct area *a)
{
    char *p;

    must(!mprotect(place(a, 0), AREA_PAGES * PAGE, PROT_NONE), "mprotect");
    p = grow_maymove(a);
    told_access(p, 2 * AREA_PAGES);
    must(!mprotect(p, 2 * AREA_PAGES * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    grown_is_right(p, a);
    drop(p, a);
}

static void mremap_exec(struct area *a)
{
    char *p;

    must(!mprotect(place(a, 0), AREA_PAGES * PAGE, PROT_READ | PROT_EXEC), "mprotect");
    p = grow_maymove(a);
    told_access(p, 2 * AREA_PAGES);
    must(!mprotect(p, 2 * AREA_PAGES * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    grown_is_right(p, a);
    drop(p, a);
}

static void mremap_locked(struct area *a)
{
    char *p;

    told("mlock", mlock(place(a, 0), AREA_PAGES * PAGE));
    p = grow_maymove(a);
    grown_is_right(p, a);
    drop(p, a);
}

/* What advice gave the memory, what is added has too. */
static void advised(struct area *a, int advice)
{
    char *p;

    CALL(madvise, place(a, 0), AREA_PAGES * PAGE, advice);
    p = grow_maymove(a);
    grown_is_right(p, a);
    drop(p, a);
}

static void mremap_dontdump(struct area *a)
{
    advised(a, MADV_DONTDUMP);
}

static void mremap_dontfork(struct area *a)
{
    advised(a, MADV_DONTFORK);
}

static void mremap_wipeonfork(struct area *a)
{
    advised(a, MADV_WIPEONFORK);
}

static void mremap_hugepage(struct area *a)
{
    advised(a, MADV_HUGEPAGE);
}

static void mremap_random(struct area *a)
{
    advised(a, MADV_RANDOM);
}

static void mremap_noreserve(struct area *a)
{
    char *p = grow_maymove(a);

    told_smaps(p, 2 * AREA_PAGES);
    grown_is_right(p, a);
    drop(p, a);
}

/* A second mremap of what the first one moved. */
static void mremap_again(struct area *a)
{
    char *p = grow_maymove(a);

    grown_is_right(p, a);
    p = told_place(a, "mremap", (long)mremap(p, 2 * AREA_PAGES * PAGE, 3 * AREA_PAGES * PAGE,
                                             MREMAP_MAYMOVE));
    grown_is_right(p, a);
    CALL(madvise, p, 40 * PAGE, MADV_DONTNEED);
    region_zero(p, 40, "moved twice, then MADV_DONTNEED");
    same_at(p + 40 * PAGE, a, 40, AREA_PAGES - 40, "moved twice");
    munmap(p, 3 * AREA_PAGES * PAGE);
}

/* What is un-merged at a new place has all that it had at the old one. */
static void mremap_unmerged(struct area *a)
{
    char *p = grow_maymove(a);

    CALL(mlock, p, AREA_PAGES * PAGE); /* un-merges at once */
    CALL(munlock, p, AREA_PAGES * PAGE);
    told_smaps(p, 2 * AREA_PAGES);
    grown_is_right(p, a);
    p = told_place(a, "mremap", (long)mremap(p, 2 * AREA_PAGES * PAGE, 3 * AREA_PAGES * PAGE,
                                             MREMAP_MAYMOVE));
    must(p != MAP_FAILED, "mremap of what was moved, then un-merged");
    grown_is_right(p, a);
    munmap(p, 3 * AREA_PAGES * PAGE);
}

#define MREMAP_ROWS                                                                                \
    { "mremap-shrink", mremap_shrink }, { "mremap-same", mremap_same },                            \
        { "mremap-grow-in-place", mremap_grow_in_place },                                          \
        { "mremap-grow-twice", mremap_grow_twice }, { "mremap-grow-refused", mremap_grow_refused },\
        { "mremap-grow-maymove", mremap_grow_maymove }, { "mremap-grow-part", mremap_grow_part },  \
        { "mremap-fixed", mremap_fixed }, { "mremap-fixed-part", mremap_fixed_part },              \
        { "mremap-fixed-grow", mremap_fixed_grow }, { "mremap-fixed-shrink", mremap_fixed_shrink },\
        { "mremap-fixed-over", mremap_fixed_over }, { "mremap-refused", mremap_refused },          \
        { "mremap-dontunmap", mremap_dontunmap },                                                  \
        { "mremap-dontunmap-fixed", mremap_dontunmap_fixed }, { "mremap-hole", mremap_hole },      \
        { "mremap-hole-shrink", mremap_hole_shrink }, { "mremap-mixed", mremap_mixed },            \
        { "mremap-readonly", mremap_readonly }, { "mremap-none", mremap_none },                    \
        { "mremap-exec", mremap_exec }, { "mremap-locked", mremap_locked },                        \
        { "mremap-dontdump", mremap_dontdump },                                                    \
        { "mremap-dontfork", mremap_dontfork }, { "mremap-wipeonfork", mremap_wipeonfork },        \
        { "mremap-hugepage", mremap_hugepage }, { "mremap-random", mremap_random },                \
        { "mremap-noreserve", mremap_noreserve, .flags = MAP_NORESERVE },                          \
        { "mremap-again", mremap_again }, { "mremap-unmerged", mremap_unmerged }

#endif
