/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that left before their agent was known (D2).
 *
 * A program says HELLO itself; its agent is known from its first answer on. If the daemon is killed in between, the next one has the
 * program from the keeper, and does not see the end of an agent that is killed before it comes back: what it had in the
 * air, and memory that waits for it, would wait for ever. So when it had its time it is looked for: it is a process that has the
 * program's memory.
 */
#ifndef SP_DAEMON_LOST_AGENT_H
#define SP_DAEMON_LOST_AGENT_H

#include "daemon.h"

/* Once a second, when no takeover is under way: clients whose agent is found are watched, those that have none any more
 * are repaired, and forgotten. */
void sp_lost_agents_look(struct sp_daemon *daemon);

#endif
