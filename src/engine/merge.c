/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batch that match.c planned is done here, in this order (K6, K7, K8):
 *
 *  1. frames for the jobs, in runs, filled from the pages that were scanned;
 *  2. the partners merge: they are the uncertain ones (K5);
 *  3. the pages that were scanned merge, into the jobs' frames and into those of stable nodes;
 *     A frame in the store comes back first (S9). Pages of zeros go to the kernel's (K15);
 *  4. what fork still shares is asked again with break_fork, if its frame has a site by now or
 *     fork does not share the two with one another;
 *  5. a frame with one site saves nothing: that site is un-merged again (K7);
 *  6. frames without a site go back;
 *  7. pages that found nobody become candidates.
 *
 * A frame whose merge was asked without an answer may be mapped: it is kept until the sweep (K9),
 * never filled again.
 */
#include "types.h"

#include <errno.h>
#include <stdlib.h>

static struct sp_job *sp_target_job(struct sp_engine *engine, const struct sp_target *target)
{
    return target->job == SP_NO_JOB ? NULL : &engine->batch->job[target->job];
}

static uint32_t sp_job_sites(const struct sp_engine *engine, const struct sp_job *job)
{
    return sp_stable_node(engine, job->frame)->nsites;
}

/* ---- 1. frames ---- */

static void sp_fill_accept(struct sp_engine *engine, uint32_t i)
{
    struct sp_batch *batch = engine->batch;
    struct sp_plan *source = &batch->plan[batch->fill_plan[i]];
    sp_frame frame = batch->fill[i].frame;
    bool ok = batch->fill[i].ok == 1;
    struct sp_job *job = &engine->batch->job[source->job];

    if (ok && sp_stable_add(engine, frame, job->hash.lo, batch->fill_node[i]) == 0) {
        job->frame = frame;
        return;
    }
    engine->ops->frame_free_unused(engine->ctx, frame, 1);
    if (ok)
        return;
    /* It is reported when it is quiet; and asked for later, for it may be that memory was short. */
    sp_policy_retry_later(engine->batch->mm);
    sp_item_refuse(engine, source->item, SP_REFUSED_CHANGED);
    source->kind = SP_PLAN_NOTHING;
}

/* Asks for what is listed. An mm that cannot be asked gets no frames. */
static void sp_fill_flush(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n = batch->nfill;

    batch->nfill = 0;
    if (!n)
        return;
    if (batch->mm_failed || engine->ops->fill(engine->ctx, batch->mm->ref, batch->fill, n) < 0) {
        batch->mm_failed = true;
        sp_policy_not_asked(batch->mm);
        for (uint32_t i = 0; i < n; i++)
            engine->ops->frame_free_unused(engine->ctx, batch->fill[i].frame, 1);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        sp_fill_accept(engine, i);
}

static void sp_fill_add(struct sp_engine *engine, uint32_t plan, sp_frame frame, unsigned node)
{
    struct sp_batch *batch = engine->batch;
    const struct sp_plan *from = &batch->plan[plan];

    if (batch->nfill == SP_FILL_PAGES_MAX)
        sp_fill_flush(engine);
    batch->fill_plan[batch->nfill] = plan;
    batch->fill_node[batch->nfill] = node < SP_NODES_MAX ? (uint8_t)node : 0;
    batch->fill[batch->nfill++] = (struct sp_fill_page){
        .addr = from->addr,
        .frame = frame,
        .want = {sp_node_key(engine, from->hash.lo, from->node), from->hash.hi}};
}

/* Allocates neighbouring frames for the jobs of n neighbouring plans from first on. */
static void sp_fill_run(struct sp_engine *engine, uint32_t first, uint32_t n)
{
    struct sp_batch *batch = engine->batch;
    unsigned got, node;

    for (; n; first += got, n -= got) {
        sp_frame frame;

        node = engine->merge_across_nodes ? SP_NODE_ANY : batch->plan[first].node;
        frame = engine->ops->frame_alloc(engine->ctx, &node, n, &got);

        if (!frame) {
            for (uint32_t i = 0; i < n; i++)
                batch->job[batch->plan[first + i].job].no_frame = true;
            return;
        }
        sp_assert(got >= 1 && got <= n);
        for (unsigned i = 0; i < got; i++)
            sp_fill_add(engine, first + i, frame + i, node);
    }
}

static bool sp_fill_source(const struct sp_batch *batch, uint32_t i)
{
    return batch->plan[i].kind == SP_PLAN_JOB && batch->job[batch->plan[i].job].source == i;
}

static void sp_merge_fill(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n;

    batch->nfill = 0;
    for (uint32_t i = 0; i < batch->nplans && !batch->mm_failed; i += n) {
        const struct sp_plan *plan = &batch->plan[i];

        n = 1;
        if (!sp_fill_source(batch, i))
            continue;
        while (n < SP_FILL_PAGES_MAX && i + n < batch->nplans && sp_fill_source(batch, i + n) &&
               plan[n].addr == plan->addr + n * engine->page_size && plan[n].job == plan->job + n &&
               (plan[n].node == plan->node || engine->merge_across_nodes))
            n++;
        sp_fill_run(engine, i, n);
    }
    sp_fill_flush(engine);
}

/* ---- merging, whatever the targets ---- */

/* Asks one mm. At most SP_BATCH_PAGES targets, ascending. False: there are no results. */
static bool sp_merge_ask(struct sp_engine *engine, struct sp_target *target, uint32_t n)
{
    struct sp_merge_page *page = engine->batch->merge;
    struct sp_mm *mm = target->mm;
    int err;

    for (uint32_t i = 0; i < n; i++)
        page[i] = (struct sp_merge_page){.addr = target[i].addr,
                                         .frame = target[i].frame,
                                         .break_fork = target[i].break_fork,
                                         .node = engine->merge_across_nodes ? SP_NODE_ANY
                                                                            : target[i].node,
                                         .result = SP_CHANGED};
    err = engine->ops->merge(engine->ctx, mm->ref, page, n);
    for (uint32_t i = 0; i < n; i++)
        target[i].lost = err < 0 && err != -EHOSTDOWN;
    if (err < 0) {
        sp_policy_not_asked(mm);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        target[i].result = page[i].result < SP_RESULTS ? page[i].result : SP_CHANGED;
        engine->merges[target[i].result]++;
    }
    return true;
}

static enum sp_refusal sp_merge_refusal(uint8_t result)
{
    static const enum sp_refusal why[] = {
        [SP_CHANGED] = SP_REFUSED_CHANGED,
        [SP_PINNED] = SP_REFUSED_PINNED,
        [SP_GONE] = SP_REFUSED_GONE,
        [SP_SHARED_BY_FORK] = SP_REFUSED_FORK,
        [SP_ATTRIBUTES] = SP_REFUSED_ATTRIBUTES,
        [SP_OUT_OF_MAPPINGS] = SP_REFUSED_MAPPINGS,
        [SP_OUT_OF_MEMORY] = SP_REFUSED_MEMORY,
        [SP_OTHER_NODE] = SP_REFUSED_CHANGED,
    };

    return why[result];
}

void sp_merge_reject(struct sp_engine *engine, uint32_t item, uint8_t result)
{
    struct sp_mm *mm = sp_item_mm(engine, item);

    sp_item_refuse(engine, item, sp_merge_refusal(result));
    if (result == SP_CHANGED || result == SP_GONE)
        return;
    sp_policy_retry_later(mm);
    if (result == SP_OUT_OF_MAPPINGS && mm->mappings < mm->mappings_budget)
        mm->mappings = mm->mappings_budget; /* do not ask on, until the next scan says better */
}

static void sp_merge_accept(struct sp_engine *engine, const struct sp_target *target)
{
    struct sp_job *job = sp_target_job(engine, target);

    sp_item_set_site(engine, target->item, target->frame);
    target->mm->merged_in_retry = true;
    engine->pass_merges++;
    if (job) {
        job->site = target->item;
        job->mapped = true;
    }
}

static void sp_merge_apply(struct sp_engine *engine, const struct sp_target *target)
{
    struct sp_job *job = sp_target_job(engine, target);

    if (target->plan != SP_NO_PLAN)
        engine->batch->plan[target->plan].result = target->result;
    else
        job->partner_result = target->result;
    if (target->result == SP_MERGED)
        sp_merge_accept(engine, target);
    else if (target->result == SP_NOT_ASKED && job)
        job->maybe_mapped |= target->lost;
    else if (target->result == SP_NOT_ASKED)
        sp_policy_retry_later(target->mm);
    else if (target->result != SP_SHARED_BY_FORK || !job || target->break_fork)
        sp_merge_reject(engine, target->item, target->result);
    /* else it may be asked again with break_fork */
}

static int sp_target_compare(const void *left, const void *right)
{
    const struct sp_target *a = left, *b = right;

    if (a->mm != b->mm)
        return a->mm->serial < b->mm->serial ? -1 : 1;
    return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* By mm, then address. They mostly are so already. */
static void sp_target_sort(struct sp_target *target, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        if (sp_target_compare(&target[i - 1], &target[i]) > 0) {
            qsort(target, n, sizeof(*target), sp_target_compare);
            return;
        }
    }
}

/* Sorts the targets, asks each mm for its own, and enters the answers. */
static void sp_merge_send(struct sp_engine *engine, uint32_t n)
{
    struct sp_target *target = engine->batch->target;
    uint32_t end;

    sp_target_sort(target, n);
    for (uint32_t i = 0; i < n; i = end) {
        end = i + 1;
        while (end < n && target[end].mm == target[i].mm && end - i < SP_BATCH_PAGES)
            end++;
        if (!sp_merge_ask(engine, &target[i], end - i) && target[i].mm == engine->batch->mm)
            engine->batch->mm_failed = true;
    }
    for (uint32_t i = 0; i < n; i++)
        sp_merge_apply(engine, &target[i]);
}

static struct sp_target sp_target_partner(struct sp_engine *engine, uint32_t j, bool break_fork)
{
    const struct sp_job *job = &engine->batch->job[j];

    return (struct sp_target){.mm = sp_item_mm(engine, job->partner),
                              .addr = sp_item_addr(engine, job->partner),
                              .item = job->partner,
                              .frame = job->frame,
                              .job = (uint16_t)j,
                              .plan = SP_NO_PLAN,
                              .node = job->node,
                              .break_fork = break_fork,
                              .result = SP_NOT_ASKED};
}

static struct sp_target sp_target_plan(struct sp_engine *engine, uint32_t i, bool break_fork)
{
    const struct sp_plan *plan = &engine->batch->plan[i];
    bool in_job = plan->kind == SP_PLAN_JOB;

    return (struct sp_target){.mm = engine->batch->mm,
                              .addr = plan->addr,
                              .item = plan->item,
                              .frame = in_job ? engine->batch->job[plan->job].frame : plan->frame,
                              .job = in_job ? plan->job : SP_NO_JOB,
                              .plan = (uint16_t)i,
                              .node = plan->node,
                              .break_fork = break_fork,
                              .result = SP_NOT_ASKED};
}

/* ---- 2. partners ---- */

static void sp_merge_partners(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n = 0;

    for (uint32_t j = 0; j < batch->njobs; j++)
        if (batch->job[j].frame && batch->job[j].npages && batch->job[j].partner != SP_NONE)
            batch->target[n++] = sp_target_partner(engine, j, false);
    sp_merge_send(engine, n);
}

/* ---- 3. the pages that were scanned ---- */

/* True if the job can still come to two sites. */
static bool sp_merge_worth(const struct sp_engine *engine, const struct sp_job *job)
{
    return job->frame &&
           sp_job_sites(engine, job) + job->npages + (job->partner_result == SP_SHARED_BY_FORK) >=
               2;
}

/* S9: a frame in the store comes back for the page. False: it cannot, or does not suit any more. */
static bool sp_merge_present(struct sp_engine *engine, struct sp_plan *plan)
{
    int status = sp_swap_in(engine, plan->frame);

    if (status == 0 && sp_stable_holds(engine, plan->frame, plan->hash.lo))
        return true;
    if (status == -ENOMEM)
        sp_merge_reject(engine, plan->item, SP_OUT_OF_MEMORY);
    sp_policy_retry_later(engine->batch->mm); /* there may be other frames with its content */
    plan->kind = status == -ENOMEM ? SP_PLAN_NOTHING : SP_PLAN_SETTLE;
    return false;
}

static void sp_merge_scanned(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n = 0;

    for (uint32_t i = 0; i < batch->nplans; i++) {
        struct sp_plan *plan = &batch->plan[i];

        if (plan->kind == SP_PLAN_NODE && !sp_merge_present(engine, plan))
            continue;
        if (plan->kind == SP_PLAN_NODE)
            batch->target[n++] =
                sp_target_plan(engine, i, sp_stable_node(engine, plan->frame)->nsites > 0);
        else if (plan->kind == SP_PLAN_JOB && sp_merge_worth(engine, &batch->job[plan->job]))
            batch->target[n++] = sp_target_plan(engine, i, false);
        else if (plan->kind == SP_PLAN_JOB)
            plan->kind = SP_PLAN_SETTLE;
    }
    sp_merge_send(engine, n);
}

/* ---- 4. what fork shares ---- */

/*
 * Two pages that fork shares with one another lie at the same address; two at different addresses
 * are shared each with its own relatives, and replacing both saves one of them (K8).
 */
static void sp_merge_find_both_forked(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;

    for (uint32_t i = 0; i < batch->nplans; i++) {
        struct sp_plan *plan = &batch->plan[i];
        struct sp_job *job = plan->kind == SP_PLAN_JOB ? &batch->job[plan->job] : NULL;

        if (job && job->partner != SP_NONE && plan->result == SP_SHARED_BY_FORK &&
            job->partner_result == SP_SHARED_BY_FORK &&
            sp_item_addr(engine, job->partner) != plan->addr)
            job->both_forked = true;
    }
}

static void sp_merge_break_fork(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t n = 0;

    sp_merge_find_both_forked(engine);
    for (uint32_t j = 0; j < batch->njobs; j++) {
        struct sp_job *job = &batch->job[j];

        if (job->partner_result != SP_SHARED_BY_FORK)
            continue;
        if (sp_job_sites(engine, job) || job->both_forked)
            batch->target[n++] = sp_target_partner(engine, j, true);
        else
            sp_merge_reject(engine, job->partner, SP_SHARED_BY_FORK);
    }
    for (uint32_t i = 0; i < batch->nplans; i++) {
        struct sp_plan *plan = &batch->plan[i];

        if (plan->kind != SP_PLAN_JOB || plan->result != SP_SHARED_BY_FORK)
            continue;
        if (sp_job_sites(engine, &batch->job[plan->job]) || batch->job[plan->job].both_forked)
            batch->target[n++] = sp_target_plan(engine, i, true);
        else
            sp_merge_reject(engine, plan->item, SP_SHARED_BY_FORK);
    }
    sp_merge_send(engine, n);
}

/* ---- 5. undo ---- */

/* The page found its like, but both could not be merged: it waits for a third as a candidate; or,
 * if its like waits as one, it is refused, for the reason why. */
static void sp_merge_wait(struct sp_engine *engine, uint32_t item, const struct sp_hash *hash,
                          enum sp_refusal why)
{
    uint32_t candidate;

    if (!sp_item_set_candidate(engine, item, hash->lo)) {
        candidate = sp_item_candidate(engine, hash->lo);
        if (candidate != SP_NONE)
            sp_item_set_met(engine, candidate);
        sp_item_refuse(engine, item, candidate == SP_NONE ? SP_REFUSED_MEMORY : why);
        sp_policy_retry_later(sp_item_mm(engine, item));
    }
    sp_item_set_met(engine, item);
}

/* The first is un-merged: it is the candidate again that it was. */
static void sp_undo_one(struct sp_engine *engine, const struct sp_target *target)
{
    struct sp_job *job = sp_target_job(engine, target);
    unsigned row;

    sp_item_forget(engine, target->item);
    sp_merge_wait(engine, target->item, &job->hash, SP_REFUSED_LIKE);
    engine->undone++;
    if (sp_stable_is_mapped(engine, job->frame))
        job->maybe_mapped = true; /* by a child that was forked meanwhile */
    if (job->maybe_mapped) {
        sp_policy_retry_later(target->mm); /* the node stays: others may merge into it */
        return;
    }
    sp_stable_remove(engine, job->frame);
    engine->ops->frame_forget(engine->ctx, job->frame);
    job->frame = 0;
    if (sp_stable_find(engine, job->hash.lo, 0, &row))
        sp_policy_retry_later(target->mm); /* of a ladder: another step has the same bytes (K4) */
}

/* Un-merges n neighbouring targets. What cannot be un-merged stays a site: nothing is lost. */
static void sp_undo_run(struct sp_engine *engine, const struct sp_target *target, uint32_t n)
{
    uint64_t at = target->addr, end = at + n * engine->page_size;
    int status = 0;

    for (uint32_t tries = 0; tries <= n && status == 0 && at < end; tries++) {
        uint64_t next = at, npages = 0;

        status = engine->ops->unmerge(engine->ctx, target->mm->ref, at, end, &next, &npages);
        if (status == 0 && (next == 0 || next > end))
            next = end;
        at = next > at && next <= end ? next : at;
    }
    for (uint32_t i = 0; i < n; i++)
        if (target[i].addr < at)
            sp_undo_one(engine, &target[i]);
}

static void sp_merge_undo(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    struct sp_target *target = batch->target;
    uint32_t n = 0, end;

    for (uint32_t j = 0; j < batch->njobs; j++) {
        struct sp_job *job = &batch->job[j];

        if (!job->frame || sp_job_sites(engine, job) != 1)
            continue;
        target[n++] = (struct sp_target){.mm = sp_item_mm(engine, job->site),
                                         .addr = sp_item_addr(engine, job->site),
                                         .item = job->site,
                                         .frame = job->frame,
                                         .job = (uint16_t)j};
    }
    sp_target_sort(target, n);
    for (uint32_t i = 0; i < n; i = end) {
        end = i + 1;
        while (end < n && target[end].mm == target[i].mm &&
               target[end].addr == target[end - 1].addr + engine->page_size)
            end++;
        sp_undo_run(engine, &target[i], end - i);
    }
}

/* ---- 6 and 7. the rest ---- */

static void sp_merge_return_frames(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;

    for (uint32_t j = 0; j < batch->njobs; j++) {
        struct sp_job *job = &batch->job[j];

        if (!job->frame || job->maybe_mapped || sp_job_sites(engine, job))
            continue;
        sp_assert(!job->mapped);
        sp_stable_remove(engine, job->frame);
        engine->ops->frame_free_unused(engine->ctx, job->frame, 1);
        job->frame = 0;
    }
}

static enum sp_refusal sp_merge_settled(const struct sp_engine *engine, const struct sp_plan *plan)
{
    if (plan->job == SP_NO_JOB || !engine->batch->job[plan->job].no_frame)
        return SP_REFUSED_LIKE;
    return engine->max_kernel_pages ? SP_REFUSED_LIMIT : SP_REFUSED_MEMORY;
}

static void sp_merge_settle(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;

    for (uint32_t i = 0; i < batch->nplans; i++) {
        struct sp_plan *plan = &batch->plan[i];

        if (plan->kind != SP_PLAN_SETTLE &&
            (plan->kind != SP_PLAN_JOB || plan->result != SP_NOT_ASKED))
            continue;
        sp_merge_wait(engine, plan->item, &plan->hash, sp_merge_settled(engine, plan));
    }
    if (batch->mm_failed)
        sp_policy_retry_later(batch->mm);
}

void sp_merge_batch(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;

    sp_merge_fill(engine);
    sp_match_recount(batch);
    if (!batch->mm_failed)
        sp_merge_partners(engine);
    if (!batch->mm_failed)
        sp_merge_scanned(engine);
    sp_zero_batch(engine);
    sp_merge_break_fork(engine);
    sp_merge_undo(engine);
    sp_merge_return_frames(engine);
    sp_merge_settle(engine);
}
