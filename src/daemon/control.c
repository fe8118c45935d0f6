/* SPDX-License-Identifier: Apache-2.0 */
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "client.h"
#include "control_parse.h"
#include "engine_ops.h"
#include "explain.h"
#include "passes.h"
#include "status.h"

#define PS_ENTRIES 128 /* in one packet: below 512 bytes each */

static void reply_ok(struct sp_conn *conn)
{
    struct json_object *to = json_object_new_object();

    if (to)
        json_object_object_add(to, "ok", json_object_new_boolean(true));
    sp_conn_reply(conn, to);
}

void sp_control_error(struct sp_conn *conn, int exit_status, const char *error)
{
    struct json_object *to = json_object_new_object();

    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(false));
        json_object_object_add(to, "error", json_object_new_string(error));
        json_object_object_add(to, "exit", json_object_new_int(exit_status));
    }
    sp_conn_reply(conn, to);
}

bool sp_control_may_all(const struct sp_conn *conn)
{
    return conn->uid == 0 || conn->uid == conn->daemon->uid;
}

static uid_t asked_uid(const struct sp_conn *conn)
{
    return sp_control_may_all(conn) ? SP_EVERYBODY : conn->uid;
}

static bool may_see(const struct sp_conn *conn, const struct sp_client *client)
{
    return sp_control_may_all(conn) || client->uid == conn->uid;
}

static struct json_object *ps_packet(struct json_object *processes, bool more)
{
    struct json_object *to = json_object_new_object();

    if (!to) {
        json_object_put(processes);
        return NULL;
    }
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    json_object_object_add(to, "processes", processes);
    if (more)
        json_object_object_add(to, "more", json_object_new_boolean(true));
    return to;
}

static void do_ps(struct sp_conn *conn)
{
    struct json_object *processes = json_object_new_array();
    const struct sp_client *client;

    TAILQ_FOREACH(client, &conn->daemon->clients, link) {
        if (!processes || client->state == SP_CLIENT_LEFT || !may_see(conn, client))
            continue;
        if (json_object_array_length(processes) == PS_ENTRIES) {
            sp_conn_reply(conn, ps_packet(processes, true));
            processes = json_object_new_array();
        }
        if (processes)
            json_object_array_add(processes, sp_process_json(client));
    }
    sp_conn_reply(conn, processes ? ps_packet(processes, false) : NULL);
}

static void do_get(struct sp_conn *conn, const char *key)
{
    struct json_object *status = sp_status_json(conn->daemon, asked_uid(conn));
    struct json_object *to = json_object_new_object(), *value;
    char error[160];

    if (!status || !to) {
        json_object_put(to);
        sp_conn_reply(conn, NULL);
    } else if (!strcmp(key, "ok") || !json_object_object_get_ex(status, key, &value)) {
        json_object_put(to);
        snprintf(error, sizeof(error), "unknown key \"%.31s\": \"samepage status --json\" shows all",
                 key);
        sp_control_error(conn, 2, error);
    } else {
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        json_object_object_add(to, "value",
                               json_object_new_string(json_object_get_string(value)));
        sp_conn_reply(conn, to);
    }
    json_object_put(status);
}

static bool run2_waited_for(const struct sp_daemon *daemon)
{
    const struct sp_conn *conn;

    TAILQ_FOREACH(conn, &daemon->conns, link) {
        if (conn->wait == SP_WAIT_RUN2)
            return true;
    }
    return false;
}

static void start_run2(struct sp_conn *conn, bool off)
{
    conn->wait = SP_WAIT_RUN2;
    sp_passes_set_run(conn->daemon, SP_RUN_UNMERGE, off);
}

static void set_run(struct sp_conn *conn, uint64_t run)
{
    if (run2_waited_for(conn->daemon) && run != SP_RUN_UNMERGE)
        sp_control_run2_done(conn->daemon, -ECANCELED);
    if (run == SP_RUN_UNMERGE) {
        start_run2(conn, false);
        return;
    }
    sp_passes_set_run(conn->daemon, (enum sp_engine_run)run, false);
    reply_ok(conn);
}

static void do_set(struct sp_conn *conn, const struct sp_request *request)
{
    struct sp_config *config = &conn->daemon->config;

    if (!strcmp(request->key, "run")) {
        set_run(conn, request->value);
        return;
    }
    if (!strcmp(request->key, "pages_to_scan"))
        config->pages_to_scan = (uint32_t)request->value;
    else if (!strcmp(request->key, "sleep_millisecs"))
        config->sleep_millisecs = (uint32_t)request->value;
    else if (!strcmp(request->key, "max_mappings"))
        config->max_mappings = (uint32_t)request->value;
    else
        sp_passes_set_max_kernel_pages(conn->daemon, request->value);
    conn->daemon->quota = 0;
    sp_keep_state(conn->daemon);
    sp_passes_wake(conn->daemon);
    reply_ok(conn);
}

void sp_control_run2_done(struct sp_daemon *daemon, int status)
{
    struct sp_conn *conn, *next;

    for (conn = TAILQ_FIRST(&daemon->conns); conn; conn = next) {
        next = TAILQ_NEXT(conn, link);
        if (conn->wait != SP_WAIT_RUN2)
            continue;
        conn->wait = SP_WAIT_NOTHING;
        if (status == 0)
            reply_ok(conn);
        else if (status == -ENOMEM)
            sp_control_error(conn, 1,
                        "memory is short: not everything is un-merged, nothing is lost, run is 0 "
                        "now; free memory and try again");
        else if (status == -ECANCELED)
            sp_control_error(conn, 1, "run was set to another value meanwhile");
        else
            sp_control_error(conn, 1,
                        "not everything is un-merged: a process did not answer; try again");
    }
}

static bool matches(const struct sp_conn *conn, const struct sp_client *client)
{
    return client->state != SP_CLIENT_LEFT && may_see(conn, client) &&
           (conn->pid == 0 || conn->pid == client->program);
}

static void start_unmerge(struct sp_conn *conn, const struct sp_request *request)
{
    const struct sp_client *client;
    char error[160];
    bool any = false;

    conn->pid = request->has_pid ? request->pid : 0;
    TAILQ_FOREACH(client, &conn->daemon->clients, link)
        any = any || matches(conn, client);
    if (conn->pid && !any) {
        snprintf(error, sizeof(error),
                 "process %d is not merged here, or is not yours: \"samepage ps\" lists yours",
                 (int)conn->pid);
        sp_control_error(conn, 1, error);
        return;
    }
    conn->wait = SP_WAIT_UNMERGE;
    conn->serial = ++conn->daemon->unmerge_serial;
    conn->pages = 0;
    conn->failed = 0;
    conn->error = 0;
    sp_passes_wake(conn->daemon);
}

static void reply_unmerged(struct sp_conn *conn)
{
    struct json_object *to;
    char error[160];

    conn->wait = SP_WAIT_NOTHING;
    if (conn->failed) {
        snprintf(error, sizeof(error), "%u process%s not un-merged: %s", conn->failed,
                 conn->failed == 1 ? " is" : "es are",
                 conn->error == -ENOMEM ? "memory is short; nothing is lost, free some and try again"
                                        : "no answer in time; try again");
        sp_control_error(conn, 1, error);
        return;
    }
    to = json_object_new_object();
    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        json_object_object_add(to, "pages", json_object_new_uint64(conn->pages));
    }
    sp_conn_reply(conn, to);
}

/* A process that was named stays un-merged until run is set to 1; otherwise it would be merged
 * again the next moment. */
static void unmerge_client(struct sp_conn *conn, struct sp_client *client)
{
    struct sp_domain *domain = client->domain;
    uint64_t before = domain->unmerged;
    int err = -EHOSTDOWN;

    if (client->mm) {
        err = sp_engine_unmerge_mm(domain->engine, client->mm);
        sp_engine_call_done(domain);
    } else if (client->held) {
        err = 0;
    }
    conn->pages += domain->unmerged - before;
    if (err) {
        conn->failed++;
        conn->error = err;
    } else if (conn->pid) {
        sp_client_remove_mm(client);
        client->held = true;
    }
}

bool sp_control_work(struct sp_daemon *daemon)
{
    struct sp_client *client;
    struct sp_conn *conn;

    TAILQ_FOREACH(conn, &daemon->conns, link) {
        if (conn->wait == SP_WAIT_UNMERGE)
            break;
    }
    if (!conn)
        return false;
    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->unmerge_serial != conn->serial && matches(conn, client))
            break;
    }
    if (client) {
        client->unmerge_serial = conn->serial;
        unmerge_client(conn, client);
        sp_clients_reap(daemon);
    } else {
        reply_unmerged(conn);
    }
    return true;
}

static bool changes_all(const struct sp_request *request)
{
    return request->op == SP_OP_SET || request->op == SP_OP_OFF;
}

void sp_control_request(struct sp_conn *conn, const void *data, size_t size)
{
    struct sp_request request;
    char error[256];
    int wrong = sp_control_parse(data, size, &request, error, sizeof(error));

    if (wrong) {
        sp_control_error(conn, wrong, error);
        return;
    }
    if (changes_all(&request) && !sp_control_may_all(conn)) {
        sp_control_error(conn, 1, "only root and the user whom the daemon runs as may change settings");
        return;
    }
    switch (request.op) {
    case SP_OP_STATUS:
        sp_conn_reply(conn, sp_status_json(conn->daemon, asked_uid(conn)));
        break;
    case SP_OP_PS:
        do_ps(conn);
        break;
    case SP_OP_GET:
        do_get(conn, request.key);
        break;
    case SP_OP_SET:
        do_set(conn, &request);
        break;
    case SP_OP_UNMERGE:
        start_unmerge(conn, &request);
        break;
    case SP_OP_OFF:
        start_run2(conn, true);
        break;
    case SP_OP_EXPLAIN:
        sp_explain_start(conn, request.pid);
        break;
    }
}
