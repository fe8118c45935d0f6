/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run (K13), un-merging, and its opposite: sites that exist already (K8, D1).
 *
 * After an un-merge the pages' mms do not report them again by themselves: nothing about them
 * changed. So the next pass over them asks for every quiet page.
 */
#include "types.h"

#include <errno.h>

/* Answers that an un-merge of one mm may take beyond one for each site that is known. */
#define SP_UNMERGE_ANSWERS 1024u

static void sp_unmerge_begin(struct sp_mm *mm)
{
    mm->unmerge_from = 0;
    mm->unmerge_failed = false;
    mm->unmerge_allowed = mm->sites + mm->zero_pages + SP_UNMERGE_ANSWERS;
}

/* Un-merges one portion of an mm. 1: there is more; 0: done; or a negative errno. */
static int sp_unmerge_portion(struct sp_mm *mm)
{
    struct sp_engine *engine = mm->engine;
    uint64_t from = mm->unmerge_from, next = from, npages = 0;
    int status;

    if (mm->unmerge_allowed == 0)
        return -EBUSY;
    mm->unmerge_allowed--;
    mm->restart = true;
    status = engine->ops->unmerge(engine->ctx, mm->ref, from, UINT64_MAX, &next, &npages);
    if (status == 0 && (next == 0 || next >= SP_ADDRESS_END)) {
        sp_item_forget_range(mm, from, UINT64_MAX, SP_ITEM_SITE);
        return 0;
    }
    if (next > from && next < SP_ADDRESS_END) {
        sp_item_forget_range(mm, from, next, SP_ITEM_SITE);
        mm->unmerge_from = next;
    }
    return status < 0 ? status : 1;
}

int sp_engine_unmerge_mm(struct sp_engine *engine, struct sp_mm *mm)
{
    int status;

    if (engine->drain.on)
        return -EAGAIN;
    sp_unmerge_begin(mm);
    do
        status = sp_unmerge_portion(mm);
    while (status == 1);
    if (status == 0)
        sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_UNKNOWN);
    sp_item_reclaim(engine);
    if (engine->run == SP_RUN_UNMERGE)
        sp_unmerge_begin(mm); /* the un-merging of everything may be in the middle of it */
    return status;
}

void sp_run_mm_added(struct sp_engine *engine, struct sp_mm *mm)
{
    sp_unmerge_begin(mm);
    if (!engine->unmerge_cursor)
        engine->unmerge_cursor = mm;
}

void sp_engine_set_run(struct sp_engine *engine, enum sp_engine_run run)
{
    engine->run = run;
    engine->unmerge_cursor = NULL;
    engine->unmerge_busy = false;
    engine->unmerge_short = false;
    if (run != SP_RUN_UNMERGE)
        return;
    engine->unmerge_cursor = engine->first;
    for (struct sp_mm *mm = engine->first; mm; mm = mm->next)
        sp_unmerge_begin(mm);
}

/* An mm that still has sites though it could be asked: some were adopted behind the cursor (T3). */
static struct sp_mm *sp_unmerge_left_over(struct sp_engine *engine)
{
    struct sp_mm *mm = engine->first;

    while (mm && (mm->unmerge_failed || !(mm->sites + mm->zero_pages)))
        mm = mm->next;
    if (mm)
        mm->unmerge_from = 0;
    return mm;
}

/* T1, T4: no trace is left of what could be un-merged. */
static int sp_unmerge_finish(struct sp_engine *engine)
{
    for (struct sp_mm *mm = engine->first; mm; mm = mm->next) {
        sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_CANDIDATE);
        sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_REFUSED);
        mm->from = 0;
        mm->restart = true;
        if (mm->sites + mm->zero_pages)
            continue;
        /* Nothing is remembered of it until it is looked at again (K13). */
        sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_UNKNOWN);
        mm->tracked = 0;
    }
    sp_stable_sweep(engine, true);
    sp_item_reclaim(engine);
    sp_engine_trim(engine);
    engine->cursor = engine->first;
    engine->pass_unsettled = true;
    if (engine->unmerge_short) {
        sp_engine_set_run(engine, SP_RUN_STOP);
        return -ENOMEM;
    }
    /* T2: a node that is left without a site is one whose frame something maps. */
    return engine->unmerge_busy || engine->nnodes > engine->nshared ? -EBUSY : 0;
}

int sp_engine_unmerge_step(struct sp_engine *engine)
{
    struct sp_mm *mm = engine->unmerge_cursor;
    int status;

    if (engine->run != SP_RUN_UNMERGE)
        return 0;
    if (engine->drain.on)
        return -EAGAIN;
    if (!mm)
        return sp_unmerge_finish(engine);
    status = sp_unmerge_portion(mm);
    sp_item_reclaim(engine);
    if (status < 0) {
        /* Also where memory is short: it may be so in this mm's cgroup only, or a lie, and the
         * others are to be un-merged all the same. */
        mm->unmerge_failed = true;
        engine->unmerge_busy = true;
        if (status == -ENOMEM)
            engine->unmerge_short = true;
    }
    if (status <= 0)
        engine->unmerge_cursor = mm->next;
    if (!engine->unmerge_cursor)
        engine->unmerge_cursor = sp_unmerge_left_over(engine);
    return engine->unmerge_cursor ? 1 : sp_unmerge_finish(engine);
}

/* A candidate with the node's content waits for a page to be reported, which none will be: its mm
 * is asked for its pages again. */
static void sp_adopt_meets(struct sp_engine *engine, uint32_t item, uint64_t fingerprint)
{
    uint32_t candidate = sp_item_candidate(engine, fingerprint);

    if (candidate != SP_NONE && candidate != item)
        sp_policy_retry_later(sp_item_mm(engine, candidate));
}

static int sp_adopt_page(struct sp_engine *engine, struct sp_mm *mm, uint64_t addr, sp_frame frame,
                         const struct sp_hash *hash)
{
    uint32_t item = sp_item_get(mm, addr, true);
    int status;

    if (item == SP_NONE)
        return -ENOMEM;
    if (sp_item_frame(mm, addr) == frame)
        return 0;
    if (!sp_stable_node(engine, frame)) {
        status = sp_stable_add(engine, frame, hash->lo, 0);
        if (status != 0)
            return status;
    }
    /* Also where the node is there: a merge whose answer was lost leaves one without a site. */
    if (sp_stable_node(engine, frame)->nsites == 0)
        sp_adopt_meets(engine, item, sp_stable_node(engine, frame)->fingerprint);
    if (sp_stable_node(engine, frame)->nsites == SP_SITES_MAX)
        return -ENOSPC;
    sp_item_set_site(engine, item, frame);
    return 0;
}

int sp_engine_adopt(struct sp_engine *engine, struct sp_mm *mm, uint64_t addr, sp_frame first,
                    unsigned n, const struct sp_hash *hash)
{
    int status = 0;

    if (addr % engine->page_size || addr >= SP_ADDRESS_END || SP_FRAME_SEGMENT(first) == 0 ||
        n > SP_SEGMENT_PAGES_MAX - SP_FRAME_INDEX(first))
        return -EINVAL;
    for (unsigned i = 0; i < n && status == 0; i++)
        status = sp_adopt_page(engine, mm, addr + i * engine->page_size, first + i, &hash[i]);
    sp_item_reclaim(engine);
    return status;
}

bool sp_engine_frame_known(const struct sp_engine *engine, sp_frame frame, struct sp_hash *hash)
{
    const struct sp_node *node = sp_stable_node(engine, frame);

    if (node && hash)
        *hash = (struct sp_hash){sp_node_key(engine, node->fingerprint, node->node), 0};
    return node != NULL;
}
