/* SPDX-License-Identifier: Apache-2.0 */
/* Putting right what a dead agent left behind (D2, D3). */
#ifndef SP_DAEMON_REPAIR_H
#define SP_DAEMON_REPAIR_H

#include "daemon.h"

/*
 * Gives the program back what its dead agent had in the air, and lets everybody who waits go on.
 *
 * To be called only when the agent is dead, or was never there: nobody else moves pages then. The
 * journal is copied and checked; a page that is present in staging goes back to its address, and
 * no page that is there already is overwritten (EEXIST). Pages that are nowhere stay missing, with
 * this daemon's userfaultfd kept open, so that nobody ever reads zeros for them.
 *
 * Returns true if all is back, and the userfaultfd may be closed; false if some page could not be
 * given back yet: the caller keeps the client's record and calls again later. Waits for the program's
 * memory no longer than some milliseconds: a child process does the work (repair.c).
 */
bool sp_repair(struct sp_client *client);
/* Whether that could be done for a program of this user: 0, or a negative errno. Asked at HELLO. */
int sp_repair_possible(pid_t program, uid_t uid);
/* Once a second: buries children that ended late. */
void sp_repair_reap(void);

#endif
