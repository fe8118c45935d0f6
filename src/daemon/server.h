/* SPDX-License-Identifier: Apache-2.0 */
/* The listening socket, and connections that are no clients (yet). */
#ifndef SP_DAEMON_SERVER_H
#define SP_DAEMON_SERVER_H

#include "daemon.h"

struct json_object;

enum sp_conn_wait {
    SP_WAIT_NOTHING,
    SP_WAIT_TAKER,   /* for its first packet (taker.h) */
    SP_WAIT_RUN2,    /* until all is un-merged */
    SP_WAIT_UNMERGE, /* until the processes asked for are un-merged */
    SP_WAIT_EXPLAIN, /* until the agent has counted all pages */
    SP_WAIT_MERGE,   /* until the asker is merged (hurry.h) */
};

struct sp_conn_reply {
    STAILQ_ENTRY(sp_conn_reply) link;
    size_t size;
    char text[];
};

struct sp_conn {
    TAILQ_ENTRY(sp_conn) link;
    struct sp_daemon *daemon;
    int fd;
    uid_t uid;
    pid_t peer;        /* who connected; 0: not visible from here */
    bool control;      /* spoke JSON */
    bool put_off;      /* what it has to say is for the event loop (meanwhile.h) */
    uint64_t heard_at; /* us */
    sd_event_source *io;
    enum sp_conn_wait wait;
    struct sp_domain *domain; /* SP_WAIT_RUN2; NULL: all */
    /* SP_WAIT_UNMERGE */
    unsigned serial;
    pid_t pid; /* 0: all that the asker may */
    uint64_t pages;
    unsigned failed;
    int error;
    struct sp_explained explained; /* SP_WAIT_EXPLAIN, with pid: the sums so far, */
    unsigned parts;                /* and of how many answers */
    uint64_t since; /* us; SP_WAIT_MERGE, which has parts of passes, and pages merged before the last one */
    unsigned rests; /* ... counted, at most to a few */
    bool rested;    /* ... the client rested since, or has not been asked to report everything yet */
    STAILQ_HEAD(, sp_conn_reply) replies; /* not sent yet */
};

/* Binds and listens. 0, or a negative errno with a sentence in why. */
int sp_server_open(struct sp_daemon *daemon, char *why, size_t why_size);
void sp_server_close(struct sp_daemon *daemon);

/* What sp_taker_take() was asked for: taken, or err (sp_taken's packet could not be had). The connection is
 * the client's, or freed. */
struct sp_taken;
void sp_server_taken(struct sp_conn *conn, int err, const struct sp_taken *taken);

/* Queues one packet and sends what the socket takes; the rest follows when there is room. Takes
 * the object. A connection that cannot be sent to ends at the next event. */
void sp_conn_reply(struct sp_conn *conn, struct json_object *object);

/* For meanwhile.h. How many more may be accepted, so that of those of which nothing was read yet none is pushed out
 * that spoke. */
unsigned sp_server_room(const struct sp_daemon *daemon);
/* Accepts so many of those that wait; false: none. May push out others, which wait for no answer. */
bool sp_server_accept(struct sp_daemon *daemon);
/* What to poll for if the connection may be served while an agent is asked; 0: nothing. */
short sp_conn_wants(const struct sp_conn *conn);
/* It has that: answers a request that only reads, or sends more of the answer, and puts off all else until
 * the event loop comes round. May free this connection, and no other. */
void sp_conn_serve_reader(struct sp_conn *conn);

/* Once a second: ends connections that said nothing for too long. */
void sp_server_expire(struct sp_daemon *daemon);

#endif
