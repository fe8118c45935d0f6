/* SPDX-License-Identifier: Apache-2.0 */
#include "stalls.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ask.h"
#include "storage.h"

#ifndef SO_PASSRIGHTS /* Linux 6.16: may descriptors come? */
#define SO_PASSRIGHTS 83
#endif

/* Bits: the segments of the store that the client has. */
static void segments_of(const struct sp_client *client, uint64_t bits[SP_STORE_SEGMENTS / 64])
{
    memset(bits, 0, SP_STORE_SEGMENTS / 8);
    for (uint32_t id = 1; id < client->segments_size * 8 && id < SP_STORE_SEGMENTS; id++)
        if (client->segments[id / 8] >> (id % 8) & 1 && sp_pool_is_stored(client->domain->set, id))
            bits[id / 64] |= UINT64_C(1) << (id % 64);
}

static int give(struct sp_store_link *store, const struct sp_client *client, int connection)
{
    static uint64_t bits[SP_STORE_SEGMENTS / 64];
    const int fd[SP_STORE_AGENT_FDS] = {connection, client->agent_pidfd};

    segments_of(client, bits);
    return sp_store_give_agent(store, client->id, (uint32_t)client->agent, fd, bits);
}

static void connect_agent(struct sp_client *client, struct sp_store_link *store)
{
    int pair[2], err, none = 0;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return;
    (void)setsockopt(pair[0], SOL_SOCKET, SO_PASSRIGHTS, &none, sizeof(none)); /* stall.h */
    client->stall_tried = true;
    err = give(store, client, pair[0]);
    if (!err)
        err = sp_ask_done(client, SP_MSG_STALL, NULL, 0, pair[1]);
    close(pair[1]);
    if (err)
        close(pair[0]);
    else
        client->stall_fd = pair[0];
}

void sp_stall_allow(struct sp_client *client, uint32_t segment)
{
    struct sp_store_link *store = sp_storage_link(client->daemon->storage);

    /* The worker must know whom it is to end if frames are not given back. */
    if (!store || client->agent_pidfd < 0)
        return;
    if (!client->stall_tried)
        connect_agent(client, store);
    if (client->stall_fd >= 0)
        (void)sp_store_ask(store, SP_STORE_ALLOW, segment, client->id, 0, NULL);
}

void sp_stall_look(struct sp_daemon *daemon)
{
    struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link)
    {
        struct pollfd p = {.fd = client->stall_fd};

        if (p.fd < 0 || poll(&p, 1, 0) < 1 || !(p.revents & POLLHUP))
            continue;
        close(client->stall_fd);
        client->stall_fd = -1;
        client->stall_tried = false;
    }
}

void sp_stall_give_all(struct sp_daemon *daemon)
{
    struct sp_store_link *store = sp_storage_link(daemon->storage);
    struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link)
    if (store && client->stall_fd >= 0)
        (void)give(store, client, client->stall_fd);
}
