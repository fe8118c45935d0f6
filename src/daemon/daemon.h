/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepaged: the process that knows which contents exist.
 *
 * What exists. One struct sp_daemon. A **connection** (server.c) is a socket whose first packet has
 * not come yet, or one that speaks JSON (control.c). A **client** is one merged address space: its
 * connection to the agent, a duplicate of its userfaultfd, the shared memory with the journal,
 * pidfds of program and agent. A **domain** is one engine and one set of the pool's segments; it
 * lives as long as a client of it. Everything runs in one thread, from sd-event; only a question to
 * an agent (ask.c) waits, with a time limit, and who only asks what is so is answered meanwhile
 * (meanwhile.h).
 *
 * The life of a client (client.c):
 *
 *   HELLO -> JOINING -> READY <-> STALLED (owes an answer; then JOINING again)
 *     any of these, when the connection ends or was cut -> LEFT -> gone
 *
 * In JOINING its sites are asked for, if it may have any. READY: its mm is in the engine. A client
 * that LEFT is out of the engine, but its record is kept until it cannot matter any more: the
 * program is dead (D4), or the agent is dead and what it had in the air is given back (repair.c,
 * D2), or the agent is back on a new connection (D1). The keeper (keeper.h) holds a copy of every
 * client's record and descriptors, and of the pool, for the daemon that comes after this one.
 *
 * Errors of clients inside an engine call only mark the client (sp_client_fail()); what follows
 * from it is done by sp_clients_reap() when the engine has returned, because an mm must not be
 * removed under a running call.
 */
#ifndef SP_DAEMON_DAEMON_H
#define SP_DAEMON_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "accounting.h"
#include "config.h"
#include "engine.h"
#include "pins.h"
#include "pool.h"
#include "wire.h"

struct sp_daemon;
struct sp_keeper;
struct sp_looker;
struct sp_looks;
struct sp_strays;
struct sp_taker;
struct sp_storage;
struct sp_pageout;
struct sp_conn;

enum sp_client_state {
    SP_CLIENT_JOINING, /* welcomed; to be taken into the engine at the next chance */
    SP_CLIENT_READY,   /* its mm is in the engine, or it is held */
    SP_CLIENT_STALLED, /* did not answer in time: skipped until the answer comes */
    SP_CLIENT_LEFT,    /* without a connection */
};

#define SP_NAMESPACES 5

struct sp_client {
    TAILQ_ENTRY(sp_client) link;
    struct sp_daemon *daemon;
    struct sp_domain *domain;
    uint32_t id;
    enum sp_client_state state;
    uid_t uid;
    pid_t program, agent; /* agent: 0 until it said something itself */
    uint32_t flags;       /* SP_HELLO_* */
    uint64_t wait_page;
    char comm[16];

    int fd;   /* the connection, -1: none */
    int uffd; /* duplicate, so that no missing page ever reads as zeros (D2) */
    int shm_fd;
    struct sp_shm *shm; /* written by the agent at any time: copy first, then check */
    int pidfd, agent_pidfd;
    sd_event_source *io, *pid_source, *agent_source;

    struct sp_mm *mm; /* in the engine, or NULL */
    bool adopt;       /* may have sites that the engine does not know: ask (K8, D1) */
    /* nodes.c; us: when the last pass began in which all its pages were reported, how long it took, 0: it is not
     * over; pages whose node was not known, while none was. */
    uint64_t nodes_at, nodes_took, nodes_silent;
    bool nodes_known, nodes_told;
    bool restart;     /* the next scan reports every quiet page again */
    bool held;        /* was un-merged on request: not scanned until run is set to 1 */
    bool offered;     /* the offer buffer holds memory */
    bool repair_told; /* a repair that does not succeed is logged once */
    bool repair_due;  /* ... and tried again each second */
    int repair_fd;    /* through which the repairer speaks, -1: none is at work */
    int failed;       /* marked by sp_client_fail(): the error */
    uint32_t seq;     /* of the last question */
    uint32_t stalls;
    uint64_t join_at; /* CLOCK_MONOTONIC, us: a client that stalls again and again must wait */
    bool waited;      /* join_at has been put off for a turn of its user's (join.c) */
    uint64_t rest_until; /* us: it kept the daemon waiting, and is not asked to merge (ask.c) */
    uint64_t slow_serial; /* the go of the event loop in which it did */
    int stall_fd;      /* the worker's end of its agent's connection, a copy; -1: none (stalls.h) */
    bool stall_tried;
    uint8_t *segments; /* bit by segment id: the client has its descriptor */
    uint32_t segments_size;
    unsigned unmerge_serial; /* of the last unmerge job that did this client */

    uint64_t tracked, merged, cpu_us; /* as it said last */
    uint64_t kept, useless; /* pages written after their merge (written.h) */
    /* us; written.c. What could have them pinned, when it was looked last; since when each look found
     * nothing; until when that counts; when it is looked, pages are held, and given back, again. */
    enum sp_pins pins;
    uint64_t clean_since, clean_until, look_due, hold_due, give_back_due;
    bool restored; /* by the keeper: this daemon did not hear its HELLO */
    uint64_t look_wanted; /* since then it waits for a look, 0: it does not (pins_looker.c) */
    unsigned untimely;    /* looks in a row that took too long */
    bool reports;         /* such pages, in the present pass */
    uint32_t mappings, mappings_budget;
    bool no_mappings; /* the program needs its mappings itself */
    bool raw_calls;   /* it makes system calls that samepage cannot see */
    bool told;        /* and was told so */
    uint64_t counted[SP_COUNTS]; /* under the daemon before */
    uint64_t ns[SP_NAMESPACES]; /* inodes of its namespaces at HELLO (ns_watch.c) */
};
TAILQ_HEAD(sp_client_list, sp_client);

struct sp_thin {
    uint32_t segment;
    uint32_t end; /* so many frames, from the first, are given back */
    uint64_t since; /* us */
};

/* Frames that are mapped still when all is un-merged (strays.h). */
enum sp_strays_state {
    SP_STRAYS_UNKNOWN,
    SP_STRAYS_ASKED,      /* it is to be looked at, */
    SP_STRAYS_LOOKED_FOR, /* ... a look is under way, */
    SP_STRAYS_WANTED,     /* ... another one is due later, */
    SP_STRAYS_KNOWN,      /* ... all is known */
};

struct sp_domain {
    TAILQ_ENTRY(sp_domain) link;
    struct sp_daemon *daemon;
    uint32_t id; /* of the pool's set */
    uid_t uid;
    char name[SP_DOMAIN_MAX + 16]; /* "u<uid>" or "u<uid>:<name>" */
    uint64_t seed;                 /* of its hashes; known to its clients only */
    struct sp_engine *engine;      /* NULL: the last client is gone, segments linger */
    struct sp_pool_set *set;
    unsigned nclients;
    uint64_t value[SP_SETTINGS];   /* those of the daemon as a whole are not used here */
    uint64_t value_before;         /* while one is set (values.c) */
    bool pass_done;   /* nothing left to do before the next one begins (turns.h) */
    bool round_done;  /* completed a pass in the present round */
    bool round_complete; /* ... over all its processes */
    uint64_t full_scans; /* of its engine, when a pass ended last */
    bool all_unmerged; /* run 2: nothing left to do */
    enum sp_strays_state strays;
    bool strays_awaited; /* run 2 of all waits for what comes of it */
    uint64_t strays_since, strays_due, strays_told; /* us */
    uint64_t nstrays; /* frames, by the last run 2 */
    unsigned stray_processes;
    pid_t stray_pid; /* one of them */
    char stray_comm[16];
    uint64_t pass_scanned, pass_looked; /* pages_scanned when the pass began; of the last pass */
    uint64_t passes, rest_until;        /* turns.h; us */
    uint64_t slow_serial, slow_us;      /* slow answers of its user in one go of the event loop, */
    uint64_t slow_until;                /* ... and until when it rests from them */
    uint64_t join_until; /* us: a client of its user took long to be taken in: no other until then */
    uint64_t unmerged; /* pages un-merged on request, ever */
    uint64_t count[SP_COUNTS]; /* of clients that are gone */
    /* Frames of merges whose answer was lost: they may be mapped (engine_ops.c). */
    sp_frame *suspect;
    size_t nsuspects, suspects_size;
    bool all_suspect;
    struct sp_thin thin[SP_THIN_SEGMENTS]; /* thin.h */
    unsigned nthin;
    bool leaves; /* reclaim.c: its frames may leave now */
    unsigned leave_level;    /* reclaim.c: enum sp_looks_level, */
    uint64_t leave_look;     /* ... since this look */
    uint64_t thin_due; /* us */
    uint32_t nodes_segment; /* whose frames were looked at last (nodes.c) */
    bool brakes; /* so much lingers in the pool that what was written is not merged again now: each such
                    page takes a new frame, and leaves an old one behind */
};
TAILQ_HEAD(sp_domain_list, sp_domain);

/* Synchronous merges of one user (hurry.h), us. */
#define SP_HURRY_USERS 32u
struct sp_hurry {
    uid_t uid;
    uint64_t since;    /* it hurries; 0: it does not, */
    uint64_t again_at; /* ... nor before then */
    uint64_t used_at;
};

struct sp_past {
    uint64_t pages_scanned, pages_skipped, merge_changed, merge_pinned, merge_gone, merge_fork, merge_attributes,
        merge_mappings, merge_memory, count[SP_COUNTS];
};

#define SP_STRANGERS     64u /* users of whom it is known what was told of them */
#define SP_STRANGE_KINDS 4u

/* strangers.h: when it was told of a user that a process of theirs does not speak as ours do. */
struct sp_strangers {
    uid_t uid;
    uint64_t told_at;              /* us; the last of what follows, 0: there is none */
    uint64_t at[SP_STRANGE_KINDS]; /* us; 0: never */
};

struct sp_daemon {
    struct sp_config config;
    uint32_t page_size;
    uid_t uid; /* its own */
    sd_event *event;
    int listen_fd, lock_fd;
    bool listen_ours; /* not systemd's */
    sd_event_source *listen_source, *pass_source, *second_source, *keeper_source;
    TAILQ_HEAD(, sp_conn) conns;
    unsigned nconns;
    struct sp_client_list clients;
    unsigned nclients;
    unsigned nfailed; /* clients marked by sp_client_fail() */
    uint32_t next_client_id;
    struct sp_domain_list domains;
    struct sp_domain *turn; /* next domain that works */
    uint64_t round_at;      /* us: turns.h */
    struct sp_pool *pool;
    uint64_t pool_id;
    struct sp_keeper *keeper;
    unsigned rejoin_seconds; /* > 0: the pool's import is not ended yet */

    struct sp_accounting accounting;
    struct sp_looker *looker; /* NULL: nobody needed it yet */
    struct sp_taker *taker;   /* the same */
    bool taker_stopped;       /* and none is begun any more */
    struct sp_storage *storage; /* NULL: frames stay in memory */
    struct sp_pageout *pageout; /* NULL: no frame went to the machine's own swap yet */
    struct sp_pressure *pressure; /* NULL: nothing leaves by itself */
    struct sp_looks *looks; /* NULL: nobody looks which frames are in use */
    struct sp_strays *looked_for; /* NULL: no look is under way (strays.h) */
    uint64_t unread_told; /* us */

    /* passes.c */
    uint64_t quota;      /* pages left to look into before the next sleep */
    uint64_t idle_us;    /* present idle sleep, 0: not idle */
    uint64_t round_busy, pause_us; /* what the round has taken; to the next one, at least */
    uint64_t round_began, round_cpu; /* advise.c; us; 0: no round is on that is measured */
    struct sp_hurry hurry[SP_HURRY_USERS];
    uint64_t paced_at; /* us: when the next usual portion is due, whoever asks for something else before */
    uint64_t unmerge_at, unmerge_took; /* us: when unmerge may go on; what the present request has taken */
    uint64_t serial;     /* of this go of the event loop */
    uint64_t served_at;  /* us: meanwhile.h; when connections were looked at outside of the event loop */
    bool serving;        /* a control request is being served */
    unsigned sweep_tries; /* in a row, for domains without clients */
    uint64_t nodes_said_at; /* us; nodes.c */
    bool several_nodes, nodes_refused;
    uint64_t swept_at;    /* us: domains with clients */
    bool run2_open;      /* run 2 of all is not over yet */
    bool run2_left;      /* one domain's run was set to another value, before it was un-merged */
    bool run2_busy;      /* a client could not be asked while all was un-merged */
    bool run2_short;     /* memory was short for one of them */
    bool run2_strays;    /* frames are mapped still (T2), */
    bool run2_unknown;   /* ... or it is not known whether some are */
    bool off;            /* run goes to 0 when all is un-merged */
    unsigned unmerge_serial;
    uint64_t full_scans, empty_rounds;
    uint64_t thin_due; /* us */
    struct sp_past past; /* sums of domains that are gone */

    uint64_t repairs, takeovers, malformed;
    struct sp_strangers strangers[SP_STRANGERS];
    uint64_t strangers_hour; /* us: since then so many lines were logged */
    unsigned strangers_told;
    _Alignas(8) uint8_t packet[SP_WIRE_MAX]; /* answers; valid until the next question */
};

/* CLOCK_MONOTONIC in microseconds. */
uint64_t sp_now_usecs(void);

/* keep.c: everything put to the keeper as it comes. Errors are logged once; merging goes on. */
/* Opens or starts the keeper and makes the pool, new or taken over. 0, or a negative errno with a
 * sentence in why. */
int sp_keep_open(struct sp_daemon *daemon, char *why, size_t why_size);
void sp_keep_client(struct sp_client *client);
void sp_keep_drop_client(struct sp_daemon *daemon, uint32_t client_id);
/* Seeds and settings: after every change. */
void sp_keep_state(struct sp_daemon *daemon);
/* Orderly stop (D5): the keeper goes too if no client is left. */
void sp_keep_close(struct sp_daemon *daemon);

/* ns_watch.c */
/* Reads the inodes of a process' namespaces; 0 where it cannot be read. */
void sp_ns_read(pid_t pid, uint64_t ns[SP_NAMESPACES]);
/* Once a second: an agent whose program went into other namespaces is told to end. */
void sp_ns_watch(struct sp_daemon *daemon);

#endif
