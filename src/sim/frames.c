/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: frames by number, taken side by side, freed when nobody maps them (K9). */
#include "sim.h"

struct sp_hash sim_hash(uint32_t content)
{
    uint64_t x = content & ~(SIM_LOOKALIKE | SIM_TWIN);
    struct sp_hash hash = {.lo = sim_random(&x)};

    hash.hi = content & SIM_LOOKALIKE ? ~hash.lo : hash.lo;
    return hash;
}

struct sim_frame *sim_frame(struct sim *sim, sp_frame frame)
{
    uint32_t segment = SP_FRAME_SEGMENT(frame), index = SP_FRAME_INDEX(frame);

    if (segment >= 1 && segment <= SIM_SEGMENTS && index < SIM_SEGMENT)
        return &sim->frame[(segment - 1) * SIM_SEGMENT + index];
    sim_fail(sim, "there is no frame %x", frame);
    return &sim->frame[0];
}

static sp_frame number_of(uint32_t place)
{
    return SP_FRAME(place / SIM_SEGMENT + 1, place % SIM_SEGMENT);
}

sp_frame sim_frame_number(const struct sim *sim, const struct sim_frame *frame)
{
    return number_of((uint32_t)(frame - sim->frame));
}

static bool may_take(const struct sim *sim, uint32_t place)
{
    uint32_t segment = place / SIM_SEGMENT + 1;

    return sim->frame[place].state == SIM_FREE && !sim->segment_off[segment] &&
           sim->drain_segment != (int)segment;
}

sp_frame sim_frame_alloc(struct sim *sim, unsigned *node, unsigned want, unsigned *got)
{
    uint32_t first;

    *got = 0;
    if (sim->pool_fails) {
        sim->pool_fails--;
        return 0;
    }
    for (first = sim->next_frame; first < SIM_FRAMES && !may_take(sim, first); first++)
        ;
    for (uint32_t at = first; at < SIM_FRAMES && *got < want; at++) {
        int on;

        if (!may_take(sim, at) || at / SIM_SEGMENT != first / SIM_SEGMENT)
            break;
        on = sim_memory_take(sim,
                             *node != SP_NODE_ANY ? *node
                             : sim->real          ? 0
                                                  : at % SIM_NODES,
                             *node != SP_NODE_ANY);
        if (on < 0)
            break;
        sim_frame_set(sim, &sim->frame[at], SIM_TAKEN);
        sim->frame[at].node = (uint8_t)on;
        *node = (unsigned)on;
        ++*got;
    }
    sim->next_frame = *got ? first + *got : 0;
    return *got ? number_of(first) : 0;
}

void sim_frame_free(struct sim *sim, sp_frame frame)
{
    struct sim_frame *f = sim_frame(sim, frame);

    if (f->maps)
        sim_fail(sim, "K9: frame %x is freed and mapped %u times", frame, f->maps);
    if (f->state == SIM_FREE)
        sim_fail(sim, "frame %x is freed twice", frame);
    if (sim->engine && sp_stable_node(sim->engine, frame))
        sim_fail(sim, "K9: frame %x is freed and a stable node", frame);
    sim_frame_set(sim, f, SIM_FREE);
    if (!f->out)
        sim_memory_give(sim, f->node);
    if (f->slot)
        sim_took(sim, SIM_P_S10_FREED);
    sim_slot_free(sim, f);
    f->out = f->back = f->lost = f->moved = 0;
}

void sim_frame_set(struct sim *sim, struct sim_frame *frame, enum sim_frame_state state)
{
    sim->forgotten -= frame->state == SIM_FORGOTTEN;
    sim->forgotten += state == SIM_FORGOTTEN;
    frame->state = (uint8_t)state;
}

void sim_frames_sweep(struct sim *sim)
{
    for (uint32_t at = 0; sim->forgotten && at < SIM_FRAMES; at++) {
        if (sim->frame[at].state != SIM_FORGOTTEN)
            continue;
        if (sim->frame[at].maps)
            sim_took(sim, SIM_P_K9_LINGERED);
        else
            sim_frame_free(sim, number_of(at));
    }
}
