/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of agents with the store's worker, over which they have frames held (stall.h). */
#ifndef SP_DAEMON_STALLS_H
#define SP_DAEMON_STALLS_H

#include "daemon.h"

/* Before the client's agent gets a segment of the store: it may have frames of it held, over a
 * connection that is made if there is none. Without one it un-merges in place. The client may be
 * marked by sp_client_fail(). */
void sp_stall_allow(struct sp_client *client, uint32_t segment);
/* Now and then: an agent that hung up, because no worker answered, gets a new connection when it
 * merges next. */
void sp_stall_look(struct sp_daemon *daemon);
/* A new worker has none of the connections: gives it those that there are. */
void sp_stall_give_all(struct sp_daemon *daemon);

#endif
