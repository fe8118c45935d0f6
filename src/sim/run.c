/* SPDX-License-Identifier: Apache-2.0 */
/* One run: a list of steps on an empty machine, then rest, then the end. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

/* Passes after which whatever can be merged is. Pages passed over are asked for again after at most
 * 64 (policy.c), and a retry takes some more; of relatives that fork shares a page with, one may
 * have to wait for another's retry, and that one for a third's. */
#define REST_PASSES 280u

static void rest(struct sim *sim)
{
    sim->chance = 0;
    sim->pool_fails = 0;
    sim->memory_limit = 3 * SIM_MEMORY;
    sim->slots = SIM_SLOTS;
    sim->store_fails = false;
    sim_drain_finish(sim, false);
    sim_online(sim);
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim->node_room[i] = 3 * SIM_MEMORY;
    for (unsigned i = 0; i < SIM_SLOTS; i++)
        sim->slot[i].broken = 0;
    for (unsigned i = 0; i < SIM_MMS; i++) {
        struct sim_mm *mm = &sim->mm[i];

        mm->lose_answer = false;
        mm->mappings_budget = 64 * SIM_PAGES;
        if (mm->agent == SIM_AGENT_STALLED)
            mm->agent = SIM_AGENT_WELL;
    }
    if (!sim->engine)
        sim_daemon_start(sim);
    sim->engine->memory_limit = 0;
    sp_engine_set_max_kernel_pages(sim->engine, 0);
    sp_engine_set_run(sim->engine, SP_RUN_MERGE);
    for (unsigned i = 0; i < SIM_MMS; i++) {
        sim_daemon_join(&sim->mm[i]);
        for (uint32_t k = 0; sim->mm[i].alive && k < SIM_PAGES; k++)
            (void)sim_touch(&sim->mm[i], k);
    }
    sim_daemon_settle(sim);
}

static uint64_t passes(const struct sim *sim)
{
    struct sp_engine_counters counters;

    sp_engine_counters(sim->engine, &counters);
    return counters.full_scans;
}

static void run_rest(struct sim *sim)
{
    uint64_t until;

    rest(sim);
    until = passes(sim) + REST_PASSES;
    for (unsigned step = 0; passes(sim) < until && !sim->error[0]; step++) {
        if (step > 100 * REST_PASSES * SIM_MMS)
            sim_fail(sim, "K2: the cursor does not come round");
        sim_daemon_step(sim, SP_BATCH_PAGES);
    }
    sim_check(sim);
    sim_check_rest(sim);
}

static void run_end(struct sim *sim)
{
    for (unsigned i = 0; i < SIM_MMS; i++)
        if (sim->mm[i].alive)
            sim_mm_exit(&sim->mm[i]);
    sim_daemon_settle(sim);
    for (unsigned i = 0; i < 3; i++) /* frames that something unknown mapped until now (T2) */
        sim_daemon_step(sim, 1);
    sim_frames_sweep(sim);
    sim_check(sim);
    sim_check_end(sim);
}

const char *sim_run(const struct sim_list *list, uint64_t count[SIM_PATHS], char *error,
                    uint32_t *at)
{
    struct sim *sim = calloc(1, sizeof(*sim));

    if (!sim)
        abort();
    sim->count = count;
    sim->memory_limit = SIM_MEMORY;
    sim->slots = SIM_SLOTS;
    sim->drain_node = sim->drain_segment = -1;
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim->node_room[i] = SIM_NODE;
    sim_daemon_start(sim);
    for (*at = 0; *at < list->n && !sim->error[0]; ++*at) {
        sim->clock++;
        sim_step_run(sim, &list->step[*at]);
        if (sim->engine && !sim->depth)
            sim_daemon_settle(sim);
        sim_check(sim);
        if (sim->error[0])
            break;
    }
    if (!sim->error[0])
        run_rest(sim);
    if (!sim->error[0])
        run_end(sim);
    memcpy(error, sim->error, sizeof(sim->error));
    for (unsigned i = 0; i < SIM_MMS; i++) /* after a failure its memory is there still */
        for (uint32_t k = 0; k < SIM_PAGES; k++)
            if (sim_is_mapped(&sim->mm[i].page[k]))
                sim_unmap(&sim->mm[i], k);
    sp_engine_free(sim->engine);
    free(sim);
    return error[0] ? error : NULL;
}
