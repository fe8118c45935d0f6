/* SPDX-License-Identifier: Apache-2.0 */
/* Clients: handshake, joining the engine, leaving. The model is in daemon.h. */
#ifndef SP_DAEMON_CLIENT_H
#define SP_DAEMON_CLIENT_H

#include "daemon.h"

/* What came with a first packet that is a HELLO. */
struct sp_hello_packet {
    const void *packet;
    size_t size;
    int fd; /* the userfaultfd, or -1 */
    pid_t sender;
    uid_t uid;
};

/*
 * Answers a HELLO on the connection sock: WELCOME and a new client, or REFUSE. Takes sock and
 * hello->fd over in every case. Never waits.
 */
void sp_client_hello(struct sp_daemon *daemon, int sock, const struct sp_hello_packet *hello);

/*
 * A client known from the keeper only (D1): LEFT, its agent expected to come back. The descriptors
 * (-1 where there is none) are taken over. NULL: memory is short, they are closed.
 */
struct sp_client *sp_client_restore(struct sp_daemon *daemon, struct sp_domain *domain, uint32_t id,
                                    pid_t program, int uffd, int shm_fd, int pidfd,
                                    int agent_pidfd);

/* Takes the clients that are JOINING into their engines, asking for sites where there may be any
 * (K8, D1). Returns the time (us, CLOCK_MONOTONIC) when the next one is due, 0: none. */
uint64_t sp_clients_join(struct sp_daemon *daemon);

/* Marks a client as not usable from inside an engine call: error is -ETIMEDOUT (stalled), -EPIPE
 * (connection ended), -EPROTO (malformed: cut). */
void sp_client_fail(struct sp_client *client, int error);
/* Does what follows from such marks. Not from inside an engine call. */
void sp_clients_reap(struct sp_daemon *daemon);

/* Takes the client's mm out of the engine. */
void sp_client_remove_mm(struct sp_client *client);
/* Out of the engine and JOINING again, with its sites to be asked for. */
void sp_client_resync(struct sp_client *client);
/* Ends the connection and goes on as daemon.h says for LEFT. May free the client. ended: the
 * agent's side closed it, so without a known agent nobody is there any more. */
void sp_client_leave(struct sp_client *client, bool ended);
/* The agent is dead or was never there: puts right what it left, and forgets the client. */
void sp_client_bury_agent(struct sp_client *client);
/* Closes and forgets everything of it; the keeper drops its record. */
void sp_client_free(struct sp_client *client);

/* Notes the agent's pid, from the credentials of its HELLO, or of its first answer. */
void sp_client_agent_seen(struct sp_client *client, pid_t pid);

#endif
