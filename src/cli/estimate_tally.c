/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges without merging: the engine is given operations that answer from lists of hashes instead
 * of asking agents. A page is reported as quiet at once, a frame is a number, and a merge succeeds
 * unless the agent would refuse it: fork shares the page (K8), or no mapping is left.
 */
#include "estimate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

#define STEP_PAGES   512u /* the engine's own limit */
#define PASSES_LEAST 10u  /* what was passed over is tried again after 8 */
#define PASSES_MOST  100u
#define QUIET_PASSES 2u
#define RUN_MAPPINGS 2u /* that a run of frames is counted as */
#define NO_PAGE      UINT64_MAX

/*
 * What samepage itself needs, measured (a memory cgroup with and without it): the daemon with its
 * keeper; each process' agent with its stacks, page tables and what the kernel keeps for it; the
 * books of the agent for 512 neighbouring pages; a mapping in the kernel; the place of a page in
 * the page tables of the agent's view of the frames.
 */
#define DAEMON_BYTES  (UINT64_C(1700) << 10)
#define PROCESS_BYTES (UINT64_C(224) << 10)
#define BLOCK_BYTES   752u
#define BLOCK_PAGES   512u
#define MAPPING_BYTES 270u
#define VIEW_BYTES    8u

/* One user's engine and its frames. */
struct world {
    struct sp_engine *engine;
    uint64_t page_size;
    uint32_t next_frame; /* frames are never used twice, so this counts them */
};

static sp_frame frame_of(uint32_t number)
{
    return SP_FRAME(1 + number / SP_SEGMENT_PAGES_MAX, number % SP_SEGMENT_PAGES_MAX);
}

static uint32_t number_of(sp_frame frame)
{
    return (SP_FRAME_SEGMENT(frame) - 1) * SP_SEGMENT_PAGES_MAX + SP_FRAME_INDEX(frame);
}

/* ---- pages ---- */

/* The first run that ends behind addr; nruns if there is none. */
static size_t run_at(const struct sp_estimate_process *p, uint64_t addr, uint64_t page_size)
{
    size_t low = 0, high = p->nruns;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (p->run[middle].addr + p->run[middle].npages * page_size <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The number of the page at addr, or NO_PAGE. */
static uint64_t page_at(const struct sp_estimate_process *p, uint64_t addr, uint64_t page_size)
{
    size_t run = run_at(p, addr, page_size);

    if (run == p->nruns || addr < p->run[run].addr)
        return NO_PAGE;
    return p->run[run].first + (addr - p->run[run].addr) / page_size;
}

/* Does page k of the run lie in one mapping with the page before it? */
static bool goes_on(const struct sp_estimate_process *p, const struct sp_estimate_run *run,
                    uint64_t k)
{
    sp_frame frame = p->frame[run->first + k];

    return k && frame && SP_FRAME_INDEX(frame) && p->frame[run->first + k - 1] == frame - 1;
}

static uint32_t count_mappings(const struct sp_estimate_process *p)
{
    uint32_t n = 0;

    /* One for each mapping, and one for each stretch of them, as the agent counts. */
    for (size_t i = 0; i < p->nruns; i++) {
        const uint32_t *frame = &p->frame[p->run[i].first];

        for (uint64_t k = 0; k < p->run[i].npages; k++) {
            n += frame[k] && !goes_on(p, &p->run[i], k);
            n += frame[k] && (!k || !frame[k - 1]);
        }
    }
    return n;
}

/* ---- what the engine asks ---- */

/* Reports pages of one run from addr on. Returns where it stopped, 0 at the run's end. */
static uint64_t report_run(const struct sp_estimate_process *p, const struct sp_estimate_run *run,
                           uint64_t addr, uint64_t page_size, struct sp_scan *scan)
{
    uint64_t k = addr > run->addr ? (addr - run->addr) / page_size : 0;

    for (; k < run->npages; k++) {
        uint64_t hash = p->hash[run->first + k];

        if (p->frame[run->first + k] || (hash & SP_ESTIMATE_APART))
            continue;
        if (scan->npages == scan->max_pages || scan->looked == scan->budget)
            return run->addr + k * page_size;
        scan->page[scan->npages++] = (struct sp_scan_page){.addr = run->addr + k * page_size,
                                                           .hash = {hash & SP_ESTIMATE_HASH, 0}};
        scan->looked++;
    }
    return 0;
}

static int world_scan(void *ctx, void *mm, struct sp_scan *scan)
{
    const struct world *world = ctx;
    struct sp_estimate_process *p = mm;

    if (scan->from == 0) {
        p->reporting = scan->restart;
        p->mappings = count_mappings(p);
    }
    scan->tracked = p->npages;
    scan->mappings = p->mappings;
    scan->mappings_budget = p->mappings_budget;
    scan->next = 0;
    for (size_t i = run_at(p, scan->from, world->page_size); p->reporting && i < p->nruns; i++) {
        scan->next = report_run(p, &p->run[i], scan->from, world->page_size, scan);
        if (scan->next)
            break;
    }
    return 0;
}

static int world_fill(void *ctx, void *mm, struct sp_fill_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].ok = 1;
    return 0;
}

static enum sp_result merge_page(const struct world *world, struct sp_estimate_process *p,
                                 const struct sp_merge_page *page)
{
    uint64_t at = page_at(p, page->addr, world->page_size);
    size_t run = run_at(p, page->addr, world->page_size);

    if (at == NO_PAGE)
        return SP_GONE;
    if ((p->hash[at] & SP_ESTIMATE_FORK) && !page->break_fork)
        return SP_SHARED_BY_FORK;
    p->frame[at] = page->frame;
    if (goes_on(p, &p->run[run], at - p->run[run].first))
        return SP_MERGED;
    if (p->mappings + RUN_MAPPINGS > p->mappings_budget) {
        p->frame[at] = 0;
        return SP_OUT_OF_MAPPINGS;
    }
    p->mappings += RUN_MAPPINGS;
    return SP_MERGED;
}

static int world_merge(void *ctx, void *mm, struct sp_merge_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].result = (uint8_t)merge_page(ctx, mm, &page[i]);
    return 0;
}

static int world_unmerge(void *ctx, void *mm, uint64_t start, uint64_t end, uint64_t *next,
                         uint64_t *npages)
{
    const struct world *world = ctx;
    struct sp_estimate_process *p = mm;

    *next = 0;
    *npages = 0;
    for (uint64_t addr = start; addr < end; addr += world->page_size) {
        uint64_t at = page_at(p, addr, world->page_size);

        if (at == NO_PAGE || !p->frame[at])
            continue;
        p->frame[at] = 0;
        ++*npages;
    }
    return 0;
}

static sp_frame world_frame_alloc(void *ctx, unsigned *node, unsigned want, unsigned *got)
{
    struct world *world = ctx;
    uint32_t first = world->next_frame, room = SP_SEGMENT_PAGES_MAX - first % SP_SEGMENT_PAGES_MAX;

    *got = 0;
    if (SP_FRAME_SEGMENT(frame_of(first)) == 0)
        return 0;
    *got = want < room ? want : room;
    world->next_frame += *got;
    return frame_of(first);
}

static void world_frame_drop(void *ctx, sp_frame frame, unsigned n)
{
}

static void world_frame_forget(void *ctx, sp_frame frame)
{
}

static const struct sp_engine_ops world_ops = {
    .scan = world_scan,
    .fill = world_fill,
    .merge = world_merge,
    .unmerge = world_unmerge,
    .frame_alloc = world_frame_alloc,
    .frame_free_unused = world_frame_drop,
    .frame_forget = world_frame_forget,
};

/* ---- one user ---- */

static void run_passes(struct sp_engine *engine)
{
    struct sp_engine_counters c;
    bool done;

    do {
        do
            (void)sp_engine_step(engine, STEP_PAGES, &done);
        while (!done);
        sp_engine_counters(engine, &c);
    } while (c.full_scans < PASSES_LEAST ||
             (c.quiet_passes < QUIET_PASSES && c.full_scans < PASSES_MOST));
}

/* What each process' sites save: of a frame with n sites each saves 1 - 1/n of a page. */
static int share_out(struct sp_estimate_process *process, size_t n, uid_t uid,
                     const struct world *world, uint64_t zero_hash)
{
    uint32_t *sites = calloc((size_t)world->next_frame + 1, sizeof(*sites));

    if (!sites)
        return -ENOMEM;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++) {
            struct sp_estimate_process *p = &process[i];

            for (uint64_t k = 0; p->uid == uid && k < p->npages; k++) {
                if (!p->frame[k])
                    continue;
                if (round == 0) {
                    sites[number_of(p->frame[k])]++;
                    continue;
                }
                p->sites++;
                p->zero_sites += (p->hash[k] & SP_ESTIMATE_HASH) == zero_hash;
                p->pages_sharing += 1 - 1.0 / sites[number_of(p->frame[k])];
            }
        }
    }
    free(sites);
    return 0;
}

/* ---- what fork shares anyway ---- */

/* A page that fork shares lies at one address in all relatives and has one content. */
struct forked {
    uint64_t hash, addr;
    struct sp_estimate_process *process;
    bool merged;
};

static int compare_forked(const void *left, const void *right)
{
    const struct forked *a = left, *b = right;

    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static uint64_t count_forked(const struct sp_estimate_process *process, size_t n, uid_t uid)
{
    uint64_t count = 0;

    for (size_t i = 0; i < n; i++)
        for (uint64_t k = 0; process[i].uid == uid && k < process[i].npages; k++)
            count += (process[i].hash[k] & SP_ESTIMATE_FORK) != 0;
    return count;
}

static void list_forked(struct sp_estimate_process *p, uint64_t page_size, struct forked *list,
                        size_t *count)
{
    for (size_t i = 0; i < p->nruns; i++) {
        const struct sp_estimate_run *run = &p->run[i];

        for (uint64_t k = 0; k < run->npages; k++) {
            uint64_t at = run->first + k;

            if (p->hash[at] & SP_ESTIMATE_FORK)
                list[(*count)++] = (struct forked){p->hash[at] & SP_ESTIMATE_HASH,
                                                   run->addr + k * page_size, p, p->frame[at] != 0};
        }
    }
}

/* The page of n relatives is one page. It is saved when all of them map a frame instead, and not
 * if one of them is none that we looked at. */
static void take_off_forked(const struct forked *list, size_t n)
{
    size_t merged = 0;
    double freed;

    for (size_t i = 0; i < n; i++)
        merged += list[i].merged;
    freed = merged == n && n > 1 ? 1.0 / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        if (list[i].merged)
            list[i].process->pages_saved -= 1 - freed;
}

static int correct_forked(struct sp_estimate_process *process, size_t n, uid_t uid,
                          uint64_t page_size)
{
    uint64_t count = count_forked(process, n, uid);
    struct forked *list = NULL;
    size_t listed = 0, end;

    for (size_t i = 0; i < n; i++)
        if (process[i].uid == uid)
            process[i].pages_saved = process[i].pages_sharing;
    if (!count)
        return 0;
    list = calloc(count, sizeof(*list));
    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (process[i].uid == uid)
            list_forked(&process[i], page_size, list, &listed);
    qsort(list, listed, sizeof(*list), compare_forked);
    for (size_t i = 0; i < listed; i = end) {
        end = i + 1;
        while (end < listed && compare_forked(&list[i], &list[end]) == 0)
            end++;
        take_off_forked(&list[i], end - i);
    }
    free(list);
    return 0;
}

static int add_processes(struct sp_estimate_process *process, size_t n, uid_t uid,
                         struct world *world)
{
    for (size_t i = 0; i < n; i++) {
        struct sp_estimate_process *p = &process[i];

        if (p->uid != uid)
            continue;
        p->frame = calloc(p->npages + 1, sizeof(*p->frame));
        if (!p->frame || !sp_engine_mm_add(world->engine, p))
            return -ENOMEM;
    }
    return 0;
}

static int tally_user(struct sp_estimate_process *process, size_t n, uid_t uid, uint64_t zero_hash,
                      struct sp_estimate_sum *sum)
{
    struct world world = {.page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
    struct sp_engine_config config = {
        .ops = &world_ops, .ctx = &world, .page_size = (uint32_t)world.page_size};
    struct sp_engine_counters c;
    int err;

    world.engine = sp_engine_new(&config);
    if (!world.engine)
        return -ENOMEM;
    err = add_processes(process, n, uid, &world);
    if (!err) {
        run_passes(world.engine);
        sp_engine_counters(world.engine, &c);
        sum->pages_shared += c.pages_shared;
        sum->pages_sharing += c.pages_sharing;
        sum->engine_bytes += c.memory_bytes;
        sum->nusers++;
        err = share_out(process, n, uid, &world, zero_hash);
    }
    if (!err)
        err = correct_forked(process, n, uid, world.page_size);
    sp_engine_free(world.engine);
    return err;
}

/* ---- all ---- */

static int64_t bytes_of(double pages)
{
    return (int64_t)(pages * (double)sysconf(_SC_PAGESIZE) + (pages < 0 ? -0.5 : 0.5));
}

static uint64_t agent_bytes(const struct sp_estimate_process *p, uint64_t page_size)
{
    uint64_t blocks = 0, last = UINT64_MAX;

    for (size_t i = 0; i < p->nruns; i++) {
        uint64_t first = p->run[i].addr / (page_size * BLOCK_PAGES);
        uint64_t end = (p->run[i].addr / page_size + p->run[i].npages - 1) / BLOCK_PAGES;

        blocks += end - first + (first != last);
        last = end;
    }
    return PROCESS_BYTES + blocks * BLOCK_BYTES + p->mappings * (uint64_t)MAPPING_BYTES +
           p->sites * VIEW_BYTES;
}

static void add_process(struct sp_estimate_sum *sum, struct sp_estimate_process *p,
                        uint64_t page_size)
{
    p->mappings = count_mappings(p);
    sum->pages += p->npages;
    sum->zero_pages += p->zero_sites;
    sum->mappings += p->mappings;
    sum->volatile_pages += p->volatile_pages;
    sum->swapped_pages += p->swapped;
    sum->merged_pages += p->merged_pages;
    sum->pages_saved += p->pages_saved;
    sum->own_bytes += agent_bytes(p, page_size);
}

int sp_estimate_tally(struct sp_estimate_process *process, size_t n, uint64_t zero_hash,
                      struct sp_estimate_sum *sum)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    int err = 0;

    memset(sum, 0, sizeof(*sum));
    for (size_t i = 0; i < n && !err; i++) {
        size_t first = 0;

        while (process[first].uid != process[i].uid)
            first++;
        if (first == i)
            err = tally_user(process, n, process[i].uid, zero_hash, sum);
    }
    if (err)
        return err;
    sum->own_bytes = DAEMON_BYTES + sum->engine_bytes;
    for (size_t i = 0; i < n; i++)
        add_process(sum, &process[i], page_size);
    sum->bytes_saved = bytes_of(sum->pages_saved) - (int64_t)sum->own_bytes;
    return 0;
}

int64_t sp_estimate_process_bytes(const struct sp_estimate_process *process)
{
    return bytes_of(process->pages_saved);
}
