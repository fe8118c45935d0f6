/* SPDX-License-Identifier: Apache-2.0 */
#include "reclaim.h"

#include <errno.h>
#include <stdio.h>

#include "answers.h"
#include "ask.h"
#include "client.h"
#include "looks.h"
#include "pageout.h"
#include "status.h"
#include "storage.h"

#define LOCKED_ANSWERS_MAX 1024u /* of one client: two million runs */
#define FRAMES_AT_ONCE     1024u /* some 20 ms, packed */

enum sp_use sp_reclaim_referenced(void *ctx, sp_frame frame, uint32_t group)
{
    struct sp_domain *domain = ctx;

    (void)group; /* an engine has one domain's frames, and no other's references (S5) */
    if (!domain->daemon->storage) /* asked when it goes (pageout.h) */
        return SP_USE_NONE;
    if (domain->leave_level == SP_LOOKS_ALL && sp_storage_came_back(domain->daemon->storage, frame))
        return SP_USE_SINCE;
    return sp_looks_use(domain->daemon, frame, domain->leave_level);
}

bool sp_reclaim_locked(void *ctx, sp_frame frame)
{
    struct sp_domain *domain = ctx;

    return sp_storage_is_locked(domain->daemon->storage, frame);
}

/* Has the process locked memory? One that cannot be looked at has. */
static bool has_locked(pid_t pid)
{
    char path[32], line[128];
    unsigned long long kib = 1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return errno != ENOENT; /* gone */
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "VmLck: %llu kB", &kib) == 1)
            break;
    if (feof(f))
        kib = 0; /* a process without memory: it is at its end */
    fclose(f);
    return kib > 0;
}

static int note_locked(struct sp_client *client)
{
    struct sp_from from = {0};

    for (unsigned i = 0; i < LOCKED_ANSWERS_MAX; i++) {
        const struct sp_sites *sites;
        const void *body;
        size_t size;
        int err =
            sp_ask(client, SP_MSG_LOCKED, &from, sizeof(from), -1, SP_MSG_LOCKED, &body, &size);

        if (err)
            return err;
        if (sp_check_sites(body, size, client->daemon->page_size, from.from, &sites))
            return sp_ask_malformed(client);
        for (uint32_t r = 0; r < sites->nruns; r++)
            if (sp_pool_is_stored(client->domain->set,
                                  sites->run[r].segment)) /* its own, and nobody else's */
                sp_storage_lock(client->daemon->storage, sites->run[r].segment, sites->run[r].index,
                                sites->run[r].npages);
        if (sites->next == 0)
            return 0;
        from.from = sites->next;
    }
    return sp_ask_malformed(client);
}

/* False: it is not known of all of its programs. */
static bool know_locked(struct sp_domain *domain)
{
    struct sp_client *client;

    TAILQ_FOREACH(client, &domain->daemon->clients, link)
    {
        if (client->domain != domain || !has_locked(client->program))
            continue;
        if (client->state != SP_CLIENT_READY || client->failed || note_locked(client))
            return false;
    }
    return true;
}

static bool asked_for(const struct sp_domain *domain, uid_t uid, const struct sp_domain *only)
{
    if (!domain->engine)
        return false;
    return only ? domain == only : uid == SP_EVERYBODY || domain->uid == uid;
}

static void add(struct sp_reclaimed *sum, const struct sp_reclaimed *more)
{
    sum->evicted += more->evicted;
    sum->referenced += more->referenced;
    sum->locked += more->locked;
    sum->again += more->again;
    sum->cannot += more->cannot;
    sum->later += more->later;
}

/* What was chosen before is not done: nobody knows what becomes of it yet. */
static int still_at_it(struct sp_reclaimed *out)
{
    *out = (struct sp_reclaimed){.later = 1};
    return 0;
}

/* Locked memory the kernel leaves by itself. */
static int choose(struct sp_daemon *daemon, uid_t uid, const struct sp_domain *only, uint32_t want,
                           struct sp_reclaimed *out)
{
    struct sp_domain *domain;
    int err = 0;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        uint32_t so_far = out->evicted + out->later;
        struct sp_reclaimed got;

        if (!asked_for(domain, uid, only) || so_far >= want)
            continue;
        err = sp_engine_reclaim(domain->engine, want - so_far, 0, &got);
        if (err)
            break;
        add(out, &got);
    }
    out->whole = !err && out->evicted + out->later < want;
    return err;
}

/* The frames that were chosen to go to the machine's swap. */
static int send_later(struct sp_daemon *daemon, struct sp_reclaimed *out)
{
    uint32_t n = out->later;
    int err;

    out->later = 0;
    err = sp_pageout_run(daemon, out);
    if (err == -EINPROGRESS)
        out->later = n;
    return err == -EINPROGRESS ? 0 : err;
}

/* Without a store: to the machine's own swap. */
static int reclaim_to_swap(struct sp_daemon *daemon, uid_t uid, const struct sp_domain *only, uint32_t want,
                           struct sp_reclaimed *out)
{
    int err = sp_pageout_begin(daemon, out);

    if (err == -EINPROGRESS)
        return still_at_it(out);
    if (!err)
        err = choose(daemon, uid, only, want, out);
    if (out->later)
        err = send_later(daemon, out);
    return out->evicted || out->later ? 0 : err;
}

/* Where the domain's turn is: after each look the coldest are asked first again. */
static void begin_level(struct sp_domain *domain)
{
    uint64_t look = sp_looks_count(domain->daemon);

    if (!look)
        domain->leave_level = SP_LOOKS_ALL;
    else if (domain->leave_look != look)
        domain->leave_level = SP_LOOKS_MINUTES;
    domain->leave_look = look;
}

/* Up to want frames of this domain that may leave at this level. */
static int reclaim_at(struct sp_domain *domain, unsigned level, uint32_t want,
                      struct sp_reclaimed *sum)
{
    struct sp_reclaimed got;
    int err;

    if (domain->leave_level != level || sum->evicted >= want)
        return 0;
    want -= sum->evicted;
    err = sp_engine_reclaim(domain->engine, want, 0, &got);
    if (err)
        return err;
    if (level == SP_LOOKS_ALL) /* asks all of them, those of the levels before once more */
        add(sum, &got);
    else
        sum->evicted += got.evicted;
    if (got.evicted < want && level < SP_LOOKS_ALL)
        domain->leave_level++;
    return 0;
}

int sp_reclaim(struct sp_daemon *daemon, uid_t uid, struct sp_domain *only, uint64_t bytes,
               struct sp_reclaimed *out)
{
    uint64_t want = bytes / daemon->page_size + (bytes % daemon->page_size != 0);
    struct sp_domain *domain;
    int err = 0;

    *out = (struct sp_reclaimed){0};
    if (want > FRAMES_AT_ONCE)
        want = FRAMES_AT_ONCE;
    if (!daemon->storage)
        return reclaim_to_swap(daemon, uid, only, (uint32_t)want, out);
    sp_storage_take_news(daemon->storage); /* who came back gets his second chance */
    sp_storage_unlock_all(daemon->storage);
    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        domain->leaves = asked_for(domain, uid, only) && know_locked(domain);
        if (asked_for(domain, uid, only) && !domain->leaves)
            err = -EAGAIN;
        begin_level(domain);
    }
    for (unsigned level = 0; level <= SP_LOOKS_ALL; level++)
        TAILQ_FOREACH(domain, &daemon->domains, link)
        {
            int failed = domain->leaves ? reclaim_at(domain, level, (uint32_t)want, out) : 0;

            err = failed ? failed : err;
        }
    sp_clients_reap(daemon);
    return out->evicted ? 0 : err;
}

uint64_t sp_reclaim_in_memory(const struct sp_daemon *daemon, uid_t uid, const struct sp_domain *only)
{
    const struct sp_domain *domain;
    uint64_t frames = 0;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        struct sp_engine_counters c;

        if (!asked_for(domain, uid, only))
            continue;
        sp_engine_counters(domain->engine, &c);
        if (c.pages_shared > c.frames_evicted)
            frames += c.pages_shared - c.frames_evicted;
    }
    return frames;
}
