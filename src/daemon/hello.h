/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake's checks, and what a new client is given. */
#ifndef SP_DAEMON_HELLO_H
#define SP_DAEMON_HELLO_H

#include "client.h"

/* Checks a first packet: NULL and *hello, or why it is refused, in a sentence for the program's
 * user. */
const char *sp_hello_check(struct sp_daemon *daemon, const struct sp_hello_packet *packet,
                           struct sp_hello *hello);
/* Sends REFUSE; the caller closes sock. */
void sp_hello_refuse(int sock, uint32_t seq, const char *why);

/* Bytes of a client's shared memory. */
size_t sp_shm_bytes(const struct sp_daemon *daemon);
/* Makes and maps it: a memfd that nobody can make smaller, so that reading it never faults. 0 or a
 * negative errno. */
int sp_shm_make(struct sp_client *client, size_t bytes);
/* Maps client->shm_fd. 0 or a negative errno. */
int sp_shm_map(struct sp_client *client, size_t bytes);
/* Adds what the client's agents did under this daemon, in pages, as they say themselves. */
void sp_client_add_counts(const struct sp_client *client, uint64_t sum[SP_COUNTS]);

/* A pidfd, or -1 if there is no such process. */
int sp_pidfd_open(pid_t pid);
/* Are these two one address space? */
bool sp_same_memory(pid_t a, pid_t b);

#endif
