/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A list of steps for real memory: what can be done by real processes under a real samepaged is
 * done here, and written in plain numbers as lines of JSON, with what must be so afterwards on the
 * real machine, too (tests/e2e/test_sim_lists.py does it there; tests/sim/README.md says what the
 * steps mean).
 *
 * The same results need the same steps, and nothing that only one side decides:
 *  - steps that fail memory, devices, answers or agents' time, nodes, drains and budgets, of which
 * the real machine has none or knows no command, are left out, and so are pins, and contents whose
 * hashes collide;
 *  - how far a scan comes depends on time there. So pages are merged only in a scan, and each goes
 * on until nothing more is merged; what programs do meanwhile in the simulator is done before it;
 *  - which frames a reclaim takes depends on their numbers: each takes all that are not locked.
 * With that, which pages are sites is a matter of contents and of what happened to them. Into how
 * many frames equal pages went is not where a frame's sites are limited (K14), and there one page
 * may be left over: such pages are marked. All else must be equal.
 */
#include "list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REST_PASSES  280u /* as at the end of a run */
#define SHARING      256u /* max_page_sharing, as samepaged begins */
#define RECLAIMS_MAX 16u

static bool merges(const struct sim_writer *w)
{
    return w->sim->engine && w->run == SP_RUN_MERGE;
}

/* Every page of every process is read, which brings back what was out (S6), and nothing else
 * changes. */
static void read_all(const struct sim_writer *w)
{
    printf("{\"op\":\"read\"}\n");
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; w->sim->mm[m].alive && i < SIM_PAGES; i++)
            (void)sim_touch(&w->sim->mm[m], i);
    if (w->sim->engine)
        sim_daemon_settle(w->sim);
    sim_list_look(w, false, false);
}

/* ---- steps of programs ---- */

/* What is to be locked is un-merged before, and merged again in time; what is locked yet, in its
 * place (S4). */
static void unmerge_to_lock(const struct sim_part *part)
{
    for (uint32_t i = part->page; i < part->page + part->n; i++) {
        struct sim_page *page = &part->mm->page[i];

        if (!page->frame || part->mm->agent == SIM_AGENT_DEAD || !sim_page_copy(part->mm, i))
            continue;
        page->kept = page->locked;
        page->dirty = 1;
    }
}

/* What is read. */
static void write_contents(const struct sim_part *part)
{
    const char *between = "";

    printf(",\"holds\":{");
    for (uint32_t i = part->page; i < part->page + part->n; i++) {
        if (!sim_is_mapped(&part->mm->page[i]))
            continue;
        printf("%s\"%u\":%u", between, i, part->mm->page[i].model);
        between = ",";
    }
    printf("}");
}

static void on_part(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_part part = sim_step_part(w->sim, step);

    if (!part.mm)
        return;
    sim_doubt_part(w, sim_step_name(step->kind), &part);
    printf("{\"op\":\"%s\",\"process\":%u,\"page\":%u,\"n\":%u,\"content\":%u,\"add\":%u",
           sim_step_name(step->kind), sim_number(w->sim, part.mm), part.page, part.n, part.content,
           part.add);
    if (strcmp(sim_step_name(step->kind), "touch") == 0)
        write_contents(&part);
    printf("}\n");
    if (strcmp(sim_step_name(step->kind), "lock") == 0)
        unmerge_to_lock(&part);
    sim_step_run(w->sim, step);
}

static void write_made(struct sim_writer *w, const char *op, const struct sim_mm *from,
                       const struct sim_mm *made)
{
    if (made)
        memset(w->doubt[sim_number(w->sim, made)], 0, sizeof(w->doubt[0]));
    printf("{\"op\":\"%s\"", op);
    if (from)
        printf(",\"process\":%u", sim_number(w->sim, from));
    if (made)
        printf(",\"as\":%u", sim_number(w->sim, made));
    printf("}\n");
}

/* A program begins under the daemon, and is known to it before the next step. */
static void spawn(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = w->sim->engine ? sim_mm_new(w->sim) : NULL;

    if (!mm)
        return;
    write_made(w, "spawn", NULL, mm);
    sim_daemon_join(mm);
}

static void exec(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = w->sim->engine ? sim_step_mm(w->sim, step) : NULL, *made;

    if (!mm)
        return;
    sim_mm_exit(mm);
    sim_daemon_settle(w->sim);
    made = sim_mm_new(w->sim);
    write_made(w, "exec", mm, made);
    sim_daemon_join(made);
}

/* Not of one without an agent: its child would have none. */
static void fork_one(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = sim_step_mm(w->sim, step), *child;

    if (!mm || mm->agent == SIM_AGENT_DEAD)
        return;
    child = sim_mm_fork(mm);
    if (!child)
        return;
    write_made(w, "fork", mm, child);
    memcpy(w->doubt[sim_number(w->sim, child)], w->doubt[sim_number(w->sim, mm)],
           sizeof(w->doubt[0]));
    sim_daemon_join(child);
}

static void exit_one(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = sim_step_mm(w->sim, step);

    if (!mm)
        return;
    write_made(w, "exit", mm, NULL);
    sim_mm_exit(mm);
}

static void kill_agent(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = sim_step_mm(w->sim, step);

    if (!mm || mm->agent != SIM_AGENT_WELL)
        return;
    write_made(w, "kill-agent", mm, NULL);
    mm->agent = SIM_AGENT_DEAD;
    mm->held = false;
}

/* ---- steps of the daemon ---- */

static uint64_t passes(const struct sim *sim)
{
    struct sp_engine_counters counters;

    sp_engine_counters(sim->engine, &counters);
    return counters.full_scans;
}

static void rest(struct sim_writer *w)
{
    struct sim *sim = w->sim;
    uint64_t until;

    if (merges(w))
        printf("{\"op\":\"scan\"}\n");
    sim->chance = 0;
    if (merges(w))
        sim_doubt_forked(w);
    for (until = merges(w) ? passes(sim) + REST_PASSES : 0;
         until && passes(sim) < until && !sim->error[0];)
        sim_daemon_step(sim, SP_BATCH_PAGES);
    if (until)
        sim_doubt_at_rest(w);
    sim_list_look(w, until != 0, until != 0);
}

static void step_of(struct sim_writer *w, const struct sim_step *step, bool inside);

/* c: how much programs do; it is drawn as in the simulator. */
static void scan(struct sim_writer *w, const struct sim_step *step)
{
    static const uint32_t most[] = {0, 0, 2, 6, 20};
    uint64_t draw = (uint64_t)step->b << 32 | step->c;

    for (uint32_t n = most[step->c % 5]; n; n--) {
        struct sim_step meanwhile = sim_step_draw(&draw);

        step_of(w, &meanwhile, true);
    }
    rest(w);
}

/* error: its name, "": none, or "?": the list does not say. */
static void set_with(const char *key, uint32_t value, const char *error)
{
    printf("{\"op\":\"set\",\"key\":\"%s\",\"value\":%u,\"errno\":\"%s\"}\n", key, value, error);
}

static void set(const char *key, uint32_t value, int status)
{
    set_with(key, value, status == -EBUSY ? "EBUSY" : "");
}

/* T2: whether a program whose agent is dead maps a frame, which the engine knows nothing of. */
static const char *strays(const struct sim_writer *w)
{
    const char *error = "";

    for (unsigned m = 0; m < SIM_MMS; m++) {
        const struct sim_mm *mm = &w->sim->mm[m];

        for (uint32_t i = 0; mm->alive && mm->agent == SIM_AGENT_DEAD && i < SIM_PAGES; i++) {
            if (!sim_is_mapped(&mm->page[i]))
                continue;
            if (w->doubt[m][i])
                error = "?";
            else if (mm->page[i].frame)
                return "EBUSY";
        }
    }
    return error;
}

static void release(struct sim_writer *w)
{
    for (unsigned m = 0; m < SIM_MMS; m++) {
        w->sim->mm[m].held = false;
        if (w->sim->engine)
            sim_daemon_join(&w->sim->mm[m]);
    }
}

static void set_run(struct sim_writer *w, uint32_t run)
{
    int status = 0;

    if (!w->sim->engine)
        return;
    w->run = run;
    w->sim->chance = 0;
    sp_engine_set_run(w->sim->engine, run);
    if (run == SP_RUN_UNMERGE)
        status = sim_daemon_run2(w->sim, UINT32_MAX);
    if (status)
        sim_fail(w->sim, "K13: run %u is answered by %d", run, status);
    set_with("run", run, run == SP_RUN_UNMERGE ? strays(w) : "");
    if (run == SP_RUN_MERGE)
        release(w);
}

static void run0(struct sim_writer *w, const struct sim_step *step)
{
    set_run(w, SP_RUN_STOP);
}

static void run1(struct sim_writer *w, const struct sim_step *step)
{
    set_run(w, SP_RUN_MERGE);
}

/* A locked page is un-merged in its place: new memory would not be locked (S4). */
static void note_locked(const struct sim_mm *mm, bool *locked_site)
{
    for (uint32_t i = 0; i < SIM_PAGES; i++)
        locked_site[i] = mm->mm && mm->page[i].locked && mm->page[i].frame;
}

static void keep_locked(struct sim_mm *mm, const bool *locked_site)
{
    for (uint32_t i = 0; i < SIM_PAGES; i++)
        mm->page[i].kept |= locked_site[i];
}

/* All is un-merged when it is answered (K13). */
static void run2(struct sim_writer *w, const struct sim_step *step)
{
    bool locked_site[SIM_MMS][SIM_PAGES];

    if (!w->sim->engine)
        return;
    for (unsigned m = 0; m < SIM_MMS; m++)
        note_locked(&w->sim->mm[m], locked_site[m]);
    set_run(w, SP_RUN_UNMERGE);
    for (unsigned m = 0; m < SIM_MMS; m++)
        if (w->sim->mm[m].mm)
            keep_locked(&w->sim->mm[m], locked_site[m]);
    sim_list_look(w, false, true);
}

static void turn(struct sim_writer *w, const struct sim_step *step)
{
    run2(w, step);
    run1(w, step);
}

/* One process, which stays un-merged until run is set to 1. */
static void unmerge(struct sim_writer *w, const struct sim_step *step)
{
    struct sim_mm *mm = sim_step_mm(w->sim, step);
    bool locked_site[SIM_PAGES];

    if (!w->sim->engine || !mm || !mm->mm)
        return;
    note_locked(mm, locked_site);
    write_made(w, "unmerge", mm, NULL);
    w->sim->depth++;
    if (sp_engine_unmerge_mm(w->sim->engine, mm->mm))
        sim_fail(w->sim, "K13: process %u cannot be un-merged", sim_number(w->sim, mm));
    w->sim->depth--;
    sim_daemon_settle(w->sim);
    keep_locked(mm, locked_site);
    sp_engine_mm_remove(w->sim->engine, mm->mm);
    mm->mm = NULL;
    mm->held = true;
    sim_list_look(w, false, false);
}

static void kill_daemon(struct sim_writer *w, const struct sim_step *step)
{
    if (!w->sim->engine)
        return;
    printf("{\"op\":\"kill-daemon\"}\n");
    sim_daemon_kill(w->sim);
}

/* It has its settings again; which processes were un-merged by name it does not know. */
static void start_daemon(struct sim_writer *w, const struct sim_step *step)
{
    if (w->sim->engine)
        return;
    printf("{\"op\":\"start-daemon\"}\n");
    for (unsigned m = 0; m < SIM_MMS; m++)
        w->sim->mm[m].held = false;
    sim_daemon_begin(w->sim);
    sp_engine_set_run(w->sim->engine, w->run);
    if (sp_engine_set_max_page_sharing(w->sim->engine, w->sharing) ||
        sp_engine_set_use_zero_pages(w->sim->engine, w->zero_pages))
        sim_fail(w->sim, "D1: the settings cannot be taken over");
    sp_engine_set_smart_scan(w->sim->engine, w->smart);
    sim_daemon_take_over(w->sim);
    sim_list_look(w, false, true);
}

static void sharing(struct sim_writer *w, const struct sim_step *step)
{
    static const uint32_t limits[] = {SHARING, SHARING, 3, SHARING, 8};
    uint32_t limit = limits[step->c % 5];
    int status;

    if (!w->sim->engine)
        return;
    status = sp_engine_set_max_page_sharing(w->sim->engine, limit);
    if (!status)
        w->sharing = limit;
    set("max_page_sharing", limit, status);
}

static void zero_pages(struct sim_writer *w, const struct sim_step *step)
{
    if (!w->sim->engine)
        return;
    w->zero_pages = step->c & 1;
    set("use_zero_pages", w->zero_pages, sp_engine_set_use_zero_pages(w->sim->engine, step->c & 1));
}

static void smart(struct sim_writer *w, const struct sim_step *step)
{
    if (!w->sim->engine)
        return;
    w->smart = (step->c & 3) != 0;
    sp_engine_set_smart_scan(w->sim->engine, w->smart);
    set("smart_scan", w->smart, 0);
}

static void reclaim(struct sim_writer *w, const struct sim_step *step)
{
    struct sp_reclaimed out;

    if (!w->sim->engine)
        return;
    printf("{\"op\":\"reclaim\"}\n");
    w->sim->chance = 0;
    w->sim->depth++;
    for (unsigned i = 0; i < RECLAIMS_MAX; i++)
        (void)sp_engine_reclaim(w->sim->engine, UINT32_MAX, 0, &out);
    w->sim->depth--;
    sim_daemon_settle(w->sim);
    sim_list_look(w, false, false);
}

/* ---- the list ---- */

static const struct {
    const char *name;
    void (*run)(struct sim_writer *w, const struct sim_step *step);
} steps[] = {
    {"map", on_part},
    {"write", on_part},
    {"unmap", on_part},
    {"zero", on_part},
    {"special", on_part},
    {"touch", on_part},
    {"lock", on_part},
    {"unlock", on_part},
    {"spawn", spawn},
    {"fork", fork_one},
    {"exit", exit_one},
    {"exec", exec},
    {"kill-agent", kill_agent},
    {"scan", scan},
    {"scans", scan},
    {"run0", run0},
    {"run1", run1},
    {"run2", run2},
    {"turn", turn},
    {"unmerge", unmerge},
    {"kill-daemon", kill_daemon},
    {"start-daemon", start_daemon},
    {"sharing", sharing},
    {"zero-pages", zero_pages},
    {"smart", smart},
    {"reclaim", reclaim},
};

static void step_of(struct sim_writer *w, const struct sim_step *step, bool inside)
{
    const char *name = sim_step_name(step->kind);

    w->sim->clock++;
    w->sim->stepped = true;
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        if (strcmp(steps[i].name, name) == 0)
            steps[i].run(w, step);
    if (w->sim->engine)
        sim_daemon_settle(w->sim);
    if (!inside)
        sim_check(w->sim);
}

/* All comes together once more, and goes. */
static void end(struct sim_writer *w)
{
    static const struct sim_step none;

    start_daemon(w, &none);
    run1(w, &none);
    rest(w);
    reclaim(w, &none);
    read_all(w);
    /* What was written after its merge is merged again, where nothing holds it back. */
    printf("{\"op\":\"plain\"}\n");
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; w->sim->mm[m].mm && i < SIM_PAGES; i++) {
            struct sim_page *page = &w->sim->mm[m].page[i];

            w->was_kept[m][i] = page->kept;
            /* Of what is locked, or shared by fork, no page is held to be merged again. */
            w->doubt[m][i] |= page->kept && (page->locked || page->anon->users > 1);
            sim_restore(&w->sim->mm[m], i);
        }
    rest(w);
    printf("{\"op\":\"end\"}\n");
}

const char *sim_list_write(const struct sim_list *list, char *error)
{
    static uint64_t count[SIM_PATHS];
    struct sim *sim = calloc(1, sizeof(*sim));
    struct sim_writer w = {.sim = sim, .run = SP_RUN_MERGE, .sharing = SHARING, .smart = 1};

    if (!sim)
        abort();
    sim->count = count;
    sim->real = true;
    sim->memory_limit = 4 * SIM_MMS * SIM_PAGES;
    sim->slots = SIM_SLOTS;
    sim->drain_node = sim->drain_segment = -1;
    sim->node_room[0] = sim->memory_limit;
    sim_daemon_start(sim);
    (void)sp_engine_set_max_page_sharing(sim->engine, SHARING);
    for (uint32_t i = 0; i < list->n && !sim->error[0]; i++)
        step_of(&w, &list->step[i], false);
    if (!sim->error[0])
        end(&w);
    snprintf(error, sizeof(sim->error), "%s", sim->error);
    for (unsigned i = 0; i < SIM_MMS; i++)
        for (uint32_t k = 0; k < SIM_PAGES; k++)
            if (sim_is_mapped(&sim->mm[i].page[k]))
                sim_unmap(&sim->mm[i], k);
    sp_engine_free(sim->engine);
    free(sim);
    return error[0] ? error : NULL;
}
