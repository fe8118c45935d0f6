/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <sys/stat.h>

#include "ask.h"
#include "client.h"
#include "log.h"

static const char *const ns_name[SP_NAMESPACES] = {"user", "mnt", "net", "pid", "ipc"};

void sp_ns_read(pid_t pid, uint64_t ns[SP_NAMESPACES])
{
    for (int i = 0; i < SP_NAMESPACES; i++) {
        char path[64];
        struct stat st;

        snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, ns_name[i]);
        ns[i] = stat(path, &st) == 0 ? st.st_ino : 0;
    }
}

/* What could not be read, then or now, says nothing. */
static bool ns_changed(const struct sp_client *client)
{
    uint64_t now[SP_NAMESPACES];

    sp_ns_read(client->program, now);
    for (int i = 0; i < SP_NAMESPACES; i++) {
        if (now[i] && client->ns[i] && now[i] != client->ns[i])
            return true;
    }
    return false;
}

void sp_ns_watch(struct sp_daemon *daemon)
{
    struct sp_client *client;
    char name[sizeof(client->comm) + 1];

    TAILQ_FOREACH(client, &daemon->clients, link)
    {
        if (client->state != SP_CLIENT_READY || !ns_changed(client))
            continue;
        sp_log(SP_LOG_INFO, "%s (pid %d) went into other namespaces: its agent is told to end",
               sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm)),
               (int)client->program);
        (void)!sp_ask_done(client, SP_MSG_QUIT, NULL, 0, -1);
    }
    sp_clients_reap(daemon);
}
