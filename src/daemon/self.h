/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts this very program anew, as one of its helpers: by what the file was that runs now, whatever has
 * its name since, with an empty environment and no signal blocked.
 */
#ifndef SP_DAEMON_SELF_H
#define SP_DAEMON_SELF_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SP_SELF_FD 3 /* where the helper finds the first descriptor */

struct sp_self {
    char *const *argv; /* ends with NULL */
    /* They stay the caller's, and are SP_SELF_FD and those after it in the helper; -1: none is there. None of several may have
     * a number that another one gets. */
    const int *fd;
    size_t nfds;
    /* It outlives whoever starts it: a session of its own, /dev/null below SP_SELF_FD, no signal ignored. */
    bool apart;
};

/* 0 and *pid, a child that the caller buries; or a negative errno. */
int sp_self_start(const struct sp_self *self, pid_t *pid);
/* The same. Returns a pidfd, or a negative errno: where it is none of the start's, the helper runs. */
int sp_self_start_pidfd(const struct sp_self *self);

#endif
