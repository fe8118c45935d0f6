/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NUMA nodes (N). Without merge_across_nodes pages merge only with pages of their own node. Each
 * node's frames and candidates then stand in the same tables under fingerprints of their own: the
 * hash, mixed with the node's number. So two nodes cost no more than one.
 */
#include "types.h"

#include <errno.h>

uint64_t sp_node_key(const struct sp_engine *engine, uint64_t fingerprint, unsigned node)
{
    if (engine->merge_across_nodes)
        return fingerprint;
    return fingerprint ^ node * UINT64_C(0x9e3779b97f4a7c15);
}

int sp_engine_set_merge_across_nodes(struct sp_engine *engine, bool across)
{
    if (engine->merge_across_nodes == across)
        return 0;
    if (engine->nshared)
        return -EBUSY;
    sp_stable_sweep(engine, true);
    if (engine->nnodes)
        return -EBUSY;
    for (struct sp_mm *mm = engine->first; mm; mm = mm->next) {
        sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_CANDIDATE);
        mm->restart = true;
    }
    sp_item_reclaim(engine);
    engine->merge_across_nodes = across;
    engine->pass_unsettled = true;
    return 0;
}

void sp_engine_frame_moved(struct sp_engine *engine, sp_frame frame, unsigned node)
{
    if (sp_stable_node(engine, frame) && node < SP_NODES_MAX)
        sp_stable_refile(engine, frame, node);
}
