/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose turn it is. The daemon has one thread, and a step of one domain can take long: its agents
 * may be slow, or want to be. So a user whose domains took some time has to wait as long, if
 * another user has work; and nobody's next pass waits for the end of somebody else's.
 */
#ifndef SP_DAEMON_TURNS_H
#define SP_DAEMON_TURNS_H

#include "daemon.h"

/* The domain that works next; NULL: each one completed a pass, and so the round is complete. */
struct sp_domain *sp_turns_next(struct sp_daemon *daemon);
/* The domain has an engine, and its run is 1. */
bool sp_turns_merges(const struct sp_domain *domain);
/* A pass of the domain is over; complete: and no process was passed over in it. */
void sp_turns_pass_done(struct sp_domain *domain, bool complete);
/* All passes are: a new round. */
void sp_turns_new_round(struct sp_daemon *daemon);
/* The user's domains took so many microseconds of the daemon's time. */
void sp_turns_charge(struct sp_daemon *daemon, uid_t uid, uint64_t usecs);
/* The same for taking in one of the user's clients: no other of theirs is taken in while they rest. */
void sp_turns_charge_join(struct sp_daemon *daemon, uid_t uid, uint64_t usecs);
/* An agent of the user took so long for an answer, in this go of the event loop: the user's domains
 * rest as long as all such answers took. */
void sp_turns_note_slow(struct sp_daemon *daemon, uid_t uid, uint64_t usecs);
/* The passes that a domain begins with, so that the number of a user's passes never falls. */
uint64_t sp_turns_passes_begin(const struct sp_daemon *daemon);
/* Whole passes of all domains of the user; full_scans if there is none, or everybody is asked for
 * ((uid_t)-1). */
uint64_t sp_turns_passes(const struct sp_daemon *daemon, uid_t uid);

#endif
