/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a client into its engine. Sites that it has already, inherited by fork (K8) or from before
 * a takeover (D1), are asked of its agent; frames that the engine does not know are hashed from the
 * daemon's own view, for nothing that a client says about contents is believed.
 */
#include <errno.h>
#include <stdlib.h>

#include "answers.h"
#include "ask.h"
#include "client.h"
#include "engine_ops.h"
#include "log.h"
#include "nodes.h"
#include "turns.h"

#define SITES_ANSWERS_MAX 1024u /* of one client: two million runs */

#define ZEROED_MAX (1u << 23) /* pages of zeros of one client that are counted when it joins: 32 GiB */

static bool frame_hash(struct sp_domain *domain, uint32_t segment, uint32_t index,
                       struct sp_hash *hash)
{
    const void *page;

    if (sp_engine_frame_known(domain->engine, SP_FRAME(segment, index), hash))
        return true;
    /* First the claim: a frame that was never filled must not be read, that would make a page. */
    if (sp_pool_claim(domain->set, segment, index))
        return false;
    page = sp_pool_frame(domain->set, segment, index);
    if (!page || sp_pool_bring(domain->set, segment, index) == -EIO) /* S8: reading it would kill us */
        return false;
    *hash = sp_page_hash(domain, page);
    return true;
}

/* Those of a daemon before may have left memory under it (S1). */
static void note_out(struct sp_domain *domain, uint32_t segment, uint32_t index, uint32_t n)
{
    bool out[SP_LIFT_PAGES];

    if (!domain->daemon->rejoin_seconds || sp_pool_out(domain->set, segment, index, n, out))
        return;
    for (uint32_t i = 0; i < n; i++)
        if (out[i])
            sp_engine_frame_out(domain->engine, SP_FRAME(segment, index + i));
}

/* Adopts the frames [index, index + n) of a segment at addr, as far as they exist. */
static void adopt_frames(struct sp_client *client, uint64_t addr, uint32_t segment, uint32_t index,
                         uint32_t n)
{
    struct sp_domain *domain = client->domain;
    struct sp_hash hash[SP_LIFT_PAGES];
    uint32_t known = 0;

    while (known < n && frame_hash(domain, segment, index + known, &hash[known]))
        known++;
    if (known && sp_engine_adopt(domain->engine, client->mm, addr, SP_FRAME(segment, index), known,
                                 hash) == 0) {
        sp_nodes_adopted(domain, segment, index, known);
        note_out(domain, segment, index, known);
    } else if (known)
        sp_log(SP_LOG_WARNING, "memory is short: sites of pid %d are not counted",
               (int)client->program);
}

static void adopt_run(struct sp_client *client, const struct sp_site_run *run)
{
    uint32_t npages = sp_pool_segment_pages(client->domain->set, run->segment);

    if (run->index >= npages || run->npages > npages - run->index)
        return; /* of another pool, or a lie */
    for (uint32_t i = 0; i < run->npages; i += SP_LIFT_PAGES) {
        uint32_t n = run->npages - i < SP_LIFT_PAGES ? run->npages - i : SP_LIFT_PAGES;

        adopt_frames(client, run->addr + (uint64_t)i * client->daemon->page_size, run->segment,
                     run->index + i, n);
    }
}

static int adopt_sites(struct sp_client *client)
{
    struct sp_from from = {0};

    for (unsigned i = 0; i < SITES_ANSWERS_MAX; i++) {
        const struct sp_sites *sites;
        const void *body;
        size_t size;
        int err = sp_ask(client, SP_MSG_SITES, &from, sizeof(from), -1, SP_MSG_SITES, &body, &size);

        if (err)
            return err;
        if (sp_check_sites(body, size, client->daemon->page_size, from.from, &sites))
            return sp_ask_malformed(client);
        for (uint32_t r = 0; r < sites->nruns; r++)
            adopt_run(client, &sites->run[r]);
        if (sites->next == 0)
            return 0;
        from.from = sites->next;
    }
    return sp_ask_malformed(client);
}

/* What was given back to the kernel's page of zeros (K15). A lie is only counted: nothing comes of it. */
static void adopt_zeros(struct sp_client *client, const struct sp_zeroed *zeroed, uint64_t *room)
{
    for (uint32_t r = 0; r < zeroed->nruns && *room; r++) {
        uint64_t n = zeroed->run[r].npages < *room ? zeroed->run[r].npages : *room;

        *room -= n;
        if (sp_engine_adopt_zero(client->domain->engine, client->mm, zeroed->run[r].addr, (unsigned)n))
            sp_log(SP_LOG_WARNING, "memory is short: pages of zeros of pid %d are not counted",
                   (int)client->program);
    }
}

static int adopt_all_zeros(struct sp_client *client)
{
    uint64_t room = ZEROED_MAX;
    struct sp_from from = {0};

    for (unsigned i = 0; i < SITES_ANSWERS_MAX; i++) {
        const struct sp_zeroed *zeroed;
        const void *body;
        size_t size;
        int err =
            sp_ask(client, SP_MSG_ZEROED, &from, sizeof(from), -1, SP_MSG_ZEROED, &body, &size);

        if (err)
            return err;
        if (sp_check_zeroed(body, size, client->daemon->page_size, from.from, &zeroed))
            return sp_ask_malformed(client);
        adopt_zeros(client, zeroed, &room);
        if (zeroed->next == 0)
            return 0;
        from.from = zeroed->next;
    }
    return sp_ask_malformed(client);
}

static void send_segment(void *arg, uint32_t segment, uint32_t npages, bool retiring)
{
    struct sp_client *client = arg;

    (void)!sp_ask_segment(client, segment); /* sites in a segment it cannot take are not adopted */
}

static void join(struct sp_client *client)
{
    struct sp_domain *domain = client->domain;

    if (client->held) {
        client->state = SP_CLIENT_READY;
        return;
    }
    if (client->adopt)
        sp_pool_segments(domain->set, send_segment, client);
    client->mm = sp_engine_mm_add(domain->engine, client);
    if (!client->mm) {
        client->join_at = sp_now_usecs() + SP_IDLE_USECS_MAX; /* memory is short: later again */
        return;
    }
    if (client->adopt && (adopt_sites(client) || adopt_all_zeros(client))) {
        sp_client_remove_mm(client);
        client->join_at = client->rest_until; /* if it was only slow */
        return; /* marked: stalled or gone, as sp_clients_reap() finds it */
    }
    client->adopt = false;
    client->state = SP_CLIENT_READY;
    domain->all_unmerged = false; /* T3 */
}

static void join_charged(struct sp_client *client)
{
    uint64_t began = sp_now_usecs(), took;

    join(client);
    took = sp_now_usecs() - began;
    if (took > SP_SLOW_USECS)
        sp_turns_charge_join(client->daemon, client->uid, took);
    client->waited = false;
}

/* Its user had a turn just now: others come first. For the steps of the user's domains it waits once only, for
 * there may be one after the other without end; after a join that took long, always. */
static void put_off(struct sp_client *client)
{
    uint64_t until = client->waited ? client->domain->join_until : client->domain->rest_until;

    if (client->join_at >= until)
        return;
    client->join_at = until;
    client->waited = true;
}

uint64_t sp_clients_join(struct sp_daemon *daemon)
{
    struct sp_client *client;
    uint64_t now = sp_now_usecs(), due = 0;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->state == SP_CLIENT_JOINING)
            put_off(client);
        if (client->state == SP_CLIENT_JOINING && !client->failed && client->join_at <= now)
            join_charged(client);
        if (client->state == SP_CLIENT_JOINING && !client->failed &&
            (due == 0 || client->join_at < due))
            due = client->join_at;
    }
    sp_clients_reap(daemon);
    return due;
}
