/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strays: frames that are mapped still when all is un-merged (T2).
 *
 * Who has no agent any more cannot be asked to un-merge, and nobody else can do it for a program that runs on
 * (docs/decisions/0029-frames-without-an-agent.md): its sites stay until it ends. The engine knows nothing of them.
 *
 * When run 2 is through with a domain its segments are free, as a rule: nobody maps them (pool.h), and that is
 * all. Where some are left, a process of its own (strays_look.h) looks who maps frames of them. It finds
 *
 *   nobody: who held them had them as files, or had written all his pages: all is un-merged;
 *   a program that has a record, or began a moment ago: a child that said HELLO late, an agent that was busy:
 *     the domain is un-merged once more and looked at again, for some seconds;
 *   others: they are counted and logged, and whoever set run to 2 gets EBUSY.
 *
 * Where nobody could look, or not at all processes, also after some seconds, nobody says that all is un-merged: EAGAIN, and the
 * log has the reason.
 *
 * So a frame that is out of memory, and would come back shared to a program without an agent, is told of (S11).
 */
#ifndef SP_DAEMON_STRAYS_H
#define SP_DAEMON_STRAYS_H

#include "daemon.h"

/* A domain's run was set: nothing is known of it any more. */
void sp_strays_reset(struct sp_domain *domain);
/* The domain's engine un-merged everything; sp_passes_strays_done() follows, now or later. */
void sp_strays_ask(struct sp_domain *domain);
/* The same for domains without clients, which have no engine, if nobody asked yet. */
void sp_strays_ask_dead(struct sp_daemon *daemon);
/* Is somebody's answer not there yet? */
bool sp_strays_open(const struct sp_daemon *daemon);
/* ... which run 2 of all waits for? It waits for the first answer of the domains that were there when it began: a user
 * who begins and ends programs, or has others, would keep it from its end otherwise. */
bool sp_strays_awaited(const struct sp_domain *domain);
bool sp_strays_any_awaited(const struct sp_daemon *daemon);
/* Goes on, when its time has come: not from inside an engine call. */
void sp_strays_work(struct sp_daemon *daemon);
/* Who maps them, for a person. */
#define SP_STRAYS_TEXT 200
void sp_strays_tell(const struct sp_daemon *daemon, const struct sp_domain *domain, char text[SP_STRAYS_TEXT]);
/* A look that is under way ends. */
void sp_strays_stop(struct sp_daemon *daemon);

#endif
