/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed, and what is quiet (K3).
 *
 * The kernel tells which pages were written since the last look (userfaultfd WP_ASYNC and
 * PAGEMAP_SCAN). For each 512 pages a block remembers bitmaps: fresh (written or new, seen so
 * in this pass), pending (seen so in an earlier pass: hashed now if it was not written again),
 * hashed (reported, unchanged since), site (maps a frame, as far as the daemon was told); and those that
 * are zero (given back to the kernel's page of zeros, as far as the daemon was told). A page
 * goes from fresh to pending when its block is visited in a later pass, never within one: so that
 * a page that is reported was quiet for a whole pass.
 *
 * Protecting a page costs its next writer a fault. One that was written in two passes in a row is
 * **hot**: it is not protected, nor looked at, for 2 passes, then tried again, and left for twice as
 * many each time that it was written again (K3; docs/decisions/0009-hot-pages.md).
 */
#include "blocks.h"
#include "gate.h"
#include "kernel.h"
#include "linked_start.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define WINDOW_BLOCKS 8u /* that one look at the kernel's bitmap covers */
#define REGIONS 512u

static struct sp_page_region region[REGIONS];

static void add_run(struct sp_run *run, uint32_t *n, uint64_t addr)
{
    if (*n && run[*n - 1].addr + (run[*n - 1].npages << sp_agent.page_shift) == addr)
        run[*n - 1].npages++;
    else
        run[(*n)++] = (struct sp_run){addr, 1};
}

static long sp_look(uint64_t start, uint64_t end, uint64_t max_pages, bool protect, uint64_t *walked)
{
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = start,
        .end = end,
        .vec = (uintptr_t)region,
        .vec_len = REGIONS,
        .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
        .return_mask = SP_PAGE_PRESENT,
    };
    long n;

    if (protect) {
        arg.return_mask |= SP_PAGE_PFNZERO;
        arg.flags = SP_PM_WP_MATCHING;
        arg.category_mask = SP_PAGE_WRITTEN;
        arg.max_pages = max_pages;
    } else {
        /* The process' own pages: not a file's, not the kernel's page of zeros. */
        arg.category_mask = SP_PAGE_FILE | SP_PAGE_PFNZERO;
        arg.category_inverted = SP_PAGE_FILE | SP_PAGE_PFNZERO;
    }
    n = sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg);
    *walked = sp_is_err(n) ? end : arg.walk_end;
    return n;
}

/* A page that was given back to the kernel's page of zeros is that no more. */
static void lost_zero(struct sp_block *b, uint32_t i, uint64_t addr)
{
    sp_lasting_written(b, i);
    sp_bit_clear(b->zero, i);
    sp_zeroed_clear(addr, addr + sp_agent.page_size);
}

/* Pages [from, to) of a block were written: they are new again, or hot. */
static void written_in_block(struct sp_block *b, uint64_t base, uint32_t from, uint32_t to,
                             struct sp_report_out *out)
{
    for (uint32_t w = from / 64; w * 64 < to; w++) {
        uint64_t all = sp_bits(w * 64 < from ? from % 64 : 0, to < w * 64 + 64 ? to - w * 64 : 64);
        uint64_t merged = b->site[w] | b->zero[w];
        uint64_t again = (b->fresh[w] | b->pending[w] | (b->slow[w] & ~merged)) & all;

        for (uint64_t told = b->hashed[w] & all; told; told &= told - 1) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(told);

            if (out->head.nchanged >= SP_REPORT_RUNS)
                break; /* with no room, the next look finds a site that is none */
            add_run(out->changed, &out->head.nchanged, base + ((uint64_t)i << sp_agent.page_shift));
            sp_bit_clear(b->site, i);
            if (sp_bit(b->zero, i))
                lost_zero(b, i, base + ((uint64_t)i << sp_agent.page_shift));
        }
        b->hashed[w] &= ~all;
        b->pending[w] &= ~all;
        b->slow[w] &= ~all;
        b->fresh[w] |= all;
        if (all & ~sp_hot_again(b, w, again))
            sp_quiet_disturb(); /* hot ones alone are no reason to look again */
    }
}

/* Notes what was written in [start, end) since the last look, and protects it again. Returns where
 * it stopped. */
static uint64_t note_stretch(uint64_t start, uint64_t end, struct sp_report_out *out,
                             uint64_t budget)
{
    uint64_t size = 1ull << sp_block_shift(), walked;
    long n = sp_look(start, end, budget, true, &walked);

    for (long r = 0; r < n; r++) {
        if (region[r].categories & SP_PAGE_PFNZERO)
            continue; /* not written: the kernel has not protected it yet, and does so now */
        for (uint64_t at = region[r].start, next; at < region[r].end; at = next) {
            uint64_t base = at & ~(size - 1), npages;
            struct sp_block *b = sp_block_find(at, true);

            next = region[r].end < base + size ? region[r].end : base + size;
            npages = (next - at) >> sp_agent.page_shift;
            if (!b)
                continue;
            sp_block_roll(b);
            written_in_block(b, base, sp_block_index(at), sp_block_index(at) + (uint32_t)npages, out);
            out->head.looked += npages;
            out->head.waiting += npages;
        }
    }
    return walked < start ? end : walked;
}

/* The same, but for hot pages. */
static uint64_t note_written(uint64_t start, uint64_t end, struct sp_report_out *out,
                             uint64_t budget)
{
    uint64_t most = out->head.looked + budget, stop, walked;

    for (;;) {
        stop = sp_hot_skip(&start, end);
        if (start >= end)
            return end;
        if (out->head.looked >= most || out->head.nchanged >= SP_REPORT_RUNS - 1)
            return start;
        walked = note_stretch(start, stop, out, most - out->head.looked);
        if (walked < stop)
            return walked;
        start = stop;
    }
}

void sp_look_own(uint64_t start, uint64_t end, uint64_t *present, uint64_t *own)
{
    uint64_t walked;

    memset(present, 0, BLOCK_WORDS * 8);
    memset(own, 0, BLOCK_WORDS * 8);
    for (uint64_t at = start; at < end; at = walked > at ? walked : end) {
        long n = sp_look(at, end, 0, false, &walked);

        for (long r = 0; r < n; r++) {
            for (uint64_t p = region[r].start; p < region[r].end; p += sp_agent.page_size) {
                sp_bit_set(own, sp_block_index(p));
                if (region[r].categories & SP_PAGE_PRESENT)
                    sp_bit_set(present, sp_block_index(p));
            }
        }
    }
}

void sp_look_pool(uint64_t start, uint64_t end, uint64_t *pool)
{
    uint64_t a, b;

    memset(pool, 0, BLOCK_WORDS * 8);
    while (start < end && sp_sitemap_next(start, end, &a, &b)) {
        for (start = a; start < b; start += sp_agent.page_size)
            sp_bit_set(pool, sp_block_index(start));
    }
}

/* Sites that are none any more: written by the program (K11), or replaced by its own call. */
static void note_lost_sites(struct sp_block *b, uint64_t base, const uint64_t *own,
                            const uint64_t *pool, struct sp_report_out *out)
{
    for (uint32_t i = 0; i < BLOCK_PAGES; i++) {
        if (!sp_bit(b->site, i) || (sp_bit(pool, i) && !sp_bit(own, i)))
            continue;
        if (out->head.nchanged >= SP_REPORT_RUNS)
            return; /* the rest at the next look */
        add_run(out->changed, &out->head.nchanged, base + ((uint64_t)i << sp_agent.page_shift));
        if (sp_bit(pool, i))
            sp_lasting_written(b, i);
        sp_bit_clear(b->site, i);
        sp_bit_clear(b->slow, i);
        sp_bit_clear(b->hashed, i);
        if (sp_bit(pool, i))
            sp_kept_add(b, i);
        else
            sp_bit_set(b->fresh, i);
    }
}

/* Pages of zeros that a call took away, or moved: who writes to one is found otherwise. */
static void note_lost_zeros(struct sp_block *b, uint64_t base, struct sp_report_out *out)
{
    uint64_t end = base + (1ull << sp_block_shift()), zeroed[BLOCK_WORDS] = {0}, a, z;

    for (uint64_t at = base; sp_zeroed_next(at, end, &a, &z); at = z)
        for (uint64_t p = a; p < z; p += sp_agent.page_size)
            sp_bit_set(zeroed, sp_block_index(p));
    for (uint32_t i = 0; i < BLOCK_PAGES; i++) {
        if (!sp_bit(b->zero, i) || sp_bit(zeroed, i))
            continue;
        if (out->head.nchanged >= SP_REPORT_RUNS)
            return; /* the rest at the next look */
        add_run(out->changed, &out->head.nchanged, base + ((uint64_t)i << sp_agent.page_shift));
        sp_bit_clear(b->zero, i);
        sp_bit_clear(b->slow, i);
        sp_bit_clear(b->hashed, i);
        sp_bit_set(b->fresh, i);
    }
}

/* One page that was written after its merge (kept.c). */
static void look_at_kept(struct sp_block *b, uint32_t i, uint64_t addr,
                         struct sp_report_out *out)
{
    struct sp_hash128 h;
    bool changed;

    if (out->head.nchanged >= SP_REPORT_RUNS)
        return;
    if (sp_kept_is_quiet(b, i, addr, &h, &changed))
        out->page[out->head.npages++] = (struct sp_page_hash){addr | SP_PAGE_KEPT, h.lo, h.hi};
    if (changed)
        add_run(out->changed, &out->head.nchanged, addr);
    out->head.looked++;
}

/* Hashes the quiet pages of one block; false if the budget, at most the report's room, is used. */
static bool hash_quiet(struct sp_block *b, uint64_t from, uint64_t end, const uint64_t *present,
                       const uint64_t *own, const uint64_t *pool, const struct sp_scan_ask *ask,
                       struct sp_report_out *out, uint64_t *stopped)
{
    /* Not beyond end: what is present there is not known here, and another range's matter. */
    for (uint64_t addr = from; addr < end; addr += sp_agent.page_size) {
        uint32_t i = sp_block_index(addr);
        struct sp_hash128 h;

        if (sp_bit(b->kept, i)) {
            if (!sp_bit(pool, i) || !sp_bit(own, i)) {
                sp_kept_remove(b, i); /* replaced by the program's own call */
                sp_bit_set(b->fresh, i);
                continue;
            }
            if (!(ask->flags & SP_SCAN_WRITTEN) || !sp_bit(present, i) ||
                !sp_lasting_kept_is_due(b, i))
                continue;
            if (out->head.npages >= ask->budget) {
                *stopped = addr;
                return false;
            }
            look_at_kept(b, i, addr, out);
            continue;
        }
        sp_lasting_look(b, i);
        /* What is swapped out, or being moved, waits: nothing else would ever say that it is back. */
        if (!sp_bit(b->pending, i) || (sp_bit(own, i) && !sp_bit(present, i)))
            continue;
        /* What was found written does not count here: a program that writes faster than the
         * budget would never get past its first pages. */
        if (out->head.npages >= ask->budget) {
            *stopped = addr;
            return false;
        }
        sp_bit_clear(b->pending, i);
        if (!sp_bit(present, i) || sp_bit(pool, i) || !sp_peek_hash(addr, &h))
            continue;
        sp_bit_set(b->hashed, i);
        out->page[out->head.npages++] =
            (struct sp_page_hash){addr | (sp_lasting_was_merged(b, i) ? SP_PAGE_KEPT : 0), h.lo, h.hi};
        out->head.looked++;
    }
    return true;
}

/* Looks at one block from address at on; returns false with *stopped set if it must stop there. */
static bool scan_block(uint64_t at, uint64_t end, const struct sp_scan_ask *ask,
                       struct sp_report_out *out, uint64_t *stopped)
{
    uint64_t size = 1ull << sp_block_shift(), base = at & ~(size - 1);
    uint64_t present[BLOCK_WORDS], own[BLOCK_WORDS], pool[BLOCK_WORDS];
    struct sp_block *b = sp_block_find(at, false);

    if (!b)
        return true;
    sp_block_roll(b);
    if (sp_bits_any(b->zero))
        note_lost_zeros(b, base, out);
    if (sp_linked_is_constant(at, end))
        sp_block_roll_now(b);
    if (!sp_bits_any(b->pending) && !sp_bits_any(b->site) && !sp_kept_any_due(b) &&
        !(sp_lasting_any_due() && sp_bits_any(b->slow)))
        return true;
    if (sp_gate_changed(at, end)) {
        /* A lift would refuse: nothing is hashed for nothing before the flags were read again. */
        out->head.waiting += sp_bits_any(b->pending);
        sp_quiet_disturb();
        return true;
    }
    sp_look_own(at, end, present, own);
    sp_look_pool(base, base + size, pool);
    if (sp_bits_any(b->site)) {
        /* What lies before at was looked at already, or belongs to another range. */
        for (uint32_t i = 0; i < sp_block_index(at); i++)
            sp_bit_clear(own, i);
        note_lost_sites(b, base, own, pool, out);
    }
    return hash_quiet(b, at, end, present, own, pool, ask, out, stopped);
}

/* Looks at [at, end) of one range; returns where it stopped. */
static uint64_t scan_range(uint64_t at, uint64_t end, const struct sp_scan_ask *ask,
                           struct sp_report_out *out)
{
    uint64_t size = 1ull << sp_block_shift();

    while (at < end) {
        uint64_t stop = (at & ~(size - 1)) + WINDOW_BLOCKS * size, stopped;

        if (out->head.looked >= ask->budget || out->head.nchanged >= SP_REPORT_RUNS - 1)
            return at;
        if (stop > end)
            stop = end;
        stop = note_written(at, stop, out, ask->budget - out->head.looked);
        while (at < stop) {
            uint64_t next = (at & ~(size - 1)) + size;

            if (next > stop)
                next = stop;
            if (!scan_block(at, next, ask, out, &stopped)) {
                /* Pages behind this were noted as written already: they count once. */
                return stopped < next ? stopped : next;
            }
            at = next;
        }
    }
    return at;
}

/* Sorts runs and joins those that touch or overlap: a report is ascending. They are nearly sorted
 * (two passes over the same addresses), so inserting is cheap. */
static uint32_t tidy(struct sp_run *run, uint32_t n)
{
    uint32_t kept = 0;

    for (uint32_t i = 1; i < n; i++) {
        struct sp_run r = run[i];
        uint32_t k = i;

        for (; k && run[k - 1].addr > r.addr; k--)
            run[k] = run[k - 1];
        run[k] = r;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t end = run[i].addr + (run[i].npages << sp_agent.page_shift);
        struct sp_run *last = kept ? &run[kept - 1] : NULL;
        uint64_t last_end = last ? last->addr + (last->npages << sp_agent.page_shift) : 0;

        if (!last || run[i].addr > last_end)
            run[kept++] = run[i];
        else if (end > last_end)
            last->npages = (end - last->addr) >> sp_agent.page_shift;
    }
    return kept;
}

static void give_gone(struct sp_report_out *out)
{
    out->head.ngone = tidy(out->gone, sp_block_take_gone(out->gone, SP_REPORT_RUNS));
    out->head.nchanged = tidy(out->changed, out->head.nchanged);
}

#define LOOKS 8u /* in one scan: each is at most 64 mappings */

/* Nothing is lifted before all code was looked at (code_watch.c). What is offered before that leads to
 * merges of others' pages with it that must be taken back (K7). */
static bool refresh_and_look(bool now)
{
    bool fresh = sp_ranges_refresh(now);

    for (unsigned n = 0; n < LOOKS && sp_agent.running && !sp_code_is_known(); n++)
        fresh = sp_ranges_refresh(true) && fresh;
    return fresh;
}

/* What was not looked at while it might not be merged, rests, and nothing else says so. */
static void note_allowed(uint32_t flags)
{
    static bool allowed;
    bool now = flags & SP_SCAN_WRITTEN;

    if (now && !allowed)
        sp_quiet_disturb();
    allowed = now;
}

void sp_track_scan(const struct sp_scan_ask *ask, struct sp_report_out *out)
{
    uint64_t at = ask->from, began_us = sp_cpu_us();
    bool skip = false;

    memset(&out->head, 0, sizeof(out->head));
    if (ask->flags & SP_SCAN_RESTART)
        sp_track_restart();
    if (!at) {
        sp_track_pass++;
        sp_agent.rest_passes =
            sp_agent.mappings == sp_agent.mappings_at_pass ? sp_agent.rest_passes + 1 : 0;
        sp_ranges_thin(ask->thin, ask->nthin);
        note_allowed(ask->flags);
        if (sp_lasting_pass())
            sp_quiet_disturb();
        skip = sp_quiet_pass(refresh_and_look(ask->flags & SP_SCAN_NOW)) || !sp_code_is_known();
        sp_useless_look();
        began_us = sp_cpu_us();
        if (!skip)
            sp_lasting_pass_looks();
        sp_agent.mappings_at_pass = sp_agent.mappings;
    }
    /* What went is told first: what is found now may lie at the same addresses. */
    if (sp_block_gone() > SP_REPORT_RUNS) {
        out->head.next = at + sp_agent.page_size;
        skip = true;
    }
    for (uint32_t i = 0; i < sp_agent.nranges && !skip; i++) {
        const struct sp_range *r = &sp_agent.range[i];
        uint64_t from = r->start > at ? r->start : at, stopped;

        if (from >= r->end)
            continue;
        stopped = scan_range(from, r->end, ask, out);
        out->head.passed += (stopped - from) >> sp_agent.page_shift;
        if (stopped < r->end) {
            out->head.next = stopped;
            break;
        }
    }
    if (out->head.npages || out->head.nchanged || sp_block_gone())
        sp_quiet_disturb();
    if (skip && !out->head.next)
        out->head.passed = sp_agent.tracked;
    else if (!out->head.next)
        sp_quiet_pass_done();
    out->head.passed -= out->head.looked < out->head.passed ? out->head.looked : out->head.passed;
    give_gone(out);
    out->head.tracked = sp_agent.tracked;
    out->head.kept = sp_kept_pages();
    out->head.useless = sp_ranges_useless();
    out->head.merged = sp_sitemap_pages();
    out->head.cpu_us = sp_cpu_us();
    sp_lasting_cost(out->head.cpu_us - began_us);
    out->head.mappings = sp_agent.mappings;
    out->head.mappings_budget = sp_mappings_budget();
    out->head.state = sp_agent.raw_told      ? SP_REPORT_RAW_TOLD
                      : sp_agent.raw_calls   ? SP_REPORT_RAW_CALLS
                      : sp_mappings_short() ? SP_REPORT_NO_MAPPINGS
                                            : SP_REPORT_MERGING;
}
