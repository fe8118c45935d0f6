/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a scan's answer leads to: for each page that was quiet, in this order (K4):
 *
 *  1. a stable node with its hash: it merges into that frame. Among several it takes the neighbour
 * of the frame that the page before it maps, so that both lie in one mapping;
 *  2. a page of the same answer, or a candidate, with its hash: both become sites of a new frame
 *     (K7). Such a frame with its pages is a **job** of the batch;
 *  3. nobody: it becomes a candidate (K5).
 *
 * A stretch of pages with one content repeated (zeros, say) would cost one mapping a page if all
 * mapped one frame. It gets a **ladder**: several neighbouring frames with the same bytes, which
 * the stretch maps in turn. A ladder has at most a quarter as many frames as the stretch has pages,
 * so that it still saves three quarters, and at most 32.
 *
 * Here it is only planned; merge.c does it.
 */
#include "types.h"

#include <string.h>

#define SP_STRETCH_LEAST     8u
#define SP_STRETCH_PER_FRAME 4u
#define SP_LADDER_MAX        32u
#define SP_AHEAD             8u /* plans */

static bool sp_hash_equal(const struct sp_hash *a, const struct sp_hash *b)
{
    return a->lo == b->lo && a->hi == b->hi;
}

static uint16_t sp_match_job(const struct sp_batch *batch, uint64_t fingerprint)
{
    uint16_t job = batch->job_head[fingerprint % SP_JOB_HEADS];

    while (job != SP_NO_JOB && batch->job[job].hash.lo != fingerprint)
        job = batch->job[job].link;
    return job;
}

/* K10: there may be n more frames than there are and are planned. */
static bool sp_match_room(const struct sp_engine *engine, uint32_t n)
{
    uint64_t frames = engine->nnodes + engine->batch->njobs;

    return engine->max_kernel_pages == 0 || frames + n <= engine->max_kernel_pages;
}

/* Adds a job. Only the first of a ladder is found by its hash. */
static struct sp_job *sp_match_add_job(struct sp_batch *batch, const struct sp_plan *plan,
                                       bool findable)
{
    const struct sp_hash *hash = &plan->hash;
    struct sp_job *job = &batch->job[batch->njobs];
    uint16_t *head = &batch->job_head[hash->lo % SP_JOB_HEADS];

    sp_assert(batch->njobs < SP_BATCH_PAGES);
    *job = (struct sp_job){.hash = *hash,
                           .partner = SP_NONE,
                           .site = SP_NONE,
                           .ladder = 1,
                           .node = plan->node,
                           .link = SP_NO_JOB,
                           .partner_result = SP_NOT_ASKED};
    if (findable) {
        job->link = *head;
        *head = (uint16_t)batch->njobs;
    }
    batch->njobs++;
    return job;
}

static void sp_match_join(struct sp_batch *batch, struct sp_plan *plan, uint16_t job)
{
    plan->kind = SP_PLAN_JOB;
    plan->job = job;
    batch->job[job].npages++;
}

/* K14: the job may get one more page. */
static bool sp_match_job_room(const struct sp_engine *engine, uint16_t number)
{
    const struct sp_job *job = &engine->batch->job[number];

    return job->npages + (uint32_t)(job->partner != SP_NONE) < sp_stable_limit(engine);
}

/* The frame that would make the mapping of the page before this one longer; 0: none. */
static sp_frame sp_match_wanted(const struct sp_engine *engine, uint32_t i)
{
    const struct sp_batch *batch = engine->batch;
    const struct sp_plan *plan = &batch->plan[i];
    uint64_t before = plan->addr - engine->page_size;
    sp_frame frame;

    if (i > 0 && plan[-1].addr == before && plan[-1].kind == SP_PLAN_NODE)
        frame = plan[-1].frame;
    else if (sp_item_place(plan->item))
        frame = sp_item_site(engine, plan->item - 1);
    else
        frame = sp_item_frame(batch->mm, before);
    return frame && SP_FRAME_INDEX(frame + 1) != 0 ? frame + 1 : 0;
}

/* A candidate that is reported again merges as such, not as some job's partner, too. */
static void sp_match_not_partner(struct sp_batch *batch, uint16_t job, uint32_t item)
{
    for (; job != SP_NO_JOB; job = batch->job[job].link)
        if (batch->job[job].partner == item)
            batch->job[job].partner = SP_NONE;
}

/* Joins a job that is there: of a ladder, the step after that of the page before. False: it is
 * full. */
static bool sp_match_join_existing(struct sp_engine *engine, uint32_t i, uint16_t first)
{
    struct sp_plan *plan = &engine->batch->plan[i];
    uint16_t ladder = engine->batch->job[first].ladder, step = 0;

    if (i > 0 && plan[-1].addr == plan->addr - engine->page_size && plan[-1].kind == SP_PLAN_JOB &&
        plan[-1].job >= first && plan[-1].job < first + ladder)
        step = (uint16_t)((plan[-1].job - first + 1) % ladder);
    for (uint16_t tries = 0; !sp_match_job_room(engine, (uint16_t)(first + step)); tries++) {
        if (tries == ladder)
            return false;
        step = (uint16_t)((step + 1) % ladder);
    }
    sp_match_join(engine->batch, plan, (uint16_t)(first + step));
    return true;
}

/* K14: all frames with this content that are there or planned are full. Its candidate may be some
 * job's partner, so the page begins a job of its own, for those that follow it. */
static void sp_match_begin_job(struct sp_engine *engine, struct sp_plan *plan, uint32_t partner)
{
    struct sp_batch *batch = engine->batch;
    uint16_t job = (uint16_t)batch->njobs;

    sp_match_add_job(batch, plan, true)->partner = partner;
    sp_match_join(batch, plan, job);
}

/* K10 has no room for a frame. */
static void sp_match_no_room(struct sp_engine *engine, struct sp_plan *plan)
{
    sp_item_refuse(engine, plan->item, SP_REFUSED_LIMIT);
    sp_policy_retry_later(engine->batch->mm);
}

/* K4, then K5. */
static void sp_match_page(struct sp_engine *engine, uint32_t i)
{
    struct sp_batch *batch = engine->batch;
    struct sp_plan *plan = &batch->plan[i];
    uint32_t partner;
    uint16_t job;
    unsigned row;

    job = sp_match_job(batch, plan->hash.lo);
    plan->frame = sp_stable_find(engine, plan->hash.lo, sp_match_wanted(engine, i), &row);
    if (plan->frame) {
        plan->kind = SP_PLAN_NODE;
        if (engine->max_page_sharing)
            sp_reserve_page(batch, plan->frame);
        sp_item_forget(engine, plan->item); /* no candidate for a ladder that is made later */
        sp_match_not_partner(batch, job, plan->item);
        return;
    }
    if (job != SP_NO_JOB) {
        if (!sp_hash_equal(&batch->job[job].hash, &plan->hash))
            return;
        sp_match_not_partner(batch, job, plan->item);
        if (sp_match_join_existing(engine, i, job))
            return;
        if (sp_match_room(engine, 1))
            sp_match_begin_job(engine, plan, SP_NONE);
        else
            sp_match_no_room(engine, plan);
        return;
    }
    partner = sp_item_candidate(engine, plan->hash.lo);
    if (partner == plan->item)
        return;
    if (partner == SP_NONE) {
        if (!sp_item_new_candidate(engine, plan->item, plan->hash.lo)) {
            sp_item_refuse(engine, plan->item, SP_REFUSED_MEMORY);
            sp_policy_retry_later(batch->mm);
        }
    } else if (sp_match_room(engine, 1)) {
        sp_match_begin_job(engine, plan, partner);
    } else {
        sp_match_no_room(engine, plan);
        sp_item_set_met(engine, partner);
    }
}

/* The number of plans from i on that are neighbours with the same content. */
static uint32_t sp_match_stretch(const struct sp_engine *engine, uint32_t i)
{
    const struct sp_batch *batch = engine->batch;
    const struct sp_plan *plan = &batch->plan[i];
    uint32_t n = 1, most = SP_LADDER_MAX * (sp_stable_limit(engine) - 1); /* and a partner (K14) */

    while (i + n < batch->nplans && n < most && plan[n].kind == SP_PLAN_NOTHING &&
           plan[n].addr == plan->addr + n * engine->page_size && plan[n].node == plan->node &&
           sp_hash_equal(&plan[n].hash, &plan->hash))
        n++;
    return n;
}

/* The frames that a stretch of n pages deserves: a power of two, so that stretches that grow do not
 * each make a ladder of their own; and enough for the limit of sites (K14). */
static uint32_t sp_match_ladder_length(uint32_t hopeful, uint32_t n, uint32_t limit)
{
    uint32_t length = 1;

    while (length < SP_LADDER_MAX &&
           (length * 2 <= hopeful / SP_STRETCH_PER_FRAME || length * (limit - 1) < n))
        length *= 2;
    return length;
}

/* The pages of a stretch that a merge has not refused for long: where few are left, each step of a
 * ladder for all would get one site at most, and be taken back (K7). */
static uint32_t sp_match_hopeful(const struct sp_plan *plan, uint32_t n)
{
    uint32_t hopeful = 0;

    for (uint32_t k = 0; k < n; k++)
        hopeful += !plan[k].doubtful;
    return hopeful;
}

/* Makes a ladder for the stretch of n pages at i, unless one as long is there already or K10 has no
 * room for it. Returns true if all pages of the stretch are planned. */
static bool sp_match_ladder(struct sp_engine *engine, uint32_t i, uint32_t n)
{
    struct sp_batch *batch = engine->batch;
    struct sp_plan *plan = &batch->plan[i];
    uint32_t hopeful = sp_match_hopeful(plan, n);
    uint32_t length = sp_match_ladder_length(hopeful, n, sp_stable_limit(engine));
    uint16_t first = (uint16_t)batch->njobs;
    uint32_t partner;
    unsigned row;

    (void)sp_stable_find(engine, plan->hash.lo, 0, &row);
    if (hopeful < SP_STRETCH_LEAST || row >= length || !sp_match_room(engine, length) ||
        sp_match_job(batch, plan->hash.lo) != SP_NO_JOB)
        return false;
    for (uint32_t k = 0; k < length; k++)
        sp_match_add_job(batch, plan, k == 0);
    batch->job[first].ladder = (uint16_t)length;
    for (uint32_t k = 0; k < n; k++)
        sp_match_join(batch, &plan[k], (uint16_t)(first + k % length));
    partner = sp_item_candidate(engine, plan->hash.lo);
    for (uint32_t k = 0; k < n; k++)
        if (plan[k].item == partner)
            partner = SP_NONE;
    batch->job[first].partner = partner;
    return true;
}

static bool sp_match_was_refused(const struct sp_engine *engine, uint32_t item)
{
    uint64_t why = sp_item_key(engine, item);

    return sp_item_state(engine, item) == SP_ITEM_REFUSED &&
           (why == SP_REFUSED_PINNED || why == SP_REFUSED_ATTRIBUTES);
}

/* A lift that fails makes its pages new to the agent, which soon reports them again, though nobody
 * wrote them: what was refused for long is left alone until it is asked for again (K6), or is
 * reported as changed. */
static bool sp_match_rests(const struct sp_batch *batch, const struct sp_engine *engine,
                           uint32_t item)
{
    return !batch->mm->retrying && sp_match_was_refused(engine, item);
}

/* Plans for the pages of the answer that are not what they should be already. What is out of order,
 * or no page's address, is ignored: it comes from a client. */
static void sp_match_load(struct sp_engine *engine, const struct sp_scan *scan)
{
    struct sp_batch *batch = engine->batch;
    uint32_t item = SP_NONE;
    uint64_t last = 0;

    for (uint32_t i = 0; i < scan->npages; i++) {
        const struct sp_scan_page *page = &scan->page[i];
        struct sp_plan *plan = &batch->plan[batch->nplans];
        sp_frame frame;
        bool doubtful;
        uint64_t key;
        uint8_t node;

        if (page->addr <= last || page->addr >= SP_ADDRESS_END ||
            (page->addr & (engine->page_size - 1)))
            continue;
        last = page->addr;
        item = sp_item_beside(engine, item, page->addr);
        if (item == SP_NONE)
            item = sp_item_get(batch->mm, page->addr, false);
        if (item == SP_NONE) {
            sp_policy_retry_later(batch->mm);
            continue;
        }
        if (sp_match_rests(batch, engine, item))
            continue;
        doubtful = sp_match_was_refused(engine, item);
        frame = sp_item_site(engine, item);
        node = page->node & (SP_NODES_MAX - 1);
        key = sp_node_key(engine, page->hash.lo, node);
        if (frame && sp_stable_holds(engine, frame, key))
            continue;
        if (sp_item_state(engine, item) == SP_ITEM_SITE ||
            sp_item_state(engine, item) == SP_ITEM_REFUSED ||
            sp_item_is_other_candidate(engine, item, key))
            sp_item_forget(engine, item);
        *plan = (struct sp_plan){.addr = page->addr,
                                 .hash = {key, page->hash.hi},
                                 .item = item,
                                 .node = node,
                                 .kept = page->kept,
                                 .kind = sp_zero_is(engine, &page->hash) ? SP_PLAN_ZERO
                                                                         : SP_PLAN_NOTHING,
                                 .job = SP_NO_JOB,
                                 .doubtful = doubtful,
                                 .result = SP_NOT_ASKED};
        batch->nplans++;
    }
}

void sp_match_recount(struct sp_batch *batch)
{
    for (uint32_t j = 0; j < batch->njobs; j++)
        batch->job[j].npages = 0;
    for (uint32_t i = batch->nplans; i-- > 0;) {
        if (batch->plan[i].kind != SP_PLAN_JOB)
            continue;
        batch->job[batch->plan[i].job].npages++;
        batch->job[batch->plan[i].job].source = (uint16_t)i;
    }
}

/* What plan i looks up lies anywhere in memory, and a miss takes longer than all that is done with
 * it: it is asked for some plans ahead, step by step. */
static void sp_match_prefetch(struct sp_engine *engine, uint32_t i)
{
    const struct sp_batch *batch = engine->batch;
    const struct sp_plan *plan = &batch->plan[i];
    uint32_t left = batch->nplans - i;

    if (left > 2 * SP_AHEAD) {
        sp_table_prefetch(&engine->nodes, plan[2 * SP_AHEAD].hash.lo);
        sp_table_prefetch(&engine->candidates, plan[2 * SP_AHEAD].hash.lo);
    }
    if (left > SP_AHEAD) {
        uint32_t frame = sp_table_guess(&engine->nodes, plan[SP_AHEAD].hash.lo);
        uint32_t item = sp_table_guess(&engine->candidates, plan[SP_AHEAD].hash.lo);

        if (frame != SP_NONE)
            sp_stable_prefetch(engine, frame);
        if (item != SP_NONE)
            sp_item_prefetch(engine, item);
    }
}

/* What comes now goes through the plans again and again: those with nothing to do are left out. */
static void sp_match_leave_out(struct sp_batch *batch)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < batch->nplans; i++) {
        if (batch->plan[i].kind == SP_PLAN_NOTHING)
            continue;
        if (n < i)
            batch->plan[n] = batch->plan[i];
        n++;
    }
    batch->nplans = n;
}

void sp_match_batch(struct sp_engine *engine, struct sp_mm *mm, const struct sp_scan *scan)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n;

    batch->mm = mm;
    batch->mm_failed = false;
    batch->nplans = batch->njobs = 0;
    for (uint32_t i = 0; i < SP_JOB_HEADS; i++)
        batch->job_head[i] = SP_NO_JOB;
    if (engine->max_page_sharing)
        memset(batch->reserve, 0, sizeof(batch->reserve));
    sp_match_load(engine, scan);
    for (uint32_t i = 0; i < batch->nplans; i += n) {
        n = 1;
        if (batch->plan[i].kind == SP_PLAN_ZERO)
            continue;
        n = sp_match_stretch(engine, i);
        if (n >= SP_STRETCH_LEAST && sp_match_ladder(engine, i, n))
            continue;
        for (uint32_t k = 0; k < n; k++) {
            sp_match_prefetch(engine, i + k);
            sp_match_page(engine, i + k);
        }
    }
    sp_match_leave_out(batch);
    sp_match_recount(batch);
    sp_policy_apply(engine);
}
