/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's ops table (src/engine/ops.h) on the simulated machine: what daemon and agent do
 * between them. At every page programs may do something first.
 */
#include "sim.h"

#include <errno.h>

/* What the engine may keep its books in. */
static _Alignas(64) char blocks[SIM_BLOCKS][SP_BLOCK_BYTES];

void sim_go_on(struct sim *sim)
{
    while (sim_below(&sim->draw, 1024) < sim->chance)
        sim_programs(sim);
}

/* The same in an op on a process. Returns an errno if this one, or its agent, does not. */
static int go_on(struct sim_mm *mm)
{
    struct sim *sim = mm->sim;

    sim_go_on(sim);
    if (!mm->alive || mm->agent == SIM_AGENT_DEAD)
        return -ESRCH;
    if (mm->agent == SIM_AGENT_STALLED) {
        sim_took(sim, SIM_P_STALLED);
        return -ETIMEDOUT;
    }
    return 0;
}

/* What the agent said, or did, is not known: it is asked for all its sites anew (D1). */
static int answer_lost(struct sim_mm *mm, int err)
{
    mm->leave = true;
    sim_took(mm->sim, SIM_P_ANSWER_LOST);
    return err;
}

/* All is done; whether the engine hears of it is another matter. */
static int answered(struct sim_mm *mm)
{
    if (!mm->lose_answer)
        return 0;
    mm->lose_answer = false;
    return answer_lost(mm, -ETIMEDOUT);
}

static bool page_of(struct sim *sim, uint64_t addr, uint32_t *page)
{
    *page = (uint32_t)((addr - SIM_BASE) / SIM_PAGE);
    if (addr >= SIM_BASE && addr % SIM_PAGE == 0 && *page < SIM_PAGES)
        return true;
    sim_fail(sim, "no page lies at %llx", (unsigned long long)addr);
    return false;
}

static void add_run(struct sp_scan_run *run, uint32_t *n, uint64_t addr)
{
    if (*n && run[*n - 1].addr + run[*n - 1].npages * SIM_PAGE == addr)
        run[*n - 1].npages++;
    else
        run[(*n)++] = (struct sp_scan_run){.addr = addr, .npages = 1};
}

static void scan_page(struct sim_mm *mm, uint32_t i, struct sp_scan *scan)
{
    struct sim_page *page = &mm->page[i];
    uint64_t addr = sim_addr(i);
    bool written = page->kept && page->dirty; /* the site that it was is none any more */

    if (!written && (page->left || (page->tracked && !sim_is_tracked(page) && !page->kept)))
        add_run(scan->gone, &scan->ngone, addr);
    page->left = 0;
    page->tracked = sim_is_tracked(page);
    if (written)
        add_run(scan->changed, &scan->nchanged, addr);
    if (page->kept)
        page->dirty = page->reported = 0;
    if (!page->tracked)
        return;
    if (page->dirty) {
        page->dirty = page->reported = 0;
        add_run(scan->changed, &scan->nchanged, addr);
        sim_took(mm->sim, SIM_P_K3_VOLATILE);
        scan->looked++;
        scan->waiting++;
    } else if (!page->frame && !page->zero && !page->reported) {
        page->reported = 1;
        scan->page[scan->npages++] = (struct sp_scan_page){
            .addr = addr, .hash = sim_hash(sim_read(mm, i)), .node = page->anon->node};
        scan->looked++;
    } else {
        scan->passed++;
    }
}

static int op_scan(void *ctx, void *ref, struct sp_scan *scan)
{
    struct sim_mm *mm = ref;
    struct sim *sim = ctx;
    uint32_t i = 0;
    int err;

    sim_check_sums(sim);
    if (scan->from && !page_of(sim, scan->from, &i))
        return -EINVAL;
    if (scan->budget < 1 || scan->budget > scan->max_pages)
        sim_fail(sim, "a scan of %u pages is asked for", scan->budget);
    if (scan->restart) {
        sim_took(sim, SIM_P_RESTART_ASKED);
        for (uint32_t k = 0; k < SIM_PAGES; k++)
            mm->page[k].reported = 0;
    }
    for (; i < SIM_PAGES && scan->looked < scan->budget; i++) {
        err = go_on(mm);
        if (err)
            return answer_lost(mm, err);
        scan_page(mm, i, scan);
    }
    for (uint32_t k = 0; k < SIM_PAGES; k++)
        scan->tracked += sim_is_tracked(&mm->page[k]);
    scan->next = i < SIM_PAGES ? sim_addr(i) : 0;
    scan->mappings = sim_mappings(mm);
    scan->mappings_budget = mm->mappings_budget;
    return 0;
}

static int op_fill(void *ctx, void *ref, struct sp_fill_page *ask, unsigned n)
{
    struct sim *sim = ctx;
    struct sim_mm *mm = ref;
    uint32_t page;

    sim_check_sums(sim);
    if (n < 1 || n > SP_FILL_PAGES_MAX)
        sim_fail(sim, "a fill of %u pages is asked for", n);
    for (unsigned i = 0; i < n; i++) {
        struct sim_frame *frame = sim_frame(sim, ask[i].frame);
        struct sp_hash hash;
        int err = go_on(mm);

        if (err) {
            sim_took(sim, SIM_P_FILL_ERROR);
            return err;
        }
        if (!page_of(sim, ask[i].addr, &page))
            return -EINVAL;
        if (frame->state != SIM_TAKEN)
            sim_fail(sim, "K11: frame %x is filled in state %u", ask[i].frame, frame->state);
        ask[i].ok = 0;
        if (!mm->page[page].anon)
            continue;
        hash = sim_hash(sim_read(mm, page));
        if (hash.lo != ask[i].want.lo || hash.hi != ask[i].want.hi) {
            sim_took(sim, SIM_P_FILL_REFUSED);
            continue;
        }
        frame->content = sim_read(mm, page);
        sim_frame_set(sim, frame, SIM_FILLED);
        ask[i].ok = 1;
    }
    return 0;
}

static uint8_t merge_page(struct sim_mm *mm, uint32_t i, const struct sp_merge_page *ask)
{
    struct sim_page *page = &mm->page[i];
    uint32_t content;

    if (sim_is_mapped(page) && page->special)
        return SP_ATTRIBUTES;
    if (!sim_is_tracked(page) || !page->anon)
        return SP_GONE;
    if (page->anon->pins) {
        page->reported = 0; /* it was in the air: whether it was written there nobody knows */
        return SP_PINNED;
    }
    if (ask->node != SP_NODE_ANY && page->anon->node != ask->node)
        return SP_OTHER_NODE;
    if (page->anon->users > 1) {
        if (!ask->break_fork)
            return SP_SHARED_BY_FORK;
        sim_took(mm->sim, SIM_P_K8_BROKEN);
        if (!sim_page_copy(mm, i))
            return SP_OUT_OF_MEMORY;
    }
    content = sim_frame(mm->sim, ask->frame)->content;
    if (page->anon->content != content) {
        if ((page->anon->content ^ content) == SIM_TWIN)
            sim_took(mm->sim, SIM_P_K6_TWIN);
        return SP_CHANGED;
    }
    if (sim_mappings(mm) >= mm->mappings_budget)
        return SP_OUT_OF_MAPPINGS;
    sim_page_site(mm, i, ask->frame);
    return SP_MERGED;
}

/* A merge is asked into a frame that is there, on the right node, and has room. */
static void check_merge(struct sim *sim, const struct sp_merge_page *ask, unsigned i)
{
    const struct sim_frame *frame = sim_frame(sim, ask[i].frame);
    uint32_t sites = sp_stable_node(sim->engine, ask[i].frame)->nsites;

    if (frame->state != SIM_FILLED)
        sim_fail(sim, "a merge into frame %x, which is not filled", ask[i].frame);
    if (frame->out)
        sim_fail(sim, "S8: a merge into frame %x, which is not in memory", ask[i].frame);
    if (ask[i].node != SP_NODE_ANY && frame->node != ask[i].node && !frame->back)
        sim_fail(sim, "N1: a page of node %u merges into frame %x of node %u", ask[i].node,
                 ask[i].frame, frame->node);
    if (ask[i].node != SP_NODE_ANY)
        sim_took(sim, SIM_P_N1_APART);
    for (unsigned k = 0; k < i; k++)
        sites += ask[k].frame == ask[i].frame && ask[k].result == SP_MERGED;
    if (sim->engine->max_page_sharing && sites >= sim->engine->max_page_sharing)
        sim_fail(sim, "K14: frame %x gets more than %u sites", ask[i].frame, sites);
}

static void count_result(struct sim *sim, uint8_t result)
{
    if (result == SP_OTHER_NODE)
        sim_took(sim, SIM_P_N1_OTHER_NODE);
    else
        sim_took(sim, (enum sim_path)(SIM_P_MERGED + result));
}

static int op_merge(void *ctx, void *ref, struct sp_merge_page *ask, unsigned n)
{
    struct sim *sim = ctx;
    struct sim_mm *mm = ref;
    uint32_t page;

    sim_check_sums(sim);
    if (n < 1 || n > SP_BATCH_PAGES)
        sim_fail(sim, "a merge of %u pages is asked for", n);
    for (unsigned i = 0; i < n; i++) {
        int err = go_on(mm);

        if (err)
            return answer_lost(mm, err);
        if (!page_of(sim, ask[i].addr, &page))
            return -EINVAL;
        if (i && ask[i].addr <= ask[i - 1].addr)
            sim_fail(sim, "a merge names its pages out of order");
        check_merge(sim, ask, i);
        ask[i].result = merge_page(mm, page, &ask[i]);
        count_result(sim, ask[i].result);
    }
    return answered(mm);
}

static uint8_t zero_page(struct sim_mm *mm, uint32_t i)
{
    struct sim_page *page = &mm->page[i];

    if (sim_is_mapped(page) && page->special)
        return SP_ATTRIBUTES;
    if (!sim_is_tracked(page) || !page->anon)
        return SP_GONE;
    if (page->anon->pins) {
        page->reported = 0;
        return SP_PINNED;
    }
    if (page->anon->content != 0)
        return SP_CHANGED;
    sim_page_zero(mm, i);
    return SP_MERGED;
}

static int op_zero(void *ctx, void *ref, struct sp_merge_page *ask, unsigned n)
{
    struct sim *sim = ctx;
    struct sim_mm *mm = ref;
    uint32_t page;

    sim_check_sums(sim);
    for (unsigned i = 0; i < n; i++) {
        int err = go_on(mm);

        if (err)
            return answer_lost(mm, err);
        if (!page_of(sim, ask[i].addr, &page))
            return -EINVAL;
        ask[i].result = zero_page(mm, page);
        sim_took(sim, ask[i].result == SP_MERGED ? SIM_P_K15_ZERO : SIM_P_K15_REFUSED);
    }
    return answered(mm);
}

/* Where the frame is in the store, its entry may stay and be no site any more (S11). */
static bool leave_stray(struct sim_mm *mm, struct sim_page *page)
{
    struct sim_frame *frame = page->frame ? sim_frame(mm->sim, page->frame) : NULL;

    if (!frame || !frame->out || mm->sim->real ||
        (sim_below(&mm->sim->draw, 2) && sim_store_reads(mm->sim, frame)))
        return false;
    page->stray = 1;
    sim_took(mm->sim, SIM_P_S11_STRAY);
    return true;
}

static int op_unmerge(void *ctx, void *ref, uint64_t start, uint64_t end, uint64_t *next,
                      uint64_t *npages)
{
    struct sim *sim = ctx;
    struct sim_mm *mm = ref;
    uint32_t i = start > SIM_BASE ? (uint32_t)((start - SIM_BASE) / SIM_PAGE) : 0;
    uint32_t part = 1 + sim_below(&sim->draw, SIM_PAGES);

    sim_check_sums(sim);
    *next = 0;
    *npages = 0;
    for (; i < SIM_PAGES && sim_addr(i) < end; i++) {
        int err;

        *next = sim_addr(i); /* also where it fails: what was done is known */
        err = go_on(mm);
        if (err)
            return err;
        if (*npages == part)
            return 0;
        if (!sim_is_site(&mm->page[i]) && !mm->page[i].zero)
            continue;
        if (!leave_stray(mm, &mm->page[i]) && !sim_page_copy(mm, i))
            return -ENOMEM;
        mm->page[i].left = 0; /* who asked for it knows */
        ++*npages;
    }
    *next = 0;
    return 0;
}

static sp_frame op_frame_alloc(void *ctx, unsigned *node, unsigned want, unsigned *got)
{
    sp_frame frame = sim_frame_alloc(ctx, node, want, got);

    if (!frame)
        sim_took(ctx, SIM_P_POOL_FULL);
    return frame;
}

static void op_frame_free_unused(void *ctx, sp_frame frame, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint8_t state = sim_frame(ctx, frame + i)->state;

        if (state != SIM_TAKEN && state != SIM_FILLED)
            sim_fail(ctx, "frame %x goes back unused in state %u", frame + i, state);
        sim_took(ctx, SIM_P_FREED_UNUSED);
        sim_frame_free(ctx, frame + i);
    }
}

static bool is_mapped(const struct sim *sim, sp_frame frame)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            if (sim->mm[m].page[i].frame == frame && !sim->mm[m].page[i].stray)
                return true;
    return false;
}

static void op_frame_forget(void *ctx, sp_frame frame)
{
    if (sim_frame(ctx, frame)->state != SIM_FILLED)
        sim_fail(ctx, "frame %x is forgotten in state %u", frame, sim_frame(ctx, frame)->state);
    if (!sim_frame(ctx, frame)->out && is_mapped(ctx, frame) && !((struct sim *)ctx)->real)
        sim_fail(ctx, "T2: frame %x is forgotten and mapped", frame);
    sim_frame_set(ctx, sim_frame(ctx, frame), SIM_FORGOTTEN);
    sim_took(ctx, SIM_P_K9_FORGOTTEN);
}

/* In the store nothing maps it: what touches it gets a copy of its own (T1, S6). */
static bool op_frame_mapped(void *ctx, sp_frame number)
{
    const struct sim_frame *frame = sim_frame(ctx, number);

    if (((struct sim *)ctx)->real)
        return false; /* samepaged tells without its engine (list.c) */
    if (frame->out)
        sim_took(ctx, SIM_P_T1_LINGERED);
    if (frame->out || !frame->maps || !is_mapped(ctx, number))
        return false;
    sim_took(ctx, SIM_P_T2_MAPPED);
    return true;
}

/* Now and then there is one, for each kind of pieces that the engine has. */
static void *op_block_get(void *ctx)
{
    struct sim *sim = ctx;

    for (unsigned i = 0; sim->clock % 4 == 0 && i < SIM_BLOCKS; i++)
        if (!sim->block_used[i]) {
            sim->block_used[i] = true;
            return blocks[i];
        }
    return NULL;
}

static void op_block_put(void *ctx, void *block)
{
    struct sim *sim = ctx;
    unsigned i = (unsigned)((char(*)[SP_BLOCK_BYTES])block - blocks);

    if (i >= SIM_BLOCKS || !sim->block_used[i])
        sim_fail(sim, "a block is given back that was not taken");
    else
        sim->block_used[i] = false;
}

const struct sp_engine_ops sim_ops = {
    .scan = op_scan,
    .fill = op_fill,
    .merge = op_merge,
    .unmerge = op_unmerge,
    .frame_alloc = op_frame_alloc,
    .frame_free_unused = op_frame_free_unused,
    .frame_forget = op_frame_forget,
    .frame_mapped = op_frame_mapped,
    .zero = op_zero,
    .frame_migrate = op_frame_migrate,
    .frame_move = op_frame_move,
    .frame_referenced = op_frame_referenced,
    .frame_locked = op_frame_locked,
    .frame_evict = op_frame_evict,
    .frame_bring_back = op_frame_bring_back,
    .block_get = op_block_get,
    .block_put = op_block_put,
};
