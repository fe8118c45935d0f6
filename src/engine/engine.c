/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mms, the cursor and the passes (K2).
 */
#include "types.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Scans in a row that look at nothing and do not finish, before the next mm gets its turn. */
#define SP_EMPTY_ANSWERS 16u

/* A pass is quiet when it merged no more than 16 pages or a thousandth of what is shared, and no
 * more than 64 pages or a hundredth of what is tracked have yet to be looked at again. */
#define SP_QUIET_MERGES       16u
#define SP_QUIET_MERGES_PART  1000u
#define SP_QUIET_WAITING      64u
#define SP_QUIET_WAITING_PART 100u

#define SP_BLOCKS_FROM (UINT64_C(8) << 20)

struct sp_engine *sp_engine_new(const struct sp_engine_config *config)
{
    struct sp_engine *engine = calloc(1, sizeof(*engine));

    if (!engine)
        return NULL;
    sp_assert(config->page_size && !(config->page_size & (config->page_size - 1)));
    engine->ops = config->ops;
    engine->ctx = config->ctx;
    engine->page_size = config->page_size;
    engine->page_shift = (unsigned)__builtin_ctz(config->page_size);
    engine->run = SP_RUN_MERGE;
    engine->memory_used = sizeof(*engine);
    engine->empty_chunks = SP_NONE;
    engine->merge_across_nodes = true;
    engine->smart_scan = true;
    engine->zero_hash = config->zero_hash;
    engine->blocks_from = config->blocks_from ? config->blocks_from : SP_BLOCKS_FROM;
    return engine;
}

static void sp_engine_drop_batch(struct sp_engine *engine)
{
    sp_memory_put(engine, engine->batch, sizeof(*engine->batch));
    engine->batch = NULL;
}

void sp_engine_trim(struct sp_engine *engine)
{
    if (engine->nnodes || engine->candidates.count)
        return;
    for (const struct sp_mm *mm = engine->first; mm; mm = mm->next)
        if (mm->nchunks)
            return;
    sp_engine_drop_batch(engine);
    for (struct sp_mm *mm = engine->first; mm; mm = mm->next)
        sp_item_free_mm(mm);
    sp_memory_put(engine, engine->chunk, engine->chunk_room * sizeof(engine->chunk[0]));
    engine->chunk = NULL;
    engine->nchunks = engine->chunk_room = engine->free_chunk = 0;
    sp_table_free(engine, &engine->candidates);
    sp_stable_free(engine);
    sp_pieces_free(engine);
}

void sp_engine_free(struct sp_engine *engine)
{
    struct sp_mm *mm, *next;

    if (!engine)
        return;
    sp_engine_drop_batch(engine);
    for (mm = engine->first; mm; mm = next) {
        next = mm->next;
        for (uint32_t i = 0; i < mm->nchunks; i++)
            sp_piece_put(engine, SP_PIECE_ITEMS, mm->chunk[i]);
        sp_memory_put(engine, mm->chunk, mm->chunk_room * sizeof(mm->chunk[0]));
        sp_memory_put(engine, mm, sizeof(*mm));
    }
    sp_memory_put(engine, engine->chunk, engine->chunk_room * sizeof(engine->chunk[0]));
    sp_table_free(engine, &engine->candidates);
    sp_stable_free(engine);
    sp_pieces_free(engine);
    sp_assert(engine->memory_used == sizeof(*engine));
    free(engine);
}

/* Links mm in before another, or at the end. */
static void sp_engine_link(struct sp_engine *engine, struct sp_mm *mm, struct sp_mm *before)
{
    mm->next = before;
    mm->prev = before ? before->prev : engine->last;
    if (mm->prev)
        mm->prev->next = mm;
    else
        engine->first = mm;
    if (before)
        before->prev = mm;
    else
        engine->last = mm;
}

struct sp_mm *sp_engine_mm_add(struct sp_engine *engine, void *ref)
{
    struct sp_mm *mm = sp_memory_get(engine, sizeof(*mm));
    bool alone = !engine->first;

    if (!mm)
        return NULL;
    mm->engine = engine;
    mm->ref = ref;
    mm->serial = engine->serial++;
    mm->restart = true; /* an agent that an earlier daemon asked may have reported pages already */
    sp_engine_link(engine, mm, engine->run == SP_RUN_UNMERGE ? NULL : engine->cursor);
    if (alone)
        engine->cursor = mm;
    engine->pass_unsettled = true;
    if (engine->run == SP_RUN_UNMERGE)
        sp_run_mm_added(engine, mm);
    return mm;
}

void sp_engine_mm_remove(struct sp_engine *engine, struct sp_mm *mm)
{
    sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_UNKNOWN);
    sp_item_free_mm(mm);
    if (engine->cursor == mm)
        engine->cursor = mm->next;
    if (engine->unmerge_cursor == mm)
        engine->unmerge_cursor = mm->next;
    if (mm->prev)
        mm->prev->next = mm->next;
    else
        engine->first = mm->next;
    if (mm->next)
        mm->next->prev = mm->prev;
    else
        engine->last = mm->prev;
    sp_memory_put(engine, mm, sizeof(*mm));
    if (!engine->first)
        sp_stable_sweep(engine, true);
}

static uint64_t sp_engine_tracked(const struct sp_engine *engine)
{
    uint64_t tracked = 0;

    for (const struct sp_mm *mm = engine->first; mm; mm = mm->next)
        tracked += mm->tracked;
    return tracked;
}

static uint64_t sp_engine_zero_pages(const struct sp_engine *engine)
{
    uint64_t zero = 0;

    for (const struct sp_mm *mm = engine->first; mm; mm = mm->next)
        zero += mm->zero_pages;
    return zero;
}

static uint64_t sp_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static bool sp_engine_pass_was_quiet(const struct sp_engine *engine)
{
    uint64_t sharing = engine->nsites - engine->nshared;
    uint64_t tracked = sp_engine_tracked(engine);

    return !engine->pass_unsettled &&
           engine->pass_merges <= sp_max(SP_QUIET_MERGES, sharing / SP_QUIET_MERGES_PART) &&
           engine->pass_waiting <= sp_max(SP_QUIET_WAITING, tracked / SP_QUIET_WAITING_PART);
}

static void sp_engine_end_pass(struct sp_engine *engine)
{
    engine->quiet_passes = sp_engine_pass_was_quiet(engine) ? engine->quiet_passes + 1 : 0;
    engine->full_scans += !engine->pass_left_out;
    engine->pass_left_out = false;
    engine->pass_merges = 0;
    engine->pass_waiting = 0;
    engine->pass_unsettled = false;
    if (!engine->pass_hashed)
        sp_engine_drop_batch(engine);
    engine->pass_hashed = false;
    sp_stable_sweep(engine, false);
    engine->cursor = engine->first;
}

/* Bounds what a client said of itself to what can be. */
static void sp_engine_check_scan(struct sp_scan *scan)
{
    if (scan->looked > scan->budget)
        scan->looked = scan->budget;
    if (scan->waiting > scan->looked)
        scan->waiting = scan->looked;
    if (scan->tracked > SP_ADDRESS_END)
        scan->tracked = SP_ADDRESS_END;
    if (scan->npages > scan->max_pages)
        scan->npages = scan->max_pages;
    if (scan->nchanged > scan->max_runs)
        scan->nchanged = scan->max_runs;
    if (scan->ngone > scan->max_runs)
        scan->ngone = scan->max_runs;
    if (scan->next <= scan->from || scan->next >= SP_ADDRESS_END)
        scan->next = 0;
}

/* Pages that were written to, or that went away: what was known of them is void (K5, K11). */
static void sp_engine_forget_runs(struct sp_mm *mm, const struct sp_scan_run *run, uint32_t n)
{
    uint64_t size = mm->engine->page_size;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t start = run[i].addr;

        if (start >= SP_ADDRESS_END || start % size)
            continue;
        if (run[i].npages > (SP_ADDRESS_END - start) / size)
            sp_item_forget_range(mm, start, SP_ADDRESS_END, SP_ITEM_UNKNOWN);
        else
            sp_item_forget_range(mm, start, start + run[i].npages * size, SP_ITEM_UNKNOWN);
    }
}

/* K16: what waits for a partner, or was refused, and was not looked into in this pass. */
static void sp_engine_count_skipped(const struct sp_mm *mm)
{
    uint64_t skipped = mm->candidates;

    for (unsigned i = 0; i < SP_REFUSALS; i++)
        skipped += mm->refused[i];
    if (skipped > mm->pass_reported)
        mm->engine->skipped += skipped - mm->pass_reported;
}

/* Decides where the cursor goes after an answer. */
static void sp_engine_advance(struct sp_engine *engine, struct sp_mm *mm,
                              const struct sp_scan *scan)
{
    mm->from = scan->next;
    mm->empty_answers = scan->looked ? 0 : mm->empty_answers + 1;
    if (scan->next == 0) {
        sp_engine_count_skipped(mm);
        sp_policy_pass_done(mm);
    } else if (mm->empty_answers < SP_EMPTY_ANSWERS)
        return;
    else
        engine->pass_left_out = true;
    mm->empty_answers = 0;
    engine->cursor = mm->next;
}

/* One scan of the mm under the cursor, and what follows from it. Returns the pages looked into. */
static uint64_t sp_engine_scan(struct sp_engine *engine, uint32_t budget)
{
    struct sp_mm *mm = engine->cursor;
    struct sp_batch *batch = engine->batch;
    bool restart = mm->from == 0 && sp_policy_restart(mm);
    struct sp_scan scan = {.from = mm->from,
                           .budget = budget,
                           .restart = restart,
                           .max_pages = SP_BATCH_PAGES,
                           .max_runs = SP_BATCH_RUNS,
                           .page = batch->page,
                           .changed = batch->changed,
                           .gone = batch->gone};

    if (engine->ops->scan(engine->ctx, mm->ref, &scan) < 0) {
        engine->pass_left_out = true;
        engine->cursor = mm->next; /* it does not hold up the others */
        return 0;
    }
    sp_engine_check_scan(&scan);
    if (mm->from == 0)
        sp_policy_pass_begun(mm, restart);
    mm->pass_reported = (mm->from ? mm->pass_reported : 0) + scan.npages;
    if (!mm->scanned)
        engine->pass_unsettled = true;
    mm->scanned = true;
    mm->tracked = scan.tracked;
    mm->mappings = scan.mappings;
    mm->mappings_budget = scan.mappings_budget;
    engine->scanned += scan.looked;
    engine->pass_hashed |= scan.npages > 0;
    engine->pass_waiting += scan.waiting;
    sp_engine_forget_runs(mm, scan.changed, scan.nchanged);
    sp_engine_forget_runs(mm, scan.gone, scan.ngone);
    sp_match_batch(engine, mm, &scan);
    sp_merge_batch(engine);
    sp_item_reclaim(engine);
    sp_engine_advance(engine, mm, &scan);
    return scan.looked;
}

uint64_t sp_engine_step(struct sp_engine *engine, uint32_t budget, bool *pass_done)
{
    uint64_t looked;

    *pass_done = engine->drain.on; /* nothing is looked at, and no pass counted (H2) */
    if (engine->run != SP_RUN_MERGE || budget == 0 || engine->drain.on)
        return 0;
    if (budget > SP_BATCH_PAGES)
        budget = SP_BATCH_PAGES;
    if (!engine->batch)
        engine->batch = sp_memory_get(engine, sizeof(*engine->batch));
    if (!engine->batch) {
        *pass_done = true; /* memory is short: nothing is looked at, and no pass counted */
        return 0;
    }
    while (engine->cursor) {
        looked = sp_engine_scan(engine, budget);
        if (looked)
            return looked;
    }
    sp_engine_end_pass(engine);
    *pass_done = true;
    return 0;
}

enum sp_engine_run sp_engine_run(const struct sp_engine *engine)
{
    return engine->run;
}

void sp_engine_set_max_kernel_pages(struct sp_engine *engine, uint64_t pages)
{
    engine->max_kernel_pages = pages;
}

int sp_engine_set_max_page_sharing(struct sp_engine *engine, uint32_t sites)
{
    if (sites == engine->max_page_sharing)
        return 0;
    if (sites == 1 || sites > SP_SITES_FULL)
        return -EINVAL;
    if (engine->nshared)
        return -EBUSY;
    engine->max_page_sharing = sites;
    return 0;
}

void sp_engine_set_smart_scan(struct sp_engine *engine, bool smart)
{
    engine->smart_scan = smart;
}

/* What it costs to remember pages: all but the engine itself, and its list of mms. */
static uint64_t sp_engine_bookkeeping(const struct sp_engine *engine)
{
    uint64_t bytes = engine->memory_used - sizeof(*engine);

    for (const struct sp_mm *mm = engine->first; mm; mm = mm->next)
        bytes -= sizeof(*mm);
    return bytes;
}

void sp_engine_counters(const struct sp_engine *engine, struct sp_engine_counters *out)
{
    uint64_t tracked = sp_engine_tracked(engine);
    uint64_t zero = sp_engine_zero_pages(engine);
    uint64_t known = engine->nsites + engine->candidates.count + zero;

    *out = (struct sp_engine_counters){
        .pages_shared = engine->nshared,
        .pages_sharing = engine->nsites - engine->nshared,
        .pages_unshared = engine->candidates.count,
        .pages_volatile = tracked > known ? tracked - known : 0,
        .pages_scanned = engine->scanned,
        .full_scans = engine->full_scans,
        .pages_tracked = tracked,
        .frames = engine->nnodes,
        .stable_node_chains = engine->nchains,
        .stable_node_dups = engine->ndups,
        .ksm_zero_pages = zero,
        .pages_skipped = engine->skipped,
        .frames_evicted = engine->nevicted,
        .evictions = engine->evictions,
        .second_chances = engine->second_chances,
        .store_errors = engine->store_errors,
        .frames_pruned = engine->pruned,
        .stale_mapped = engine->stale_mapped,
        .quiet_passes = engine->quiet_passes,
        .merges = engine->merges[SP_MERGED],
        .merge_changed = engine->merges[SP_CHANGED],
        .merge_pinned = engine->merges[SP_PINNED],
        .merge_gone = engine->merges[SP_GONE],
        .merge_fork = engine->merges[SP_SHARED_BY_FORK],
        .merge_attributes = engine->merges[SP_ATTRIBUTES],
        .merge_mappings = engine->merges[SP_OUT_OF_MAPPINGS],
        .merge_memory = engine->merges[SP_OUT_OF_MEMORY],
        .merge_node = engine->merges[SP_OTHER_NODE],
        .undone = engine->undone,
        .memory_bytes = engine->memory_used,
        .bookkeeping_bytes = sp_engine_bookkeeping(engine),
    };
}

void sp_engine_mm_counters(const struct sp_mm *mm, struct sp_mm_counters *out)
{
    *out = (struct sp_mm_counters){
        .tracked = mm->tracked,
        .sites = mm->sites,
        .zero_pages = mm->zero_pages,
        .candidates = mm->candidates,
        .met = mm->met,
        .mappings = mm->mappings,
        .mappings_budget = mm->mappings_budget,
    };
    memcpy(out->refused, mm->refused, sizeof(out->refused));
}
