/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why pages of a process are not merged (docs/control.md, explain).
 *
 * Two know it. The agent knows what each tracked page is at present (struct sp_explained); of those
 * that it reported as quiet, the engine knows what became of them (struct sp_mm_counters). The agent
 * is asked part by part, so that a large process does not hold up the others; the numbers are put
 * together when the last part is there. They add up: every tracked page is counted once.
 */
#ifndef SP_DAEMON_EXPLAIN_H
#define SP_DAEMON_EXPLAIN_H

#include "server.h"

/* Begins to answer why pages of process pid are not merged, or says that it is none of ours. */
void sp_explain_start(struct sp_conn *conn, pid_t pid);

/* Asks for one part, and answers when it was the last: merging goes on in between, however many ask
 * and however often. Returns true if somebody still waits. */
bool sp_explain_work(struct sp_daemon *daemon);

#endif
