/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policy: where an mm's mappings are spent, and when pages that were passed over are asked for
 * again.
 *
 * A run of neighbouring pages with neighbouring frames costs one mapping, whatever its length. The
 * fuller an mm's budget, the longer a run must be: what is left is for what saves most. A run that
 * makes a mapping longer costs nothing, nor does one between two others, which is a mapping already. A
 * page that was merged before often gave a mapping back: such a run may be of any length until seven
 * eighths of the budget are used. But it may lie within a mapping yet, which it splits into three.
 *
 * Pages that were passed over (budget, pinned, shared by fork, memory short, the limit of K10) are
 * forgotten, and the mm reports them when it is asked for every quiet page again. That costs
 * hashing, so it is done every 8 passes, and ever more seldom, to every 64, while it leads to
 * nothing.
 */
#include "types.h"

#define SP_RUN_TIER_LONGEST 16u /* pages: asked for when the budget is almost used */
#define SP_RETRY_PASSES     8u
#define SP_RETRY_PASSES_MAX 64u

uint32_t sp_policy_shortest_run(const struct sp_mm *mm)
{
    uint64_t used = mm->mappings, budget = mm->mappings_budget;

    if (used >= budget)
        return UINT32_MAX;
    if (used < budget - budget / 2)
        return 1;
    if (used < budget - budget / 4)
        return 2;
    if (used < budget - budget / 8)
        return 4;
    if (used < budget - budget / 16)
        return 8;
    return SP_RUN_TIER_LONGEST;
}

static bool sp_policy_continues(const struct sp_batch *batch, uint32_t i, uint64_t page_size)
{
    const struct sp_plan *plan = &batch->plan[i], *before = plan - 1;

    if (plan->kind != before->kind || plan->addr != before->addr + page_size)
        return false;
    if (plan->kind == SP_PLAN_NODE)
        return plan->frame == before->frame + 1;
    return plan->kind == SP_PLAN_JOB && plan->job == before->job + 1;
}

/* A run that makes a mapping longer which is there already costs nothing. */
static bool sp_policy_extends(const struct sp_engine *engine, const struct sp_plan *first,
                              const struct sp_plan *last)
{
    const struct sp_mm *mm = engine->batch->mm;

    if (first->kind != SP_PLAN_NODE)
        return false;
    return sp_item_frame(mm, first->addr - engine->page_size) == first->frame - 1 ||
           sp_item_frame(mm, last->addr + engine->page_size) == last->frame + 1;
}

/* A run from addr to end between two sites is a mapping of its own before and after. */
static bool sp_policy_is_between(const struct sp_mm *mm, uint64_t addr, uint64_t end)
{
    return sp_item_frame(mm, addr - mm->engine->page_size) && sp_item_frame(mm, end);
}

static bool sp_policy_may_spend(const struct sp_mm *mm, uint32_t n, bool kept)
{
    uint64_t used = mm->mappings, budget = mm->mappings_budget;

    return n >= sp_policy_shortest_run(mm) || (kept && used < budget - budget / 8);
}

/* Takes what a run of n pages needs out of the budget, as an estimate until the next scan says it
 * exactly. False: the run is too short for what is left. */
static bool sp_policy_spend(struct sp_mm *mm, uint32_t n, bool kept)
{
    if (!sp_policy_may_spend(mm, n, kept))
        return false;
    mm->mappings += kept ? 2 : 1;
    return true;
}

/* Lists the runs that need a mapping by their first plans, plan.run being the length; returns how
 * many there are. */
static uint32_t sp_policy_find_runs(struct sp_engine *engine, uint16_t *first)
{
    struct sp_batch *batch = engine->batch;
    uint32_t end, n = 0;

    for (uint32_t i = 0; i < batch->nplans; i = end) {
        end = i + 1;
        if (batch->plan[i].kind != SP_PLAN_NODE && batch->plan[i].kind != SP_PLAN_JOB)
            continue;
        while (end < batch->nplans && sp_policy_continues(batch, end, engine->page_size))
            end++;
        if (sp_policy_extends(engine, &batch->plan[i], &batch->plan[end - 1]) ||
            (!batch->plan[i].kept && batch->mm->mappings < batch->mm->mappings_budget &&
             sp_policy_is_between(batch->mm, batch->plan[i].addr,
                                  batch->plan[end - 1].addr + engine->page_size)))
            continue;
        batch->plan[i].run = (uint16_t)(end - i);
        first[n++] = (uint16_t)i;
    }
    return n;
}

/* Why a run of this mm was too short. */
static enum sp_refusal sp_policy_refusal(const struct sp_mm *mm)
{
    return sp_policy_shortest_run(mm) == UINT32_MAX ? SP_REFUSED_MAPPINGS : SP_REFUSED_SHORT_RUN;
}

/* One page of a run that is too short. As a candidate it stays one, for who has mappings left. */
static void sp_policy_decline(struct sp_engine *engine, struct sp_plan *plan)
{
    const struct sp_batch *batch = engine->batch;

    if (plan->kind == SP_PLAN_JOB && batch->job[plan->job].partner != SP_NONE)
        sp_item_set_met(engine, batch->job[plan->job].partner);
    if (sp_item_state(engine, plan->item) == SP_ITEM_CANDIDATE)
        sp_item_set_met(engine, plan->item);
    else
        sp_item_refuse(engine, plan->item, sp_policy_refusal(batch->mm));
    plan->kind = SP_PLAN_NOTHING;
}

/* Long runs choose first. */
static void sp_policy_apply_scanned(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint16_t first[SP_BATCH_PAGES];
    uint32_t n = sp_policy_find_runs(engine, first);

    for (uint32_t tier = SP_RUN_TIER_LONGEST; tier; tier /= 2)
        for (uint32_t i = 0; i < n; i++) {
            struct sp_plan *plan = &batch->plan[first[i]];

            if (plan->run >= tier && sp_policy_spend(batch->mm, plan->run, plan->kept))
                plan->run = 0;
        }
    for (uint32_t i = 0; i < n; i++) {
        struct sp_plan *plan = &batch->plan[first[i]];

        if (plan->run == 0)
            continue;
        for (uint32_t k = 0; k < plan->run; k++)
            sp_policy_decline(engine, &plan[k]);
        sp_policy_retry_later(batch->mm);
    }
    sp_match_recount(batch);
}

static bool sp_policy_partner_continues(const struct sp_engine *engine, uint32_t j)
{
    const struct sp_job *job = &engine->batch->job[j], *before = job - 1;

    return job->npages && job->partner != SP_NONE && before->partner != SP_NONE &&
           sp_item_mm(engine, job->partner) == sp_item_mm(engine, before->partner) &&
           sp_item_addr(engine, job->partner) ==
               sp_item_addr(engine, before->partner) + engine->page_size;
}

/* Whether the partners of jobs [j, end), neighbours, may be merged. What is known of the pages they
 * equal is taken for theirs: equal pages are mostly written together. */
static bool sp_policy_partner_spend(const struct sp_engine *engine, uint32_t j, uint32_t end)
{
    const struct sp_job *job = &engine->batch->job[j], *last = &engine->batch->job[end - 1];
    struct sp_mm *mm = sp_item_mm(engine, job->partner);
    bool kept = engine->batch->plan[job->source].kept;

    if (!kept && mm->mappings < mm->mappings_budget &&
        sp_policy_is_between(mm, sp_item_addr(engine, job->partner),
                             sp_item_addr(engine, last->partner) + engine->page_size))
        return true;
    return sp_policy_spend(mm, end - j, kept);
}

/* The partner's mm has no mapping for it: the page that was scanned becomes the candidate instead,
 * so that a third one in an mm with room finds it. */
static void sp_policy_drop_partner(struct sp_engine *engine, struct sp_job *job)
{
    sp_policy_retry_later(sp_item_mm(engine, job->partner));
    sp_item_refuse(engine, job->partner, sp_policy_refusal(sp_item_mm(engine, job->partner)));
    job->partner = SP_NONE;
    if (job->npages > 1)
        return;
    engine->batch->plan[job->source].kind = SP_PLAN_SETTLE;
    job->npages = 0;
}

void sp_policy_apply(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    uint32_t end;

    sp_policy_apply_scanned(engine);
    for (uint32_t j = 0; j < batch->njobs; j = end) {
        end = j + 1;
        if (!batch->job[j].npages || batch->job[j].partner == SP_NONE)
            continue;
        while (end < batch->njobs && sp_policy_partner_continues(engine, end))
            end++;
        if (sp_policy_partner_spend(engine, j, end))
            continue;
        for (uint32_t k = j; k < end; k++)
            sp_policy_drop_partner(engine, &batch->job[k]);
    }
}

void sp_policy_retry_later(struct sp_mm *mm)
{
    if (mm->retry)
        return;
    mm->retry = true;
    if (mm->retry_after == 0)
        mm->retry_after = SP_RETRY_PASSES;
    if (mm->retry_wait == 0)
        mm->retry_wait = mm->retry_after;
}

void sp_policy_not_asked(struct sp_mm *mm)
{
    mm->merged_in_retry = true;
}

bool sp_policy_restart(const struct sp_mm *mm)
{
    return mm->restart || !mm->engine->smart_scan || (mm->retry && mm->retry_wait == 0);
}

void sp_policy_pass_begun(struct sp_mm *mm, bool restart)
{
    if (!restart)
        return;
    mm->retrying = mm->retry;
    mm->retry = false;
    mm->restart = false;
    mm->merged_in_retry = false;
}

void sp_policy_pass_done(struct sp_mm *mm)
{
    if (!mm->retrying) {
        if (mm->retry_wait)
            mm->retry_wait--;
        return;
    }
    mm->retrying = false;
    if (mm->merged_in_retry)
        mm->retry_after = SP_RETRY_PASSES;
    else if (mm->retry_after < SP_RETRY_PASSES_MAX)
        mm->retry_after *= 2;
    mm->retry_wait = mm->retry_after;
}
