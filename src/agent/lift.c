/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lift: takes pages out of the program's reach, compares them with their frames, and maps the
 * frames over their addresses (K6, X). DESIGN.md, "The lift", has the steps and the failed
 * experiment behind each rule.
 *
 * From the moment the gate is closed until it is open again nothing but userfaultfd ioctls, mmap,
 * and comparing: anything else could wait for a program thread that waits for us. Whatever fails,
 * the page goes back to where it was; what cannot go back (it never did in any test) stays named
 * in the journal, and the agent ends, so that the daemon repairs it (D2).
 */
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "ops.h"
#include "policy.h"
#include "rings.h"
#include "sitemap.h"
#include "sys.h"

#define ZERO_TRIES 1000u /* the kernel gives as much as it can, and says to go on */
#define LOCKED_PART 4u
#define MAX_GAP 8u /* pages between two runs that one lift still spans */

enum page_state { ABSENT = 0, WANTED, BUSY, STAGED, EQUAL, MAPPED };

struct lift {
    uint64_t addr; /* of page 0 */
    uint32_t npages;
    uint32_t segment[SP_LIFT_PAGES], index[SP_LIFT_PAGES];
    uint32_t slot[SP_LIFT_PAGES]; /* in the answer */
    uint8_t state[SP_LIFT_PAGES];
    uint8_t flags[SP_LIFT_PAGES];
    uint8_t *result;
    bool retry; /* busy pages were made our own: they are tried a second time */
    bool stuck; /* a thread stays in a gated call: the daemon waits for an answer, so no more tries */
};

static uint64_t page_at(uint64_t base, uint32_t i)
{
    return base + ((uint64_t)i << sp_agent.page_shift);
}

static void decide(struct lift *l, uint32_t i, enum sp_result result)
{
    l->result[l->slot[i]] = (uint8_t)result;
    if (result != SP_MERGED)
        l->state[i] = ABSENT;
}

static void decide_all(struct lift *l, enum sp_result result)
{
    for (uint32_t i = 0; i < l->npages; i++)
        if (l->state[i] == WANTED)
            decide(l, i, result);
}

/* Bits of one page's entry in pagemap: what may be lifted is present, anonymous, and ours alone. */
static void check_pagemap(struct lift *l)
{
    uint64_t entry[SP_LIFT_PAGES];
    uint64_t from = l->addr >> sp_agent.page_shift;
    long n = sp_sys(__NR_pread64, sp_agent.pagemap, entry, l->npages * 8ul, from * 8);

    for (uint32_t i = 0; i < l->npages; i++) {
        if (l->state[i] != WANTED)
            continue;
        if (n < (long)((i + 1) * 8) || !(entry[i] >> 63 & 1) || (entry[i] >> 61 & 1)) {
            /* Swapped out, or on its way to another place: some other time. */
            decide(l, i, n >= (long)((i + 1) * 8) && entry[i] >> 62 & 1 ? SP_PINNED : SP_GONE);
        } else if (!(entry[i] >> 56 & 1)) {
            /* Fork shares it, or shared it: a copy of our own is what can be moved (K8). */
            if (!(l->flags[i] & SP_MERGE_BREAK_FORK) ||
                sp_is_err(sp_sys(__NR_madvise, page_at(l->addr, i), sp_agent.page_size,
                                 SP_MADV_POPULATE_WRITE)))
                decide(l, i, SP_SHARED_BY_FORK);
        }
    }
}

/*
 * Step 1: pages that were written since they were hashed are not lifted for nothing. The kernel says
 * which; reading all bytes here, too, would cost as much as the comparison that counts (K6), which
 * comes when nobody can write. docs/decisions/0008-cpu-of-a-merge.md
 */
static void check_written(struct lift *l)
{
    struct sp_page_region region[SP_LIFT_PAGES];
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = l->addr,
        .end = page_at(l->addr, l->npages),
        .vec = (uintptr_t)region,
        .vec_len = SP_LIFT_PAGES,
        .category_mask = SP_PAGE_WRITTEN,
        .return_mask = SP_PAGE_WRITTEN,
    };
    long n = sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg);

    for (long r = 0; r < n; r++)
        for (uint64_t at = region[r].start; at < region[r].end; at += sp_agent.page_size) {
            uint32_t i = (uint32_t)((at - l->addr) >> sp_agent.page_shift);

            if (i < l->npages && l->state[i] == WANTED)
                decide(l, i, SP_CHANGED);
        }
}

/* Drops the pages that were not wanted any more from both ends. */
static void shrink(struct lift *l)
{
    uint32_t first = 0, last = l->npages;

    while (first < last && l->state[first] != WANTED)
        first++;
    while (last > first && l->state[last - 1] != WANTED)
        last--;
    for (uint32_t i = first; first && i < last; i++) {
        l->segment[i - first] = l->segment[i];
        l->index[i - first] = l->index[i];
        l->slot[i - first] = l->slot[i];
        l->state[i - first] = l->state[i];
        l->flags[i - first] = l->flags[i];
    }
    l->addr = page_at(l->addr, first);
    l->npages = last - first;
}

static void journal_write(const struct lift *l)
{
    SP_JOURNAL->addr = l->addr;
    SP_JOURNAL->npages = l->npages;
    SP_JOURNAL->staging = sp_agent.staging;
    __atomic_store_n(&SP_JOURNAL->state, SP_JOURNAL_LIFT, __ATOMIC_RELEASE);
}

static void journal_clear(void)
{
    __atomic_store_n(&SP_JOURNAL->state, SP_JOURNAL_NONE, __ATOMIC_RELEASE);
}

static long move_pages(uint64_t dst, uint64_t src, uint32_t n, uint64_t mode, int *error)
{
    struct sp_uffdio_move m = {.dst = dst, .src = src, .len = (uint64_t)n << sp_agent.page_shift,
                               .mode = mode};
    long ret = sp_sys(__NR_ioctl, sp_agent.uffd, SP_UFFDIO_MOVE, &m);

    *error = sp_is_err(ret) ? (int)-ret : 0;
    return m.move > 0 ? m.move >> sp_agent.page_shift : 0;
}

static enum sp_result why_not_moved(int error)
{
    if (error == EBUSY)
        return SP_PINNED;
    return error == ENOENT ? SP_GONE : SP_ATTRIBUTES;
}

/* Step 4: moves the wanted pages into staging. */
static void move_out(struct lift *l)
{
    for (uint32_t i = 0; i < l->npages;) {
        uint32_t end = i, tries = 0, most;
        int error;

        if (l->state[i] != WANTED) {
            i++;
            continue;
        }
        while (end < l->npages && l->state[end] == WANTED)
            end++;
        most = end - i;
        while (i < end) {
            uint32_t n = end - i < most ? end - i : most;
            long moved = move_pages(page_at(sp_agent.staging, i), page_at(l->addr, i), n, 0,
                                    &error);

            sp_count(SP_COUNT_LIFTED, (uint64_t)moved);
            for (; moved > 0; moved--, tries = 0)
                l->state[i++] = STAGED;
            if (i >= end || !error)
                continue;
            if (error == EINVAL && n > 1) {
                most = n / 2; /* one call moves pages of one mapping only */
                continue;
            }
            if (error == EAGAIN && tries++ < 100)
                continue;
            decide(l, i, error == EAGAIN ? SP_PINNED : why_not_moved(error));
            if (error == EBUSY && !l->retry)
                l->state[i] = BUSY;
            tries = 0;
            i++;
        }
    }
}

/* Moves a page that was staged back to its place. Only an exit of the whole program can prevent
 * that; then nobody reads it. Otherwise the journal keeps it, and we end (D2). */
static void move_back(struct lift *l, uint32_t i)
{
    int error = 0;

    for (uint32_t tries = 0; tries < 1000000; tries++) {
        if (move_pages(page_at(l->addr, i), page_at(sp_agent.staging, i), 1, SP_MOVE_DONTWAKE,
                       &error) == 1) {
            sp_count(SP_COUNT_PUT_BACK, 1);
            return;
        }
        if (error != EAGAIN && error != EBUSY)
            break;
    }
    sp_sys(__NR_exit_group, 2);
}

/*
 * Who reaches in through /proc/PID/mem or ptrace (PTRACE_POKEDATA) pins nothing: it looks the page up and
 * copies, holding the memory's lock for reading, which the move does too. One that found a page just
 * before it moved still writes to it, in staging. When the lock was had for writing it is through; who
 * comes later finds no page. The advice is one that staging has already: it only takes the lock.
 */
void sp_wait_for_reachers(void)
{
    sp_sys(__NR_madvise, sp_agent.staging, sp_agent.page_size, MADV_NOHUGEPAGE);
}

/* Step 5, first half: whether what is in the air equals its frame. */
static void compare_staged(struct lift *l)
{
    for (uint32_t i = 0; i < l->npages; i++) {
        uint64_t page = page_at(sp_agent.staging, i);
        bool equal;

        if (l->state[i] != STAGED)
            continue;
        if (l->segment[i] == SP_SEGMENT_ZEROS ? !sp_peek_zero(page, &equal)
                                              : !sp_peek_equal(page, (void *)sp_view_frame(l->segment[i],
                                                                                          l->index[i]),
                                                               &equal))
            continue;
        if (equal)
            l->state[i] = EQUAL;
    }
}

/* What is locked is un-merged in place, so its mappings cannot be given back: a part of them is used for it. */
static bool may_lock_more(void)
{
    return sp_agent.mappings + 2 <= sp_mappings_budget() / LOCKED_PART;
}

/* A lock that a fault fills: the other kind would copy every frame at once. There is room for it, for what was
 * mapped there was locked, and so is staging. */
static void lock_frames(uint64_t at, uint64_t length)
{
    sp_lock_as(at, length, SP_RANGE_LOCKED | SP_RANGE_ONFAULT);
    sp_sys(__NR_madvise, at, length, SP_MADV_POPULATE_READ);
}

/* All of a range has one, what is merged of it, too. */
static bool remember_policy(const struct sp_range *range, uint64_t at, uint64_t end)
{
    return range ? sp_policy_set_sites(range->start, range->end, (uint32_t)range->flags & SP_RANGE_POLICY)
                 : sp_policy_set_sites(at, end, 0);
}

/* The site map comes first: should we die in between, a bit too many harms nobody, one too few
 * would. */
bool sp_lift_map(uint64_t at, uint32_t n, uint32_t segment, uint32_t index)
{
    uint64_t end = page_at(at, n);
    bool was_site = sp_sitemap_any(at, end);
    const struct sp_range *range = sp_range_of(at, end);
    bool locked = range && (range->flags & SP_RANGE_LOCKED);
    long ret;

    if (!sp_mappings_left() || (locked && !may_lock_more()) || !remember_policy(range, at, end) ||
        sp_sitemap_set(at, end))
        return false;
    sp_gate_tell_attributes(range ? (uint32_t)range->flags & ~SP_RANGE_LOCKED : 0);
    if (locked) {
        sp_gate.guarded = sp_gate.locked = sp_gate.mixed = true;
        sp_guarded_add(at, end);
    }
    ret = sp_sys(__NR_mmap, at, end - at, 3, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                 sp_agent.view[segment].fd, (uint64_t)index << sp_agent.page_shift);
    if (sp_is_err(ret)) {
        if (!was_site)
            sp_sitemap_clear(at, end);
        return false;
    }
    sp_agent.mappings += 2;
    if (range && (range->flags & SP_RANGE_DONTFORK)) {
        sp_gate.dontfork = true;
        sp_keep_from_fork(at, end - at);
    }
    if (locked)
        lock_frames(at, end - at);
    /* It does nothing there, but to be told when nothing of the memory around is left. */
    if (range && (range->flags & (SP_RANGE_HUGE | SP_RANGE_NO_HUGE)))
        sp_sys(__NR_madvise, at, end - at,
               range->flags & SP_RANGE_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return true;
}

/* What was mapped, or given back, from page i on. */
static uint32_t accept(struct lift *l, uint32_t i, uint32_t n)
{
    sp_count(SP_COUNT_MERGED, n);
    for (; n; n--, i++) {
        l->state[i] = MAPPED;
        decide(l, i, SP_MERGED);
    }
    return i;
}

static uint32_t put_back(struct lift *l, uint32_t i, uint32_t n, enum sp_result result)
{
    for (; n; n--, i++) {
        move_back(l, i);
        decide(l, i, result);
    }
    return i;
}

/*
 * The kernel's own page of zeros at the places of n pages in the air (K15). It is put there now, not when
 * somebody reads: so the memory is there, as it was. The map comes first, as in sp_lift_map().
 */
static uint32_t give_zeros(struct lift *l, uint32_t i, uint32_t n)
{
    uint64_t at = page_at(l->addr, i), end = page_at(l->addr, i + n);
    uint32_t done = 0, most = n;

    for (uint32_t tries = 0; !sp_zeroed_set(at, end) && done < n && tries < ZERO_TRIES; tries++) {
        uint32_t count = n - done < most ? n - done : most;
        struct uffdio_zeropage zero = {
            .range = {page_at(at, done), (uint64_t)count << sp_agent.page_shift}};
        long ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_ZEROPAGE, &zero);

        if (zero.zeropage > 0) {
            done += (uint32_t)((uint64_t)zero.zeropage >> sp_agent.page_shift);
            most = n;
        } else if (ret == -ENOENT && count > 1) {
            most = count / 2; /* one call gives them to one mapping only */
        } else if (ret != -EAGAIN) {
            break;
        }
    }
    sp_zeroed_clear(page_at(at, done), end);
    i = accept(l, i, done);
    return put_back(l, i, n - done, SP_OUT_OF_MEMORY);
}

/* How many from page i on, all equal, are to be mapped in one go. */
static uint32_t run_of(const struct lift *l, uint32_t i)
{
    uint32_t n = 1;

    while (i + n < l->npages && l->state[i + n] == EQUAL && l->segment[i + n] == l->segment[i] &&
           (l->segment[i] == SP_SEGMENT_ZEROS || l->index[i + n] == l->index[i] + n))
        n++;
    return n;
}

/* Step 5, second half: frames over the equal ones, run by run; the others back. */
static void map_frames(struct lift *l)
{
    for (uint32_t i = 0; i < l->npages;) {
        uint32_t n = 1;

        if (l->state[i] == STAGED) {
            i = put_back(l, i, 1, SP_CHANGED);
            continue;
        }
        if (l->state[i] != EQUAL) {
            i++;
            continue;
        }
        n = run_of(l, i);
        if (l->segment[i] == SP_SEGMENT_ZEROS)
            i = give_zeros(l, i, n);
        else if (sp_lift_map(page_at(l->addr, i), n, l->segment[i], l->index[i]))
            i = accept(l, i, n);
        else
            i = put_back(l, i, n, SP_OUT_OF_MAPPINGS);
    }
}

/* Maps page i a frame? Also one of an earlier lift: a window that is tried again has both. */
static bool is_site(const struct lift *l, uint32_t i)
{
    return sp_sitemap_any(page_at(l->addr, i), page_at(l->addr, i + 1));
}

/* With no mapping left to split (ENOMEM) whoever touches the range would wait for ever. The daemon
 * can end it, by closing its duplicate; the journal tells it that there is something to do. */
static void no_waiting(uint64_t addr, uint64_t length)
{
    struct uffdio_range range = {.start = addr, .len = length};

    if (sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &range)))
        sp_sys(__NR_exit_group, 3);
}

/* Step 6: no waiting any more in the range; what stays anonymous is tracked again; whoever waited
 * looks again (unregistering alone does not wake one whose mapping was replaced). The store's mappings
 * no userfaultfd may even be asked about: there it is done run by run. */
static void settle(struct lift *l)
{
    struct uffdio_range all = {.start = l->addr, .len = (uint64_t)l->npages << sp_agent.page_shift};
    uint32_t i = 0;

    if (!sp_agent.stored)
        no_waiting(all.start, all.len);
    while (i < l->npages) {
        struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};
        uint32_t n = i;

        if (is_site(l, i)) {
            i++; /* who un-merges it registers it otherwise, which cannot be with both */
            continue;
        }
        while (n < l->npages && !is_site(l, n))
            n++;
        reg.range.start = page_at(l->addr, i);
        reg.range.len = (uint64_t)(n - i) << sp_agent.page_shift;
        if (sp_agent.stored)
            no_waiting(reg.range.start, reg.range.len);
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
        i = n;
    }
    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_WAKE, &all);
}

/* The first two neighbours that are in the air may become a seed. */
static void take_seed(const struct lift *l)
{
    for (uint32_t i = 0; i + 1 < l->npages; i++) {
        if (l->state[i] != STAGED || l->state[i + 1] != STAGED)
            continue;
        sp_seed_take(page_at(l->addr, i), page_at(l->addr, i + 2));
        return;
    }
}

/* What no gated call touched since the flags were read is what it was, if all code that there is was
 * looked at. Nor is it merged again while a call waits that had it un-merged. */
static bool still_valid(const struct lift *l)
{
    uint64_t end = page_at(l->addr, l->npages);

    return !sp_gate_changed(l->addr, end) && !sp_gate_tcb_in(l->addr, end) &&
           !sp_gate_asked_for(l->addr, end) && sp_code_is_known() &&
           !__atomic_load_n(&sp_gate.moving, __ATOMIC_SEQ_CST);
}

/* What the program put into a pipe since the window was chosen. With the gate closed. */
static void leave_spliced(struct lift *l)
{
    for (uint32_t i = 0; i < l->npages; i++)
        if (l->state[i] == WANTED && sp_spliced_any(page_at(l->addr, i), page_at(l->addr, i + 1)))
            decide(l, i, SP_PINNED);
}

/*
 * While the kernel writes a core dump nothing is lifted: what it meets in the air is zeros in the dump (X), and
 * no fault makes it wait. A dump that began since the last look meets what was lifted since then: no more than one
 * lift's pages. A look takes 3 us, so one before each of many small lifts would cost as much as they do; one for so
 * many pages is less than 2 % of what it costs to merge them.
 */
static bool is_dumped(const struct lift *l)
{
    static uint32_t lifted = SP_LIFT_PAGES; /* since the last look */

    lifted += l->npages;
    if (lifted <= SP_LIFT_PAGES)
        return false;
    lifted = l->npages;
    if (!sp_program_dumps())
        return false;
    lifted = SP_LIFT_PAGES; /* the next lift looks again */
    return true;
}

/* S4: pages move only between memory that is locked and memory that is, too. False: nobody may lock more. */
static bool lock_staging(const struct lift *l, bool *locked)
{
    const struct sp_range *range = sp_range_of(l->addr, page_at(l->addr, l->npages));
    uint64_t length = (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift;

    *locked = range && (range->flags & SP_RANGE_LOCKED);
    return !*locked || !sp_is_err(sp_lock_as(sp_agent.staging, length, SP_RANGE_LOCKED | SP_RANGE_ONFAULT));
}

static void lift(struct lift *l)
{
    struct uffdio_register reg = {
        .range = {.start = l->addr, .len = (uint64_t)l->npages << sp_agent.page_shift},
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
    bool waiting, locked;

    /* Code that was just loaded: nobody is kept waiting for a lift that cannot be. */
    if (!sp_code_is_known() || is_dumped(l)) {
        decide_all(l, SP_GONE);
        return;
    }
    if (!sp_gate_close_to_merge(false)) {
        decide_all(l, SP_PINNED); /* a thread stays in a call: some other time */
        l->stuck = true;
        sp_serve_gate();
        return;
    }
    sp_arena_clean();
    sp_fault_point("gate-closed");
    if (!still_valid(l)) {
        decide_all(l, SP_GONE);
        goto open;
    }
    leave_spliced(l);
    if (!lock_staging(l, &locked)) {
        decide_all(l, SP_ATTRIBUTES);
        goto open;
    }
    journal_write(l);
    if (sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg))) {
        decide_all(l, SP_ATTRIBUTES);
        goto clear;
    }
    move_out(l);
    sp_wait_for_reachers();
    take_seed(l);
    sp_fault_point("lift-moved");
    compare_staged(l);
    map_frames(l);
    sp_fault_point("lift-mapped");
    settle(l);
clear:
    journal_clear();
    if (locked)
        sp_sys(__NR_munlock, sp_agent.staging, (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift);
open:
    waiting = sp_gate_open();
    /* Never reused: a pipe may still refer to a page that was lifted. */
    sp_sys(__NR_madvise, sp_agent.staging, SP_LIFT_PAGES << sp_agent.page_shift, 4);
    if (waiting)
        sp_serve_gate();
}

/* One window. Pages in it that were not merged lost their tracking: they are new again. */
static void lift_window(struct lift *l)
{
    uint64_t addr = l->addr;
    uint32_t n = l->npages, end;

    lift(l);
    for (uint32_t i = 0; i < n; i = end) {
        uint64_t at = page_at(addr, i);

        end = i + 1;
        if (l->state[i] == MAPPED) {
            bool zeros = l->segment[i] == SP_SEGMENT_ZEROS;

            while (end < n && l->state[end] == MAPPED && (l->segment[end] == SP_SEGMENT_ZEROS) == zeros)
                end++;
            if (zeros)
                sp_track_zeroed(at, end - i);
            else
                sp_track_merged(at, end - i);
        } else if (!sp_sitemap_any(at, at + sp_agent.page_size) &&
                   !sp_zeroed_any(at, at + sp_agent.page_size)) {
            sp_track_pending(at, 1);
        }
    }
}

/*
 * A page that a fork shared stays unmovable in the parent even when the child is gone, until the
 * parent writes it; a pinned page stays so whatever we do. So what was busy is made the process'
 * own, by a write fault that changes nothing, and tried once more.
 */
static bool unbusy(struct lift *l)
{
    bool any = false;

    for (uint32_t i = 0; i < l->npages; i++) {
        bool again = l->state[i] == BUSY &&
                     !sp_is_err(sp_sys(__NR_madvise, page_at(l->addr, i), sp_agent.page_size,
                                       SP_MADV_POPULATE_WRITE));

        l->state[i] = again ? WANTED : ABSENT;
        any |= again;
    }
    l->retry = true;
    return any;
}

static void run_lift(struct lift *l)
{
    check_written(l); /* first: what fork shares is then written to */
    check_pagemap(l);
    shrink(l);
    if (!l->npages)
        return;
    lift_window(l);
    if (unbusy(l)) {
        shrink(l);
        lift_window(l);
    }
}

static void begin_window(struct lift *l, uint64_t addr, uint8_t *result)
{
    memset(l->state, ABSENT, sizeof(l->state));
    l->addr = addr;
    l->npages = 0;
    l->result = result;
    l->retry = false;
}

/* Can the page at addr join the window? Not if what lies between is no plain memory of a range. */
static bool joins(const struct lift *l, uint64_t addr)
{
    uint64_t end = page_at(l->addr, l->npages);

    if (!l->npages || addr < end || addr - l->addr >= (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift)
        return false;
    if (addr - end > (uint64_t)MAX_GAP << sp_agent.page_shift)
        return false;
    if (!sp_range_of(l->addr, addr + sp_agent.page_size))
        return false; /* what a mapping is given is the same in one range only */
    return addr == end || !sp_sitemap_any(end, addr);
}

void sp_lift_merge(const struct sp_merge_ask *ask, uint8_t *result)
{
    static struct lift l;
    uint32_t slot = 0;

    sp_again_begin();
    sp_ranges_refresh(false);
    sp_rings_look();
    begin_window(&l, 0, result);
    l.stuck = false;
    if (!sp_agent.mappings)
        sp_coredump_hold_merged();
    for (uint32_t r = 0; r < ask->nruns; r++) {
        const struct sp_merge_run *run = &ask->run[r];

        sp_nodes_look(run);
        for (uint32_t k = 0; k < run->npages; k++, slot++) {
            uint64_t addr = page_at(run->addr, k);
            bool zeros = run->segment == SP_SEGMENT_ZEROS;
            uint32_t i;

            result[slot] = SP_GONE;
            if (addr & (sp_agent.page_size - 1) || addr + sp_agent.page_size < addr ||
                !sp_range_of(addr, addr + sp_agent.page_size) ||
                !(zeros || sp_view_frame(run->segment, run->index + k)))
                continue;
            if (!(zeros || sp_mappings_left()) || sp_agent.stay_unmerged || sp_agent.raw_calls ||
                sp_gate.locks_future) {
                result[slot] = SP_OUT_OF_MAPPINGS;
                continue;
            }
            if (sp_spliced_any(addr, addr + sp_agent.page_size)) {
                result[slot] = SP_PINNED;
                continue;
            }
            if (sp_nodes_differ(run, k)) {
                result[slot] = SP_OTHER_NODE;
                continue;
            }
            if (sp_sitemap_any(addr, addr + sp_agent.page_size)) {
                result[slot] = SP_CHANGED;
                if (run->flags & SP_MERGE_WRITTEN)
                    sp_again_want(addr, slot);
                else
                    sp_kept_report_again(addr, addr + sp_agent.page_size);
                continue;
            }
            if (!joins(&l, addr)) {
                if (l.npages)
                    run_lift(&l);
                begin_window(&l, addr, result);
            }
            if (l.stuck) {
                result[slot] = SP_PINNED;
                continue;
            }
            i = (uint32_t)((addr - l.addr) >> sp_agent.page_shift);
            l.state[i] = WANTED;
            l.segment[i] = run->segment;
            l.index[i] = run->index + k;
            l.flags[i] = (uint8_t)run->flags;
            l.slot[i] = slot;
            l.npages = i + 1;
        }
    }
    if (l.npages)
        run_lift(&l);
    sp_again_hold(result);
}
