/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of the daemon that may be made to wait by others, and are replaced then.
 *
 * What belongs to another user can take for ever: a page of his that is long in coming while the lock
 * of its address space is held, a file of a file system that he serves himself, a connection that
 * lingers. Nothing tells beforehand. So the daemon does not touch it: a child does, which runs this
 * program anew, so it is small, and that keeps no descriptor but its end of a connection. When it
 * takes too long it is killed and another one is started. It ends with the daemon.
 *
 * There are two: the looker (pins_looker.h), and the taker (taker.h).
 */
#ifndef SP_DAEMON_DISPOSABLE_H
#define SP_DAEMON_DISPOSABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SP_DISPOSABLE_FD     3  /* where the child finds its end */
#define SP_DISPOSABLE_KILLED 8u /* that have not ended yet: the kernel may have them wait */

struct sp_disposable {
    const char *argument; /* by which the program knows what it is (sp_disposable_is()) */
    const char *what;     /* it does: for the log */
    pid_t pid;            /* 0: there is none */
    int fd;               /* of ours: SOCK_SEQPACKET, does not wait */
    uint64_t start_at;    /* us: not before */
    pid_t killed[SP_DISPOSABLE_KILLED];
    unsigned nkilled;
};

/* Starts it, if it does not run. 0; or a negative errno: -EAGAIN while as many as can be were killed
 * and have not ended, or within a second of the last start. */
int sp_disposable_start(struct sp_disposable *disposable);
/* Kills it; another one may be started at once if it was not its own fault. Nothing if there is none. */
void sp_disposable_kill(struct sp_disposable *disposable, bool its_fault);
/* Those that were killed leave nothing behind. */
void sp_disposable_reap(struct sp_disposable *disposable);

/* In the child. Was the program started as that? */
bool sp_disposable_is(int argc, char **argv, const char *argument);
/* Gives up all descriptors but its end, and all capabilities but those whose bits are in keep. name: of the
 * process, 15 characters. */
void sp_disposable_settle(const char *name, uint32_t keep);

#endif
