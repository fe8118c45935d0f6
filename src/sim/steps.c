/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps: what can happen, how often, and what its numbers mean. a names the process, b the page
 * and c the rest, unless said otherwise.
 */
#include "sim.h"

#include <string.h>

static struct sim_mm *living(struct sim *sim, uint32_t a)
{
    for (unsigned i = 0; i < SIM_MMS; i++) {
        struct sim_mm *mm = &sim->mm[(a + i) % SIM_MMS];

        if (mm->alive)
            return mm;
    }
    return NULL;
}

/* Few contents, so that pages are equal; now and then one of its own, or one that only the bytes
 * tell from another. */
static uint32_t content_of(const struct sim *sim, uint32_t c)
{
    uint32_t content = c % 41;

    if (c >> 8 & 0x20)
        content += 1000 + (c >> 14 & 0xfff);
    if (sim->real)
        return content; /* no two pages there have one hash and other bytes */
    if ((c >> 26 & 0x1f) == 0)
        content |= SIM_TWIN;
    if ((c >> 26 & 0x1f) == 1)
        content |= SIM_LOOKALIKE;
    return content;
}

/* Length of a run of pages. */
static uint32_t length_of(uint32_t c)
{
    return 1 + (c >> 20) % (c & 0x80000 ? 24 : 3);
}

struct sim_mm *sim_step_mm(struct sim *sim, const struct sim_step *s)
{
    return living(sim, s->a);
}

/* c: the first content; those after it follow it, or are the same. */
struct sim_part sim_step_part(struct sim *sim, const struct sim_step *s)
{
    struct sim_part part = {.mm = living(sim, s->a),
                            .page = s->b % SIM_PAGES,
                            .n = length_of(s->c),
                            .content = content_of(sim, s->c),
                            .add = s->c & 0x40000 ? 0 : 1};

    if (part.n > SIM_PAGES - part.page)
        part.n = SIM_PAGES - part.page;
    if (!part.mm)
        part.n = 0;
    return part;
}

typedef void (*page_fn)(struct sim_mm *mm, uint32_t page);

static void on_run(struct sim *sim, const struct sim_step *s, page_fn fn)
{
    struct sim_part part = sim_step_part(sim, s);

    for (uint32_t i = 0; i < part.n; i++)
        fn(part.mm, part.page + i);
}

static void fill_run(struct sim *sim, const struct sim_step *s,
                     void (*fn)(struct sim_mm *mm, uint32_t page, uint32_t content))
{
    struct sim_part part = sim_step_part(sim, s);

    for (uint32_t i = 0; i < part.n; i++)
        fn(part.mm, part.page + i, part.content + i * part.add);
}

static void do_map(struct sim *sim, const struct sim_step *s)
{
    fill_run(sim, s, sim_map);
}

static void do_write(struct sim *sim, const struct sim_step *s)
{
    fill_run(sim, s, sim_write);
}

static void do_unmap(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_unmap);
}

static void do_zero(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_zero);
}

static void do_restore(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_restore);
}

static void special(struct sim_mm *mm, uint32_t page)
{
    sim_set_special(mm, page, !mm->page[page].special);
}

static void do_special(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, special);
}

static void do_pin(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_pin);
}

static void do_unpin(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_unpin);
}

static void do_spawn(struct sim *sim, const struct sim_step *s)
{
    (void)sim_mm_new(sim);
}

static void do_fork(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm)
        (void)sim_mm_fork(mm);
}

static void do_exit(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm)
        sim_mm_exit(mm);
}

static void do_exec(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm)
        sim_mm_exec(mm);
}

/* ---- the daemon and its world ---- */

static void draw_from(struct sim *sim, const struct sim_step *s)
{
    static const uint32_t chances[] = {0, 0, 2, 20, 120};

    sim->draw = (uint64_t)s->b << 32 | s->c;
    sim->chance = chances[s->c % 5];
}

/* a: the budget; b and c: what programs do meanwhile. */
static void do_scan(struct sim *sim, const struct sim_step *s)
{
    if (!sim->engine)
        return;
    if (sp_engine_run(sim->engine) == SP_RUN_UNMERGE)
        return;
    draw_from(sim, s);
    sim_daemon_step(sim, 1 + s->a % 300);
}

/* The same as often as for a whole pass or more. */
static void do_scans(struct sim *sim, const struct sim_step *s)
{
    for (unsigned i = 0; sim->engine && i < 2 * SIM_MMS; i++)
        do_scan(sim, s);
}

static void do_join(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm && mm->agent == SIM_AGENT_NONE)
        sim_daemon_join(mm);
}

static void do_join_all(struct sim *sim, const struct sim_step *s)
{
    for (unsigned i = 0; i < SIM_MMS; i++)
        sim_daemon_join(&sim->mm[i]);
}

static void do_unmerge_mm(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (!sim->engine || !mm || !mm->mm)
        return;
    draw_from(sim, s);
    sim->stepped = true;
    sim->depth++;
    (void)sp_engine_unmerge_mm(sim->engine, mm->mm);
    sim->depth--;
    sim_daemon_settle(sim);
}

/* a: portions of the un-merge. */
static void do_run2(struct sim *sim, const struct sim_step *s)
{
    if (!sim->engine)
        return;
    draw_from(sim, s);
    sim_daemon_run2(sim, 1 + s->a % 40);
}

static void do_run1(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine)
        sp_engine_set_run(sim->engine, SP_RUN_MERGE);
}

static void do_run0(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine)
        sp_engine_set_run(sim->engine, SP_RUN_STOP);
}

static void do_kill_daemon(struct sim *sim, const struct sim_step *s)
{
    if (!sim->engine)
        return;
    sim_daemon_kill(sim);
    sim_took(sim, SIM_P_D1_RESTARTED);
}

static void do_start_daemon(struct sim *sim, const struct sim_step *s)
{
    if (!sim->engine)
        sim_daemon_start(sim);
}

static void do_kill_agent(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (!mm || mm->agent == SIM_AGENT_NONE)
        return;
    mm->agent = SIM_AGENT_DEAD;
    sim_took(sim, SIM_P_D2_DEAD);
}

static void do_stall(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm && mm->agent == SIM_AGENT_WELL)
        mm->agent = SIM_AGENT_STALLED;
    else if (mm && mm->agent == SIM_AGENT_STALLED)
        mm->agent = SIM_AGENT_WELL;
}

static void do_lose_answer(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm && mm->mm)
        mm->lose_answer = true;
}

static void do_budget(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    if (mm)
        mm->mappings_budget = s->c & 1 ? SIM_PAGES : s->b % 12;
}

static void do_limit(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine)
        sp_engine_set_max_kernel_pages(sim->engine, s->c & 1 ? 0 : 1 + s->b % 40);
}

static void do_pool_fails(struct sim *sim, const struct sim_step *s)
{
    sim->pool_fails = s->c % 5;
}

static void do_memory(struct sim *sim, const struct sim_step *s)
{
    sim->memory_limit = s->c & 1 ? SIM_MEMORY : sim->memory_used + s->b % 12;
}

static void do_engine_memory(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine)
        sim->engine->memory_limit =
            s->c & 1 ? 0
                     : sim->engine->memory_used + (uint64_t)(s->b % (s->a & 1 ? 4 : 400)) * 1024;
}

/* ---- nodes, the store, and the rest of the rules ---- */

static void touch(struct sim_mm *mm, uint32_t page)
{
    (void)sim_touch(mm, page);
}

static void do_touch(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, touch);
}

static void do_lock(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_lock);
}

static void do_unlock(struct sim *sim, const struct sim_step *s)
{
    on_run(sim, s, sim_unlock);
}

static void do_balance(struct sim *sim, const struct sim_step *s)
{
    struct sim_mm *mm = living(sim, s->a);

    for (uint32_t i = 0; mm && i < length_of(s->c) && s->b % SIM_PAGES + i < SIM_PAGES; i++)
        sim_balance(mm, s->b % SIM_PAGES + i, s->a / SIM_MMS);
}

/* a: frames; b: the group, 0: all; c: what programs do meanwhile. */
static void do_reclaim(struct sim *sim, const struct sim_step *s)
{
    struct sp_reclaimed out;

    if (!sim->engine)
        return;
    draw_from(sim, s);
    sim->stepped = true;
    sim->depth++;
    if (sp_engine_reclaim(sim->engine, 1 + s->a % 24, s->b % (SIM_GROUPS + 1), &out) != 0)
        sim_took(sim, SIM_P_H2_WAITED);
    sim->depth--;
    sim_daemon_settle(sim);
}

/* b: the slot; c: how it fails; most often all that fails to be read is well again. */
static void do_store(struct sim *sim, const struct sim_step *s)
{
    struct sim_slot *slot = &sim->slot[s->b % SIM_SLOTS];

    sim->store_fails = s->c % 7 == 0;
    sim->slots = s->c % 5 == 0 ? 1 + s->a % SIM_SLOTS : SIM_SLOTS;
    if (slot->state == SIM_SLOT_STORED && s->c % 3 == 0)
        slot->broken = 1;
    else if (slot->state == SIM_SLOT_STORED && s->c % 3 == 1)
        slot->corrupt = 1;
    for (unsigned i = 0; s->c % 3 == 2 && i < SIM_SLOTS; i++)
        sim->slot[i].broken = 0;
}

/* The kernel moves a frame (N3). a: the frame; b: the node. */
static void do_move_frame(struct sim *sim, const struct sim_step *s)
{
    unsigned node = s->b % SIM_NODES;

    for (uint32_t i = 0; i < SIM_FRAMES; i++) {
        struct sim_frame *frame = &sim->frame[(s->a + i) % SIM_FRAMES];

        if (frame->state != SIM_FILLED || frame->out || frame->node == node ||
            sim->node_off[node] || sim->drain_node == (int)node ||
            sim->node_used[node] >= sim->node_room[node])
            continue;
        sim_frame_migrate(sim, frame, node);
        frame->moved = 1;
        sim->news++;
        sim_took(sim, SIM_P_N3_MOVED);
        break;
    }
    sim_daemon_settle(sim);
}

static void do_node_room(struct sim *sim, const struct sim_step *s)
{
    unsigned node = s->a % SIM_NODES;

    sim->node_room[node] = s->c & 1 ? SIM_NODE : sim->node_used[node] + s->b % 8;
}

static void do_drain(struct sim *sim, const struct sim_step *s)
{
    draw_from(sim, s);
    sim_drain_begin(sim, s->a, s->a / 2);
}

static void do_drain_step(struct sim *sim, const struct sim_step *s)
{
    draw_from(sim, s);
    sim_drain_step(sim);
    if (sim->engine)
        sim_daemon_settle(sim);
}

static void do_drain_end(struct sim *sim, const struct sim_step *s)
{
    sim_drain_finish(sim, s->c % 4 != 0);
}

static void do_online(struct sim *sim, const struct sim_step *s)
{
    sim_online(sim);
}

static void do_across(struct sim *sim, const struct sim_step *s)
{
    bool across = s->c & 1, before;
    int status;

    if (!sim->engine)
        return;
    before = sim->engine->merge_across_nodes;
    sim->stepped = true;
    status = sp_engine_set_merge_across_nodes(sim->engine, across);
    if (status && across == before)
        sim_fail(sim, "N2: the value that it has cannot be written");
    if (!status && across != before && sim->engine->nnodes)
        sim_fail(sim, "N2: changed while there are stable nodes");
    if (status)
        sim_took(sim, SIM_P_N2_BUSY);
    else if (across != before)
        sim_took(sim, SIM_P_N2_CHANGED);
    sim_daemon_settle(sim);
}

/* T4: run 2, then the other value, then run 1: no trace of the old stable nodes. */
static void do_turn(struct sim *sim, const struct sim_step *s)
{
    if (!sim->engine)
        return;
    draw_from(sim, s);
    sim_daemon_run2(sim, 400);
    do_across(sim, s);
    if (!sim->engine->nnodes && !sim->engine->drain.on)
        sim_took(sim, SIM_P_T4_OTHER);
    sp_engine_set_run(sim->engine, SP_RUN_MERGE);
}

static void do_sharing(struct sim *sim, const struct sim_step *s)
{
    static const uint32_t limits[] = {0, 2, 3, 5, 8};
    int status;

    if (!sim->engine)
        return;
    status = sp_engine_set_max_page_sharing(sim->engine, limits[s->c % 5]);
    if (status)
        sim_took(sim, SIM_P_K14_BUSY);
    else if (sim->engine->nshared && sim->engine->max_page_sharing != limits[s->c % 5])
        sim_fail(sim, "K14: changed while there are shared frames");
}

static void do_zero_pages(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine && sp_engine_set_use_zero_pages(sim->engine, s->c & 1))
        sim_fail(sim, "K15: zero pages cannot be used");
}

static void do_smart(struct sim *sim, const struct sim_step *s)
{
    if (sim->engine)
        sp_engine_set_smart_scan(sim->engine, s->c & 3);
}

static const struct {
    const char *name;
    void (*run)(struct sim *sim, const struct sim_step *s);
    uint32_t weight;
    uint32_t inside; /* weight while the engine's op runs: what programs do, and what happens to
                        agents */
} kinds[] = {
    {"map", do_map, 60, 10},
    {"write", do_write, 60, 40},
    {"unmap", do_unmap, 16, 8},
    {"zero", do_zero, 8, 4},
    {"special", do_special, 6, 3},
    {"pin", do_pin, 10, 6},
    {"unpin", do_unpin, 12, 6},
    {"restore", do_restore, 8, 2},
    {"spawn", do_spawn, 14, 1},
    {"fork", do_fork, 12, 3},
    {"exit", do_exit, 6, 2},
    {"exec", do_exec, 3, 1},
    {"kill-agent", do_kill_agent, 1, 1},
    {"stall", do_stall, 6, 1},
    {"scan", do_scan, 120, 0},
    {"scans", do_scans, 40, 0},
    {"join", do_join, 14, 0},
    {"join-all", do_join_all, 10, 0},
    {"unmerge", do_unmerge_mm, 5, 0},
    {"run2", do_run2, 6, 0},
    {"run1", do_run1, 14, 0},
    {"run0", do_run0, 2, 0},
    {"kill-daemon", do_kill_daemon, 2, 0},
    {"start-daemon", do_start_daemon, 12, 0},
    {"lose-answer", do_lose_answer, 4, 0},
    {"budget", do_budget, 5, 0},
    {"limit", do_limit, 4, 0},
    {"pool-fails", do_pool_fails, 3, 0},
    {"memory", do_memory, 6, 0},
    {"engine-memory", do_engine_memory, 8, 0},
    {"touch", do_touch, 20, 12},
    {"lock", do_lock, 5, 3},
    {"unlock", do_unlock, 6, 2},
    {"balance", do_balance, 8, 4},
    {"reclaim", do_reclaim, 40, 0},
    {"store", do_store, 8, 1},
    {"move-frame", do_move_frame, 6, 0},
    {"node-room", do_node_room, 4, 0},
    {"drain", do_drain, 6, 0},
    {"drain-step", do_drain_step, 18, 0},
    {"drain-end", do_drain_end, 24, 0},
    {"online", do_online, 4, 0},
    {"across", do_across, 5, 0},
    {"turn", do_turn, 3, 0},
    {"sharing", do_sharing, 6, 0},
    {"zero-pages", do_zero_pages, 3, 0},
    {"smart", do_smart, 2, 0},
    {"advise", sim_advise, 1, 0},
};

const unsigned sim_step_kinds = sizeof(kinds) / sizeof(kinds[0]);

const char *sim_step_name(unsigned kind)
{
    return kind < sim_step_kinds ? kinds[kind].name : "?";
}

int sim_step_kind(const char *name)
{
    for (unsigned i = 0; i < sim_step_kinds; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return (int)i;
    return -1;
}

static unsigned draw_kind(uint64_t *state, bool inside)
{
    uint32_t sum = 0, at;

    for (unsigned i = 0; i < sim_step_kinds; i++)
        sum += inside ? kinds[i].inside : kinds[i].weight;
    at = sim_below(state, sum);
    for (unsigned i = 0; i < sim_step_kinds; i++) {
        uint32_t weight = inside ? kinds[i].inside : kinds[i].weight;

        if (at < weight)
            return i;
        at -= weight;
    }
    return 0;
}

static struct sim_step draw_step(uint64_t *state, bool inside)
{
    struct sim_step step = {.kind = (uint8_t)draw_kind(state, inside)};

    step.a = (uint32_t)(sim_random(state) >> 32);
    step.b = (uint32_t)(sim_random(state) >> 32);
    step.c = (uint32_t)(sim_random(state) >> 32);
    return step;
}

void sim_list_make(struct sim_list *list, uint64_t seed, uint32_t n)
{
    uint64_t state = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;

    list->n = n < SIM_STEPS_MAX ? n : SIM_STEPS_MAX;
    for (uint32_t i = 0; i < list->n; i++)
        list->step[i] = draw_step(&state, false);
}

void sim_step_run(struct sim *sim, const struct sim_step *step)
{
    if (step->kind < sim_step_kinds)
        kinds[step->kind].run(sim, step);
}

struct sim_step sim_step_draw(uint64_t *state)
{
    return draw_step(state, true);
}

void sim_programs(struct sim *sim)
{
    struct sim_step step = sim_step_draw(&sim->draw);

    sim_step_run(sim, &step);
}
