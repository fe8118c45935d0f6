/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that leave memory (S). The engine decides which and when; how a frame leaves all its sites
 * at once, and how a site that is touched gets it back, is the outside's. A frame in the store
 * stays a stable node: pages that equal it merge into it (S9), and it goes with its last site as
 * any other (S10).
 */
#include "types.h"

#include <errno.h>

struct sp_reclaim_state {
    sp_frame from, to; /* frames looked at */
    uint32_t want, group;
    struct sp_reclaimed *out;
};

/* The one frame under the hand (S2 to S5). */
static void sp_swap_out(struct sp_engine *engine, sp_frame frame, uint32_t group,
                        struct sp_reclaimed *out)
{
    const struct sp_engine_ops *ops = engine->ops;

    switch (ops->frame_referenced(engine->ctx, frame, group)) {
    case SP_USE_SINCE:
        out->referenced++;
        engine->second_chances++;
        return;
    case SP_USE_LATER:
        return;
    case SP_USE_NONE:
        break;
    }
    if (ops->frame_locked(engine->ctx, frame)) {
        out->locked++;
        return;
    }
    switch (ops->frame_evict(engine->ctx, frame)) {
    case SP_EVICTED_DONE:
        sp_stable_set_evicted(engine, frame, true);
        engine->evictions++;
        out->evicted++;
        break;
    case SP_EVICTED_AGAIN:
        out->again++;
        break;
    case SP_EVICTED_CANNOT:
        out->cannot++;
        break;
    case SP_EVICTED_LATER:
        out->later++;
        break;
    }
}

static int sp_swap_look(struct sp_engine *engine, sp_frame frame, void *arg)
{
    struct sp_reclaim_state *state = arg;
    const struct sp_node *node = sp_stable_node(engine, frame);

    if (frame < state->from || frame >= state->to)
        return 0;
    if (node->nsites && !node->evicted && !node->lost)
        sp_swap_out(engine, frame, state->group, state->out);
    if (state->out->evicted + state->out->later < state->want)
        return 0;
    engine->reclaim_hand = frame + 1;
    return 1;
}

int sp_engine_reclaim(struct sp_engine *engine, uint32_t want, uint32_t group,
                      struct sp_reclaimed *out)
{
    sp_frame hand = engine->reclaim_hand;
    struct sp_reclaim_state state = {
        .from = hand, .to = UINT32_MAX, .want = want, .group = group, .out = out};

    *out = (struct sp_reclaimed){0};
    if (!engine->ops->frame_evict)
        return -EOPNOTSUPP;
    if (engine->drain.on)
        return -EAGAIN;
    /* Once round, from the hand to the hand: what was used just now is not asked again (S2). */
    if (want == 0 || sp_stable_each(engine, SP_NONE, sp_swap_look, &state))
        return 0;
    state.from = 0;
    state.to = hand;
    if (!sp_stable_each(engine, SP_NONE, sp_swap_look, &state))
        engine->reclaim_hand = 0;
    return 0;
}

void sp_engine_frame_out(struct sp_engine *engine, sp_frame frame)
{
    if (sp_stable_node(engine, frame))
        sp_stable_set_evicted(engine, frame, true);
}

void sp_engine_frame_left(struct sp_engine *engine, sp_frame frame)
{
    engine->evictions++;
    sp_engine_frame_out(engine, frame);
}

void sp_engine_frames_spared(struct sp_engine *engine, uint32_t n)
{
    engine->second_chances += n;
}

void sp_engine_frame_returned(struct sp_engine *engine, sp_frame frame)
{
    if (sp_stable_node(engine, frame))
        sp_stable_set_evicted(engine, frame, false);
}

bool sp_engine_frame_is_out(const struct sp_engine *engine, sp_frame frame)
{
    const struct sp_node *node = sp_stable_node(engine, frame);

    return node && node->evicted;
}

void sp_engine_frame_back(struct sp_engine *engine, sp_frame frame, unsigned node)
{
    if (!sp_stable_node(engine, frame))
        return;
    sp_stable_set_evicted(engine, frame, false);
    sp_engine_frame_moved(engine, frame, node);
}

void sp_engine_frame_lost(struct sp_engine *engine, sp_frame frame)
{
    engine->store_errors++;
    if (sp_stable_node(engine, frame))
        sp_stable_set_lost(engine, frame);
}

bool sp_engine_frame_returns_shared(const struct sp_engine *engine, sp_frame frame)
{
    const struct sp_node *node = sp_stable_node(engine, frame);

    return node && node->nsites && engine->run != SP_RUN_UNMERGE;
}

int sp_swap_in(struct sp_engine *engine, sp_frame frame)
{
    unsigned node = sp_stable_node(engine, frame)->node;
    int status;

    if (!sp_stable_node(engine, frame)->evicted)
        return 0;
    status = engine->ops->frame_bring_back(engine->ctx, frame, &node);
    if (status == 0)
        sp_engine_frame_back(engine, frame, node);
    else if (status != -ENOMEM)
        sp_engine_frame_lost(engine, frame);
    return status;
}
