/* SPDX-License-Identifier: Apache-2.0 */
#include "domain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ask.h"
#include "client.h"
#include "control.h"
#include "engine_ops.h"
#include "log.h"
#include "storage.h"
#include "strays.h"
#include "turns.h"
#include "values.h"

static struct sp_domain *domain_find(struct sp_daemon *daemon, const char *full_name)
{
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (!strcmp(domain->name, full_name))
            return domain;
    }
    return NULL;
}

struct sp_domain *sp_domain_find(struct sp_daemon *daemon, const char *full_name)
{
    struct sp_domain *domain = domain_find(daemon, full_name);

    return domain && domain->engine ? domain : NULL;
}

static void domain_free(struct sp_domain *domain)
{
    struct sp_daemon *daemon = domain->daemon;

    sp_control_run2_done(daemon, domain, 0);
    if (daemon->turn == domain)
        daemon->turn = TAILQ_NEXT(domain, link);
    TAILQ_REMOVE(&daemon->domains, domain, link);
    if (domain->engine)
        sp_engine_free(domain->engine);
    sp_engine_call_done(domain);
    free(domain);
}

static int start_engine(struct sp_domain *domain)
{
    struct sp_engine_config engine = {
        .ops = &sp_daemon_engine_ops,
        .ctx = domain,
        .page_size = domain->daemon->page_size,
        .zero_hash = sp_zero_hash(domain)};

    domain->engine = sp_engine_new(&engine);
    if (!domain->engine)
        return -ENOMEM;
    domain->pass_done = domain->round_done = domain->round_complete = false;
    domain->full_scans = 0;
    domain->all_unmerged = false;
    domain->pass_scanned = domain->pass_looked = 0;
    sp_values_apply(domain);
    return 0;
}

/* The lowest id that no domain has: so the pool has no more sets than there were ever domains at
 * one time. */
static uint32_t free_id(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;
    uint32_t id = 1;

again:
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (domain->id == id) {
            id++;
            goto again;
        }
    }
    return id;
}

static struct sp_domain *domain_new(struct sp_daemon *daemon, const char *full_name, uint32_t id,
                                    uint64_t seed, const uint64_t value[SP_SETTINGS])
{
    struct sp_domain *domain = calloc(1, sizeof(*domain));

    if (!domain)
        return NULL;
    domain->daemon = daemon;
    domain->passes = sp_turns_passes_begin(daemon);
    domain->id = id;
    domain->seed = seed;
    memcpy(domain->value, value, sizeof(domain->value));
    snprintf(domain->name, sizeof(domain->name), "%s", full_name);
    domain->uid = (uid_t)strtoul(full_name + 1, NULL, 10);
    TAILQ_INSERT_TAIL(&daemon->domains, domain, link);
    domain->set = sp_pool_set_find(daemon->pool, id);
    if (!domain->set)
        domain->set = sp_pool_set_new(daemon->pool, id);
    if (!domain->set || start_engine(domain)) {
        domain_free(domain);
        return NULL;
    }
    sp_keep_state(daemon);
    return domain;
}

struct sp_domain *sp_domain_get(struct sp_daemon *daemon, uid_t uid, const char *name)
{
    char full_name[sizeof(((struct sp_domain *)0)->name)];
    struct sp_domain *domain;
    uint64_t seed;

    snprintf(full_name, sizeof(full_name), *name ? "u%u:%s" : "u%u", (unsigned)uid, name);
    domain = domain_find(daemon, full_name);
    if (domain && !domain->engine && start_engine(domain))
        return NULL;
    if (domain)
        return domain;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        return NULL;
    return domain_new(daemon, full_name, free_id(daemon), seed, daemon->config.value);
}

struct sp_domain *sp_domain_restore(struct sp_daemon *daemon, const char *full_name, uint32_t id,
                                    uint64_t seed, const uint64_t value[SP_SETTINGS])
{
    struct sp_domain *domain = domain_find(daemon, full_name);

    if (domain && !domain->engine && start_engine(domain))
        return NULL;
    if (domain)
        return domain->id == id ? domain : NULL;
    if (full_name[0] != 'u' || full_name[1] < '0' || full_name[1] > '9')
        return NULL;
    return domain_new(daemon, full_name, id, seed, value);
}

void sp_domain_hold(struct sp_domain *domain)
{
    domain->nclients++;
}

static void remember_past(struct sp_domain *domain)
{
    struct sp_past *past = &domain->daemon->past;
    struct sp_engine_counters c;

    sp_engine_counters(domain->engine, &c);
    past->pages_scanned += c.pages_scanned;
    past->pages_skipped += c.pages_skipped;
    past->merge_changed += c.merge_changed;
    past->merge_pinned += c.merge_pinned;
    past->merge_gone += c.merge_gone;
    past->merge_fork += c.merge_fork;
    past->merge_attributes += c.merge_attributes;
    past->merge_mappings += c.merge_mappings;
    past->merge_memory += c.merge_memory;
    for (unsigned i = 0; i < SP_COUNTS; i++)
        past->count[i] += domain->count[i];
    memset(domain->count, 0, sizeof(domain->count));
}

void sp_domain_release(struct sp_domain *domain)
{
    if (--domain->nclients)
        return;
    remember_past(domain);
    sp_engine_free(domain->engine);
    domain->engine = NULL;
    if (domain->value[SP_KEY_RUN] == SP_RUN_UNMERGE &&
        (domain->strays == SP_STRAYS_UNKNOWN || domain->strays == SP_STRAYS_WANTED))
        sp_strays_ask(domain); /* whoever waits for run 2 is answered then; its engine asks no more */
    sp_pool_set_retire(domain->set);
    sp_keep_state(domain->daemon);
    sp_domains_sweep_dead(domain->daemon);
}

#define SWEEP_SEGMENTS 64

struct retiring {
    uint32_t segment[SWEEP_SEGMENTS];
    unsigned n;
    unsigned retiring, all; /* segments, those in the list included */
};

struct left {
    unsigned segments, retiring;
};

static void note_retiring(void *arg, uint32_t segment, uint32_t npages, bool retiring)
{
    struct retiring *list = arg;

    list->all++;
    list->retiring += retiring;
    if (retiring && list->n < SWEEP_SEGMENTS)
        list->segment[list->n++] = segment;
}

/* Counts what is left in *left. The list is made first, because freeing changes the set. */
static void sweep(struct sp_domain *domain, struct left *left)
{
    struct retiring list = {.n = 0};
    struct sp_client *client;
    unsigned freed = 0;

    sp_pool_segments(domain->set, note_retiring, &list);
    if (list.n)
        sp_storage_take_news(domain->daemon->storage); /* with the segment it would be gone */
    for (unsigned i = 0; i < list.n; i++) {
        TAILQ_FOREACH(client, &domain->daemon->clients, link) {
            if (client->domain == domain && client->state == SP_CLIENT_READY)
                (void)!sp_ask_drop_segment(client, list.segment[i]); /* busy then: later again */
        }
        if (sp_pool_segment_try_free(domain->set, list.segment[i]) == 0)
            freed++;
    }
    left->segments = list.all - freed;
    left->retiring = list.retiring - freed;
}

void sp_domain_sweep(struct sp_domain *domain)
{
    struct left left;

    sweep(domain, &left);
}

bool sp_domains_sweep_live(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();
    struct sp_domain *domain;
    bool retiring = false;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        struct left left;

        if (!domain->engine)
            continue;
        if (domain->slow_until > now) { /* its agents are slow: others first (turns.h) */
            retiring = true;
            continue;
        }
        sweep(domain, &left);
        retiring = retiring || left.retiring;
    }
    sp_clients_reap(daemon);
    return retiring;
}

bool sp_domains_sweep_dead(struct sp_daemon *daemon)
{
    struct sp_domain *domain, *next;
    bool left = false;

    for (domain = TAILQ_FIRST(&daemon->domains); domain; domain = next) {
        struct left segments;

        next = TAILQ_NEXT(domain, link);
        if (domain->engine)
            continue;
        sweep(domain, &segments);
        if (segments.segments == 0)
            domain_free(domain);
        else
            left = true;
    }
    return left;
}

void sp_domains_free(struct sp_daemon *daemon)
{
    while (!TAILQ_EMPTY(&daemon->domains))
        domain_free(TAILQ_FIRST(&daemon->domains));
}
