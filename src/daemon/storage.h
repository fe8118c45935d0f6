/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's part of the store (src/pool/store_process.h): its descriptors, the life of its two
 * processes, and what is learnt from it.
 *
 * The daemon makes the store once, gives the keeper every descriptor of it, and starts the server
 * and the worker. They are no part of the daemon: a daemon that comes after this one gets them from
 * the keeper, running. When one of them ends, or is killed, the next one is started with the same
 * descriptors, at once: somebody may be waiting for it; while there is no daemon the keeper does so,
 * within half a second. Of each kind one is at work: another one, of a daemon that was killed before
 * the keeper knew of it, waits for its end.
 *
 * They end by themselves: the worker when daemon and keeper are gone, the server when nobody has the
 * mount, or maps one of its files, any more. The keeper goes when there are no programs (keeper.h).
 * If all are killed, whoever waits for a frame gets SIGBUS, for the kernel ends the connection with
 * its last descriptor (store_fuse.h).
 */
#ifndef SP_DAEMON_STORAGE_H
#define SP_DAEMON_STORAGE_H

#include "daemon.h"
#include "store_link.h"

struct sp_storage;

/* Is this record, which the keeper had, the store's? */
bool sp_storage_is_record(const struct sp_pool_record *record);
/*
 * Makes the store as the configuration says, or takes over what the keeper had: n records with
 * their descriptors, which are the storage's from now on in any case. 0, and *out, NULL: there is
 * no store and none is wanted. A negative errno with a sentence in why.
 */
int sp_storage_open(struct sp_daemon *daemon, struct sp_storage **out,
                    const struct sp_pool_record *record, const int *fd, size_t n, char *why,
                    size_t why_size);
/* Everything is put to the keeper (sp_keep_open()). */
void sp_storage_keep(struct sp_storage *storage);
/* The event loop sees to the processes from now on. 0 or a negative errno. */
int sp_storage_watch(struct sp_storage *storage);
/* Ends this process' part of it; the store lives on while something of it is in use. NULL is
 * nothing. */
void sp_storage_close(struct sp_storage *storage);
/* Sees to it that the processes run: while the daemon waits for an agent, which may be waiting for them. */
void sp_storage_tend(struct sp_storage *storage);
/* How often, us. */
#define SP_STORAGE_TEND_USECS 20000u
/* NULL: there is no store. */
struct sp_store_link *sp_storage_link(const struct sp_storage *storage);
/* For looks (looks.h): the worker's pidfd, and the mount whose files' mappings are frames. They stay
 * the storage's. */
void sp_storage_where(const struct sp_storage *storage, int *worker, int *mount);
/* Once a second: frames that came back or are lost are told to their engines (S6, S8). */
void sp_storage_each_second(struct sp_storage *storage);
/* The same of frames alone, at once. */
void sp_storage_take_news(struct sp_storage *storage);

/* Did the frame come back since this was last asked? */
bool sp_storage_came_back(struct sp_storage *storage, sp_frame frame);
/* Frames with a locked site, as far as it was told since all were unlocked (reclaim.c). */
void sp_storage_lock(struct sp_storage *storage, uint32_t segment, uint32_t index, uint32_t n);
void sp_storage_unlock_all(struct sp_storage *storage);
bool sp_storage_is_locked(const struct sp_storage *storage, sp_frame frame);
/* What there is of frames in the store; all zero without one. */
struct sp_store_counters sp_storage_counters(struct sp_storage *storage);

/* Frames that somebody wanted, and the store could not give back (S8), since this daemon began. */
uint64_t sp_storage_lost(const struct sp_storage *storage);

/* What the server and the worker themselves run: -1 if the program was started as something else,
 * or its exit status. */
int sp_storage_main(int argc, char **argv);

#endif
