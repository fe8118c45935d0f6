/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed, and what is quiet (K3).
 *
 * The kernel tells which pages were written since the last look (userfaultfd WP_ASYNC and
 * PAGEMAP_SCAN). For each 512 pages a block remembers four bitmaps: fresh (written or new, seen so
 * in this pass), pending (seen so in an earlier pass: hashed now if it was not written again),
 * hashed (reported, unchanged since), site (maps a frame, as far as the daemon was told). A page
 * goes from fresh to pending when its block is visited in a later pass, never within one: so that
 * a page that is reported was quiet for a whole pass.
 */
#include "agent.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define BLOCK_PAGES 512u
#define BLOCK_WORDS 8u
#define BLOCKS (1u << 17) /* of 2 MiB: 256 GiB of tracked memory */
#define WINDOW_BLOCKS 32u /* that one look at the kernel's bitmap covers */
#define REGIONS 512u
#define GONE_MAX 512u
#define EXPLAIN_BLOCKS 512u /* of one part: 1 GiB */

struct block {
    uint64_t key; /* address >> block shift, plus 1; 0: unused */
    uint64_t pass;
    uint64_t fresh[BLOCK_WORDS], pending[BLOCK_WORDS], hashed[BLOCK_WORDS], site[BLOCK_WORDS];
};

static struct block *table;
static uint32_t used;
static uint64_t pass;
static struct sp_page_region region[REGIONS];
static struct sp_run gone[GONE_MAX];
static uint32_t ngone;

static uint32_t block_shift(void)
{
    return sp_agent.page_shift + 9;
}

uint64_t sp_track_bytes(void)
{
    return BLOCKS * sizeof(struct block);
}

void sp_track_init(void)
{
    table = (struct block *)sp_agent.track_area;
    sp_sys(__NR_madvise, table, sp_track_bytes(), 4 /* MADV_DONTNEED: all zero again */);
    used = 0;
    ngone = 0;
    pass = 1;
}

static struct block *find(uint64_t addr, bool make)
{
    uint64_t key = (addr >> block_shift()) + 1;
    uint32_t i = (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 47);

    for (;; i = (i + 1) & (BLOCKS - 1)) {
        if (table[i].key == key)
            return &table[i];
        if (!table[i].key)
            break;
    }
    if (!make || used >= BLOCKS / 4 * 3)
        return NULL; /* more memory than we keep books for: not looked at */
    used++;
    table[i].key = key;
    table[i].pass = pass;
    return &table[i];
}

static uint32_t index_of(uint64_t addr)
{
    return (uint32_t)(addr >> sp_agent.page_shift) & (BLOCK_PAGES - 1);
}

static bool get(const uint64_t *map, uint32_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *map, uint32_t i)
{
    map[i / 64] |= 1ull << (i % 64);
}

static void clear(uint64_t *map, uint32_t i)
{
    map[i / 64] &= ~(1ull << (i % 64));
}

static bool any(const uint64_t *map)
{
    uint64_t all = 0;

    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        all |= map[w];
    return all != 0;
}

static void roll(struct block *b)
{
    if (b->pass == pass)
        return;
    for (unsigned w = 0; w < BLOCK_WORDS; w++) {
        b->pending[w] |= b->fresh[w];
        b->fresh[w] = 0;
    }
    b->pass = pass;
}

void sp_track_restart(void)
{
    for (uint32_t i = 0; i < BLOCKS && used; i++) {
        struct block *b = &table[i];

        for (unsigned w = 0; b->key && w < BLOCK_WORDS; w++) {
            b->pending[w] |= b->hashed[w] & ~b->site[w];
            b->hashed[w] &= b->site[w];
        }
    }
}

void sp_track_pending(uint64_t addr, uint64_t npages)
{
    for (; npages; npages--, addr += sp_agent.page_size) {
        struct block *b = find(addr, true);

        if (!b)
            return;
        set(b->fresh, index_of(addr));
        clear(b->hashed, index_of(addr));
        clear(b->site, index_of(addr));
    }
}

/* Pages that merge now are no more among those that went: what was noted of their past is void. */
static void not_gone(uint64_t addr, uint64_t end)
{
    for (uint32_t i = 0; i < ngone; i++) {
        uint64_t from = gone[i].addr, to = from + (gone[i].npages << sp_agent.page_shift);

        if (end <= from || addr >= to)
            continue;
        if (end < to && from < addr && ngone < GONE_MAX)
            gone[ngone++] = (struct sp_run){end, (to - end) >> sp_agent.page_shift};
        if (from < addr)
            gone[i].npages = (addr - from) >> sp_agent.page_shift;
        else if (end < to)
            gone[i] = (struct sp_run){end, (to - end) >> sp_agent.page_shift};
        else
            gone[i--] = gone[--ngone];
    }
}

/* Bits [from, to) of one word. */
static uint64_t bits(uint32_t from, uint32_t to)
{
    return (to == 64 ? ~0ull : (1ull << to) - 1) & (~0ull << from);
}

void sp_track_merged(uint64_t addr, uint64_t npages)
{
    uint64_t end = addr + (npages << sp_agent.page_shift);

    not_gone(addr, end);
    while (npages) {
        struct block *b = find(addr, true);
        uint32_t from = index_of(addr), to = from + npages < BLOCK_PAGES ? from + npages
                                                                         : BLOCK_PAGES;

        for (uint32_t w = from / 64; b && w * 64 < to; w++) {
            uint64_t all = bits(w * 64 < from ? from % 64 : 0, to < w * 64 + 64 ? to - w * 64 : 64);

            b->fresh[w] &= ~all;
            b->pending[w] &= ~all;
            b->hashed[w] |= all;
            b->site[w] |= all;
        }
        npages -= to - from;
        addr += (uint64_t)(to - from) << sp_agent.page_shift;
    }
}

void sp_track_gone(uint64_t addr, uint64_t end)
{
    uint64_t size = 1ull << block_shift();

    for (uint64_t at = addr; at < end;) {
        uint64_t stop = (at & ~(size - 1)) + size;
        struct block *b = find(at, false);

        if (stop > end)
            stop = end;
        for (uint64_t p = at; b && p < stop; p += sp_agent.page_size) {
            clear(b->fresh, index_of(p));
            clear(b->pending, index_of(p));
            clear(b->hashed, index_of(p));
            clear(b->site, index_of(p));
        }
        at = stop;
    }
    if (ngone < GONE_MAX) {
        gone[ngone++] = (struct sp_run){addr, (end - addr) >> sp_agent.page_shift};
    } else {
        /* No room to say it exactly: the last entry grows over the gap. Pages in it that are still
         * there are reported again when they are looked at. */
        struct sp_run *last = &gone[GONE_MAX - 1];
        uint64_t last_end = last->addr + (last->npages << sp_agent.page_shift);

        if (addr < last->addr)
            last->addr = addr;
        if (end > last_end)
            last_end = end;
        last->npages = (last_end - last->addr) >> sp_agent.page_shift;
    }
}

static void add_run(struct sp_run *run, uint32_t *n, uint64_t addr)
{
    if (*n && run[*n - 1].addr + (run[*n - 1].npages << sp_agent.page_shift) == addr)
        run[*n - 1].npages++;
    else
        run[(*n)++] = (struct sp_run){addr, 1};
}

static long look(uint64_t start, uint64_t end, uint64_t max_pages, bool protect, uint64_t *walked)
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

/* Pages [from, to) of a block were written: they are new again. */
static void written_in_block(struct block *b, uint64_t base, uint32_t from, uint32_t to,
                             struct sp_report_out *out)
{
    for (uint32_t w = from / 64; w * 64 < to; w++) {
        uint64_t all = bits(w * 64 < from ? from % 64 : 0, to < w * 64 + 64 ? to - w * 64 : 64);

        for (uint64_t told = b->hashed[w] & all; told; told &= told - 1) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(told);

            if (out->head.nchanged >= SP_REPORT_RUNS)
                break; /* with no room, the next look finds a site that is none */
            add_run(out->changed, &out->head.nchanged, base + ((uint64_t)i << sp_agent.page_shift));
            clear(b->site, i);
        }
        b->hashed[w] &= ~all;
        b->pending[w] &= ~all;
        b->fresh[w] |= all;
    }
}

/* Notes what was written in [start, end) since the last look, and protects it again. Returns where
 * it stopped. */
static uint64_t note_written(uint64_t start, uint64_t end, struct sp_report_out *out,
                             uint64_t budget)
{
    uint64_t size = 1ull << block_shift(), walked;
    long n = look(start, end, budget, true, &walked);

    for (long r = 0; r < n; r++) {
        for (uint64_t at = region[r].start, next; at < region[r].end; at = next) {
            uint64_t base = at & ~(size - 1), npages;
            struct block *b = find(at, true);

            next = region[r].end < base + size ? region[r].end : base + size;
            npages = (next - at) >> sp_agent.page_shift;
            if (!b)
                continue;
            roll(b);
            written_in_block(b, base, index_of(at), index_of(at) + (uint32_t)npages, out);
            out->head.looked += npages;
            out->head.waiting += npages;
        }
    }
    return walked < start ? end : walked;
}

static void bitmap_of_own(uint64_t start, uint64_t end, uint64_t *present, uint64_t *own)
{
    uint64_t walked;

    memset(present, 0, BLOCK_WORDS * 8);
    memset(own, 0, BLOCK_WORDS * 8);
    for (uint64_t at = start; at < end; at = walked > at ? walked : end) {
        long n = look(at, end, 0, false, &walked);

        for (long r = 0; r < n; r++) {
            for (uint64_t p = region[r].start; p < region[r].end; p += sp_agent.page_size) {
                set(own, index_of(p));
                if (region[r].categories & SP_PAGE_PRESENT)
                    set(present, index_of(p));
            }
        }
    }
}

static void bitmap_of_pool(uint64_t start, uint64_t end, uint64_t *pool)
{
    uint64_t a, b;

    memset(pool, 0, BLOCK_WORDS * 8);
    while (start < end && sp_sitemap_next(start, end, &a, &b)) {
        for (start = a; start < b; start += sp_agent.page_size)
            set(pool, index_of(start));
    }
}

/* Sites that are none any more: written by the program (K11), or replaced by its own call. */
static void note_lost_sites(struct block *b, uint64_t base, const uint64_t *own,
                            const uint64_t *pool, struct sp_report_out *out)
{
    for (uint32_t i = 0; i < BLOCK_PAGES; i++) {
        if (!get(b->site, i) || (get(pool, i) && !get(own, i)))
            continue;
        if (out->head.nchanged >= SP_REPORT_RUNS)
            return; /* the rest at the next look */
        add_run(out->changed, &out->head.nchanged, base + ((uint64_t)i << sp_agent.page_shift));
        clear(b->site, i);
        clear(b->hashed, i);
        if (!get(pool, i))
            set(b->fresh, i);
    }
}

/* Hashes the quiet pages of one block; false if the budget, at most the report's room, is used. */
static bool hash_quiet(struct block *b, uint64_t base, uint64_t from, const uint64_t *present,
                       const uint64_t *pool, const struct sp_scan_ask *ask,
                       struct sp_report_out *out, uint64_t *stopped)
{
    for (uint32_t i = index_of(from); i < BLOCK_PAGES; i++) {
        uint64_t addr = base + ((uint64_t)i << sp_agent.page_shift);
        struct sp_hash128 h;

        if (!get(b->pending, i))
            continue;
        /* What was found written does not count here: a program that writes faster than the
         * budget would never get past its first pages. */
        if (out->head.npages >= ask->budget) {
            *stopped = addr;
            return false;
        }
        clear(b->pending, i);
        if (!get(present, i) || get(pool, i) || !sp_peek_hash(addr, &h))
            continue;
        set(b->hashed, i);
        out->page[out->head.npages++] = (struct sp_page_hash){addr, h.lo, h.hi};
        out->head.looked++;
    }
    return true;
}

/* Looks at one block from address at on; returns false with *stopped set if it must stop there. */
static bool scan_block(uint64_t at, uint64_t end, const struct sp_scan_ask *ask,
                       struct sp_report_out *out, uint64_t *stopped)
{
    uint64_t size = 1ull << block_shift(), base = at & ~(size - 1);
    uint64_t present[BLOCK_WORDS], own[BLOCK_WORDS], pool[BLOCK_WORDS];
    struct block *b = find(at, false);

    if (!b)
        return true;
    roll(b);
    if (!any(b->pending) && !any(b->site))
        return true;
    if (sp_range_dirty(at, end)) {
        /* A lift would refuse: nothing is hashed for nothing before the flags were read again. */
        out->head.waiting += any(b->pending);
        return true;
    }
    bitmap_of_own(at, end, present, own);
    bitmap_of_pool(base, base + size, pool);
    if (any(b->site)) {
        /* What lies before at was looked at already, or belongs to another range. */
        for (uint32_t i = 0; i < index_of(at); i++)
            clear(own, i);
        note_lost_sites(b, base, own, pool, out);
    }
    return hash_quiet(b, base, at, present, pool, ask, out, stopped);
}

/* Looks at [at, end) of one range; returns where it stopped. */
static uint64_t scan_range(uint64_t at, uint64_t end, const struct sp_scan_ask *ask,
                           struct sp_report_out *out)
{
    uint64_t size = 1ull << block_shift();

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

static enum sp_now kind_of(const struct block *b, uint32_t i, const uint64_t *present,
                                 const uint64_t *own, const uint64_t *pool)
{
    if (get(pool, i))
        return get(own, i) ? SP_NOW_PRIVATE : SP_NOW_MERGED;
    if (!get(own, i))
        return SP_NOW_ABSENT;
    if (!get(present, i))
        return SP_NOW_SWAPPED;
    if (!b)
        return SP_NOW_NEW;
    if (get(b->fresh, i))
        return SP_NOW_CHANGED;
    if (get(b->pending, i))
        return SP_NOW_SETTLING;
    return get(b->hashed, i) ? SP_NOW_REPORTED : SP_NOW_NEW;
}

/* The pages of [at, end), all of one block. */
static void explain_block(uint64_t at, uint64_t end, struct sp_explained *out)
{
    uint64_t present[BLOCK_WORDS], own[BLOCK_WORDS], pool[BLOCK_WORDS];
    const struct block *b = find(at, false);

    bitmap_of_own(at, end, present, own);
    bitmap_of_pool(at, end, pool);
    for (; at < end; at += sp_agent.page_size)
        out->page[kind_of(b, index_of(at), present, own, pool)]++;
}

/* Where the first block from at on begins that holds a page of the process' own or of the pool; end
 * if there is none. What is only reserved may be very large. */
static uint64_t skip_absent(uint64_t at, uint64_t end)
{
    struct sp_page_region first;
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = at,
        .end = end,
        .vec = (uintptr_t)&first,
        .vec_len = 1,
        .max_pages = 1,
        .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
        .return_mask = SP_PAGE_PRESENT,
    };
    uint64_t found = end, pool, pool_end, base;

    if (sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg) != 0)
        found = arg.walk_end > at ? first.start : at;
    if (sp_sitemap_next(at, end, &pool, &pool_end) && pool < found)
        found = pool;
    base = found & ~((1ull << block_shift()) - 1);
    return found == end ? end : base > at ? base : at;
}

void sp_track_explain(uint64_t from, struct sp_explained *out)
{
    uint64_t size = 1ull << block_shift();
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < sp_agent.nranges; i++) {
        const struct sp_range *r = &sp_agent.range[i];
        uint64_t at = r->start > from ? r->start : from, stop;

        for (; at < r->end; at = stop) {
            stop = skip_absent(at, r->end);
            out->page[SP_NOW_ABSENT] += (stop - at) >> sp_agent.page_shift;
            at = stop;
            if (at == r->end)
                break;
            if (blocks++ == EXPLAIN_BLOCKS) {
                out->next = at;
                return;
            }
            stop = (at & ~(size - 1)) + size;
            if (stop > r->end)
                stop = r->end;
            explain_block(at, stop, out);
        }
    }
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
    memcpy(out->gone, gone, ngone * sizeof(*gone));
    out->head.ngone = tidy(out->gone, ngone);
    out->head.nchanged = tidy(out->changed, out->head.nchanged);
    ngone = 0;
}

void sp_track_scan(const struct sp_scan_ask *ask, struct sp_report_out *out)
{
    uint64_t at = ask->from;

    memset(&out->head, 0, sizeof(out->head));
    if (!at) {
        pass++;
        sp_ranges_refresh(false);
        sp_agent.mappings_at_pass = sp_agent.mappings;
    }
    if (ask->flags & SP_SCAN_RESTART)
        sp_track_restart();
    for (uint32_t i = 0; i < sp_agent.nranges; i++) {
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
    out->head.passed -= out->head.looked < out->head.passed ? out->head.looked : out->head.passed;
    give_gone(out);
    out->head.tracked = sp_agent.tracked;
    out->head.merged = sp_sitemap_pages();
    out->head.cpu_us = sp_cpu_us();
    out->head.mappings = sp_agent.mappings;
    out->head.mappings_budget = sp_mappings_budget();
    out->head.state = sp_mappings_short() ? SP_REPORT_NO_MAPPINGS : SP_REPORT_MERGING;
}
