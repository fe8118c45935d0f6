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
#include "hurry.h"
#include "domain.h"
#include "passes.h"
#include "looks.h"
#include "reclaim.h"
#include "status.h"
#include "strays.h"
#include "values.h"

#define PS_ENTRIES     128 /* in one packet: below 512 bytes each */
#define DOMAIN_ENTRIES 512 /* below 64 bytes each */

static void reply_ok(struct sp_conn *conn)
{
    struct json_object *to = json_object_new_object();

    if (to)
        json_object_object_add(to, "ok", json_object_new_boolean(true));
    sp_conn_reply(conn, to);
}

static struct json_object *error_json(int exit_status, const char *error)
{
    struct json_object *to = json_object_new_object();

    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(false));
        json_object_object_add(to, "error", json_object_new_string(error));
        json_object_object_add(to, "exit", json_object_new_int(exit_status));
    }
    return to;
}

void sp_control_error(struct sp_conn *conn, int exit_status, const char *error)
{
    sp_conn_reply(conn, error_json(exit_status, error));
}

void sp_control_errno(struct sp_conn *conn, int exit_status, int err, const char *error)
{
    struct json_object *to = error_json(exit_status, error);
    const char *name = strerrorname_np(-err);

    if (to && name)
        json_object_object_add(to, "errno", json_object_new_string(name));
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

static void reply_value(struct sp_conn *conn, const char *value)
{
    struct json_object *to = json_object_new_object();

    if (to) {
        json_object_object_add(to, "ok", json_object_new_boolean(true));
        json_object_object_add(to, "value", json_object_new_string(value));
    }
    sp_conn_reply(conn, to);
}

/* A key that only status has. */
static void get_of_status(struct sp_conn *conn, const char *key)
{
    struct json_object *status = sp_status_json(conn->daemon, asked_uid(conn)), *value;
    char error[160];

    if (!status) {
        sp_conn_reply(conn, NULL);
    } else if (!strcmp(key, "ok") || !json_object_object_get_ex(status, key, &value)) {
        snprintf(error, sizeof(error), "unknown key \"%.47s\": \"samepage status --json\" shows all",
                 key);
        sp_control_errno(conn, 2, -ENOENT, error);
    } else {
        reply_value(conn, json_object_get_string(value));
    }
    json_object_put(status);
}

/* The domain that the request names, which the asker may know of. False: answered that there is
 * none. *domain is NULL if the request names none. */
static bool named_domain(struct sp_conn *conn, const struct sp_request *request,
                         struct sp_domain **domain)
{
    char error[160];

    *domain = NULL;
    if (!request->domain[0])
        return true;
    *domain = sp_domain_find(conn->daemon, request->domain);
    if (*domain && (sp_control_may_all(conn) || (*domain)->uid == conn->uid))
        return true;
    snprintf(error, sizeof(error), "there is no domain \"%s\", or it is not yours: \"samepage ps\" "
                                   "shows those of merged programs", request->domain);
    sp_control_errno(conn, 1, -ENOENT, error);
    return false;
}

static void do_get(struct sp_conn *conn, const struct sp_request *request)
{
    const struct sp_setting *setting = sp_key_find(request->key);
    char text[SP_SETTING_TEXT_SIZE];
    uint64_t value[SP_KEYS];
    struct sp_domain *domain;

    if (!named_domain(conn, request, &domain))
        return;
    if (!setting && domain) {
        sp_control_errno(conn, 2, -ENOENT, "a domain has no such key: leave the domain out");
        return;
    }
    if (!setting) {
        get_of_status(conn, request->key);
        return;
    }
    sp_status_values(conn->daemon, domain, asked_uid(conn), value);
    sp_setting_show(setting, value[sp_key_of(setting)], text);
    reply_value(conn, text);
}

static void start_run2(struct sp_conn *conn, struct sp_domain *domain, bool off)
{
    conn->wait = SP_WAIT_RUN2;
    conn->domain = domain;
    sp_passes_set_run(conn->daemon, domain, SP_RUN_UNMERGE, off);
}

/* Another run of one domain is none of those who wait for another one alone, nor of those who wait for all: the
 * others are un-merged all the same, and at the end they are told that not everything is. */
static void cancel_run2(struct sp_daemon *daemon, struct sp_domain *domain)
{
    struct sp_domain *each;

    sp_control_run2_done(daemon, domain, -ECANCELED);
    TAILQ_FOREACH(each, &daemon->domains, link) {
        if (!domain)
            sp_control_run2_done(daemon, each, -ECANCELED);
    }
}

static void set_run(struct sp_conn *conn, struct sp_domain *domain, uint64_t run)
{
    if (run == SP_RUN_UNMERGE) {
        start_run2(conn, domain, false);
        return;
    }
    cancel_run2(conn->daemon, domain);
    sp_passes_set_run(conn->daemon, domain, (enum sp_engine_run)run, false);
    reply_ok(conn);
}

static void reply_set(struct sp_conn *conn, enum sp_key key, int err)
{
    const char *name = sp_settings[key].key;
    char error[200];

    if (!err) {
        reply_ok(conn);
        return;
    }
    if (err == -EBUSY)
        snprintf(error, sizeof(error), "%s cannot change while pages are merged: first \"samepage off\"",
                 name);
    else if (err == -EOPNOTSUPP)
        snprintf(error, sizeof(error), "%s cannot have this value here", name);
    else
        snprintf(error, sizeof(error), "%s cannot be set while the advisor is on", name);
    sp_control_errno(conn, 1, err, error);
}

static void do_set(struct sp_conn *conn, const struct sp_request *request)
{
    enum sp_key key = sp_key_of(sp_setting_find(request->key));
    struct sp_domain *domain;
    char error[160];

    if (!named_domain(conn, request, &domain))
        return;
    if (domain && sp_settings[key].of_daemon) {
        snprintf(error, sizeof(error), "%s is of the daemon as a whole: leave the domain out",
                 request->key);
        sp_control_errno(conn, 2, -EOPNOTSUPP, error);
    } else if (key == SP_KEY_RUN) {
        set_run(conn, domain, request->value);
    } else {
        reply_set(conn, key, sp_values_set(conn->daemon, domain, key, request->value));
    }
}

static struct json_object *domains_packet(struct json_object *names, bool more)
{
    struct json_object *to = json_object_new_object();

    if (!to || !names) {
        json_object_put(names);
        json_object_put(to);
        return NULL;
    }
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    json_object_object_add(to, "domains", names);
    if (more)
        json_object_object_add(to, "more", json_object_new_boolean(true));
    return to;
}

static void do_domains(struct sp_conn *conn)
{
    struct json_object *names = json_object_new_array();
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &conn->daemon->domains, link) {
        if (!names || !domain->engine || !(sp_control_may_all(conn) || domain->uid == conn->uid))
            continue;
        if (json_object_array_length(names) == DOMAIN_ENTRIES) {
            sp_conn_reply(conn, domains_packet(names, true));
            names = json_object_new_array();
        }
        if (names)
            json_object_array_add(names, json_object_new_string(domain->name));
    }
    sp_conn_reply(conn, domains_packet(names, false));
}

static struct json_object *reclaimed_json(const struct sp_conn *conn, const struct sp_reclaimed *got, bool looking)
{
    struct json_object *to = json_object_new_object();

    if (!to)
        return NULL;
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    json_object_object_add(to, "evicted", json_object_new_uint64(got->evicted));
    json_object_object_add(to, "bytes", json_object_new_uint64((uint64_t)got->evicted * conn->daemon->page_size));
    json_object_object_add(to, "referenced", json_object_new_uint64(got->referenced));
    json_object_object_add(to, "locked", json_object_new_uint64(got->locked));
    json_object_object_add(to, "again", json_object_new_uint64(got->again));
    json_object_object_add(to, "cannot", json_object_new_uint64(got->cannot));
    if (looking)
        json_object_object_add(to, "looking", json_object_new_boolean(true));
    return to;
}

/* Of what goes to the machine's swap. */
static void add_on_their_way(struct json_object *to, const struct sp_reclaimed *got, uint64_t in_memory)
{
    json_object_object_add(to, "later", json_object_new_uint64(got->later));
    json_object_object_add(to, "whole", json_object_new_boolean(got->whole));
    json_object_object_add(to, "in_memory", json_object_new_uint64(in_memory));
}

static const char *why_not(int err)
{
    switch (err) {
    case -ENODEV:
        return "frames stay in memory here: the machine has no swap, and no store is set up (\"swap = store\" in [swap] of "
               "samepaged.conf, for what is merged after the next start)";
    case -EACCES:
        return "the kernel alone decides what goes to the machine's swap: asking it to takes a samepaged that is root and may "
               "write to /sys/kernel/mm/damon; a store (\"swap = store\" in samepaged.conf) does without";
    case -EOPNOTSUPP:
        return "the kernel alone decides what goes to the machine's swap: asking it to takes one with CONFIG_DAMON_PADDR and "
               "CONFIG_DAMON_SYSFS, 6.10 or later; a store (\"swap = store\" in samepaged.conf) does without";
    case -EBUSY:
        return "not now: somebody else uses DAMON, which it takes to have memory go to the machine's swap "
               "(/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds is not 0)";
    case -EAGAIN:
        return "not now: memory is being taken offline, or a program with locked memory does not say what is locked; "
               "try again";
    default:
        return "could not have memory go to the machine's swap";
    }
}

/* A part of what is asked for, in one go: who wants more asks again. */
static void do_reclaim(struct sp_conn *conn, const struct sp_request *request)
{
    struct json_object *answer;
    struct sp_reclaimed got = {0};
    struct sp_domain *domain;
    int err;

    if (!named_domain(conn, request, &domain))
        return;
    if (request->look && conn->daemon->storage && !sp_looks_fresh(conn->daemon)) {
        sp_conn_reply(conn, reclaimed_json(conn, &got, true));
        return;
    }
    err = sp_reclaim(conn->daemon, asked_uid(conn), domain, request->bytes, &got);
    if (err) {
        sp_control_errno(conn, 1, err, why_not(err));
        return;
    }
    answer = reclaimed_json(conn, &got, false);
    if (answer && !conn->daemon->storage)
        add_on_their_way(answer, &got, sp_reclaim_in_memory(conn->daemon, asked_uid(conn), domain));
    sp_conn_reply(conn, answer);
}

static void do_process(struct sp_conn *conn, pid_t pid)
{
    sp_conn_reply(conn, sp_status_process_json(conn->daemon, asked_uid(conn), pid));
}

/* T2. */
static void reply_strays(struct sp_conn *conn, const struct sp_domain *domain)
{
    char who[SP_STRAYS_TEXT], error[SP_STRAYS_TEXT + 64];

    sp_strays_tell(conn->daemon, domain, who);
    snprintf(error, sizeof(error), "not everything is un-merged: %s", who);
    sp_control_errno(conn, 1, -EBUSY, error);
}

void sp_control_run2_done(struct sp_daemon *daemon, const struct sp_domain *domain, int status)
{
    struct sp_conn *conn, *next;

    for (conn = TAILQ_FIRST(&daemon->conns); conn; conn = next) {
        next = TAILQ_NEXT(conn, link);
        if (conn->wait != SP_WAIT_RUN2 || conn->domain != domain)
            continue;
        conn->wait = SP_WAIT_NOTHING;
        if (status == 0)
            reply_ok(conn);
        else if (status == -ENOMEM)
            sp_control_errno(conn, 1, status,
                        "memory is short: not everything is un-merged, nothing is lost, run is 0 "
                        "now; free memory and try again");
        else if (status == -EBUSY)
            reply_strays(conn, domain);
        else if (status == -ENODATA)
            sp_control_errno(conn, 1, -EAGAIN,
                        "it is not known whether everything is un-merged: not all processes could be looked at, "
                        "the daemon's log says why; try again");
        else if (status == -ECANCELED)
            sp_control_errno(conn, 1, -EAGAIN, "run was set to another value meanwhile");
        else
            sp_control_errno(conn, 1, -EAGAIN,
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
    sp_passes_ask(conn->daemon);
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

/* The first that waits. */
static struct sp_conn *waits_for_unmerge(const struct sp_daemon *daemon)
{
    struct sp_conn *conn;

    TAILQ_FOREACH(conn, &daemon->conns, link) {
        if (conn->wait == SP_WAIT_UNMERGE)
            return conn;
    }
    return NULL;
}

/* The next request waits as long as this one took; one of the same connection for all others, too. */
static void end_unmerge(struct sp_daemon *daemon, struct sp_conn *conn)
{
    reply_unmerged(conn);
    TAILQ_REMOVE(&daemon->conns, conn, link);
    TAILQ_INSERT_TAIL(&daemon->conns, conn, link);
    daemon->unmerge_at = sp_now_usecs() + daemon->unmerge_took;
    daemon->unmerge_took = 0;
}

bool sp_control_work(struct sp_daemon *daemon, uint64_t *at)
{
    struct sp_conn *conn = waits_for_unmerge(daemon);
    uint64_t began = sp_now_usecs();
    struct sp_client *client;

    *at = conn ? daemon->unmerge_at : 0;
    if (!conn || began < daemon->unmerge_at)
        return false;
    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->unmerge_serial != conn->serial && matches(conn, client))
            break;
    }
    if (client) {
        client->unmerge_serial = conn->serial;
        unmerge_client(conn, client);
        sp_clients_reap(daemon);
        daemon->unmerge_took += sp_now_usecs() - began;
    } else {
        end_unmerge(daemon, conn);
        *at = waits_for_unmerge(daemon) ? daemon->unmerge_at : 0;
    }
    return client != NULL;
}

bool sp_control_only_reads(const void *data, size_t size)
{
    struct sp_request request;
    char error[256];

    if (sp_control_parse(data, size, &request, error, sizeof(error)))
        return true;
    switch (request.op) {
    case SP_OP_STATUS:
    case SP_OP_PS:
    case SP_OP_GET:
    case SP_OP_SELF:
    case SP_OP_DOMAINS:
    case SP_OP_PROCESS:
        return true;
    default:
        return false;
    }
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
        sp_control_errno(conn, wrong, request.error, error);
        return;
    }
    if (request.has_uid && conn->uid != 0) {
        sp_control_errno(conn, 1, -EACCES, "only root may ask on behalf of a user: leave the uid out");
        return;
    }
    if (request.has_uid)
        conn->uid = request.uid; /* for good: what was given up does not come back */
    if (changes_all(&request) && !sp_control_may_all(conn)) {
        sp_control_errno(conn, 1, -EACCES, "only root and the user whom the daemon runs as may change settings");
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
        do_get(conn, &request);
        break;
    case SP_OP_SET:
        do_set(conn, &request);
        break;
    case SP_OP_UNMERGE:
        start_unmerge(conn, &request);
        break;
    case SP_OP_OFF:
        start_run2(conn, NULL, true);
        break;
    case SP_OP_EXPLAIN:
        sp_explain_start(conn, request.pid);
        break;
    case SP_OP_MERGE:
        sp_hurry_start(conn);
        break;
    case SP_OP_SELF:
        sp_hurry_tell(conn);
        break;
    case SP_OP_DOMAINS:
        do_domains(conn);
        break;
    case SP_OP_PROCESS:
        do_process(conn, request.has_pid ? request.pid : conn->peer);
        break;
    case SP_OP_RECLAIM:
        do_reclaim(conn, &request);
        break;
    case SP_OPS:
        break;
    }
}
