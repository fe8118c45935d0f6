/* SPDX-License-Identifier: Apache-2.0 */
/* Commands (docs/control.md): who may, what happens, what is answered. */
#ifndef SP_DAEMON_CONTROL_H
#define SP_DAEMON_CONTROL_H

#include "server.h"

/* Answers one request, at once or when its work is done. Never waits. */
void sp_control_request(struct sp_conn *conn, const void *data, size_t size);

/* All is un-merged, in this domain or (NULL) in all: 0; or -ENOMEM, -EBUSY; -ECANCELED: run was set
 * to something else. Answers those who wait for that (K13). */
void sp_control_run2_done(struct sp_daemon *daemon, const struct sp_domain *domain, int status);

/* Answers with an error: what happened, why, what to do; exit_status 1 or 2. */
void sp_control_error(struct sp_conn *conn, int exit_status, const char *error);
/* The same with the errno that KSM's file would give; err negative. */
void sp_control_errno(struct sp_conn *conn, int exit_status, int err, const char *error);
/* May the asker ask about everything: is it root, or the user whom the daemon runs as? */
bool sp_control_may_all(const struct sp_conn *conn);

/* Un-merges one process of those that the first request asks for, or answers it when none is left.
 * Returns true if that request is to go on at once. As long as one took, the next waits, so that
 * who asks all the time leaves half of it to merging and to run 2: *at is when it may be worked on,
 * us, 0: there is none. */
bool sp_control_work(struct sp_daemon *daemon, uint64_t *at);

/* Nothing but connections changes by this request, nobody is asked for it, and no answer waits; wrong
 * requests are such, too. */
bool sp_control_only_reads(const void *data, size_t size);

#endif
