/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The synchronous merge: a process asks for its own memory to be merged now, and waits.
 *
 * While it waits, its domain's passes follow one another without the sleeps of K2, and its agent
 * reads the mappings at the beginning of each. It is answered when a pass that looked at everything
 * merged nothing more of it: three whole passes after the one in which it asked, or more (a page is
 * seen, is found quiet and merged, K3, and is merged with what came later).
 *
 * Nobody gets more than a share by asking: a user hurries for at most SP_HURRY_USECS, then not for
 * as long; a request is served at the usual pace meanwhile. The usual portions of all domains go on
 * beside it.
 */
#ifndef SP_DAEMON_HURRY_H
#define SP_DAEMON_HURRY_H

#include "daemon.h"

/* The asker waits from now on; its own process, as the kernel names it, is what is merged. */
void sp_hurry_start(struct sp_conn *conn);
/* Tells the asker how it is merged, at once. */
void sp_hurry_tell(struct sp_conn *conn);
/* Answers those who wait for nothing any more. True: somebody waits. */
bool sp_hurry_check(struct sp_daemon *daemon);
/* The domain that hurries, NULL: none. */
struct sp_domain *sp_hurry_domain(struct sp_daemon *daemon);
/* A pass of the domain is complete. */
void sp_hurry_pass_done(struct sp_domain *domain);
/* Does somebody wait for this client? */
bool sp_hurry_wants(const struct sp_client *client);

#endif
