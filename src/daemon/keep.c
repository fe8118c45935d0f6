/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the keeper is told, and what a new daemon makes of it (D1, D3).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "client.h"
#include "domain.h"
#include "keeper.h"
#include "log.h"
#include "repair.h"
#include "storage.h"

#define STATE_MAGIC 0x32545053u /* "SPT2" */

struct state_domain {
    uint32_t id, reserved;
    uint64_t seed;
    char name[48];
    uint64_t value[SP_SETTINGS];
};

struct state {
    uint32_t magic, ndomains;
    uint64_t pool_id, takeovers, repairs;
    uint32_t next_client_id, reserved;
    uint64_t value[SP_SETTINGS];
    struct state_domain domain[SP_STATE_DOMAINS];
};

_Static_assert(sizeof(struct state) <= SP_KEEPER_STATE_MAX, "the keeper has no room for the state");
_Static_assert(sizeof(((struct sp_domain *)0)->name) <= sizeof(((struct state_domain *)0)->name),
               "a domain's name does not fit");

static void keep_failed(struct sp_daemon *daemon, int err)
{
    static bool told;

    if (err && err != -EPIPE && !told) {
        told = true;
        sp_log(SP_LOG_WARNING, "the keeper does not take a record (%s): a crash now would be harder"
                               " to put right",
               strerror(-err));
    }
}

void sp_keep_client(struct sp_client *client)
{
    struct sp_keeper_client record = {
        .client_id = client->id,
        .program_pid = (uint32_t)client->program,
        .agent_pid = (uint32_t)client->agent,
        .set_id = client->domain->id,
        .wait_page = client->wait_page,
        .flags = client->flags,
        .reserved = client->uid,
    };
    int fd[SP_KEEPER_FDS] = {[SP_KEEPER_UFFD] = client->uffd,
                             [SP_KEEPER_SHM] = client->shm_fd,
                             [SP_KEEPER_PROGRAM] = client->pidfd,
                             [SP_KEEPER_AGENT] = client->agent_pidfd};
    const char *name = strchr(client->domain->name, ':');

    if (!client->daemon->keeper)
        return;
    if (name)
        snprintf(record.domain, sizeof(record.domain), "%s", name + 1);
    keep_failed(client->daemon, sp_keeper_put_client(client->daemon->keeper, &record, fd));
}

void sp_keep_drop_client(struct sp_daemon *daemon, uint32_t client_id)
{
    if (daemon->keeper)
        keep_failed(daemon, sp_keeper_drop_client(daemon->keeper, client_id));
}

void sp_keep_state(struct sp_daemon *daemon)
{
    struct state state = {
        .magic = STATE_MAGIC,
        .pool_id = daemon->pool_id,
        .takeovers = daemon->takeovers,
        .repairs = daemon->repairs,
        .next_client_id = daemon->next_client_id,
    };
    struct sp_domain *domain;

    if (!daemon->keeper)
        return;
    memcpy(state.value, daemon->config.value, sizeof(state.value));
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        struct state_domain *d = &state.domain[state.ndomains];

        if (!domain->engine)
            continue;
        if (state.ndomains++ == SP_STATE_DOMAINS)
            break;
        d->id = domain->id;
        d->seed = domain->seed;
        memcpy(d->value, domain->value, sizeof(d->value));
        snprintf(d->name, sizeof(d->name), "%s", domain->name);
    }
    if (state.ndomains > SP_STATE_DOMAINS)
        state.ndomains = SP_STATE_DOMAINS; /* others get a new seed, and the daemon's values */
    keep_failed(daemon, sp_keeper_put_state(daemon->keeper, &state, sizeof(state)));
}

static void on_pool_change(void *arg, const struct sp_pool_record *record, int fd)
{
    struct sp_daemon *daemon = arg;

    if (daemon->keeper)
        keep_failed(daemon, sp_keeper_pool_change(daemon->keeper, record, fd));
}

/* What the keeper of a dead daemon held. */
struct held {
    struct sp_pool_record *record;
    int *record_fd;
    size_t nrecords;
    struct held_client {
        struct sp_keeper_client client;
        int fd[SP_KEEPER_FDS];
    } * client;
    size_t nclients;
    struct state state;
};

static void close_fds(const int *fd, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
    }
}

static void held_pool(void *arg, const struct sp_pool_record *record, int fd)
{
    struct held *held = arg;
    struct sp_pool_record *records =
        reallocarray(held->record, held->nrecords + 1, sizeof(*records));
    int *fds;

    if (records)
        held->record = records;
    fds = reallocarray(held->record_fd, held->nrecords + 1, sizeof(*fds));
    if (fds)
        held->record_fd = fds;
    if (!records || !fds) {
        close_fds(&fd, 1);
        return;
    }
    records[held->nrecords] = *record;
    fds[held->nrecords++] = fd;
}

static void held_client(void *arg, const struct sp_keeper_client *client,
                        const int fd[SP_KEEPER_FDS])
{
    struct held *held = arg;
    struct held_client *more = reallocarray(held->client, held->nclients + 1, sizeof(*more));

    if (!more) {
        close_fds(fd, SP_KEEPER_FDS);
        return;
    }
    held->client = more;
    more[held->nclients].client = *client;
    memcpy(more[held->nclients++].fd, fd, SP_KEEPER_FDS * sizeof(int));
}

static void held_state(void *arg, const void *data, size_t size)
{
    struct held *held = arg;

    if (size == sizeof(held->state))
        memcpy(&held->state, data, size);
}

static const struct sp_keeper_visitor held_visitor = {held_pool, held_client, held_state};

/* What a setting cannot be stays as it is. */
static void restore_values(uint64_t to[SP_SETTINGS], const uint64_t from[SP_SETTINGS])
{
    for (unsigned i = 0; i < SP_SETTINGS; i++) {
        if (from[i] >= sp_settings[i].min && from[i] <= sp_settings[i].max)
            to[i] = from[i];
    }
}

static void restore_settings(struct sp_daemon *daemon, const struct state *state)
{
    if (state->magic != STATE_MAGIC)
        return;
    daemon->pool_id = state->pool_id;
    daemon->takeovers = state->takeovers;
    daemon->repairs = state->repairs;
    daemon->next_client_id = state->next_client_id;
    restore_values(daemon->config.value, state->value);
}

static struct sp_domain *domain_of(struct sp_daemon *daemon, const struct state *state,
                                   const struct sp_keeper_client *record)
{
    uint64_t value[SP_SETTINGS];
    char name[64];
    uint64_t seed;

    memcpy(value, daemon->config.value, sizeof(value));
    for (uint32_t i = 0; i < state->ndomains && i < SP_STATE_DOMAINS; i++) {
        const struct state_domain *d = &state->domain[i];

        if (state->magic != STATE_MAGIC || d->id != record->set_id)
            continue;
        restore_values(value, d->value);
        return sp_domain_restore(daemon, d->name, record->set_id, d->seed, value);
    }
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        return NULL;
    snprintf(name, sizeof(name), *record->domain ? "u%u:%.31s" : "u%u", record->reserved,
             record->domain);
    return sp_domain_restore(daemon, name, record->set_id, seed, value);
}

static void read_comm(struct sp_client *client)
{
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/comm", (int)client->program);
    f = fopen(path, "re");
    if (!f)
        return;
    if (fgets(client->comm, sizeof(client->comm), f))
        client->comm[strcspn(client->comm, "\n")] = 0;
    fclose(f);
}

static bool pidfd_dead(int fd)
{
    struct pollfd pfd = {fd, POLLIN, 0};

    return poll(&pfd, 1, 0) == 1;
}

/* A client of the daemon before: its agent comes back, or is dead and what it left is put right. */
static void restore_client(struct sp_daemon *daemon, const struct state *state,
                           const struct held_client *held)
{
    struct sp_domain *domain = domain_of(daemon, state, &held->client);
    struct sp_client *client;

    if (!domain || held->fd[SP_KEEPER_PROGRAM] < 0) {
        close_fds(held->fd, SP_KEEPER_FDS);
        return;
    }
    client = sp_client_restore(daemon, domain, held->client.client_id,
                               (pid_t)held->client.program_pid, held->fd[SP_KEEPER_UFFD],
                               held->fd[SP_KEEPER_SHM], held->fd[SP_KEEPER_PROGRAM],
                               held->fd[SP_KEEPER_AGENT]);
    if (!client)
        return;
    client->wait_page = held->client.wait_page;
    client->flags = held->client.flags;
    client->agent = (pid_t)held->client.agent_pid;
    read_comm(client);
    if (pidfd_dead(client->pidfd))
        sp_client_free(client);
    else if (client->agent_pidfd >= 0 && pidfd_dead(client->agent_pidfd))
        sp_client_leave(client, true);
}

/* The records that are the store's, at the end of what is held, go to it. */
static int open_storage(struct sp_daemon *daemon, struct held *held, char *why, size_t why_size)
{
    size_t n = 0;

    for (size_t i = 0; i < held->nrecords; i++) {
        struct sp_pool_record record = held->record[i];
        int fd = held->record_fd[i];

        if (sp_storage_is_record(&record))
            continue;
        held->record[i] = held->record[n];
        held->record_fd[i] = held->record_fd[n];
        held->record[n] = record;
        held->record_fd[n++] = fd;
    }
    *why = 0;
    n = held->nrecords - n;
    held->nrecords -= n;
    return sp_storage_open(daemon, &daemon->storage, held->record + held->nrecords,
                           held->record_fd + held->nrecords, n, why, why_size);
}

static int make_pool(struct sp_daemon *daemon, const struct held *held, char *why, size_t why_size)
{
    int err = -ENOENT;

    if (held->nrecords)
        err = sp_pool_import(&daemon->pool, held->record, held->record_fd, held->nrecords,
                             sp_storage_link(daemon->storage), why, why_size);
    if (err && held->nrecords)
        sp_log(SP_LOG_ERROR, "the pool of the daemon before cannot be taken over: %s", why);
    if (!err) {
        if (!daemon->config.swap.store)
            sp_pool_use_store(daemon->pool, NULL); /* it has what it had, and gets nothing new */
        daemon->rejoin_seconds = SP_REJOIN_SECONDS;
        return 0;
    }
    if (getrandom(&daemon->pool_id, sizeof(daemon->pool_id), 0) != sizeof(daemon->pool_id))
        return -errno;
    err = sp_pool_new(&daemon->pool, why, why_size);
    if (!err)
        sp_pool_use_store(daemon->pool, sp_storage_link(daemon->storage));
    return err;
}

static void put_all(struct sp_daemon *daemon)
{
    struct sp_client *client;

    sp_pool_export(daemon->pool, on_pool_change, daemon);
    sp_storage_keep(daemon->storage);
    TAILQ_FOREACH(client, &daemon->clients, link)
        sp_keep_client(client);
    sp_keep_state(daemon);
}

static int on_keeper_dead(sd_event_source *source, int fd, uint32_t events, void *arg);

static void watch_keeper(struct sp_daemon *daemon)
{
    sd_event_add_io(daemon->event, &daemon->keeper_source, sp_keeper_fd(daemon->keeper), EPOLLHUP,
                    on_keeper_dead, daemon);
}

static int on_keeper_dead(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_daemon *daemon = arg;
    char why[200];

    daemon->keeper_source = sd_event_source_disable_unref(daemon->keeper_source);
    sp_keeper_close(daemon->keeper);
    daemon->keeper = NULL;
    if (sp_keeper_open(daemon->config.socket, &daemon->keeper, why, sizeof(why)) < 0) {
        daemon->keeper = NULL;
        sp_log(SP_LOG_ERROR, "the keeper died and no new one can be started: %s", why);
        return 0;
    }
    sp_log(SP_LOG_WARNING, "the keeper died; a new one took over");
    watch_keeper(daemon);
    put_all(daemon);
    return 0;
}

int sp_keep_open(struct sp_daemon *daemon, char *why, size_t why_size)
{
    struct held held = {0};
    int there = sp_keeper_open(daemon->config.socket, &daemon->keeper, why, why_size);
    int err = there < 0 ? there : 0;

    if (err) {
        daemon->keeper = NULL;
        return err;
    }
    if (there == 1 && sp_keeper_visit(daemon->keeper, &held_visitor, &held) == 0) {
        restore_settings(daemon, &held.state);
        if (held.nclients)
            daemon->takeovers++;
    }
    err = open_storage(daemon, &held, why, why_size);
    if (!err)
        err = make_pool(daemon, &held, why, why_size);
    if (!err) {
        sp_pool_on_change(daemon->pool, on_pool_change, daemon);
        for (size_t i = 0; i < held.nclients; i++)
            restore_client(daemon, &held.state, &held.client[i]);
        watch_keeper(daemon);
        put_all(daemon);
        if (daemon->storage)
            (void)sp_storage_watch(daemon->storage); /* else each second looks */
    }
    free(held.record);
    free(held.record_fd);
    free(held.client);
    return err;
}

void sp_keep_close(struct sp_daemon *daemon)
{
    daemon->keeper_source = sd_event_source_disable_unref(daemon->keeper_source);
    if (!daemon->keeper)
        return;
    sp_keep_state(daemon);
    sp_keeper_stop(daemon->keeper); /* busy: it stays for the clients that are left */
    sp_keeper_close(daemon->keeper);
    daemon->keeper = NULL;
}
