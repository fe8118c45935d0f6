/* SPDX-License-Identifier: Apache-2.0 */
#include "turns.h"

#define ROUND_USECS 1000000u /* after so long who is done with a pass may begin another one */

bool sp_turns_merges(const struct sp_domain *domain)
{
    return domain->engine && domain->value[SP_KEY_RUN] == SP_RUN_MERGE;
}

static bool has_work(const struct sp_domain *domain)
{
    return sp_turns_merges(domain) && !domain->pass_done;
}

/* In turn; of those that rest the one whose rest ends first, and only if no other has work. */
static struct sp_domain *pick(struct sp_daemon *daemon, uint64_t now)
{
    struct sp_domain *start = daemon->turn ? daemon->turn : TAILQ_FIRST(&daemon->domains);
    struct sp_domain *domain = start, *resting = NULL;

    while (domain) {
        struct sp_domain *next = TAILQ_NEXT(domain, link);

        if (!next)
            next = TAILQ_FIRST(&daemon->domains);
        if (has_work(domain) && domain->rest_until <= now) {
            daemon->turn = next;
            return domain;
        }
        if (has_work(domain) && (!resting || domain->rest_until < resting->rest_until))
            resting = domain;
        domain = next != start ? next : NULL;
    }
    if (resting) {
        daemon->turn = TAILQ_NEXT(resting, link); /* domains of one user alternate, too */
        if (!daemon->turn)
            daemon->turn = TAILQ_FIRST(&daemon->domains);
    }
    return resting;
}

/* Each domain completed a pass since the round began. */
static bool round_done(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (sp_turns_merges(domain) && !domain->round_done)
            return false;
    }
    return true;
}

/* Others than this user need not wait with their next pass for the one that takes so long. */
static bool restart_others(struct sp_daemon *daemon, uid_t uid, uint64_t now)
{
    struct sp_domain *domain;
    bool any = false;

    if (now - daemon->round_at < ROUND_USECS)
        return false;
    daemon->round_at = now;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (!domain->engine || domain->uid == uid || !domain->pass_done)
            continue;
        domain->pass_done = false;
        any = true;
    }
    return any;
}

struct sp_domain *sp_turns_next(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();
    struct sp_domain *domain = round_done(daemon) ? NULL : pick(daemon, now);

    if (domain && domain->rest_until > now && restart_others(daemon, domain->uid, now))
        domain = pick(daemon, now);
    return domain;
}

void sp_turns_pass_done(struct sp_domain *domain, bool complete)
{
    domain->pass_done = domain->round_done = true;
    domain->round_complete = domain->round_complete || complete;
    domain->passes += complete;
}

void sp_turns_new_round(struct sp_daemon *daemon)
{
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link)
        domain->pass_done = domain->round_done = domain->round_complete = false;
    daemon->round_at = sp_now_usecs();
}

void sp_turns_charge(struct sp_daemon *daemon, uid_t uid, uint64_t usecs)
{
    uint64_t until = sp_now_usecs() + usecs;
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->uid == uid && domain->rest_until < until)
            domain->rest_until = until;
    }
}

void sp_turns_charge_join(struct sp_daemon *daemon, uid_t uid, uint64_t usecs)
{
    struct sp_domain *domain;

    sp_turns_charge(daemon, uid, usecs);
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->uid == uid)
            domain->join_until = domain->rest_until;
    }
}

void sp_turns_note_slow(struct sp_daemon *daemon, uid_t uid, uint64_t usecs)
{
    uint64_t now = sp_now_usecs();
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->uid != uid)
            continue;
        if (domain->slow_serial != daemon->serial)
            domain->slow_us = 0;
        domain->slow_serial = daemon->serial;
        domain->slow_us += usecs;
        domain->rest_until = domain->slow_until = now + domain->slow_us;
    }
}

uint64_t sp_turns_passes_begin(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;
    uint64_t passes = daemon->full_scans;

    TAILQ_FOREACH(domain, &daemon->domains, link)
        passes = domain->passes > passes ? domain->passes : passes;
    return passes;
}

uint64_t sp_turns_passes(const struct sp_daemon *daemon, uid_t uid)
{
    const struct sp_domain *domain;
    uint64_t passes = UINT64_MAX;

    if (uid == (uid_t)-1)
        return daemon->full_scans;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->engine && domain->uid == uid && domain->passes < passes)
            passes = domain->passes;
    }
    return passes == UINT64_MAX ? daemon->full_scans : passes;
}
