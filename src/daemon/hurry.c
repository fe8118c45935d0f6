/* SPDX-License-Identifier: Apache-2.0 */
#include "hurry.h"

#include <json-c/json.h>

#include "control.h"
#include "passes.h"
#include "status.h"
#include "turns.h"

#define PASSES_NEEDED 4u  /* the one that is under way when it is asked, and three more */
#define PASSES_MAX    24u /* it may be merged with what changes all the time */
#define RESTS_MAX                                                                                  \
    4u /* so often it begins anew because the client was too slow; the first time for all */
#define WAIT_USECS (600u * 1000000u) /* a daemon without time for it says so after so long */

static bool is_of(const struct sp_conn *conn, const struct sp_client *client)
{
    return client->program == conn->pid && (client->uid == conn->uid || sp_control_may_all(conn)) &&
           client->state != SP_CLIENT_LEFT;
}

static struct sp_client *find_client(const struct sp_conn *conn)
{
    struct sp_client *client;

    TAILQ_FOREACH(client, &conn->daemon->clients, link)
    {
        if (is_of(conn, client))
            return client;
    }
    return NULL;
}

void sp_hurry_start(struct sp_conn *conn)
{
    conn->pid = conn->peer;
    conn->wait = SP_WAIT_MERGE;
    conn->since = sp_now_usecs();
    conn->rested = true;
    conn->rests = 0;
    conn->parts = 0;
    conn->pages = 0;
    sp_passes_ask(conn->daemon);
}

/* What all of its domain share: the asker's own user's. */
static void add_domain(struct json_object *to, const struct sp_client *client)
{
    struct sp_engine_counters c;

    if (!client->domain->engine)
        return;
    sp_engine_counters(client->domain->engine, &c);
    json_object_object_add(to, "pages_shared", json_object_new_uint64(c.pages_shared));
    json_object_object_add(to, "pages_sharing", json_object_new_uint64(c.pages_sharing));
}

/* client: NULL if the asker is not merged here. */
static void reply(struct sp_conn *conn, const struct sp_client *client)
{
    struct json_object *to = client ? sp_process_json(client) : json_object_new_object();

    conn->wait = SP_WAIT_NOTHING;
    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        if (client) {
            add_domain(to, client);
        } else {
            json_object_object_add(to, "pid", json_object_new_int(conn->pid));
            json_object_object_add(to, "state", json_object_new_string("unknown"));
        }
    }
    sp_conn_reply(conn, to);
}

void sp_hurry_tell(struct sp_conn *conn)
{
    conn->pid = conn->peer;
    reply(conn, find_client(conn));
}

static void refuse(struct sp_conn *conn, const char *why)
{
    conn->wait = SP_WAIT_NOTHING;
    sp_control_error(conn, 1, why);
}

/* True: it is answered. */
static bool check(struct sp_conn *conn)
{
    const struct sp_client *client = find_client(conn);

    if (!client || client->held)
        reply(conn, client);
    else if (!sp_turns_merges(client->domain))
        refuse(conn, "merging is stopped; \"samepage set run=1\" starts it");
    else if (!conn->daemon->config.value[SP_KEY_PAGES_TO_SCAN])
        refuse(conn, "nothing is scanned while pages_to_scan is 0");
    else if (sp_accounting_is_strict(&conn->daemon->accounting))
        refuse(conn,
               "nothing is merged while memory is accounted strictly (vm.overcommit_memory is 2)");
    else if (sp_now_usecs() - conn->since > WAIT_USECS)
        refuse(conn, "not all is merged yet; merging goes on");
    return conn->wait == SP_WAIT_NOTHING;
}

bool sp_hurry_check(struct sp_daemon *daemon)
{
    bool waiting = false;
    struct sp_conn *conn;

    TAILQ_FOREACH(conn, &daemon->conns, link)
    {
        if (conn->wait == SP_WAIT_MERGE)
            waiting |= !check(conn);
    }
    return waiting;
}

/* The user's share; one that is not in use is taken over. NULL: there are too many. */
static struct sp_hurry *share_of(struct sp_daemon *daemon, uid_t uid, uint64_t now)
{
    struct sp_hurry *unused = NULL;

    for (unsigned i = 0; i < SP_HURRY_USERS; i++) {
        struct sp_hurry *h = &daemon->hurry[i];

        if ((h->since || h->again_at) && h->uid == uid)
            return h;
        if (!h->since && h->again_at <= now)
            unused = h;
    }
    if (unused)
        *unused = (struct sp_hurry){.uid = uid};
    return unused;
}

static void end_hurry(struct sp_hurry *h, uint64_t now)
{
    h->again_at = now + (now - h->since);
    h->since = 0;
}

static bool may_hurry(struct sp_daemon *daemon, uid_t uid)
{
    uint64_t now = sp_now_usecs();
    struct sp_hurry *h = share_of(daemon, uid, now);

    if (!h || (!h->since && now < h->again_at))
        return false;
    if (!h->since)
        h->since = now;
    h->used_at = now;
    if (now - h->since < SP_HURRY_USECS)
        return true;
    end_hurry(h, now);
    return false;
}

/* Shares of users for whom nobody waits any more. */
static void end_unused(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();

    for (unsigned i = 0; i < SP_HURRY_USERS; i++) {
        if (daemon->hurry[i].since && now - daemon->hurry[i].used_at > 2 * SP_SLICE_USECS)
            end_hurry(&daemon->hurry[i], daemon->hurry[i].used_at);
    }
}

static bool rests(struct sp_conn *conn, const struct sp_client *client)
{
    bool rests = sp_now_usecs() < client->rest_until;

    conn->rested |= rests;
    return rests;
}

/* Of several that wait the first; when it is answered, the next. */
struct sp_domain *sp_hurry_domain(struct sp_daemon *daemon)
{
    struct sp_conn *conn;

    end_unused(daemon);
    TAILQ_FOREACH(conn, &daemon->conns, link)
    {
        const struct sp_client *client = conn->wait == SP_WAIT_MERGE ? find_client(conn) : NULL;

        if (!client || client->state != SP_CLIENT_READY || !sp_turns_merges(client->domain))
            continue;
        if (rests(conn, client)) /* it is not asked to merge: there is no hurry */
            continue;
        if (may_hurry(daemon, client->uid))
            return client->domain;
    }
    return NULL;
}

void sp_hurry_pass_done(struct sp_domain *domain)
{
    struct sp_conn *conn;

    TAILQ_FOREACH(conn, &domain->daemon->conns, link)
    {
        struct sp_client *client = conn->wait == SP_WAIT_MERGE ? find_client(conn) : NULL;

        if (!client || client->domain != domain || client->state != SP_CLIENT_READY ||
            rests(conn, client))
            continue;
        if (conn->rested &&
            conn->rests < RESTS_MAX) { /* what it was not asked to merge is reported once more */
            conn->rests++;
            client->restart = true;
            conn->rested = false;
            conn->parts = 0;
        }
        conn->parts++;
        if ((conn->parts >= PASSES_NEEDED && client->merged == conn->pages) ||
            conn->parts >= PASSES_MAX)
            reply(conn, client);
        conn->pages = client->merged;
    }
}

bool sp_hurry_wants(const struct sp_client *client)
{
    const struct sp_conn *conn;

    TAILQ_FOREACH(conn, &client->daemon->conns, link)
    {
        if (conn->wait == SP_WAIT_MERGE && is_of(conn, client))
            return true;
    }
    return false;
}
