/* SPDX-License-Identifier: Apache-2.0 */
#include "explain.h"

#include <errno.h>
#include <stdio.h>

#include <json-c/json.h>

#include "answers.h"
#include "ask.h"
#include "client.h"
#include "control.h"
#include "passes.h"
#include "status.h"

/* Answers of one agent at most: of an honest one each but the last holds a gigabyte that is in use.
 */
#define PARTS_MAX 512u

static const char *const left_key[SP_LEFT_KINDS] = {
    [SP_LEFT_OURS] = "samepage",
    [SP_LEFT_SHARED] = "shared",
    [SP_LEFT_FILE] = "file",
    [SP_LEFT_STACK] = "stack",
    [SP_LEFT_SPECIAL] = "special",
    [SP_LEFT_NO_ACCESS] = "no_access",
    [SP_LEFT_READ_ONLY] = "read_only",
    [SP_LEFT_EXECUTABLE] = "executable",
    [SP_LEFT_USERFAULTFD] = "userfaultfd",
    [SP_LEFT_NOT_ADVISED] = "not_advised",
    [SP_LEFT_BOUND] = "bound_to_nodes",
    [SP_LEFT_SMALL] = "too_small",
    [SP_LEFT_TOO_MANY] = "too_many_ranges",
    [SP_LEFT_LOCKED] = "locked",
    [SP_LEFT_WIPEONFORK] = "wipeonfork",
    [SP_LEFT_DONTDUMP] = "dontdump",
    [SP_LEFT_SEALED] = "sealed",
    [SP_LEFT_KEYED] = "protection_key",
    [SP_LEFT_HUGETLB] = "hugetlb",
    [SP_LEFT_READ_ADVICE] = "read_advice",
    [SP_LEFT_DEVICE] = "device",
    [SP_LEFT_OTHER_FLAG] = "other_attributes",
};

static const char *const refused_key[SP_REFUSALS] = {
    [SP_REFUSED_CHANGED] = "changed_during_merge",
    [SP_REFUSED_PINNED] = "pinned",
    [SP_REFUSED_GONE] = "unreachable",
    [SP_REFUSED_FORK] = "shared_by_fork",
    [SP_REFUSED_ATTRIBUTES] = "attributes",
    [SP_REFUSED_MAPPINGS] = "mappings",
    [SP_REFUSED_SHORT_RUN] = "short_run",
    [SP_REFUSED_LIMIT] = "limit",
    [SP_REFUSED_MEMORY] = "memory_short",
    [SP_REFUSED_LIKE] = "partner_refused",
};

static void add_u64(struct json_object *to, const char *key, uint64_t value)
{
    json_object_object_add(to, key, json_object_new_uint64(value));
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/*
 * Divides what the agent reported, or has as changed lately, by what the engine knows of it. A page
 * that was refused in the middle of a lift is new to the agent, so the engine's word is heard
 * first. A candidate is a hint (K5): it counts only where the agent has reported pages for it.
 */
static void add_judged(struct json_object *to, const struct sp_explained *e,
                       const struct sp_mm_counters *c)
{
    uint64_t lately = e->page[SP_NOW_CHANGED] + e->page[SP_NOW_SETTLING];
    uint64_t rest = lately + e->page[SP_NOW_REPORTED], candidates, met;
    uint64_t refused[SP_REFUSALS];

    for (unsigned i = 0; i < SP_REFUSALS; i++) {
        refused[i] = least(c->refused[i], rest);
        rest -= refused[i];
    }
    candidates = least(least(c->candidates, e->page[SP_NOW_REPORTED]), rest);
    met = least(c->met, candidates);
    rest -= candidates;
    add_u64(to, "no_partner", candidates - met);
    refused[SP_REFUSED_LIKE] += met;
    for (unsigned i = 0; i < SP_REFUSALS; i++)
        add_u64(to, refused_key[i], refused[i]);
    add_u64(to, "volatile", least(lately, rest));
    add_u64(to, "not_decided", rest - least(lately, rest));
}

static struct json_object *pages_json(const struct sp_explained *e, const struct sp_mm_counters *c)
{
    struct json_object *to = json_object_new_object();
    uint64_t tracked = 0;

    if (!to)
        return NULL;
    for (unsigned i = 0; i < SP_NOW_KINDS; i++)
        tracked += e->page[i];
    add_u64(to, "tracked", tracked);
    add_u64(to, "merged", e->page[SP_NOW_MERGED]);
    add_u64(to, "kept_private", e->page[SP_NOW_PRIVATE]);
    add_u64(to, "absent", e->page[SP_NOW_ABSENT]);
    add_u64(to, "swapped", e->page[SP_NOW_SWAPPED]);
    add_u64(to, "new", e->page[SP_NOW_NEW]);
    add_judged(to, e, c);
    return to;
}

static struct json_object *left_json(const struct sp_explained *e)
{
    struct json_object *to = json_object_new_object();

    for (unsigned i = 1; to && i < SP_LEFT_KINDS; i++)
        add_u64(to, left_key[i], e->left[i]);
    return to;
}

static void add_if(struct json_object *list, bool is, const char *key)
{
    if (is && list)
        json_object_array_add(list, json_object_new_string(key));
}

static bool limit_reached(const struct sp_client *client)
{
    const struct sp_domain *domain = client->domain;
    uint64_t own = domain->value[SP_KEY_MAX_KERNEL_PAGES];
    uint64_t all = client->daemon->config.value[SP_KEY_MAX_KERNEL_PAGES];
    struct sp_pool_counters pool;
    struct sp_engine_counters c = {0};

    if (domain->engine)
        sp_engine_counters(domain->engine, &c);
    sp_pool_counters(client->daemon->pool, &pool);
    return (own && c.frames >= own) || (all && pool.frames_used >= all);
}

/* Why nothing, or nothing more, is merged in the process as a whole. */
static struct json_object *because_json(const struct sp_client *client,
                                        const struct sp_explained *e)
{
    struct json_object *list = json_object_new_array();
    char key[64];

    add_if(list, client->domain->value[SP_KEY_RUN] != SP_RUN_MERGE, "stopped");
    add_if(list, !client->daemon->config.value[SP_KEY_PAGES_TO_SCAN], "nothing_scanned");
    add_if(list, client->state == SP_CLIENT_JOINING, "joining");
    add_if(list, client->state == SP_CLIENT_STALLED, "stalled");
    add_if(list, client->state == SP_CLIENT_LEFT, "agent_gone");
    add_if(list, sp_now_usecs() < client->rest_until, "rests");
    add_if(list, client->held || (e->flags & SP_EXPLAINED_STAYS), "unmerged_on_request");
    add_if(list, e->flags & SP_EXPLAINED_LOCKS_FUTURE, "locks_future_memory");
    add_if(list, e->flags & SP_EXPLAINED_GAVE_BACK, "ran_out_of_mappings");
    add_if(list,
           !(e->flags & SP_EXPLAINED_GAVE_BACK) &&
               (client->no_mappings || (e->flags & SP_EXPLAINED_SHORT)),
           "needs_its_mappings");
    add_if(list, client->mappings_budget && client->mappings + 2 > client->mappings_budget,
           "budget_used_up");
    add_if(list, e->flags & SP_EXPLAINED_RAW_CODE, "own_system_calls");
    add_if(list, e->flags & SP_EXPLAINED_RAW_CHANGE, "changed_unseen");
    add_if(list, e->flags & SP_EXPLAINED_RING_ADVICE, "ring_advice");
    add_if(list, limit_reached(client), "limit_reached");
    if (client->kept && client->pins != SP_PINS_NONE) {
        snprintf(key, sizeof(key), "kept_%s", sp_pins_name(client->pins));
        add_if(list, true, key);
    }
    return list;
}

/* counted: e holds the sums of all parts, else only the process as a whole is explained. */
static void reply(struct sp_conn *conn, const struct sp_client *client, bool counted)
{
    struct json_object *to = sp_process_json(client);
    struct sp_mm_counters c = {0};

    conn->wait = SP_WAIT_NOTHING;
    if (to) {
        if (client->mm)
            sp_engine_mm_counters(client->mm, &c);
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        json_object_object_add(to, "all", json_object_new_boolean(client->flags & SP_HELLO_ALL));
        add_u64(to, "page_size", client->daemon->page_size);
        json_object_object_add(to, "because", because_json(client, &conn->explained));
        if (counted) {
            json_object_object_add(to, "pages", pages_json(&conn->explained, &c));
            json_object_object_add(to, "left_alone", left_json(&conn->explained));
        }
    }
    sp_conn_reply(conn, to);
}

/* It never was ours, is not any more, or is not the asker's: the asker sees that best himself. */
static void reply_unknown(struct sp_conn *conn)
{
    struct json_object *to = json_object_new_object();

    conn->wait = SP_WAIT_NOTHING;
    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        json_object_object_add(to, "pid", json_object_new_int(conn->pid));
        json_object_object_add(to, "state", json_object_new_string("unknown"));
    }
    sp_conn_reply(conn, to);
}

/* The client that is asked about; one whose agent is gone only if there is no other. */
static struct sp_client *find_client(const struct sp_conn *conn)
{
    struct sp_client *client, *left = NULL;

    TAILQ_FOREACH(client, &conn->daemon->clients, link)
    {
        if (client->program != conn->pid || !(sp_control_may_all(conn) || client->uid == conn->uid))
            continue;
        if (client->state != SP_CLIENT_LEFT)
            return client;
        left = client;
    }
    return left;
}

void sp_explain_start(struct sp_conn *conn, pid_t pid)
{
    conn->pid = pid;
    conn->explained = (struct sp_explained){0};
    conn->parts = 0;
    conn->wait = SP_WAIT_EXPLAIN;
    if (find_client(conn))
        sp_passes_ask(conn->daemon);
    else
        reply_unknown(conn);
}

static void add_part(struct sp_explained *sum, const struct sp_explained *part)
{
    for (unsigned i = 0; i < SP_NOW_KINDS; i++)
        sum->page[i] += part->page[i];
    for (unsigned i = 0; i < SP_LEFT_KINDS; i++)
        sum->left[i] += part->left[i];
    sum->flags = part->flags;
    sum->next = part->next;
}

/* 0 with one more part in the sums, or a negative errno: it cannot be asked. */
static int ask_part(struct sp_conn *conn, struct sp_client *client)
{
    struct sp_from question = {conn->explained.next};
    struct sp_explained part;
    const void *body;
    size_t size;
    int err = sp_ask(client, SP_MSG_EXPLAIN, &question, sizeof(question), -1, SP_MSG_EXPLAIN, &body,
                     &size);

    if (err)
        return err;
    if (sp_check_explained(body, size, client->daemon->page_size, question.from, &part))
        return sp_ask_malformed(client);
    add_part(&conn->explained, &part);
    return 0;
}

static void work(struct sp_conn *conn)
{
    struct sp_client *client = find_client(conn);
    int err;

    if (!client) {
        reply_unknown(conn);
        return;
    }
    err = conn->parts++ < PARTS_MAX ? ask_part(conn, client) : -E2BIG;
    if (err || conn->explained.next == 0)
        reply(conn, client, !err);
}

static struct sp_conn *find_waiting(const struct sp_daemon *daemon)
{
    struct sp_conn *conn;

    TAILQ_FOREACH(conn, &daemon->conns, link)
    {
        if (conn->wait == SP_WAIT_EXPLAIN)
            return conn;
    }
    return NULL;
}

bool sp_explain_work(struct sp_daemon *daemon)
{
    struct sp_conn *conn = find_waiting(daemon);

    if (!conn)
        return false;
    work(conn);
    sp_clients_reap(daemon);
    return find_waiting(daemon) != NULL;
}
