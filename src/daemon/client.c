/* SPDX-License-Identifier: Apache-2.0 */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "admit.h"
#include "answers.h"
#include "ask.h"
#include "domain.h"
#include "hello.h"
#include "passes.h"
#include "pins_looker.h"
#include "repair.h"
#include "strangers.h"
#include "taker.h"

#define STALLS_FREE 3       /* after so many stalls a client rests before it joins again, */
#define REST_USECS  1000000 /* twice as long each time, */
#define REST_SHIFT  6       /* but not longer than this power of two */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void sp_client_fail(struct sp_client *client, int error)
{
    if (client->failed)
        return;
    client->failed = error;
    client->daemon->nfailed++;
}

void sp_client_remove_mm(struct sp_client *client)
{
    if (client->mm && client->domain->engine)
        sp_engine_mm_remove(client->domain->engine, client->mm);
    client->mm = NULL;
}

static void close_socket(struct sp_client *client)
{
    sp_taker_close_socket(client->daemon, client->uid, client->fd);
    client->fd = -1;
}

void sp_client_free(struct sp_client *client)
{
    struct sp_daemon *daemon = client->daemon;

    sp_client_remove_mm(client);
    sp_looker_forget(client);
    sd_event_source_disable_unref(client->io);
    sd_event_source_disable_unref(client->pid_source);
    sd_event_source_disable_unref(client->agent_source);
    if (client->failed)
        daemon->nfailed--;
    sp_client_add_counts(client, client->domain->count);
    if (client->shm)
        munmap(client->shm, sp_shm_bytes(daemon));
    sp_keep_drop_client(daemon, client->id);
    close_socket(client);
    sp_taker_close(daemon, client->uid, client->uffd);
    close_fd(&client->shm_fd);
    close_fd(&client->pidfd);
    close_fd(&client->agent_pidfd);
    close_fd(&client->repair_fd);
    close_fd(&client->stall_fd);
    TAILQ_REMOVE(&daemon->clients, client, link);
    daemon->nclients--;
    sp_domain_release(client->domain);
    free(client->segments);
    free(client);
}

static bool is_dead(int pidfd)
{
    struct pollfd pfd = {pidfd, POLLIN, 0};

    return poll(&pfd, 1, 0) == 1;
}

void sp_client_bury_agent(struct sp_client *client)
{
    if (sp_repair(client))
        sp_client_free(client);
    else
        client->repair_due = true;
}

void sp_client_leave(struct sp_client *client, bool ended)
{
    struct sp_daemon *daemon = client->daemon;

    sp_client_remove_mm(client);
    client->io = sd_event_source_disable_unref(client->io);
    close_socket(client);
    client->state = SP_CLIENT_LEFT;
    if (client->failed) {
        client->failed = 0;
        daemon->nfailed--;
    }
    if (client->pidfd < 0 || is_dead(client->pidfd))
        sp_client_free(client);
    else if (client->agent_pidfd >= 0 ? is_dead(client->agent_pidfd) : ended)
        sp_client_bury_agent(client);
    sp_passes_wake(daemon);
}

static int on_program_dead(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_client *client = arg;
    struct sp_daemon *daemon = client->daemon;

    sp_client_free(client);
    sp_passes_wake(daemon);
    return 0;
}

/* The connection may still be open: the program itself can hold a copy of it. */
static int on_agent_dead(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_client *client = arg;

    client->agent_source = sd_event_source_disable_unref(client->agent_source);
    sp_client_leave(client, true);
    return 0;
}

void sp_client_agent_seen(struct sp_client *client, pid_t pid)
{
    if (client->agent || pid <= 0)
        return;
    client->agent = pid;
    client->agent_pidfd = sp_pidfd_open(pid);
    if (client->agent_pidfd >= 0 && pid != client->program)
        sd_event_add_io(client->daemon->event, &client->agent_source, client->agent_pidfd, EPOLLIN,
                        on_agent_dead, client);
    sp_keep_client(client);
}

void sp_client_resync(struct sp_client *client)
{
    sp_client_remove_mm(client);
    client->state = SP_CLIENT_JOINING;
    client->adopt = true;
    client->restart = true;
    client->join_at = 0;
    if (client->stalls > STALLS_FREE) {
        uint32_t shift = client->stalls - STALLS_FREE;

        client->join_at =
            sp_now_usecs() + ((uint64_t)REST_USECS << (shift < REST_SHIFT ? shift : REST_SHIFT));
    }
    sp_passes_wake(client->daemon);
}

static void log_malformed(struct sp_client *client)
{
    client->daemon->malformed++;
    sp_strangers_note(client->daemon, SP_STRANGE_AGENT, client->uid, client->program);
}

void sp_clients_reap(struct sp_daemon *daemon)
{
    struct sp_client *client, *next;

    for (client = TAILQ_FIRST(&daemon->clients); client && daemon->nfailed; client = next) {
        int error = client->failed;

        next = TAILQ_NEXT(client, link);
        if (!error)
            continue;
        if (error == -ETIMEDOUT) {
            client->failed = 0;
            daemon->nfailed--;
            client->state = SP_CLIENT_STALLED;
            client->stalls++;
            continue;
        }
        if (error == -EPROTO)
            log_malformed(client);
        sp_client_leave(client, error != -EPROTO);
    }
}

/* A packet, or the end, while no question is open: only a stalled client owes something. */
static int on_client_readable(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_client *client = arg;
    struct sp_daemon *daemon = client->daemon;
    struct sp_packet packet;
    int err = sp_receive(fd, daemon->packet, &packet);

    if (err == -EAGAIN)
        return 0;
    if (err == -EBADMSG)
        err = -EPROTO;
    if (!err && packet.size == 0)
        err = -EPIPE;
    if (!err && (client->state != SP_CLIENT_STALLED ||
                 sp_check_header(daemon->packet, packet.size, &packet.msg) ||
                 packet.msg.seq != client->seq))
        err = -EPROTO;
    if (err) {
        sp_client_fail(client, err == -EPROTO ? -EPROTO : -EPIPE);
        sp_clients_reap(daemon);
        return 0;
    }
    sp_client_agent_seen(client, packet.sender);
    sp_client_resync(client);
    return 0;
}

static struct sp_client *client_new(struct sp_daemon *daemon, struct sp_domain *domain)
{
    struct sp_client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->daemon = daemon;
    client->domain = domain;
    client->fd = client->uffd = client->shm_fd = client->pidfd = client->agent_pidfd = -1;
    client->repair_fd = client->stall_fd = -1;
    TAILQ_INSERT_TAIL(&daemon->clients, client, link);
    daemon->nclients++;
    sp_domain_hold(domain);
    return client;
}

static int watch_program(struct sp_client *client)
{
    return sd_event_add_io(client->daemon->event, &client->pid_source, client->pidfd, EPOLLIN,
                           on_program_dead, client);
}

/*
 * Fills in a new client and sends WELCOME. 0, or a negative errno: the caller frees the client.
 *
 * HELLO comes from the program, before its agent begins, or from the agent itself, which is known
 * from then on: one that hangs up before it answered anything (WELCOME came too late for it) lives
 * and comes again, and must not be taken for dead.
 */
static int welcome(struct sp_client *client, pid_t sender, uint32_t seq)
{
    struct sp_daemon *daemon = client->daemon;
    struct sp_welcome welcome = {
        .seed = client->domain->seed,
        .client_id = client->id,
        .shm_bytes = (uint32_t)sp_shm_bytes(daemon),
        .pool_id = daemon->pool_id,
    };
    int err;

    client->pidfd = sp_pidfd_open(client->program);
    if (client->pidfd < 0)
        return -ESRCH;
    err = watch_program(client);
    if (err < 0)
        return err;
    err = sp_shm_make(client, welcome.shm_bytes);
    if (err)
        return err;
    err = sd_event_add_io(daemon->event, &client->io, client->fd, EPOLLIN, on_client_readable,
                          client);
    if (err < 0)
        return err;
    sp_ns_read(client->program, client->ns);
    if (sender != client->program)
        sp_client_agent_seen(client, sender);
    sp_keep_client(client); /* before the agent may lift anything (D3) */
    return sp_send(client->fd, SP_MSG_WELCOME, seq, &welcome, sizeof(welcome), client->shm_fd);
}

/* Records of the same program: its agent came back, or it execed. */
static void drop_older(struct sp_client *client)
{
    struct sp_client *other, *next;

    for (other = TAILQ_FIRST(&client->daemon->clients); other; other = next) {
        next = TAILQ_NEXT(other, link);
        if (other != client && other->program == client->program)
            sp_client_free(other);
    }
}

/* None that a client of the daemon before still has, whose ids this one may not have been told: the
 * keeper knows clients by them, and would drop the new record with the old one. */
static uint32_t new_id(struct sp_daemon *daemon)
{
    const struct sp_client *client;
    uint32_t id;

    do {
        id = daemon->next_client_id++;
        TAILQ_FOREACH(client, &daemon->clients, link)
            if (client->id == id)
                break;
    } while (!id || client);
    return id;
}

static struct sp_client *client_of_hello(struct sp_daemon *daemon, int sock,
                                         const struct sp_hello_packet *packet,
                                         const struct sp_hello *hello)
{
    struct sp_domain *domain = sp_domain_get(daemon, packet->uid, hello->domain);
    struct sp_client *client = domain ? client_new(daemon, domain) : NULL;

    if (!client)
        return NULL;
    client->id = new_id(daemon);
    client->uid = packet->uid;
    client->program = (pid_t)hello->program_pid;
    client->flags = hello->flags;
    client->wait_page = hello->wait_page;
    client->adopt = hello->flags & (SP_HELLO_FORKED | SP_HELLO_REJOIN);
    client->restart = true;
    memcpy(client->comm, hello->comm, sizeof(client->comm));
    client->fd = sock;
    client->uffd = packet->fd;
    return client;
}

void sp_client_hello(struct sp_daemon *daemon, int sock, const struct sp_hello_packet *packet)
{
    struct sp_hello hello;
    const char *why = sp_hello_check(daemon, packet, &hello);
    struct sp_client *client = NULL;
    uint32_t seq = 0;

    if (packet->size >= sizeof(struct sp_msg))
        seq = ((const struct sp_msg *)packet->packet)->seq;
    if (!why)
        why = sp_admit_check(daemon, sock, (pid_t)hello.program_pid);
    if (!why) {
        client = client_of_hello(daemon, sock, packet, &hello);
        if (!client || welcome(client, packet->sender, seq))
            why = "the daemon is short of memory or descriptors";
    }
    if (why)
        sp_hello_refuse(sock, seq, why);
    if (why && client) {
        sp_client_free(client); /* sock and userfaultfd with it */
    } else if (why) {
        sp_taker_close_socket(daemon, packet->uid, sock);
        sp_taker_close(daemon, packet->uid, packet->fd);
    } else {
        drop_older(client);
        sp_passes_wake(daemon);
    }
}

struct sp_client *sp_client_restore(struct sp_daemon *daemon, struct sp_domain *domain, uint32_t id,
                                    pid_t program, int uffd, int shm_fd, int pidfd,
                                    int agent_pidfd)
{
    struct sp_client *client = client_new(daemon, domain);

    if (!client) {
        int fd[] = {uffd, shm_fd, pidfd, agent_pidfd};

        for (unsigned i = 0; i < 4; i++)
            close_fd(&fd[i]);
        return NULL;
    }
    client->id = id;
    client->restored = true;
    client->program = program;
    client->uid = domain->uid;
    client->state = SP_CLIENT_LEFT;
    client->uffd = uffd;
    client->shm_fd = shm_fd;
    client->pidfd = pidfd;
    client->agent_pidfd = agent_pidfd;
    sp_shm_map(client, sp_shm_bytes(daemon)); /* without it: no journal, nothing to repair */
    sp_client_add_counts(client, client->counted);
    watch_program(client);
    if (agent_pidfd >= 0)
        sd_event_add_io(daemon->event, &client->agent_source, agent_pidfd, EPOLLIN, on_agent_dead,
                        client);
    return client;
}
