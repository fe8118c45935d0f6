/* SPDX-License-Identifier: Apache-2.0 */
/* One question to an agent, and its answer. */
#ifndef SP_DAEMON_ASK_H
#define SP_DAEMON_ASK_H

#include "daemon.h"

struct sp_packet {
    struct sp_msg msg;
    const void *body; /* aligned to 8; in daemon->packet */
    size_t size;      /* of the whole packet; 0: the connection ended */
    pid_t sender;     /* 0: not known */
};

/*
 * Looks at what comes next from a socket that has SO_PASSCRED, without waiting, and without letting a
 * descriptor in (taker.h). 0: a packet without descriptors; -EBADMSG: one with some; -EAGAIN: none; -EPIPE:
 * the end; or another negative errno.
 */
int sp_peek_fds(int sock);

/*
 * Receives one packet without waiting into buf (SP_WIRE_MAX bytes, aligned to 8). 0 with packet
 * filled in but msg and body unchecked; -EAGAIN; -EBADMSG: it brought descriptors, and is still there
 * (taker.h); -EPROTO if it was cut; or another negative errno, the connection is dead then.
 */
int sp_receive(int sock, void *buf, struct sp_packet *packet);

/* Sends one packet: header and body, with fd if that is not -1. Never waits, never SIGPIPE. 0,
 * -EAGAIN, or another negative errno: the connection is dead. */
int sp_send(int sock, uint16_t type, uint32_t seq, const void *body, size_t length, int fd);

/*
 * Asks and waits for the answer, at most SP_ANSWER_MSECS. 0 and *body, *body_size (valid until the
 * next question) when an answer of the right type and seq came. Else the client is marked by
 * sp_client_fail() and its error returned; -EHOSTDOWN, without a mark, if it cannot be asked now.
 */
int sp_ask(struct sp_client *client, uint16_t type, const void *question, size_t length, int fd,
           uint16_t answer, const void **body, size_t *body_size);

/* A question that is answered by DONE: 0, the agent's status, or as sp_ask(). */
int sp_ask_done(struct sp_client *client, uint16_t type, const void *question, size_t length,
                int fd);

/* The client sent something that it may not: marks it, returns -EPROTO. */
int sp_ask_malformed(struct sp_client *client);

/* Sees to it that the client has the descriptor of a segment of its domain. */
int sp_ask_segment(struct sp_client *client, uint32_t segment);
/* Has it dropped again; nothing to do is 0. */
int sp_ask_drop_segment(struct sp_client *client, uint32_t segment);

#endif
