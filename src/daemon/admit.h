/* SPDX-License-Identifier: Apache-2.0 */
/* Who may be a client, and who is passed the descriptor of /dev/userfaultfd (samepaged.conf(5)). */
#ifndef SP_DAEMON_ADMIT_H
#define SP_DAEMON_ADMIT_H

#include "daemon.h"

/* Whether limits and the list of the configuration are for this user: not for root and the daemon's
 * own user. */
bool sp_admit_is_limited(const struct sp_daemon *daemon, uid_t uid);

/*
 * Whether the one at the other end of sock may have this program merged: NULL, or why not, in a
 * sentence for the program's user that is valid until the next call. Looks at the configuration, at
 * how many programs the user has, and whether the daemon could repair it, should its agent die
 * (D2).
 */
const char *sp_admit_check(struct sp_daemon *daemon, int sock, pid_t program);

/* Answers SP_MSG_WANT_UFFD on sock: UFFD with the descriptor, or REFUSE with the reason. The caller
 * closes sock. */
void sp_admit_pass_uffd(struct sp_daemon *daemon, int sock, uint32_t seq);

#endif
