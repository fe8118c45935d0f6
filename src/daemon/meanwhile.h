/* SPDX-License-Identifier: Apache-2.0 */
/*
 * While the daemon waits for an agent, who only asks what is so is answered all the same.
 *
 * The daemon has one thread, and an agent that is stopped, or hangs, keeps it for SP_ANSWER_MSECS; one
 * go of the event loop may ask many of them. So when it has been away from the loop for SP_AWAY_USECS it
 * looks at its connections itself, for a slice (SP_SLICE_USECS) and again after as long a wait, and serves those whose
 * request changes nothing (sp_control_only_reads()). All others are put off until the loop comes round: they might free, or
 * change, what is in the hands of whoever asks the agent. So are connections that hung up, and new
 * clients; when a batch of those waits, nobody is accepted any more (sp_server_room()).
 *
 * What is read in the middle of an engine's call makes sense: the engine's counters add up whenever it
 * asks for something (ops.h), and the lists of clients and domains do not change while an agent is asked.
 */
#ifndef SP_DAEMON_MEANWHILE_H
#define SP_DAEMON_MEANWHILE_H

#include "daemon.h"

struct pollfd;

/* Waits as poll() does for one descriptor of an agent's, until the deadline (us) at most, and returns what
 * it returned. */
int sp_meanwhile_poll(struct sp_daemon *daemon, struct pollfd *agent, uint64_t deadline);

/* Serves whoever is there if it is time, and does not wait: for agents that answer at once, one after the
 * other. Overwrites daemon->packet, as the other does, where there is no answer during a question. */
void sp_meanwhile_serve(struct sp_daemon *daemon);

#endif
