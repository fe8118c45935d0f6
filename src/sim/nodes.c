/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory by node (N), and nodes and segments that go away (H): the kernel's part of it, and what
 * samepaged does around the engine's.
 */
#include "sim.h"

#include <errno.h>

static bool has_room(const struct sim *sim, unsigned node)
{
    return !sim->node_off[node] && sim->drain_node != (int)node &&
           sim->node_used[node] < sim->node_room[node];
}

/* The first node from wanted on that has room; -1: none has. */
static int node_for(const struct sim *sim, unsigned wanted, bool strict)
{
    for (unsigned i = 0; i < (strict ? 1 : SIM_NODES); i++)
        if (has_room(sim, (wanted + i) % SIM_NODES))
            return (int)((wanted + i) % SIM_NODES);
    return -1;
}

int sim_memory_take(struct sim *sim, unsigned node, bool strict)
{
    int on = sim->memory_used < sim->memory_limit ? node_for(sim, node, strict) : -1;

    if (on < 0)
        return -1;
    sim->memory_used++;
    sim->node_used[on]++;
    return on;
}

void sim_memory_give(struct sim *sim, unsigned node)
{
    sim->memory_used--;
    sim->node_used[node]--;
}

void sim_frame_migrate(struct sim *sim, struct sim_frame *frame, unsigned node)
{
    sim->node_used[frame->node]--;
    sim->node_used[node]++;
    frame->node = (uint8_t)node;
}

int op_frame_migrate(void *ctx, sp_frame number, unsigned *node)
{
    struct sim *sim = ctx;
    struct sim_frame *frame = sim_frame(sim, number);
    int to;

    sim_go_on(sim);
    if (frame->out)
        return 0; /* a program had no part in it: it left memory meanwhile */
    to = node_for(sim, (frame->node + 1u) % SIM_NODES, false);
    if (to < 0)
        return -ENOMEM;
    if (frame->node == sim->drain_node)
        sim_frame_migrate(sim, frame, (unsigned)to);
    *node = frame->node;
    sim_took(sim, SIM_P_H3_MIGRATED);
    return 0;
}

int op_frame_move(void *ctx, sp_frame from, sp_frame to)
{
    struct sim *sim = ctx;
    struct sim_frame *old = sim_frame(sim, from), *new = sim_frame(sim, to);
    uint8_t node = new->node;

    sim_go_on(sim);
    if (sim->chance && sim_below(&sim->draw, 16) == 0)
        return -EBUSY;
    if (new->state != SIM_TAKEN)
        sim_fail(sim, "H3: frame %x moves to %x, which is in state %u", from, to, new->state);
    if (!old->out)
        sim_memory_give(sim, old->node);
    else
        sim_memory_give(sim, node);
    *new = *old;
    if (!old->out)
        new->node = node;
    new->moved = new->moved || !old->out;
    sim->news++;
    *old = (struct sim_frame){0};
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            if (sim->mm[m].page[i].frame == from)
                sim->mm[m].page[i].frame = to;
    sim_took(sim, SIM_P_H3_RENUMBERED);
    return 0;
}

/* ---- going away ---- */

static void drain_over(struct sim *sim)
{
    sim->drain_node = sim->drain_segment = -1;
}

void sim_drain_begin(struct sim *sim, uint32_t kind, uint32_t number)
{
    bool by_node = kind % 2;
    unsigned left = 0;
    int err;

    number = by_node ? number % SIM_NODES : 1 + number % SIM_SEGMENTS;
    for (unsigned n = 0; n < SIM_NODES; n++)
        left += !sim->node_off[n];
    if (!sim->engine || (by_node ? sim->node_off[number] || left == 1 : sim->segment_off[number]))
        return;
    err = sp_engine_drain_begin(sim->engine, by_node ? SP_DRAIN_NODE : SP_DRAIN_SEGMENT, number);
    if (err)
        return;
    if (by_node)
        sim->drain_node = (int)number;
    else
        sim->drain_segment = (int)number;
}

static bool is_draining(const struct sim *sim)
{
    return sim->drain_node >= 0 || sim->drain_segment >= 0;
}

void sim_drain_step(struct sim *sim)
{
    int status;

    if (!sim->engine || !is_draining(sim))
        return;
    sim->stepped = true;
    sim->depth++;
    status = sp_engine_drain_step(sim->engine);
    sim->depth--;
    sim_tell(sim);
    if (status >= 0)
        return;
    if (sim->engine->drain.on)
        sim_fail(sim, "H5: a drain that failed goes on");
    if (status == -ENOMEM)
        sim_took(sim, SIM_P_H5_NO_ROOM);
    drain_over(sim);
}

static bool is_in(const struct sim *sim, const struct sim_frame *frame)
{
    if (sim->drain_node >= 0)
        return frame->node == sim->drain_node && !frame->out;
    return SP_FRAME_SEGMENT(sim_frame_number(sim, frame)) == (uint32_t)sim->drain_segment;
}

/* The kernel moves all other memory of the node. */
static bool move_the_rest(struct sim *sim)
{
    for (unsigned m = 0; sim->drain_node >= 0 && m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            struct sim_anon *anon = sim->mm[m].page[i].anon;
            int to = node_for(sim, (unsigned)sim->drain_node, false);

            if (!anon || anon->node != sim->drain_node)
                continue;
            if (to < 0 || anon->pins)
                return false;
            sim_anon_move(sim, anon, (unsigned)to);
        }
    return true;
}

/* Whether what the engine knows nothing of can go: a node's frames move, a segment's cannot. */
static bool strangers_go(struct sim *sim)
{
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        struct sim_frame *frame = &sim->frame[at];
        const struct sp_node *node = sp_stable_node(sim->engine, sim_frame_number(sim, frame));
        int to;

        if (frame->state == SIM_FREE || !is_in(sim, frame) || !frame->maps ||
            (node && node->nsites))
            continue;
        to = sim->drain_node < 0 ? -1 : node_for(sim, (unsigned)sim->drain_node, false);
        if (to < 0)
            return false;
        sim_frame_migrate(sim, frame, (unsigned)to);
        frame->moved = 1;
        sim->news++;
    }
    sim_tell(sim);
    return true;
}

/* H4: frames that nobody maps are not moved: they vanish with the memory. */
static void vanish(struct sim *sim)
{
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        struct sim_frame *frame = &sim->frame[at];

        if (frame->state == SIM_FREE || !is_in(sim, frame))
            continue;
        if (frame->maps)
            sim_fail(sim, "H3: frame %u vanishes and is mapped %u times", at, frame->maps);
        if (!frame->out)
            sim_memory_give(sim, frame->node);
        sim_slot_free(sim, frame);
        sim_frame_set(sim, frame, SIM_FREE);
        *frame = (struct sim_frame){0};
    }
}

/* samepaged tells the engine that the memory is gone. */
static bool go_away(struct sim *sim)
{
    struct sp_engine_counters before, after;
    int status;

    do
        status = sp_engine_drain_step(sim->engine);
    while (status == 1);
    if (status != 0 || !sim->engine->drain.on || !move_the_rest(sim) || !strangers_go(sim))
        return false;
    sim_tell(sim);
    sp_engine_counters(sim->engine, &before);
    if (sp_engine_drain_end(sim->engine, true) != 0)
        return false;
    sp_engine_counters(sim->engine, &after);
    sim->count[SIM_P_H4_PRUNED] += after.frames_pruned - before.frames_pruned;
    vanish(sim);
    if (sim->drain_node >= 0 && sim->node_used[sim->drain_node])
        sim_fail(sim, "H3: node %d is off with %u pages", sim->drain_node,
                 sim->node_used[sim->drain_node]);
    if (sim->drain_node >= 0)
        sim->node_off[sim->drain_node] = true;
    else
        sim->segment_off[sim->drain_segment] = true;
    return true;
}

void sim_drain_finish(struct sim *sim, bool gone)
{
    bool done;

    if (!sim->engine || !is_draining(sim))
        return;
    sim->stepped = true;
    sim->depth++;
    sim->chance = 0; /* from the last look on nothing runs */
    done = gone && go_away(sim);
    sim->depth--;
    sim_took(sim, done ? SIM_P_H2_DONE : SIM_P_H2_CANCELLED);
    if (!done && sim->engine->drain.on)
        (void)sp_engine_drain_end(sim->engine, false);
    drain_over(sim);
    sim_tell(sim);
}

void sim_online(struct sim *sim)
{
    for (unsigned n = 0; n < SIM_NODES; n++)
        sim->node_off[n] = false;
    for (unsigned s = 0; s <= SIM_SEGMENTS; s++)
        sim->segment_off[s] = false;
}
