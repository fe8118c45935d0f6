/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of zeros (K15): they need no frame, for the kernel has one for all. Such a page is a site
 * of frame 0 here: it is counted apart, and un-merged, written and forgotten as others are.
 */
#include "types.h"

#include <errno.h>

int sp_engine_set_use_zero_pages(struct sp_engine *engine, bool use)
{
    if (use && !engine->ops->zero)
        return -EOPNOTSUPP;
    for (struct sp_mm *mm = engine->first; use && !engine->use_zero_pages && mm; mm = mm->next)
        mm->restart = true; /* such pages may wait as candidates */
    engine->use_zero_pages = use;
    return 0;
}

bool sp_zero_is(const struct sp_engine *engine, const struct sp_hash *hash)
{
    return engine->use_zero_pages && hash->lo == engine->zero_hash.lo &&
           hash->hi == engine->zero_hash.hi;
}

int sp_engine_adopt_zero(struct sp_engine *engine, struct sp_mm *mm, uint64_t addr, unsigned n)
{
    if (addr % engine->page_size || addr >= SP_ADDRESS_END)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        uint32_t item = sp_item_get(mm, addr + i * engine->page_size, true);

        if (item == SP_NONE) {
            sp_item_reclaim(engine);
            return -ENOMEM;
        }
        sp_item_set_zero(engine, item);
    }
    sp_item_reclaim(engine);
    return 0;
}

void sp_zero_batch(struct sp_engine *engine)
{
    struct sp_batch *batch = engine->batch;
    struct sp_merge_page *page = batch->merge;
    uint32_t n = 0;

    for (uint32_t i = 0; i < batch->nplans; i++)
        if (batch->plan[i].kind == SP_PLAN_ZERO) {
            batch->target[n] = (struct sp_target){.item = batch->plan[i].item};
            page[n++] = (struct sp_merge_page){
                .addr = batch->plan[i].addr,
                .break_fork = 1, /* there always is another site: as for a node that has one (K8) */
                .node = SP_NODE_ANY,
                .result = SP_CHANGED};
        }
    if (n == 0 || batch->mm_failed)
        return;
    if (engine->ops->zero(engine->ctx, batch->mm->ref, page, n) < 0) {
        batch->mm_failed = true;
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint8_t result = page[i].result < SP_RESULTS ? page[i].result : SP_CHANGED;

        engine->merges[result]++;
        if (result != SP_MERGED) {
            sp_merge_reject(engine, batch->target[i].item, result);
            continue;
        }
        sp_item_set_zero(engine, batch->target[i].item);
        batch->mm->merged_in_retry = true;
        engine->pass_merges++;
    }
}
