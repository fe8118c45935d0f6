/* SPDX-License-Identifier: Apache-2.0 */
/* What samepaged does around the engine: who joins, who leaves, what is swept. */
#include "sim.h"

#include <errno.h>

/* Its sites are known to the engine again, or it is not in the engine at all. */
static bool adopt(struct sim_mm *mm)
{
    struct sim *sim = mm->sim;

    for (uint32_t i = 0; i < SIM_PAGES; i++) {
        struct sp_hash hash;
        struct sim_frame *frame;

        if (mm->page[i].zero && sp_engine_adopt_zero(sim->engine, mm->mm, sim_addr(i), 1))
            return false;
        if (!sim_is_site(&mm->page[i]))
            continue;
        frame = sim_frame(sim, mm->page[i].frame);
        if (!sp_engine_frame_known(sim->engine, mm->page[i].frame, &hash))
            hash = sim_hash(frame->content);
        if (sp_engine_adopt(sim->engine, mm->mm, sim_addr(i), mm->page[i].frame, 1, &hash)) {
            /* The node may be there, and its site not: the engine forgets it by itself. */
            if (sp_engine_frame_known(sim->engine, mm->page[i].frame, NULL))
                sim_frame_set(sim, frame, SIM_FILLED);
            return false;
        }
        sim_frame_set(sim, frame, SIM_FILLED);
        if (frame->out)
            sp_engine_frame_out(sim->engine, mm->page[i].frame);
        else
            sp_engine_frame_moved(sim->engine, mm->page[i].frame, frame->node);
        sim_took(sim, SIM_P_K8_ADOPTED);
    }
    return true;
}

void sim_daemon_join(struct sim_mm *mm)
{
    struct sim *sim = mm->sim;

    if (!mm->alive || mm->mm || mm->agent == SIM_AGENT_DEAD || mm->held || !sim->engine)
        return;
    sim->stepped = true;
    mm->mm = sp_engine_mm_add(sim->engine, mm);
    if (!mm->mm) {
        sim_took(sim, SIM_P_ENGINE_MEMORY);
        return;
    }
    if (sp_engine_run(sim->engine) == SP_RUN_UNMERGE)
        sim_took(sim, SIM_P_T3_ADDED);
    if (adopt(mm)) {
        mm->agent = SIM_AGENT_WELL;
        return;
    }
    sim_took(sim, SIM_P_ENGINE_MEMORY);
    sp_engine_mm_remove(sim->engine, mm->mm);
    mm->mm = NULL;
    mm->agent = SIM_AGENT_NONE;
}

void sim_daemon_settle(struct sim *sim)
{
    sim_tell(sim);
    for (unsigned i = 0; i < SIM_MMS; i++) {
        struct sim_mm *mm = &sim->mm[i];

        if (!mm->leave && !(mm->mm && mm->agent == SIM_AGENT_DEAD))
            continue;
        mm->leave = false;
        sim->stepped = true;
        if (mm->mm)
            sp_engine_mm_remove(sim->engine, mm->mm);
        mm->mm = NULL;
        if (mm->alive)
            sim_daemon_join(mm);
    }
    sim_frames_sweep(sim);
}

void sim_daemon_begin(struct sim *sim)
{
    struct sp_engine_config config = {.ops = &sim_ops,
                                      .ctx = sim,
                                      .page_size = SIM_PAGE,
                                      .zero_hash = sim_hash(0),
                                      .blocks_from = 1};

    sim->engine = sp_engine_new(&config);
}

void sim_daemon_take_over(struct sim *sim)
{
    for (unsigned i = 0; i < SIM_MMS; i++)
        sim_daemon_join(&sim->mm[i]);
    sim_frames_sweep(sim);
}

void sim_daemon_start(struct sim *sim)
{
    sim_daemon_begin(sim);
    sim_daemon_take_over(sim);
}

void sim_daemon_kill(struct sim *sim)
{
    sp_engine_free(sim->engine);
    sim->engine = NULL;
    sim->drain_node = sim->drain_segment = -1;
    sim->news = 0;
    for (unsigned i = 0; i < SIM_MMS; i++) {
        sim->mm[i].mm = NULL;
        sim->mm[i].leave = false;
        if (sim->mm[i].agent == SIM_AGENT_STALLED)
            sim->mm[i].agent = SIM_AGENT_WELL; /* as far as the next daemon knows */
    }
    /* What the next one is told of is taken over; the rest is nobody's. */
    for (uint32_t at = 0; at < SIM_FRAMES; at++)
        if (sim->frame[at].state != SIM_FREE) {
            sim_frame_set(sim, &sim->frame[at], SIM_FORGOTTEN);
            sim->frame[at].back = sim->frame[at].lost = sim->frame[at].moved = 0;
        }
}

void sim_daemon_step(struct sim *sim, uint32_t budget)
{
    struct sp_engine_counters before, after;
    bool done;

    sp_engine_counters(sim->engine, &before);
    sim->stepped = true;
    sim->depth++;
    (void)sp_engine_step(sim->engine, budget, &done);
    sim->depth--;
    sp_engine_counters(sim->engine, &after);
    sim->count[SIM_P_K7_UNDONE] += after.undone - before.undone;
    sim->count[SIM_P_K16_SKIPPED] += after.pages_skipped - before.pages_skipped;
    if (sim->engine->drain.on)
        sim_took(sim, SIM_P_H2_WAITED);
    if (sim->engine->drain.on && after.pages_scanned != before.pages_scanned)
        sim_fail(sim, "H2: pages are scanned while a drain runs");
    sim_daemon_settle(sim);
}

int sim_daemon_run2(struct sim *sim, unsigned portions)
{
    uint64_t mapped = sim->count[SIM_P_T2_MAPPED];
    int more = 1;

    if (sp_engine_run(sim->engine) != SP_RUN_UNMERGE)
        sp_engine_set_run(sim->engine, SP_RUN_UNMERGE);
    sim->stepped = true;
    while (more == 1 && portions--) {
        sim->depth++;
        more = sp_engine_unmerge_step(sim->engine);
        sim->depth--;
        sim_daemon_settle(sim);
    }
    if (more == 1)
        return more;
    if (more == -EAGAIN) {
        sim_took(sim, SIM_P_H2_WAITED);
        return more;
    }
    sim_took(sim, more == 0 ? SIM_P_K13_DONE : more == -ENOMEM ? SIM_P_K13_NOMEM : SIM_P_K13_BUSY);
    if (more == -EBUSY && !sim->engine->unmerge_busy && mapped == sim->count[SIM_P_T2_MAPPED])
        sim_fail(sim, "T1: stable nodes are left, and nothing maps their frames");
    if (more == -ENOMEM && sp_engine_run(sim->engine) != SP_RUN_STOP)
        sim_fail(sim, "K13: run is %d after memory was short", sp_engine_run(sim->engine));
    for (unsigned i = 0; (more == 0 || more == -ENOMEM) && sim->chance == 0 && i < SIM_MMS; i++)
        for (uint32_t k = 0; k < SIM_PAGES; k++)
            if (sim->mm[i].mm && !(more && sim->mm[i].mm->unmerge_failed) &&
                (sim_is_site(&sim->mm[i].page[k]) || sim->mm[i].page[k].zero))
                sim_fail(sim, "K13: process %u has a site left", i);
    if (more == 0 && sim->chance == 0 && sim->engine->nnodes)
        sim_fail(sim, "T1: %u stable nodes are left", (unsigned)sim->engine->nnodes);
    return more;
}
