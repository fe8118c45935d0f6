/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's descriptors, and how its two processes are started with them (storage.h): by the
 * daemon, and by the keeper while there is none (keeper.h).
 */
#ifndef SP_DAEMON_STORAGE_START_H
#define SP_DAEMON_STORAGE_START_H

#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

enum sp_storage_fd {
    SP_STORAGE_DEV,    /* of FUSE, the server's, */
    SP_STORAGE_CLONE,  /* ... the worker's, */
    SP_STORAGE_MOUNT,  /* ... and the mount that is served through it */
    SP_STORAGE_ASK,    /* the daemon's end of the worker's socket, */
    SP_STORAGE_ANSWER, /* ... and its own */
    SP_STORAGE_PAGES,  /* shared with the worker */
    SP_STORAGE_INDEX,  /* the store's, */
    SP_STORAGE_PIECES,
    SP_STORAGE_PLACE,  /* ... and its file; -1: none */
    SP_STORAGE_SERVER, /* pidfds */
    SP_STORAGE_WORKER,
    SP_STORAGE_FDS
};

/* They find theirs from this number on: the server DEV, INDEX, PIECES, PLACE; the worker CLONE,
 * MOUNT, ANSWER, PAGES, INDEX, PIECES, PLACE. */
#define SP_STORAGE_FIRST_FD 3

/* What the configuration says that a worker must know. */
struct sp_storage_how {
    uint64_t memory; /* bytes that pieces in memory may take */
    bool zstd;
};

/* The keeper's record of one of the descriptors, and what it says: false, and it is none of ours.
 */
struct sp_pool_record sp_storage_record(enum sp_storage_fd which, const struct sp_storage_how *how);
bool sp_storage_of_record(const struct sp_pool_record *record, enum sp_storage_fd *which,
                          struct sp_storage_how *how);

/*
 * Starts the server or the worker, in a session of its own; the descriptors stay the caller's.
 * socket: the daemon's, which says whose they are. Its pidfd, which is the caller's, or a negative
 * errno. To be called when the one before has ended; it is the caller's child.
 */
int sp_storage_start(const int fd[SP_STORAGE_FDS], enum sp_storage_fd which,
                     const struct sp_storage_how *how, const char *socket);
/* Of the store's file, whatever the configuration says by now; 0: there is none (-1). */
uint64_t sp_storage_file_bytes(int place);
/* -1: there was none. */
bool sp_storage_has_ended(int pidfd);

#endif
