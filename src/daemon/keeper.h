/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: a tiny process that holds descriptors, so that they outlive a killed daemon (D1, D3).
 *
 * What would be lost with the daemon is held twice: the pool's files, and for each client its
 * userfaultfd (while one is open, whoever touches a page in the air waits; with the last one gone
 * he reads zeros), its shared memory with the journal of the lift, and pidfds. The keeper does
 * nothing with them, but that it starts the store's processes (storage.h) again when they end while
 * no daemon is there to do it. A daemon that starts gets them all back and takes over.
 *
 * The keeper listens at the daemon's socket path + ".keeper", mode 0600, and talks to one process
 * at a time, of its own uid: a second daemon is refused and so learns that one is running. Every
 * call below is one question and one answer, so what returned 0 survives a kill the next instant.
 *
 * Its life. The first daemon starts it; it belongs to no daemon, ignores TERM, INT and HUP, and
 * leaves by itself: when it holds no client and no daemon is connected. It forgets a client when
 * the program is dead, and, while there is no daemon to say so, when the program's memory is gone
 * (exec). It writes no file and holds at most SP_KEEPER_RECORDS clients.
 *
 * One thread at a time.
 */
#ifndef SP_DAEMON_KEEPER_H
#define SP_DAEMON_KEEPER_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"
#include "wire.h"

#define SP_KEEPER_SUFFIX    ".keeper"
#define SP_KEEPER_RECORDS   65536u
#define SP_KEEPER_STATE_MAX 12288u /* bytes of the daemon's own seeds and settings */

enum sp_keeper_fd {
    SP_KEEPER_UFFD,
    SP_KEEPER_SHM,
    SP_KEEPER_PROGRAM, /* pidfd */
    SP_KEEPER_AGENT,   /* pidfd, -1 if unknown */
    SP_KEEPER_FDS
};

/* A client, as the daemon wants to find it again. The keeper reads nothing but client_id. */
struct sp_keeper_client {
    uint32_t client_id;
    uint32_t program_pid;
    uint32_t agent_pid;
    uint32_t set_id;
    uint64_t wait_page;
    uint32_t flags;
    uint32_t reserved;
    char domain[SP_DOMAIN_MAX];
};

struct sp_keeper;

/*
 * Connects to the keeper of the daemon whose socket is at socket_path (absolute), or starts one by
 * running this program again with "--keeper FD" (see sp_keeper_main()). Returns 1: one was there,
 * what it holds is to be taken over; 0: a new one, which holds nothing; -EBUSY: another daemon is
 * connected to it; or another negative errno. In the last two cases why has a sentence.
 */
int sp_keeper_open(const char *socket_path, struct sp_keeper **out, char *why, size_t why_size);

/* To be polled for POLLHUP only: the keeper died. Then close this, open a new one, put all again.
 */
int sp_keeper_fd(const struct sp_keeper *keeper);

/*
 * What the keeper holds, the pool first, then the clients, then the state. The descriptors belong
 * to the function called; a function that is NULL has them closed. Negative errno: broken off.
 */
struct sp_keeper_visitor {
    void (*pool)(void *arg, const struct sp_pool_record *record, int fd);
    void (*client)(void *arg, const struct sp_keeper_client *client, const int fd[SP_KEEPER_FDS]);
    void (*state)(void *arg, const void *data, size_t size);
};
int sp_keeper_visit(struct sp_keeper *keeper, const struct sp_keeper_visitor *visitor, void *arg);

/*
 * What the keeper shall hold. It gets dups, fd stays the caller's. A record of the same client id,
 * or the same mount or segment, is replaced. Dropping what is not there is no error. -EPIPE: the
 * keeper is gone or does not answer; -EMFILE, -ENOMEM, -ENOSPC: it has no room.
 */
int sp_keeper_put_client(struct sp_keeper *keeper, const struct sp_keeper_client *client,
                         const int fd[SP_KEEPER_FDS]);
int sp_keeper_drop_client(struct sp_keeper *keeper, uint32_t client_id);
int sp_keeper_put_pool(struct sp_keeper *keeper, const struct sp_pool_record *record, int fd);
int sp_keeper_drop_segment(struct sp_keeper *keeper, uint32_t segment);
/* For sp_pool_export() and sp_pool_on_change(): fd -1 drops the record. */
int sp_keeper_pool_change(struct sp_keeper *keeper, const struct sp_pool_record *record, int fd);
int sp_keeper_put_state(struct sp_keeper *keeper, const void *data, size_t size);

/* An ordinary stop (D5): the keeper exits if it holds no client (0), else stays (-EBUSY). Call
 * sp_keeper_close() afterwards. */
int sp_keeper_stop(struct sp_keeper *keeper);
/* Ends the connection: for the keeper the daemon is gone. keeper may be NULL. */
void sp_keeper_close(struct sp_keeper *keeper);

/*
 * To be called first in main(): if the arguments are "--keeper FD" it becomes the keeper and
 * returns the program's exit status when that ends, else -1 at once.
 */
int sp_keeper_main(int argc, char **argv);

#endif
