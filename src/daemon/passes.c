/* SPDX-License-Identifier: Apache-2.0 */
#include "passes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <time.h>

#include "advise.h"
#include "client.h"
#include "control.h"
#include "domain.h"
#include "engine_ops.h"
#include "explain.h"
#include "hurry.h"
#include "log.h"
#include "nodes.h"
#include "status.h"
#include "strays.h"
#include "thin.h"
#include "turns.h"

#define STEP_COST     64u     /* pages that a step counts for at least: it costs a message */
#define LITTLE_LOOKED 16u     /* so many pages looked into in a pass are always little, */
#define IDLE_PART     1000u   /* so small a part of all in an idle round, */
#define CALM_PART     64u     /* ... and in a calm one, which is not */
#define CALM_SHARE    8u      /* followed by the next before so many times what it took, */
#define CALM_MAX      100000u /* us, at most */
#define SWEEP_USECS   100000u /* between looks whether dead domains' frames can be freed, */
#define SWEEP_TRIES   30u     /* so often, then every: */
#define SWEEP_SLOWLY  1000000u
#define SWEEP_ROUNDLESS 5000000u /* between two, while a round does not end */

uint64_t sp_now_usecs(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static bool is_of(uid_t asked, uid_t uid)
{
    return asked == SP_EVERYBODY || asked == uid;
}

/* Nothing is to be waited for there while others merge. */
static bool is_stopped_alone(const struct sp_domain *domain)
{
    return !sp_turns_merges(domain) &&
           domain->daemon->config.value[SP_KEY_RUN] == SP_RUN_MERGE;
}

uint64_t sp_passes_quiet(const struct sp_daemon *daemon, uid_t uid)
{
    uint64_t quiet = daemon->empty_rounds;
    const struct sp_domain *domain;
    const struct sp_client *client;
    bool any = false;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->state == SP_CLIENT_JOINING && is_of(uid, client->uid))
            return 0;
    }
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        struct sp_engine_counters c;

        if (!domain->engine || !is_of(uid, domain->uid) || is_stopped_alone(domain))
            continue;
        sp_engine_counters(domain->engine, &c);
        quiet = any && quiet < c.quiet_passes ? quiet : c.quiet_passes;
        any = true;
    }
    return quiet;
}

static void note_pass(struct sp_domain *domain)
{
    struct sp_engine_counters c;

    sp_engine_counters(domain->engine, &c);
    sp_turns_pass_done(domain, c.full_scans > domain->full_scans);
    domain->full_scans = c.full_scans;
    sp_hurry_pass_done(domain);
    domain->pass_looked = c.pages_scanned - domain->pass_scanned;
    domain->pass_scanned = c.pages_scanned;
}

/* Returns what counts as looked at. */
static uint64_t step(struct sp_daemon *daemon, struct sp_domain *domain, uint32_t budget)
{
    bool done = false;
    uint64_t began = sp_now_usecs();
    uint64_t looked = sp_engine_step(domain->engine, budget, &done);

    sp_engine_call_done(domain);
    if (done)
        note_pass(domain);
    daemon->round_busy += sp_now_usecs() - began;
    sp_turns_charge(daemon, domain->uid, sp_now_usecs() - began);
    sp_clients_reap(daemon); /* may free the domain */
    return looked < STEP_COST ? STEP_COST : looked;
}

static void paced_step(struct sp_daemon *daemon, struct sp_domain *domain)
{
    uint32_t budget =
        daemon->quota < SP_REPORT_PAGES ? (uint32_t)daemon->quota : SP_REPORT_PAGES;
    uint64_t looked = step(daemon, domain, budget);

    daemon->quota -= looked < daemon->quota ? looked : daemon->quota;
}

/* Gives the memory of the offer buffers back: they are used only while new frames are made. */
static void empty_offers(struct sp_daemon *daemon)
{
    struct sp_client *client;
    off_t size = (off_t)(SP_FILL_PAGES * daemon->page_size);

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (!client->offered)
            continue;
        client->offered = false;
        if (fallocate(client->shm_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SP_SHM_OFFER,
                      size))
            sp_log(SP_LOG_WARNING, "cannot empty a client's offer buffer: %m");
    }
}

static void set_idle(struct sp_daemon *daemon, bool idle)
{
    uint64_t longer = daemon->idle_us + daemon->idle_us / 2;

    if (!idle)
        daemon->idle_us = 0;
    else if (daemon->idle_us == 0)
        daemon->idle_us = SP_IDLE_USECS_MIN;
    else
        daemon->idle_us = longer < SP_IDLE_USECS_MAX ? longer : SP_IDLE_USECS_MAX;
}

static bool sweep_live(struct sp_daemon *daemon)
{
    bool left = sp_domains_sweep_live(daemon);

    daemon->swept_at = sp_now_usecs();
    return left;
}

/* Where little changes, to look all the time is a waste. */
static void set_pause(struct sp_daemon *daemon, bool calm)
{
    uint64_t pause = calm ? daemon->round_busy * CALM_SHARE : 0;

    daemon->pause_us = pause < CALM_MAX ? pause : CALM_MAX;
    daemon->round_busy = 0;
}

/* Each domain for itself: what an agent says that it tracks is no reason to look less often at others. */
static bool found_less(const struct sp_domain *domain, uint64_t pages)
{
    return domain->pass_looked <= LITTLE_LOOKED + pages;
}

/* Everything that is merged was looked at: no domain passed over a process in all its passes. */
static bool round_complete(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (sp_turns_merges(domain) && !domain->round_complete)
            return false;
    }
    return true;
}

static void end_round(struct sp_daemon *daemon)
{
    struct sp_domain *domain;
    bool any = false, idle = true, calm = true;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        struct sp_engine_counters c;

        if (!sp_turns_merges(domain))
            continue;
        sp_engine_counters(domain->engine, &c);
        idle = idle && found_less(domain, c.pages_tracked / IDLE_PART);
        calm = calm && found_less(domain, c.pages_tracked / CALM_PART);
        any = true;
    }
    sp_advise_round_done(daemon);
    sp_nodes_look(daemon);
    if (round_complete(daemon))
        daemon->full_scans++;
    sp_turns_new_round(daemon);
    daemon->empty_rounds = any ? 0 : daemon->empty_rounds + 1;
    set_idle(daemon, idle && (!any || sp_passes_quiet(daemon, SP_EVERYBODY) > 1));
    set_pause(daemon, any && calm);
    if (daemon->idle_us)
        empty_offers(daemon);
    sweep_live(daemon);
}

/* Merges for a slice. Returns how long to sleep then, us. */
static uint64_t merge_slice(struct sp_daemon *daemon)
{
    uint64_t deadline = sp_now_usecs() + SP_SLICE_USECS;
    uint64_t sleep = daemon->config.value[SP_KEY_SLEEP_MILLISECS] * 1000;

    sp_advise_round_begins(daemon);
    if (daemon->quota == 0)
        daemon->quota = daemon->config.value[SP_KEY_PAGES_TO_SCAN];
    while (daemon->quota && sp_now_usecs() < deadline) {
        struct sp_domain *domain = sp_turns_next(daemon);

        if (!domain) {
            end_round(daemon);
            daemon->quota = 0;
            if (sleep < daemon->pause_us)
                sleep = daemon->pause_us;
            return sleep > daemon->idle_us ? sleep : daemon->idle_us;
        }
        paced_step(daemon, domain);
    }
    return daemon->quota ? 0 : sleep;
}

/* The same, not before its time, after a slice for those who wait for it (hurry.h). Returns when to go on, us. */
static uint64_t merge(struct sp_daemon *daemon)
{
    uint64_t deadline = sp_now_usecs() + SP_SLICE_USECS;
    struct sp_domain *domain = sp_hurry_check(daemon) ? sp_hurry_domain(daemon) : NULL;
    bool hurries = domain != NULL;

    while (domain && sp_now_usecs() < deadline) {
        step(daemon, domain, SP_REPORT_PAGES);
        domain = sp_hurry_domain(daemon);
    }
    if (sp_now_usecs() >= daemon->paced_at) {
        uint64_t sleep = merge_slice(daemon);

        daemon->paced_at = sp_now_usecs() + sleep;
    }
    return hurries ? sp_now_usecs() : daemon->paced_at;
}

/* All domains are un-merged, or memory was short. */
static void end_run2(struct sp_daemon *daemon, int status)
{
    struct sp_domain *domain;

    if (status == -ENOMEM || daemon->off) {
        daemon->off = false;
        sp_passes_set_run(daemon, NULL, SP_RUN_STOP, false);
    }
    sp_control_run2_done(daemon, NULL, status);
    if (status == -ENOMEM) {
        TAILQ_FOREACH(domain, &daemon->domains, link)
            sp_control_run2_done(daemon, domain, status); /* whether its turn had come or not */
    }
    daemon->run2_open = daemon->run2_left = daemon->run2_busy = daemon->run2_short = daemon->run2_strays =
        daemon->run2_unknown = false;
    daemon->sweep_tries = 0;
}

static int run2_status(const struct sp_daemon *daemon)
{
    if (daemon->run2_short)
        return -ENOMEM;
    if (daemon->run2_busy)
        return -EAGAIN;
    if (daemon->run2_strays)
        return -EBUSY;
    if (daemon->run2_unknown)
        return -ENODATA;
    return daemon->run2_left ? -ECANCELED : 0;
}

/* One domain is: status as of sp_engine_unmerge_step(). */
static void end_run2_of(struct sp_domain *domain, int status)
{
    struct sp_daemon *daemon = domain->daemon;

    domain->all_unmerged = true;
    sp_domain_sweep(domain); /* what the counters tell afterwards is true of the frames, too */
    if (status == -ENOMEM)
        sp_passes_set_run(domain->daemon, domain, SP_RUN_STOP, false); /* as the engine's is; kept, too */
    else if (status < 0)
        daemon->run2_busy = true;
    /* The other domains are un-merged all the same: no user can keep that from them. */
    if (status == -ENOMEM && daemon->config.value[SP_KEY_RUN] == SP_RUN_UNMERGE)
        daemon->run2_short = true;
    if (!status) {
        sp_strays_ask(domain); /* it is not known yet whether that is all (T2) */
        return;
    }
    sp_strays_reset(domain); /* also where it was un-merged once more: that is the end of it */
    sp_control_run2_done(daemon, domain, status == -ENOMEM ? status : -EAGAIN);
}

void sp_passes_strays_done(struct sp_domain *domain, int status)
{
    domain->daemon->run2_strays |= status == -EBUSY && domain->daemon->run2_open;
    domain->daemon->run2_unknown |= status == -ENODATA && domain->daemon->run2_open;
    sp_control_run2_done(domain->daemon, domain, status);
}

static struct sp_domain *next_merged(struct sp_daemon *daemon)
{
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->engine && domain->value[SP_KEY_RUN] == SP_RUN_UNMERGE && !domain->all_unmerged)
            return domain;
    }
    return NULL;
}

/* Un-merges everything for a slice (K13). Returns true if there is more to do. */
static bool unmerge_slice(struct sp_daemon *daemon)
{
    uint64_t deadline = sp_now_usecs() + SP_SLICE_USECS;
    struct sp_domain *domain;

    while ((domain = next_merged(daemon)) && sp_now_usecs() < deadline) {
        int more = sp_engine_unmerge_step(domain->engine);

        sp_engine_call_done(domain);
        if (more != 1)
            end_run2_of(domain, more);
        sp_clients_reap(daemon);
    }
    if (domain)
        return true;
    if (daemon->run2_open)
        sp_strays_ask_dead(daemon);
    sp_strays_work(daemon);
    if (daemon->run2_open && !sp_strays_any_awaited(daemon))
        end_run2(daemon, run2_status(daemon));
    return false;
}

static void arm(struct sp_daemon *daemon, uint64_t at)
{
    sd_event_source_set_time(daemon->pass_source, at);
    sd_event_source_set_enabled(daemon->pass_source, SD_EVENT_ONESHOT);
}

static void earlier(uint64_t *at, uint64_t than)
{
    if (*at == 0 || than < *at)
        *at = than;
}

/* Also without any domain there are rounds: they are what new clients wait for. */
static bool merging_wanted(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    if (daemon->config.value[SP_KEY_RUN] == SP_RUN_MERGE)
        return true;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (sp_turns_merges(domain))
            return true;
    }
    return false;
}

/* With pages_to_scan 0 nothing is scanned, as ksmd does nothing then (K2); all else goes on. */
static bool may_merge(struct sp_daemon *daemon)
{
    return merging_wanted(daemon) && daemon->config.value[SP_KEY_PAGES_TO_SCAN] &&
           !sp_accounting_is_strict(&daemon->accounting);
}

/* Frames of domains without clients are freed as soon as the last process let go (D4); those of
 * others at the end of a round, or here if there are no rounds, or if one does not end: a program
 * may have it last for ever. */
static void sweep(struct sp_daemon *daemon, uint64_t *at)
{
    bool merging = may_merge(daemon);
    bool left = !merging && sweep_live(daemon);

    if (merging && sp_now_usecs() - daemon->swept_at > SWEEP_ROUNDLESS)
        (void)sweep_live(daemon);
    if (!sp_domains_sweep_dead(daemon) && !left) {
        daemon->sweep_tries = 0;
        return;
    }
    daemon->sweep_tries++;
    earlier(at, sp_now_usecs() + (daemon->sweep_tries > SWEEP_TRIES ? SWEEP_SLOWLY : SWEEP_USECS));
}

static int on_pass(sd_event_source *source, uint64_t usec, void *arg)
{
    struct sp_daemon *daemon = arg;
    uint64_t at, asked_at;
    bool explains;

    daemon->serial++;
    at = sp_clients_join(daemon);
    explains = sp_explain_work(daemon);
    if (!may_merge(daemon))
        (void)sp_hurry_check(daemon);

    if (sp_strays_open(daemon)) { /* which keeps nobody else from merging */
        sp_strays_work(daemon);
        earlier(&at, sp_now_usecs() + SWEEP_USECS);
    }
    if (sp_control_work(daemon, &asked_at))
        earlier(&at, sp_now_usecs());
    else if (next_merged(daemon) || daemon->run2_open) /* the last of them may have ended since */
        earlier(&at, sp_now_usecs() + (unmerge_slice(daemon) ? 0 : SWEEP_USECS));
    else if (may_merge(daemon))
        earlier(&at, merge(daemon));
    else if (merging_wanted(daemon))
        earlier(&at, sp_now_usecs() + SP_IDLE_USECS_MAX);
    if (explains)
        earlier(&at, sp_now_usecs());
    if (asked_at)
        earlier(&at, asked_at);
    if (may_merge(daemon)) /* to give back is to un-merge, which nobody asked for (decision 0017) */
        sp_thin_work(daemon); /* whether a round ends or not: a program may have it last for ever */
    sweep(daemon, &at);
    if (at)
        arm(daemon, at);
    return 0;
}

void sp_passes_ask(struct sp_daemon *daemon)
{
    if (daemon->pass_source)
        arm(daemon, sp_now_usecs());
}

void sp_passes_wake(struct sp_daemon *daemon)
{
    daemon->idle_us = 0;
    daemon->sweep_tries = 0;
    daemon->paced_at = 0;
    sp_passes_ask(daemon);
}

int sp_passes_start(struct sp_daemon *daemon)
{
    int err = sd_event_add_time(daemon->event, &daemon->pass_source, CLOCK_MONOTONIC, 0, 1000,
                                on_pass, daemon);

    if (err < 0)
        return err;
    /* Not behind everything else that is ready: who asks without a pause would stop all merging.
     * What was ready before a slice is served before the next one. */
    err = sd_event_source_set_priority(daemon->pass_source, SD_EVENT_PRIORITY_NORMAL);
    return err < 0 ? err : 0;
}

static void release_held(struct sp_daemon *daemon, const struct sp_domain *domain)
{
    struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (!client->held || (domain && client->domain != domain))
            continue;
        client->held = false;
        if (client->state == SP_CLIENT_READY)
            sp_client_resync(client);
    }
}

/* Of run 2 of all: whoever waits for that is told at its end that this one is not. */
static bool is_left_out(const struct sp_domain *domain, enum sp_engine_run run)
{
    if (!domain->daemon->run2_open)
        return false;
    if (sp_strays_awaited(domain)) /* nor is it waited for what comes of his own run 2, which he may set for ever */
        return true;
    return run != SP_RUN_UNMERGE && domain->engine && domain->value[SP_KEY_RUN] == SP_RUN_UNMERGE &&
           !domain->all_unmerged;
}

static void set_run_of(struct sp_domain *domain, enum sp_engine_run run)
{
    domain->value[SP_KEY_RUN] = run;
    domain->all_unmerged = false;
    sp_strays_reset(domain);
    domain->pass_done = domain->round_done = domain->round_complete = false;
    if (domain->engine)
        sp_engine_set_run(domain->engine, run);
}

static void set_run_of_all(struct sp_daemon *daemon, enum sp_engine_run run, bool off)
{
    struct sp_domain *domain;

    daemon->config.value[SP_KEY_RUN] = run;
    daemon->off = off;
    daemon->run2_open = run == SP_RUN_UNMERGE;
    daemon->run2_left = daemon->run2_busy = daemon->run2_short = daemon->run2_strays = daemon->run2_unknown = false;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        set_run_of(domain, run);
        domain->strays_awaited = daemon->run2_open;
    }
}

void sp_passes_set_run(struct sp_daemon *daemon, struct sp_domain *domain, enum sp_engine_run run,
                       bool off)
{
    if (domain) {
        daemon->run2_left |= is_left_out(domain, run);
        set_run_of(domain, run);
    } else {
        set_run_of_all(daemon, run, off);
    }
    if (run == SP_RUN_MERGE)
        release_held(daemon, domain);
    sp_keep_state(daemon);
    sp_passes_wake(daemon);
    if (run == SP_RUN_UNMERGE && !domain && TAILQ_EMPTY(&daemon->domains))
        end_run2(daemon, 0);
}
