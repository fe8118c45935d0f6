/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who takes descriptors that clients send, and closes what is left of connections.
 *
 * A packet may bring any descriptor, and who lets go of it last, or closes it at all, can be made to
 * wait: by a file of a file system that the sender serves himself (its flush), by a connection over
 * TCP that lingers with data that nobody reads, by a userfaultfd of memory whose lock is held. That is so,
 * too, for packets that are thrown away unread, with the socket. So the daemon looks, before it receives
 * a packet, whether there are descriptors with it (sp_receive()), and never receives one that has some,
 * nor closes a socket with such a packet in it: the **taker** does, a disposable process (disposable.h)
 * without any capability. It does one thing at a time. What takes it longer than a limit is given
 * up: the taker is killed, the user noted. Of a user who has two of those that did not end, nothing is
 * taken until they end (root is not limited). Not so what is only closed, with the packets in it: nobody's flush is called
 * for what was never in a table of descriptors, and who lingers ends when he is killed.
 *
 * What comes so is the userfaultfd of a program that says HELLO, and nothing else.
 */
#ifndef SP_DAEMON_TAKER_H
#define SP_DAEMON_TAKER_H

#include "daemon.h"

/* What the taker received. */
struct sp_taken {
    const void *packet; /* valid until the call returns, aligned to 8 */
    size_t size;
    int fd;       /* a userfaultfd, the callee's; -1: there was none, or something else */
    pid_t sender; /* 0: not known */
};

/* Starts a taker, so that the first program does not wait for that. What fails is tried again when it is needed. */
void sp_taker_begin(struct sp_daemon *daemon);

/*
 * Has the packet that is first in the connection's socket taken; sp_server_taken() gets it, from
 * the event loop. Until then nothing may be read from it. 0; -EBUSY: nothing is taken of this user now;
 * -ENOMEM.
 */
int sp_taker_take(struct sp_conn *conn);
/* The connection is about to be freed: sp_server_taken() is not called for it any more. */
void sp_taker_forget(struct sp_conn *conn);

/* Closes a socket of which a client of that user has the other end, and may have packets in it. Never waits.
 * fd < 0 is nothing. */
void sp_taker_close_socket(struct sp_daemon *daemon, uid_t uid, int fd);
/* Closes a descriptor that came from a client of that user. Never waits. fd < 0 is nothing. */
void sp_taker_close(struct sp_daemon *daemon, uid_t uid, int fd);

/* Once a second: goes on with what could not be done before. */
void sp_taker_each_second(struct sp_daemon *daemon);
/* CPU that takers have used, in microseconds, as far as they said. */
uint64_t sp_taker_cpu_us(const struct sp_daemon *daemon);
/* Ends the taker; from now on what is closed is closed here. */
void sp_taker_stop(struct sp_daemon *daemon);

/* What the taker itself runs: -1 if the program was started as something else, or its exit status. */
int sp_taker_main(int argc, char **argv);

#endif
