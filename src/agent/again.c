/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that were written after their merge are merged once more, or given back (K11, X;
 * docs/decisions/0014-written-again.md).
 *
 * Such a page is the program's own, but it lies in a mapping of the pool: UFFDIO_MOVE refuses it, and
 * with that the kernel's word whether something has it pinned. So it is **held**: write-protected by
 * the userfaultfd that makes a writer wait. Who wants to pin it for writing now must write to it, and
 * waits too. Whether anything had it pinned before, the daemon looks (wire.h, pins.h), and then either
 * a frame with the same bytes is mapped over it, or a copy of it put there by sp_unmerge_run().
 *
 * While pages are held the gate is open and the agent serves: who writes to one gets it back at once, and
 * after SP_HOLD_MSECS all are let go of. Should the agent die, the userfaultfd dies with it, and everybody
 * goes on: nothing is in the air.
 *
 * There are writers that cannot wait: they get an error, as for a page that is in the air in a lift. So
 * that they do not meet a held page, none is held that the end of a thread may write to (robust.c), and none of
 * a program that a debugger has; and few are held at a time (SP_HOLD_PAGES), for as short as it takes to look.
 */
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "ops.h"
#include "sitemap.h"
#include "sys.h"

#define HOLDS SP_HOLD_PAGES /* each has a page at least */

struct hold {
    uint64_t addr;
    uint32_t npages; /* 0: it was let go of */
    uint64_t pages;  /* bit i: page i is held */
    bool useless;    /* it is of a useless mapping, and held even if no page is */
};

struct target {
    uint64_t pages; /* of a hold, that are asked for */
    uint32_t segment[SP_LIFT_PAGES], index[SP_LIFT_PAGES], slot[SP_LIFT_PAGES];
};

static struct hold hold[HOLDS];
static uint32_t nholds;
static uint64_t since;
static bool stuck;      /* a thread stays in a gated call: no more tries for this question */

static struct {
    uint64_t addr;
    uint32_t slot;
} want[SP_HOLD_PAGES];
static uint32_t nwant;

static uint64_t page_at(uint64_t base, uint32_t i)
{
    return base + ((uint64_t)i << sp_agent.page_shift);
}

static uint64_t end_of(const struct hold *h)
{
    return page_at(h->addr, h->npages);
}

uint64_t sp_again_since(void)
{
    return nholds ? since : 0;
}

void sp_again_forget(void)
{
    nholds = 0;
}

void sp_again_begin(void)
{
    sp_again_release();
    nwant = 0;
    stuck = false;
}

void sp_again_want(uint64_t addr, uint32_t slot)
{
    if (nwant == SP_HOLD_PAGES) {
        sp_kept_report_again(addr, addr + sp_agent.page_size);
        return;
    }
    want[nwant].addr = addr;
    want[nwant++].slot = slot;
}

static bool unregister(uint64_t addr, uint64_t length)
{
    struct uffdio_range range = {.start = addr, .len = length};
    bool done = !sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_UNREGISTER, &range));

    sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_WAKE, &range);
    return done;
}

/* What the program mapped there meanwhile is not ours to unregister, and makes it fail for all. */
static void let_go(struct hold *h)
{
    if (!h->npages)
        return;
    for (uint32_t i = 0; i < h->npages; i++)
        if (h->pages >> i & 1)
            sp_kept_report_again(page_at(h->addr, i), page_at(h->addr, i + 1));
    if (!unregister(h->addr, end_of(h) - h->addr))
        for (uint32_t i = 0; i < h->npages; i++)
            unregister(page_at(h->addr, i), sp_agent.page_size);
    h->npages = 0;
}

/* Not done with: it is as useless as it was. */
static void leave(struct hold *h)
{
    if (h->npages && h->useless)
        sp_kept_stir();
    let_go(h);
}

void sp_again_release(void)
{
    for (uint32_t i = 0; i < nholds; i++)
        leave(&hold[i]);
    nholds = 0;
}

/* One page, so that the others stay held. */
static void give_page(struct hold *h, uint64_t addr)
{
    uint32_t i = (uint32_t)((addr - h->addr) >> sp_agent.page_shift);
    struct uffdio_writeprotect wp = {.range = {page_at(h->addr, i), sp_agent.page_size}};

    h->pages &= ~(1ull << i);
    sp_kept_report_again(addr, addr + sp_agent.page_size);
    if (sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_WRITEPROTECT, &wp)))
        let_go(h);
}

void sp_again_touched(uint64_t addr)
{
    for (uint32_t i = 0; i < nholds; i++)
        if (hold[i].npages && addr >= hold[i].addr && addr < end_of(&hold[i]))
            give_page(&hold[i], addr);
}

/* S4: it stays as it is. What takes its place here would not have the lock. */
static bool is_locked(uint64_t addr, uint64_t end)
{
    const struct sp_range *range = sp_range_of(addr, end);

    return range && (range->flags & SP_RANGE_LOCKED);
}

bool sp_again_valid(uint64_t addr, uint64_t end)
{
    uint64_t a, b;

    return !sp_gate_changed(addr, end) && !sp_gate_tcb_in(addr, end) && !sp_gate_asked_for(addr, end) &&
           !is_locked(addr, end) &&
           !__atomic_load_n(&sp_gate.moving, __ATOMIC_SEQ_CST) && sp_code_is_known() &&
           !sp_range_odd(addr, end) && sp_sitemap_next(addr, end, &a, &b) && a == addr && b >= end;
}

/* What the page with this entry of pagemap is good for. */
static uint8_t judge(uint64_t addr, uint64_t entry)
{
    if (entry >> 62 & 1)
        return SP_CHANGED; /* swapped out: some other time */
    if (!(entry >> 63 & 1) || (entry >> 61 & 1))
        return SP_GONE; /* none, or a frame */
    if (!(entry >> 56 & 1))
        return SP_SHARED_BY_FORK;
    return sp_spliced_any(addr, addr + sp_agent.page_size) ? SP_PINNED : SP_RESULT_HELD;
}

static uint64_t judge_all(const struct hold *h, uint8_t *result)
{
    uint64_t entry[SP_LIFT_PAGES], held = 0;
    long n = sp_sys(__NR_pread64, sp_agent.pagemap, entry, h->npages * 8ul,
                    (h->addr >> sp_agent.page_shift) * 8);

    for (uint32_t i = 0; i < h->npages; i++) {
        result[i] = n < (long)((i + 1) * 8) ? (uint8_t)SP_GONE : judge(page_at(h->addr, i), entry[i]);
        held |= (uint64_t)(result[i] == SP_RESULT_HELD) << i;
    }
    return held;
}

/* Write-protects the window; the pages of it that are good for more are in h->pages then. */
static void protect(struct hold *h, uint8_t *result)
{
    struct uffdio_range range = {.start = h->addr, .len = end_of(h) - h->addr};
    struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
    struct uffdio_writeprotect wp = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};

    h->pages = 0;
    memset(result, SP_CHANGED, h->npages);
    if (!sp_gate_close_to_merge(false)) {
        sp_serve_gate();
        h->npages = 0;
        stuck = true;
        return;
    }
    if (sp_again_valid(h->addr, end_of(h)) &&
        !sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_REGISTER, &reg)) &&
        !sp_is_err(sp_sys(__NR_ioctl, sp_agent.uffd_sync, UFFDIO_WRITEPROTECT, &wp)))
        h->pages = judge_all(h, result);
    else
        h->useless = false;
    if (!h->pages && !h->useless)
        let_go(h);
    sp_gate_open();
    sp_serve_gate(); /* also who waits for a page that is held */
}

/* A new hold for npages from addr on; result gets what became of each. NULL: none is held. */
static struct hold *hold_window(uint64_t addr, uint32_t npages, uint8_t *result, bool useless)
{
    struct hold *h = &hold[nholds];

    memset(result, SP_CHANGED, npages);
    if (nholds == HOLDS || stuck)
        return NULL;
    *h = (struct hold){.addr = addr, .npages = npages, .useless = useless};
    nholds++; /* first: who serves the gate meanwhile may let go of all */
    protect(h, result);
    if (nholds && h == &hold[nholds - 1] && h->npages) {
        since = sp_now_us();
        return h;
    }
    if (nholds && h == &hold[nholds - 1])
        nholds--;
    for (uint32_t i = 0; i < npages; i++)
        if (result[i] == SP_RESULT_HELD)
            result[i] = SP_CHANGED;
    return NULL;
}

/* Lets go of what writers may touch that cannot wait. */
static void spare(void)
{
    static struct sp_robust robust;

    if (!nholds)
        return;
    if (sp_program_traced()) {
        sp_again_release();
        return;
    }
    sp_robust_find(&robust);
    for (uint32_t i = 0; i < nholds; i++)
        if (hold[i].npages && sp_robust_in(&robust, hold[i].addr, end_of(&hold[i])))
            leave(&hold[i]);
}

static bool is_held(uint64_t addr)
{
    for (uint32_t i = 0; i < nholds; i++)
        if (hold[i].npages && addr >= hold[i].addr && addr < end_of(&hold[i]))
            return true;
    return false;
}

void sp_again_hold(uint8_t *result)
{
    uint8_t window[SP_LIFT_PAGES];

    for (uint32_t i = 0, n; i < nwant; i += n) {
        const struct sp_range *range = sp_range_of(want[i].addr, want[i].addr + sp_agent.page_size);

        for (n = 1; i + n < nwant && n < SP_LIFT_PAGES; n++)
            if (want[i + n].addr != page_at(want[i].addr, n) || !range ||
                want[i + n].addr >= range->end)
                break;
        hold_window(want[i].addr, n, window, false);
        for (uint32_t k = 0; k < n; k++) {
            result[want[i + k].slot] = window[k];
            if (window[k] != SP_RESULT_HELD)
                sp_kept_report_again(page_at(want[i].addr, k), page_at(want[i].addr, k + 1));
        }
    }
    spare();
    for (uint32_t i = 0; i < nwant; i++)
        if (result[want[i].slot] == SP_RESULT_HELD && !is_held(want[i].addr))
            result[want[i].slot] = SP_CHANGED;
    if (nholds)
        sp_fault_point("again-held");
}

/* How many of the two pages around [a, b) are sites. */
static uint32_t sites_around(uint64_t a, uint64_t b)
{
    return (uint32_t)sp_sitemap_any(a - sp_agent.page_size, a) +
           (uint32_t)sp_sitemap_any(b, b + sp_agent.page_size);
}

/* With pages [a, b), which were sites, un-merged: their mapping goes, that of their neighbours may be in
 * two. It is only a guess, as the count is between two readings. */
static void count_given_back(uint64_t a, uint64_t b)
{
    uint32_t neighbours = sites_around(a, b);

    if (neighbours == 2)
        sp_agent.mappings += 2;
    else if (neighbours == 0)
        sp_agent.mappings -= sp_agent.mappings < 2 ? sp_agent.mappings : 2;
}

/* Is the page that is held what it is to be merged with? */
static bool is_same(const struct hold *h, const struct target *t, uint32_t i)
{
    uint64_t frame = sp_view_frame(t->segment[i], t->index[i]);
    bool same = false;

    if (t->segment[i] == SP_SEGMENT_ZEROS)
        return sp_peek_zero(page_at(h->addr, i), &same) && same;
    return frame && sp_peek_equal(page_at(h->addr, i), (void *)frame, &same) && same;
}

/*
 * Pages of zeros (K15): empty memory of the program's own takes their place and gives the mapping of the
 * pool back, too, unless it lies between others: then it is one more, and must be within the budget (X). It is
 * filled with the kernel's page of zeros when it is tracked (zeros_done).
 */
static bool map_zeros(uint64_t addr, uint32_t n)
{
    uint64_t end = page_at(addr, n);

    if ((sites_around(addr, end) == 2 && !sp_mappings_left()) || sp_zeroed_set(addr, end))
        return false;
    if (sp_is_err(sp_range_map(addr, end - addr, addr))) {
        sp_zeroed_clear(addr, end);
        return false;
    }
    sp_sitemap_clear(addr, end);
    count_given_back(addr, end);
    return true;
}

/* When it is let go of: tracked as what lies around it, so that the kernel joins them. */
static void zeros_done(uint64_t addr)
{
    struct uffdio_register track = {.range = {addr, sp_agent.page_size},
                                    .mode = UFFDIO_REGISTER_MODE_WP};

    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &track);
    sp_sys(__NR_madvise, addr, sp_agent.page_size, SP_MADV_POPULATE_READ);
}

/* Maps frames over the pages of the target that equal them. */
static void map_equal(const struct hold *h, const struct target *t, uint8_t *result)
{
    uint64_t equal = 0;

    sp_wait_for_reachers();
    for (uint32_t i = 0; i < h->npages; i++) {
        bool same;

        if (!(t->pages >> i & 1))
            continue;
        same = is_same(h, t, i);
        if (same)
            equal |= 1ull << i;
        result[t->slot[i]] = same ? (uint8_t)SP_OUT_OF_MAPPINGS : (uint8_t)SP_CHANGED;
    }
    for (uint32_t i = 0, n; i < h->npages; i += n) {
        for (n = 0; i + n < h->npages && (equal >> (i + n) & 1); n++)
            if (n && (t->segment[i + n] != t->segment[i] ||
                      (t->segment[i] != SP_SEGMENT_ZEROS && t->index[i + n] != t->index[i] + n)))
                break;
        if (!n) {
            n = 1;
            continue;
        }
        if (!(t->segment[i] == SP_SEGMENT_ZEROS
                  ? map_zeros(page_at(h->addr, i), n)
                  : sp_lift_map(page_at(h->addr, i), n, t->segment[i], t->index[i])))
            continue;
        for (uint32_t k = 0; k < n; k++)
            result[t->slot[i + k]] = SP_MERGED;
        sp_count(SP_COUNT_MERGED, n);
    }
}

static bool is_merged(const struct target *t, const uint8_t *result, uint32_t i)
{
    return (t->pages >> i & 1) && result[t->slot[i]] == SP_MERGED;
}

static void merge_hold(struct hold *h, struct target *t, uint8_t *result)
{
    uint64_t addr = h->addr;
    uint32_t npages = h->npages;

    t->pages &= h->pages;
    if (!t->pages)
        return;
    if (!sp_gate_close_to_merge(false)) {
        sp_serve_gate();
        return;
    }
    t->pages &= h->npages ? h->pages : 0;
    if (t->pages && sp_again_valid(h->addr, end_of(h)))
        map_equal(h, t, result);
    sp_fault_point("again-mapped");
    let_go(h);
    for (uint32_t i = 0; i < npages; i++)
        if (is_merged(t, result, i) && t->segment[i] == SP_SEGMENT_ZEROS)
            zeros_done(page_at(addr, i));
    sp_gate_open();
    for (uint32_t i = 0; i < npages; i++) {
        if (is_merged(t, result, i) && t->segment[i] == SP_SEGMENT_ZEROS)
            sp_track_zeroed(page_at(addr, i), 1);
        else if (is_merged(t, result, i))
            sp_track_merged(page_at(addr, i), 1);
    }
    sp_serve_gate(); /* also who waits for a page that is held yet */
}

/* The hold in which addr lies, from number *i on: both ascend. */
static struct hold *hold_of(uint64_t addr, uint32_t *i)
{
    while (*i < nholds && (!hold[*i].npages || end_of(&hold[*i]) <= addr))
        (*i)++;
    return *i < nholds && hold[*i].addr <= addr ? &hold[*i] : NULL;
}

void sp_again_merge(const struct sp_merge_ask *ask, uint8_t *result)
{
    static struct target t;
    struct hold *last = NULL;
    uint32_t slot = 0, at = 0;

    memset(result, SP_CHANGED, ask->npages);
    t.pages = 0;
    for (uint32_t r = 0; r < ask->nruns; r++) {
        for (uint32_t k = 0; k < ask->run[r].npages; k++, slot++) {
            uint64_t addr = page_at(ask->run[r].addr, k);
            struct hold *h = hold_of(addr, &at);
            uint32_t i;

            if (last && h != last) {
                merge_hold(last, &t, result);
                t.pages = 0;
                last = NULL;
                h = hold_of(addr, &at); /* serving the gate may have let go of it */
            }
            if (!h || (addr & ((uint64_t)sp_agent.page_size - 1)))
                continue;
            i = (uint32_t)((addr - h->addr) >> sp_agent.page_shift);
            t.pages |= 1ull << i;
            t.segment[i] = ask->run[r].segment;
            t.index[i] = ask->run[r].index + k;
            t.slot[i] = slot;
            last = h;
        }
    }
    if (last)
        merge_hold(last, &t, result);
    sp_again_release();
}

/* The windows of one mapping. */
static uint64_t hold_mapping(uint64_t at, uint64_t end)
{
    uint64_t most = (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift, pages = 0, stop;
    uint8_t window[SP_LIFT_PAGES];

    for (; at < end && !stuck; at = stop) {
        uint32_t n;

        stop = end - at > most ? at + most : end;
        n = (uint32_t)((stop - at) >> sp_agent.page_shift);
        if (sp_range_of(at, stop) && hold_window(at, n, window, true))
            pages += n;
    }
    return pages;
}

uint64_t sp_again_hold_useless(uint64_t max_pages)
{
    uint64_t a, b, pages = 0;

    sp_again_begin();
    while (pages < max_pages && !stuck && sp_range_useless(&a, &b))
        pages += hold_mapping(a, b);
    if (stuck)
        sp_kept_stir(); /* what was not held is useless yet */
    spare();
    if (nholds)
        sp_fault_point("again-held");
    return nholds ? pages : 0;
}

uint64_t sp_again_unmerge(void)
{
    uint64_t done = 0;
    uint32_t n = nholds;
    int ret = 0;

    for (uint32_t i = 0; i < n && i < nholds && ret != -EAGAIN && ret != -ENOMEM; i++) {
        uint64_t addr = hold[i].addr, end = end_of(&hold[i]);
        const struct sp_unmerge_how how = {.written = hold[i].pages};

        if (!hold[i].npages)
            continue;
        ret = sp_unmerge_run(addr, hold[i].npages, &how, &done);
        if (i < nholds)
            let_go(&hold[i]);
        if (!ret && !sp_sitemap_any(addr, end))
            count_given_back(addr, end);
        else
            sp_kept_stir();
        sp_serve_gate();
    }
    sp_again_release();
    return done;
}
