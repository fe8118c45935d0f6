/* SPDX-License-Identifier: Apache-2.0 */
#include "thin.h"

#include "turns.h"

#define LOOK_USECS 500000u      /* between two looks */
#define STEP       512u         /* frames given back more of each segment, at once in all processes, */
#define STEP_USECS 4000000u     /* every so often: they read their mappings then */
#define PATIENCE   60000000u    /* us: then others have their turn; it comes again, if it still is thin */

/* Of the tracked pages so many frames may linger before merging again is slowed down, in every other while, and
 * stopped; and beside: a segment, and what no segment is thinned out for. */
#define LINGER_SLOW  4u
#define LINGER_STOP  2u
#define SLOW_USECS   32000000u /* so that more than one long age of the agents (lasting.c) lies in each while */
#define LINGER_LEAST (SP_POOL_SEGMENT_PAGES + 1024u)

static void drop(struct sp_domain *domain, unsigned i)
{
    domain->nthin--;
    domain->thin[i] = domain->thin[domain->nthin];
}

/* Goes on with each, and ends those that are free, or that something holds: their frames may get sites
 * again. */
static void go_on(struct sp_domain *domain, uint64_t now)
{
    bool step = now >= domain->thin_due;

    if (step)
        domain->thin_due = now + STEP_USECS;
    for (unsigned i = 0; i < domain->nthin;) {
        struct sp_thin *thin = &domain->thin[i];
        uint32_t is_there = sp_pool_segment_pages(domain->set, thin->segment);

        if (step)
            thin->end = thin->end + STEP < is_there ? thin->end + STEP : is_there;
        if (is_there && now - thin->since < PATIENCE) {
            i++;
            continue;
        }
        if (is_there) {
            sp_engine_avoid(domain->engine, thin->segment, false);
            sp_pool_mark_thin(domain->set, thin->segment, false);
        }
        drop(domain, i);
    }
}

/* What is given back saves nothing until it is merged again: so no more segments at once than are needed
 * to keep up with what comes to linger. */
static unsigned at_once(const struct sp_domain *domain)
{
    struct sp_pool_counters counters;
    uint64_t most;

    sp_pool_set_counters(domain->set, &counters);
    most = 1 + 3 * (counters.frames_lingering - counters.frames_leaving) / (counters.frames_used + 1);
    return most < SP_THIN_SEGMENTS ? (unsigned)most : SP_THIN_SEGMENTS;
}

static void begin_some(struct sp_domain *domain, uint64_t now)
{
    unsigned most = at_once(domain);
    uint32_t segment;

    while (domain->nthin < most && (segment = sp_pool_thinnest(domain->set))) {
        sp_pool_mark_thin(domain->set, segment, true);
        sp_engine_avoid(domain->engine, segment, true);
        domain->thin[domain->nthin++] = (struct sp_thin){.segment = segment, .since = now};
    }
}

/*
 * Is what was written not to be merged again now? The measure is what is tracked, not what is saved: that
 * falls while nothing is merged again. Thinning out goes on meanwhile, and what it gives back is merged as any
 * memory is: so less lingers in time, and the brakes let go. Where more lingers than half of what is tracked,
 * there always is a segment to thin out; where it is less there may be none, so they let go by the clock, too.
 */
static bool must_brake(const struct sp_domain *domain, uint64_t now)
{
    struct sp_engine_counters engine;
    struct sp_pool_counters pool;
    uint64_t lingering;

    sp_engine_counters(domain->engine, &engine);
    sp_pool_set_counters(domain->set, &pool);
    lingering = pool.frames_lingering - pool.frames_leaving; /* the rest waits for its programs to end */
    if (lingering > engine.pages_tracked / LINGER_STOP + LINGER_LEAST)
        return true;
    return lingering > engine.pages_tracked / LINGER_SLOW + LINGER_LEAST && now / SLOW_USECS % 2;
}

void sp_thin_work(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();
    struct sp_domain *domain;

    if (now < daemon->thin_due)
        return;
    daemon->thin_due = now + LOOK_USECS;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (!sp_turns_merges(domain)) /* to give back is to un-merge, which nobody asked for */
            continue;
        go_on(domain, now);
        begin_some(domain, now);
        domain->brakes = must_brake(domain, now);
    }
}

void sp_thin_tell(const struct sp_domain *domain, struct sp_scan_ask *ask)
{
    ask->nthin = domain->nthin;
    for (unsigned i = 0; i < domain->nthin; i++)
        ask->thin[i] = (struct sp_thin_part){domain->thin[i].segment, domain->thin[i].end};
}
