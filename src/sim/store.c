/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The swap device and its cache (S): slots, of which there are few, that take time to write, fail
 * to be read, or give other bytes. A frame that comes back keeps its slot while slots are not
 * short.
 */
#include "sim.h"

#include <errno.h>

#define WRITE_TAKES 3u /* steps */

static struct sim_slot *slot_of(struct sim *sim, const struct sim_frame *frame)
{
    return &sim->slot[frame->slot - 1];
}

void sim_slot_free(struct sim *sim, struct sim_frame *frame)
{
    if (frame->slot)
        *slot_of(sim, frame) = (struct sim_slot){0};
    frame->slot = 0;
}

/* A free slot, plus 1; or that of a frame in memory; 0: none. */
static unsigned slot_new(struct sim *sim)
{
    for (unsigned i = 0; i < sim->slots; i++)
        if (sim->slot[i].state == SIM_SLOT_FREE)
            return i + 1;
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        struct sim_frame *frame = &sim->frame[at];
        unsigned slot = frame->slot;

        if (!slot || slot > sim->slots || frame->out ||
            slot_of(sim, frame)->state == SIM_SLOT_WRITING)
            continue;
        sim_slot_free(sim, frame);
        return slot;
    }
    return 0;
}

bool sim_store_reads(struct sim *sim, struct sim_frame *frame)
{
    const struct sim_slot *slot = frame->slot ? slot_of(sim, frame) : NULL;

    if (!slot || (!slot->broken && !slot->corrupt))
        return true;
    sim_took(sim, slot->broken ? SIM_P_S8_ERROR : SIM_P_S8_CORRUPT);
    frame->lost = 1;
    sim->news++;
    return false;
}

/* The frame is in memory again, with its slot. */
static bool bring_in(struct sim *sim, struct sim_frame *frame)
{
    int node = sim_memory_take(sim, frame->node, false);

    if (node < 0)
        return false;
    frame->node = (uint8_t)node;
    frame->out = 0;
    return true;
}

static bool come_back_shared(struct sim_mm *mm, const struct sim_page *page)
{
    struct sim *sim = mm->sim;
    struct sim_frame *frame = sim_frame(sim, page->frame);

    if (sim->real) { /* whoever serves the fault knows nothing of the engine (decision 0023) */
        if (!bring_in(sim, frame))
            return false;
        frame->back = sim->engine && sp_engine_frame_known(sim->engine, page->frame, NULL);
        sim->news += frame->back;
        return true;
    }
    if (page->stray || !sim->engine || sim->pool_fails ||
        !sp_engine_frame_returns_shared(sim->engine, page->frame) || !bring_in(sim, frame))
        return false;
    if (sp_engine_run(sim->engine) == SP_RUN_UNMERGE)
        sim_fail(sim, "S11: frame %x comes back shared while all is un-merged", page->frame);
    frame->back = 1;
    sim->news++;
    sim_took(sim, SIM_P_S6_SHARED);
    return true;
}

bool sim_touch(struct sim_mm *mm, uint32_t i)
{
    struct sim *sim = mm->sim;
    struct sim_page *page = &mm->page[i];
    bool stray = page->stray;

    sim_used(mm, i);
    if (!page->frame || (!sim_frame(sim, page->frame)->out && !stray))
        return true;
    if (sim_frame(sim, page->frame)->out && !sim_store_reads(sim, sim_frame(sim, page->frame)))
        return false; /* SIGBUS */
    if (come_back_shared(mm, page))
        return true;
    if (!sim_page_copy(mm, i))
        return false;
    page->dirty = 1; /* a page of its own, which a later pass looks at */
    sim_took(sim, stray || (sim->engine && sp_engine_run(sim->engine) == SP_RUN_UNMERGE)
                      ? SIM_P_S11_COPY
                      : SIM_P_S6_COPY);
    return true;
}

void sim_tell(struct sim *sim)
{
    if (!sim->news || !sim->engine)
        return;
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        struct sim_frame *frame = &sim->frame[at];
        sp_frame number = sim_frame_number(sim, frame);

        if (frame->back)
            sp_engine_frame_back(sim->engine, number, frame->node);
        if (frame->moved)
            sp_engine_frame_moved(sim->engine, number, frame->node);
        if (frame->lost)
            sp_engine_frame_lost(sim->engine, number);
        frame->back = frame->moved = frame->lost = 0;
    }
    sim->news = 0;
    sim->stepped = true;
}

static bool any_site(struct sim *sim, sp_frame frame, bool (*is)(struct sim_page *page),
                     uint32_t group)
{
    bool any = false;

    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            if (sim->mm[m].page[i].frame == frame && (!group || m % SIM_GROUPS + 1 == group))
                any |= is(&sim->mm[m].page[i]);
    return any;
}

static bool is_locked(struct sim_page *page)
{
    return page->locked;
}

static bool is_used(struct sim_page *page)
{
    return page->used;
}

static bool was_used(struct sim_page *page)
{
    bool used = page->used;

    page->used = 0;
    return used;
}

bool op_frame_locked(void *ctx, sp_frame frame)
{
    bool locked = any_site(ctx, frame, is_locked, 0);

    if (locked)
        sim_took(ctx, SIM_P_S4_LOCKED);
    return locked;
}

enum sp_use op_frame_referenced(void *ctx, sp_frame frame, uint32_t group)
{
    struct sim *sim = ctx;
    bool used;

    sim_go_on(sim);
    sim->asked_group = group;
    used = any_site(sim, frame, was_used, group);
    if (used)
        sim_took(sim, SIM_P_S2_CHANCE);
    else if (any_site(sim, frame, is_used, 0))
        sim_took(sim, SIM_P_S5_OTHERS);
    return used ? SP_USE_SINCE : SP_USE_NONE;
}

/* Whether all sites can let go, and none is locked or was used since they were asked. */
static bool sites_let_go(struct sim *sim, sp_frame frame)
{
    if (any_site(sim, frame, is_locked, 0) || any_site(sim, frame, is_used, sim->asked_group))
        return false;
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; sim->mm[m].agent == SIM_AGENT_STALLED && i < SIM_PAGES; i++)
            if (sim->mm[m].page[i].frame == frame)
                return false;
    return true;
}

/* Writes to a slot, which takes some time. */
static enum sp_evicted write_out(struct sim *sim, struct sim_frame *frame)
{
    struct sim_slot *slot;

    if (sim->real)
        return SP_EVICTED_DONE;
    if (!frame->slot) {
        frame->slot = (uint8_t)slot_new(sim);
        if (!frame->slot)
            return SP_EVICTED_CANNOT;
        *slot_of(sim, frame) =
            (struct sim_slot){.state = SIM_SLOT_WRITING, .ready = sim->clock + WRITE_TAKES};
        return SP_EVICTED_AGAIN;
    }
    slot = slot_of(sim, frame);
    if (slot->state == SIM_SLOT_WRITING && sim->clock < slot->ready)
        return SP_EVICTED_AGAIN;
    if (slot->state == SIM_SLOT_WRITING && sim->store_fails) {
        sim_slot_free(sim, frame);
        return SP_EVICTED_CANNOT;
    }
    if (slot->state == SIM_SLOT_STORED)
        sim_took(sim, SIM_P_SWAP_CACHE);
    slot->state = SIM_SLOT_STORED;
    return SP_EVICTED_DONE;
}

enum sp_evicted op_frame_evict(void *ctx, sp_frame number)
{
    struct sim *sim = ctx;
    struct sim_frame *frame = sim_frame(sim, number);
    enum sp_evicted result;

    if (frame->state != SIM_FILLED || (frame->out && !frame->back))
        sim_fail(sim, "S1: frame %x is evicted in state %u", number, frame->state);
    if (any_site(sim, number, is_locked, 0))
        sim_fail(sim, "S4: frame %x is evicted and a site of it is locked", number);
    if (any_site(sim, number, is_used, sim->asked_group))
        sim_fail(sim, "S2: frame %x is evicted and was used", number);
    sim_go_on(sim);
    result = sites_let_go(sim, number) ? write_out(sim, frame) : SP_EVICTED_AGAIN;
    if (result == SP_EVICTED_DONE) {
        sim_memory_give(sim, frame->node);
        frame->out = 1;
        frame->back = 0;
    }
    sim_took(sim, result == SP_EVICTED_DONE    ? SIM_P_S1_EVICTED
                  : result == SP_EVICTED_AGAIN ? SIM_P_S3_AGAIN
                                               : SIM_P_S3_CANNOT);
    return result;
}

int op_frame_bring_back(void *ctx, sp_frame number, unsigned *node)
{
    struct sim *sim = ctx;
    struct sim_frame *frame = sim_frame(sim, number);

    sim_go_on(sim);
    if (frame->out && !sim_store_reads(sim, frame)) {
        frame->lost = 0; /* the answer says it */
        return -EIO;
    }
    if (frame->out && !bring_in(sim, frame))
        return -ENOMEM;
    frame->back = 0;
    *node = frame->node;
    sim_took(sim, SIM_P_S9_MERGED);
    return 0;
}
