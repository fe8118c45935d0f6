/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Un-merging: gives sites private anonymous pages with the same bytes (K13, K7, X).
 *
 * With the gate closed, the mapping of the frames is write-protected by a second userfaultfd, one
 * that really makes a writer wait. Then its bytes cannot change; they are copied to fresh memory,
 * and one mremap puts that memory over the old mapping: at no instant is there a missing page.
 * A page that the program wrote after the merge is its own already; it stays as it is (something
 * may have it pinned), in its mapping of the pool, which the site map goes on naming, unless somebody
 * made sure that nothing has (again.c).
 *
 * Where frames can leave memory (S1) no userfaultfd holds anybody off. A program that has one thread, which waits for
 * us, needs not be. Else the store does, as far as pages were not written (stall.c). Where that cannot be, un-merging
 * is a write to each page that changes nothing: the mapping stays the store's, and each page of it is the program's own.
 *
 * The copy is made in memory that grew from a seed (seeds.c), so that the kernel joins it with its
 * neighbours and the mappings are given back; without a seed, in any.
 *
 * If we die in here, the second userfaultfd dies with us and every writer goes on: nothing is ever
 * in the air, so nothing needs the journal.
 */
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define GATE_SPIN_US 20000u
#define GATE_TRIES 10u
/*
 * Not DONTUNMAP, which would leave the copy's own place to us until we unmap it: the kernel charges that
 * like memory anew, after it unmapped the target. Where memory is accounted strictly
 * (vm.overcommit_memory 2), another process may have taken what the target gave back: the call fails, and
 * the bytes are lost. To move all of it is charged nothing, and fails only if the sum is above the limit
 * already; where that can be, nothing is merged (decision 0017). What the program maps meanwhile may
 * land in the place that was left: that is never unmapped (unmap_rest). And Linux 6.18 would count what is
 * locked at both places.
 */
#define MREMAP_PUT (MREMAP_MAYMOVE | MREMAP_FIXED)

static const struct sp_unmerge_how frames_only = {0};

int sp_unmerge_frames(uint64_t addr, uint32_t npages, uint64_t *frames)
{
    struct sp_page_region region[SP_LIFT_PAGES];
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = addr,
        .end = addr + ((uint64_t)npages << sp_agent.page_shift),
        .vec = (uintptr_t)region,
        .vec_len = SP_LIFT_PAGES,
        .category_inverted = SP_PAGE_FILE,
        .category_mask = SP_PAGE_FILE,
        .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
        .return_mask = SP_PAGE_PRESENT,
    };
    long n = sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg);
    uint64_t own = 0;

    if (sp_is_err(n))
        return -ENOMEM; /* what the kernel lacks for the look */
    for (long r = 0; r < n; r++)
        for (uint64_t p = region[r].start; p < region[r].end; p += sp_agent.page_size)
            own |= 1ull << ((p - addr) >> sp_agent.page_shift);
    /* Zeros are owed there (sitemap.h): the frame's bytes are not to stay. */
    for (uint64_t at = addr, a, b; sp_owed_next(at, arg.end, &a, &b); at = b)
        for (uint64_t p = a; p < b; p += sp_agent.page_size)
            own |= 1ull << ((p - addr) >> sp_agent.page_shift);
    *frames = ~own & (npages == 64 ? ~0ull : (1ull << npages) - 1);
    return 0;
}

/* Puts pages [i, i + n) of the copy over their addresses: the copy lacks them then. */
static int put(uint64_t addr, uint64_t copy, uint32_t i, uint32_t n,
               const struct sp_unmerge_how *how)
{
    uint64_t at = addr + ((uint64_t)i << sp_agent.page_shift);
    uint64_t len = (uint64_t)n << sp_agent.page_shift;
    const struct sp_range *range = sp_range_of(at, at + sp_agent.page_size);
    bool advised = sp_gate.advise_all || (range && (range->flags & SP_RANGE_ADVISED));
    long ret;

    if (how->copy)
        advised |= how->attributes & SP_RANGE_ADVISED;
    ret = sp_move_over(copy + ((uint64_t)i << sp_agent.page_shift), len, at, MREMAP_PUT, advised);
    if (ret)
        return (int)ret;
    sp_sitemap_clear(at, at + len);
    sp_track_pending(at, n);
    sp_count(SP_COUNT_UNMERGED, n);
    return 0;
}

/* Where a run from a to b is to be cut: at most one lift long, and of one range, because what the
 * new memory is given is the same in one range only. */
static uint64_t cut(uint64_t a, uint64_t b)
{
    const struct sp_range *range = sp_range_of(a, a + sp_agent.page_size);

    if (b - a > (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift)
        b = a + ((uint64_t)SP_LIFT_PAGES << sp_agent.page_shift);
    return range && b > range->end ? range->end : b;
}

/* *moved: bit i for page i of the copy that was put. */
static int put_frames(uint64_t addr, uint64_t copy, uint32_t npages, uint64_t frames,
                      const struct sp_unmerge_how *how, uint64_t *moved)
{
    for (uint32_t i = 0; i < npages;) {
        uint32_t n = 0;
        int ret;

        while (i + n < npages && (frames >> (i + n) & 1))
            n++;
        if (!n) {
            i++;
            continue;
        }
        ret = put(addr, copy, i, n, how);
        if (ret)
            return ret;
        *moved |= (n == 64 ? ~0ull : (1ull << n) - 1) << i;
        i += n;
    }
    return 0;
}

static void unmap(uint64_t start, uint64_t end)
{
    if (start < end)
        sp_sys(__NR_munmap, start, end - start);
}

/* Of the copy all but the pages that were moved away: there may be anything now. What was given is not ours. */
static void unmap_rest(uint64_t copy, uint32_t npages, uint64_t moved, const struct sp_unmerge_how *how)
{
    uint64_t start = copy;

    if (how->copy)
        return;
    for (uint32_t i = 0; i < npages; i++) {
        uint64_t page = copy + ((uint64_t)i << sp_agent.page_shift);

        if (!(moved >> i & 1))
            continue;
        unmap(start, page);
        start = page + sp_agent.page_size;
    }
    unmap(start, copy + ((uint64_t)npages << sp_agent.page_shift));
}

/* Where the bytes are copied to. Written pages may have been given attributes in their place, which the
 * copy has, too, if that can be. */
static long map_copy(uint64_t addr, uint64_t len, const struct sp_unmerge_how *how)
{
    long attributes;

    if (!how->all)
        return sp_range_map(addr, len, 0);
    attributes = sp_range_attributes(addr, addr + len);
    if (how->copy)
        return attributes == (long)how->attributes ? (long)how->copy : -EINVAL;
    if (sp_is_err(attributes) ||
        (attributes & (SP_RANGE_RW | SP_RANGE_EXEC | SP_RANGE_LOCKED)) != SP_RANGE_RW)
        return -EINVAL;
    return sp_map_with(0, len, 0, (uint32_t)attributes);
}

/* Is what the copy was given known only as long as no call touched the range? */
static bool must_be_untouched(const struct sp_unmerge_how *how)
{
    return sp_gate.dontfork || how->all;
}

/*
 * With the gate closed: is the copy still what is to be there? What was replaced or moved since it was made
 * is no site of ours, and may be anything; what fork is to copy, or not, may have been changed, and so may
 * be what written pages were given.
 */
static bool is_as_copied(uint64_t addr, uint64_t end, const struct sp_unmerge_how *how)
{
    uint64_t a, b;

    return sp_sitemap_next(addr, end, &a, &b) && a == addr && b >= end &&
           !(must_be_untouched(how) && sp_gate_changed(addr, end));
}

static void track_frames(uint64_t addr, uint32_t npages, uint64_t frames, uint64_t *done)
{
    for (uint32_t i = 0; i < npages; i++)
        if (frames >> i & 1) {
            sp_track_pending(addr + ((uint64_t)i << sp_agent.page_shift), 1);
            sp_count(SP_COUNT_UNMERGED, 1);
            *done += 1;
        }
}

/*
 * With the gate closed, where memory is locked: new memory would not be, and we have no right to lock it. Or where
 * nobody can be held off while bytes are copied (stall.c). A frame that is written to is copied where it is.
 */
static int copy_in_place(uint64_t addr, uint32_t npages, uint64_t *done)
{
    uint64_t frames;
    int ret = sp_unmerge_frames(addr, npages, &frames);

    if (ret || !frames)
        return ret;
    ret = (int)sp_sys(__NR_madvise, addr, (uint64_t)npages << sp_agent.page_shift, SP_MADV_POPULATE_WRITE);
    if (ret)
        return ret == -ENOMEM ? ret : -EINVAL;
    track_frames(addr, npages, frames, done);
    return 0;
}

static bool may_write_copy(const struct sp_unmerge_how *how)
{
    return !how->copy || (how->attributes & SP_RANGE_WRITE);
}

/* The copy that nobody may write is filled as a userfaultfd fills what is missing; a lock may have brought
 * pages there already. */
static int fill_unwritable(uint64_t copy, uint64_t addr, uint64_t len)
{
    struct uffdio_range range = {.start = copy, .len = len};
    struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct uffdio_copy fill = {.dst = copy, .src = addr, .len = len};
    long ret = sp_sys(__NR_madvise, copy, len, SP_MADV_DONTNEED_LOCKED);

    if (!ret)
        ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
    if (ret)
        return -EINVAL;
    ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_COPY, &fill);
    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &range);
    return ret ? -EAGAIN : 0;
}

/* With the gate closed, and nobody writing: the bytes of the pages in frames. */
static int fill(uint64_t copy, uint64_t addr, uint32_t npages, uint64_t frames,
                const struct sp_unmerge_how *how)
{
    if (!may_write_copy(how))
        return fill_unwritable(copy, addr, (uint64_t)npages << sp_agent.page_shift);
    for (uint32_t i = 0; i < npages; i++)
        if ((frames >> i & 1) &&
            !sp_peek_copy((void *)(copy + ((uint64_t)i << sp_agent.page_shift)),
                          addr + ((uint64_t)i << sp_agent.page_shift)))
            return -EAGAIN;
    return 0;
}

/* With the gate closed. Tracked as its neighbours are, the new memory is joined with them. While a thread
 * moves memory it is tracked later, when the mappings are read. */
static void track(uint64_t addr, uint32_t npages, uint64_t put)
{
    if (__atomic_load_n(&sp_gate.moving, __ATOMIC_SEQ_CST)) {
        sp_agent.ranges_vm = 0;
        return;
    }
    for (uint32_t i = 0, n; i < npages; i += n) {
        struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};

        for (n = 0; i + n < npages && (put >> (i + n) & 1); n++)
            ;
        reg.range.start = addr + ((uint64_t)i << sp_agent.page_shift);
        reg.range.len = (uint64_t)n << sp_agent.page_shift;
        if (n)
            sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
        n += !n;
    }
}

/* Memory for a copy of [addr, addr + len): from a seed, so that it joins what lies around addr, or
 * any. Its address or a negative errno. */
static long copy_area(uint64_t addr, uint64_t len, const struct sp_unmerge_how *how)
{
    long copy = how->all ? 0 : (long)sp_seed_grow(addr, len), ret;

    if (!copy) {
        copy = map_copy(addr, len, how);
        if (sp_is_err(copy))
            return copy == -EINVAL ? -EINVAL : -ENOMEM;
    }
    ret = may_write_copy(how) ? sp_sys(__NR_madvise, copy, len, SP_MADV_POPULATE_WRITE) : 0;
    if (!sp_is_err(ret))
        return copy;
    unmap_rest((uint64_t)copy, (uint32_t)(len >> sp_agent.page_shift), 0, how);
    return -ENOMEM;
}

/* With the gate closed, and nobody writing. *put: pages that were to be replaced, *moved: those that were. */
static int copy_and_put(uint64_t addr, uint32_t npages, const struct sp_unmerge_how *how, uint64_t copy, uint64_t *put,
                        uint64_t *moved, uint64_t *done)
{
    uint64_t frames = ~0ull;
    /* What the program wrote may be unreadable by now. */
    int ret = how->all ? 0 : sp_unmerge_frames(addr, npages, &frames);

    if (ret)
        return ret;
    *put = frames | how->written;
    ret = fill(copy, addr, npages, *put, how);
    sp_fault_point("unmerge-copied");
    if (!ret)
        ret = put_frames(addr, copy, npages, *put, how, moved);
    for (uint64_t m = *moved; m; m &= m - 1)
        ++*done;
    return ret;
}

/* With the gate closed: what of the copy was moved by somebody else is entered in the books. */
static void note_put(uint64_t addr, uint32_t i, uint32_t n, const struct sp_unmerge_how *how)
{
    uint64_t at = addr + ((uint64_t)i << sp_agent.page_shift), len = (uint64_t)n << sp_agent.page_shift;
    const struct sp_range *range = sp_range_of(at, at + sp_agent.page_size);

    if (sp_gate.advise_all || (range && (range->flags & SP_RANGE_ADVISED)) ||
        (how->copy && (how->attributes & SP_RANGE_ADVISED)))
        sp_sys(__NR_madvise, at, len, MADV_MERGEABLE);
    sp_sitemap_clear(at, at + len);
    sp_track_pending(at, n);
    sp_count(SP_COUNT_UNMERGED, n);
}

/*
 * With the gate closed, of the store's mappings, where the program goes on meanwhile. *moved as copy_and_put(). Who
 * writes to a page that was written before is not held off: such pages stay (-EINVAL where they were to be put, too).
 */
static int stall_and_put(uint64_t addr, uint32_t npages, const struct sp_unmerge_how *how, uint64_t copy,
                         uint64_t *moved, uint64_t *done)
{
    uint64_t frames, all = npages == 64 ? ~0ull : (1ull << npages) - 1;
    int ret = sp_unmerge_frames(addr, npages, &frames);

    if (ret || !frames || (how->copy && frames != all))
        return ret ? ret : how->all ? -EINVAL : 0;
    ret = fill(copy, addr, npages, frames, how);
    if (ret)
        return ret;
    ret = sp_stall_put(addr, npages, copy, frames, how->copy, moved);
    for (uint32_t i = 0, n; i < npages; i += n ? n : 1) {
        for (n = 0; i + n < npages && (*moved >> (i + n) & 1); n++)
            ;
        if (n)
            note_put(addr, i, n, how);
        *done += n;
    }
    if (how->all)
        return *moved == all ? 0 : ret ? ret : -EINVAL;
    return ret ? copy_in_place(addr, npages, done) : 0;
}

int sp_unmerge_run(uint64_t addr, uint32_t npages, const struct sp_unmerge_how *how, uint64_t *done)
{
    uint64_t len = (uint64_t)npages << sp_agent.page_shift, put = 0, before = *done;
    struct uffdio_range range = {.start = addr, .len = len};
    struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
    struct uffdio_writeprotect wp = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    uint64_t moved = 0;
    bool waiting = false;
    long copy, ret;

    copy = copy_area(addr, len, how);
    if (sp_is_err(copy))
        return (int)copy;
    sp_sys(__NR_madvise, addr, len, SP_MADV_POPULATE_READ);
    if (!sp_gate_close(GATE_SPIN_US)) {
        sp_serve_gate();
        ret = -EAGAIN;
        goto out;
    }
    ret = -EAGAIN;
    if (!is_as_copied(addr, addr + len, how))
        goto open;
    if (!how->all && sp_is_locked(addr, len)) {
        /* What lies beside a locked page may not be: page by page. */
        ret = how->written || npages > 1 ? -EINVAL : copy_in_place(addr, npages, done);
        goto open;
    }
    if (sp_agent.stored && sp_agent.alone) {
        ret = copy_and_put(addr, npages, how, (uint64_t)copy, &put, &moved, done);
        goto track;
    }
    if (sp_agent.stored) {
        ret = how->written ? -EINVAL : stall_and_put(addr, npages, how, (uint64_t)copy, &moved, done);
        put = moved;
        goto track;
    }
    /* A written page may have been given something since it was held, which a copy would not have. */
    ret = -EINVAL;
    if (how->written && !sp_again_valid(addr, addr + len))
        goto open;
    ret = sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_REGISTER, &reg);
    if (sp_is_err(ret))
        goto open;
    ret = sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_WRITEPROTECT, &wp);
    if (!sp_is_err(ret)) {
        sp_wait_for_reachers();
        ret = copy_and_put(addr, npages, how, (uint64_t)copy, &put, &moved, done);
    }
    sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_UNREGISTER, &range);
    sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_WAKE, &range);
track:
    if (!ret && !how->copy && *done > before)
        track(addr, npages, put);
open:
    waiting = sp_gate_open();
out:
    unmap_rest((uint64_t)copy, npages, moved, how);
    if (waiting)
        sp_serve_gate();
    return (int)ret;
}

/*
 * One run, while nobody but us can touch it: fresh memory over it, and its bytes back. From the
 * moment that they are missing until they are back the run is named in sp_agent.plain: should we
 * die, the thread that waits for us finishes it (sp_agent_finish_plain).
 */
static bool replace_plain(uint64_t a, uint64_t len)
{
    struct uffdio_copy copy = {.dst = sp_agent.staging, .src = a, .len = len};
    struct uffdio_register track = {.range = {a, len}, .mode = UFFDIO_REGISTER_MODE_WP};
    bool done = false;

    /* Staging is registered MISSING: a plain write to it would wait for ourselves. */
    if (sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_COPY, &copy)))
        goto out;
    sp_agent.plain = (struct sp_range){.start = a};
    __atomic_store_n(&sp_agent.plain.end, a + len, __ATOMIC_SEQ_CST);
    if (!sp_is_err(sp_range_map(a, len, a))) {
        /* While it is empty and tracked as its neighbours are, the kernel joins it with them. */
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &track);
        memcpy((void *)a, (const void *)sp_agent.staging, len);
        sp_sitemap_clear(a, a + len);
        sp_track_pending(a, len >> sp_agent.page_shift);
        sp_count(SP_COUNT_UNMERGED, len >> sp_agent.page_shift);
        done = true;
    }
    __atomic_store_n(&sp_agent.plain.end, 0, __ATOMIC_SEQ_CST);
out:
    sp_sys(__NR_madvise, sp_agent.staging, SP_LIFT_PAGES << sp_agent.page_shift, 4);
    return done;
}

/* The frames of one run of the site map. A page that the program wrote since is its own, and may be
 * pinned: it stays. */
static uint64_t replace_frames(uint64_t a, uint64_t b)
{
    uint32_t npages = (uint32_t)((b - a) >> sp_agent.page_shift);
    uint64_t frames, runs = 0;

    if (sp_is_locked(a, b - a) || sp_unmerge_frames(a, npages, &frames))
        return 0;
    for (uint32_t i = 0; i < npages;) {
        uint32_t n = 0;

        while (i + n < npages && (frames >> (i + n) & 1))
            n++;
        if (n)
            runs += replace_plain(a + ((uint64_t)i << sp_agent.page_shift),
                                  (uint64_t)n << sp_agent.page_shift);
        i += n ? n : 1;
    }
    return runs;
}

uint64_t sp_unmerge_plain(uint64_t max_runs)
{
    uint64_t runs = 0, at = 0, a, b;

    if (sp_program_threads() != 1 || !sp_gate_close(GATE_SPIN_US))
        return 0;
    sp_arena_clean();
    while (runs < max_runs && sp_sitemap_next(at, ~0ull, &a, &b)) {
        b = cut(a, b);
        runs += replace_frames(a, b);
        at = b;
    }
    sp_gate_open();
    return runs;
}

/* How much of [a, b) lies in one mapping of the pool: a run of the site map may span several. */
static int unmerge_stretch(uint64_t a, uint64_t b, const struct sp_unmerge_how *how, uint64_t *done)
{
    uint32_t npages = (uint32_t)((b - a) >> sp_agent.page_shift);
    int ret = sp_unmerge_run(a, npages, how, done);

    /* The ranges of a userfaultfd and of mremap's target may be of many mappings: fine. But memory
     * that the program replaced without the gate makes the registration fail: page by page. */
    if (ret == 0 || ret == -ENOMEM || ret == -EAGAIN || npages == 1)
        return ret;
    ret = 0;
    for (; a < b && ret != -ENOMEM && ret != -EAGAIN; a += sp_agent.page_size)
        ret = sp_unmerge_run(a, 1, how, done);
    return ret == -ENOMEM || ret == -EAGAIN ? ret : 0;
}

/*
 * Sees to it that it is known what new memory for [a, b) is to have: what was moved since the mappings
 * were read is not, nor what fork may copy, or not, if a call touched it since; a forked child's agent may
 * know of nothing yet. What is in no range in a fresh list (*fresh) has nothing. False: a thread stays in the
 * gate.
 */
static bool learn(uint64_t a, uint64_t b, const struct sp_unmerge_how *how, bool *fresh)
{
    bool known = sp_agent.ranges_at_us && (*fresh || sp_range_of(a, a + sp_agent.page_size));

    if (known && !(must_be_untouched(how) && sp_gate_changed(a, b)))
        return true;
    if (!sp_ranges_refresh(true))
        return false;
    *fresh = true;
    return true;
}

/*
 * Is there nothing in [a, b) but pages that were written, in the store's mappings? They stay, at least while the program
 * goes on (stall_and_put()), and are met again and again: so this is asked before anything that costs more. To learn
 * what new memory is to have takes thousands of times as long where there are many mappings.
 */
static bool only_written(uint64_t a, uint64_t b)
{
    uint64_t frames;

    return sp_agent.stored && b - a <= (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift &&
           !sp_unmerge_frames(a, (uint32_t)((b - a) >> sp_agent.page_shift), &frames) && !frames;
}

bool sp_unmerge_must_leave(uint64_t start, uint64_t end)
{
    return only_written(start, end) && sp_program_threads() != 1;
}

static bool stays(uint64_t a, uint64_t b, const struct sp_unmerge_how *how)
{
    return !(how->all && sp_agent.alone) && only_written(a, b);
}

static int unmerge(uint64_t start, uint64_t end, uint64_t max_pages, const struct sp_unmerge_how *how,
                   uint64_t *next, uint64_t *npages)
{
    uint64_t at = start, a, b, looked = 0;
    bool fresh = false;
    unsigned tries = 0;
    int ret = 0;

    *npages = 0;
    *next = 0;
    sp_again_release();
    while (at < end && sp_sitemap_next(at, end, &a, &b)) {
        if (looked >= max_pages) {
            *next = a;
            break;
        }
        b = cut(a, b);
        if (stays(a, b, how)) {
            looked += (b - a) >> sp_agent.page_shift;
            at = b;
            continue;
        }
        ret = learn(a, b, how, &fresh) ? 0 : -EAGAIN;
        b = cut(a, b); /* of the ranges as they are now */
        if (!ret)
            ret = unmerge_stretch(a, b, how, npages);
        if (ret == -EAGAIN && tries++ < GATE_TRIES)
            continue;
        if (ret == -ENOMEM || ret == -EAGAIN)
            break; /* a thread stays in a gated call: it would stay for the next run too */
        ret = 0;
        tries = 0;
        looked += (b - a) >> sp_agent.page_shift;
        at = b;
    }
    sp_agent.ranges_vm = 0; /* read the mappings again at the next look */
    return ret;
}

int sp_unmerge(uint64_t start, uint64_t end, uint64_t max_pages, uint64_t *next, uint64_t *npages)
{
    return unmerge(start, end, max_pages, &frames_only, next, npages);
}

int sp_unmerge_written(uint64_t start, uint64_t end)
{
    const struct sp_unmerge_how how = {.all = true};
    uint64_t next, npages;

    return unmerge(start, end, ~0ull, &how, &next, &npages);
}

int sp_unmerge_into(uint64_t addr, uint64_t end, uint64_t copy, uint32_t attributes)
{
    const struct sp_unmerge_how how = {.all = true, .copy = copy, .attributes = attributes};
    uint64_t npages = (end - addr) >> sp_agent.page_shift, done = 0;
    int ret = -EAGAIN;

    if (end <= addr || npages > SP_LIFT_PAGES || !copy ||
        ((addr | end | copy) & (sp_agent.page_size - 1)) || stays(addr, end, &how))
        return -EINVAL;
    for (unsigned tries = 0; ret == -EAGAIN && tries < GATE_TRIES; tries++)
        if (sp_ranges_refresh(true))
            ret = sp_unmerge_run(addr, (uint32_t)npages, &how, &done);
    sp_agent.ranges_vm = 0;
    return ret;
}
