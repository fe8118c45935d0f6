/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that goes away (H): a node, or a segment of the pool. Frames of a node keep their number
 * and move beneath it; those of a segment get other numbers, which are entered in their sites'
 * items in one walk for each segment.
 */
#include "types.h"

#include <errno.h>

int sp_engine_drain_begin(struct sp_engine *engine, enum sp_drain_kind kind, uint32_t number)
{
    bool by_node = kind == SP_DRAIN_NODE;

    if (engine->drain.on)
        return -EBUSY;
    if (by_node ? !engine->ops->frame_migrate : !engine->ops->frame_move)
        return -EOPNOTSUPP;
    engine->drain = (struct sp_drain){.on = true, .by_node = by_node, .what = number};
    return 0;
}

/* One frame of the node that goes away. Those in the store are in no node's memory. */
static int sp_drain_migrate(struct sp_engine *engine, sp_frame frame, void *arg)
{
    const struct sp_node *node = sp_stable_node(engine, frame);
    unsigned to = node->node;
    int status;

    if (node->node != engine->drain.what || node->evicted || node->nsites == 0)
        return 0;
    status = engine->ops->frame_migrate(engine->ctx, frame, &to);
    if (status == 0)
        sp_engine_frame_moved(engine, frame, to);
    return status;
}

/* A frame elsewhere, with a node for the content of another. -ENOMEM: none. */
static int sp_drain_new_frame(struct sp_engine *engine, const struct sp_node *like, sp_frame *frame)
{
    unsigned got, node = engine->merge_across_nodes ? SP_NODE_ANY : like->node;
    int status = -ENOMEM;

    *frame = engine->ops->frame_alloc(engine->ctx, &node, 1, &got);
    if (!*frame)
        return -ENOMEM;
    if (SP_FRAME_SEGMENT(*frame) != engine->drain.what)
        status = sp_stable_add(engine, *frame, like->fingerprint,
                               node < SP_NODES_MAX ? node : like->node);
    if (status != 0)
        engine->ops->frame_free_unused(engine->ctx, *frame, 1);
    return status;
}

/* One frame of the segment that goes away; arg is where its new number is noted. */
static int sp_drain_move(struct sp_engine *engine, sp_frame frame, void *arg)
{
    sp_frame *moved = arg, to;
    const struct sp_node *node = sp_stable_node(engine, frame);
    int status;

    if (node->nsites == 0)
        return 0;
    status = sp_drain_new_frame(engine, node, &to);
    if (status != 0)
        return status;
    status = engine->ops->frame_move(engine->ctx, frame, to);
    if (status != 0) {
        sp_stable_remove(engine, to);
        engine->ops->frame_free_unused(engine->ctx, to, 1);
        return status;
    }
    moved[SP_FRAME_INDEX(frame)] = to;
    sp_stable_transfer(engine, frame, to);
    return 0;
}

static int sp_drain_segment(struct sp_engine *engine)
{
    size_t size = SP_SEGMENT_PAGES_MAX * sizeof(sp_frame);
    sp_frame *moved = sp_memory_get(engine, size);
    int status;

    if (!moved)
        return -ENOMEM;
    status = sp_stable_each(engine, engine->drain.what, sp_drain_move, moved);
    sp_item_renumber(engine, engine->drain.what, moved);
    sp_memory_put(engine, moved, size);
    return status;
}

int sp_engine_drain_step(struct sp_engine *engine)
{
    struct sp_drain *drain = &engine->drain;
    int status;

    if (!drain->on)
        return -EINVAL;
    if (drain->by_node)
        status = sp_stable_each(engine, drain->next++, sp_drain_migrate, NULL);
    else
        status = sp_drain_segment(engine);
    if (status != 0) {
        *drain = (struct sp_drain){0};
        return status;
    }
    if (drain->by_node && drain->next < engine->nsegments)
        return 1;
    drain->next = 0;
    return 0;
}

static bool sp_drain_has(const struct sp_engine *engine, sp_frame frame)
{
    const struct sp_node *node = sp_stable_node(engine, frame);

    if (engine->drain.by_node)
        return node->node == engine->drain.what && !node->evicted;
    return SP_FRAME_SEGMENT(frame) == engine->drain.what;
}

static int sp_drain_used(struct sp_engine *engine, sp_frame frame, void *arg)
{
    return sp_drain_has(engine, frame) && sp_stable_node(engine, frame)->nsites ? -EBUSY : 0;
}

static int sp_drain_prune(struct sp_engine *engine, sp_frame frame, void *arg)
{
    if (!sp_drain_has(engine, frame))
        return 0;
    sp_stable_remove(engine, frame);
    engine->pruned++;
    return 0;
}

int sp_engine_drain_end(struct sp_engine *engine, bool gone)
{
    if (!engine->drain.on)
        return -EINVAL;
    if (gone && sp_stable_each(engine, SP_NONE, sp_drain_used, NULL))
        return -EBUSY;
    if (gone)
        (void)sp_stable_each(engine, SP_NONE, sp_drain_prune, NULL);
    engine->drain = (struct sp_drain){0};
    return 0;
}
