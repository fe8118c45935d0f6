/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames may leave memory, and when (S1 to S5).
 *
 * Whether a frame is in use looks tell (looks.h), and the store: a frame that came back since it was
 * evicted was touched by one of its sites, whichever. That counts once, as a second chance (S2).
 * Those that were idle longest leave first: a domain's frames are asked level by level, and after
 * each look from the first level on again.
 *
 * What is locked (S4) the agents say, before a reclaim, of programs that have locked memory at all.
 * Of a program that has some and no agent that answers nothing is known: while there is one,
 * nothing of its domain leaves memory.
 */
#ifndef SP_DAEMON_RECLAIM_H
#define SP_DAEMON_RECLAIM_H

#include "daemon.h"

/*
 * Evicts frames of the domain, or (NULL) of all domains that uid may ask about, worth so many bytes
 * at most, and not more than one go of the event loop takes; out sums up what became of those that
 * were looked at. 0; -EOPNOTSUPP: there is no store; -EAGAIN: a drain runs, or it is not known what
 * is locked.
 */
int sp_reclaim(struct sp_daemon *daemon, uid_t uid, struct sp_domain *only, uint64_t bytes,
               struct sp_reclaimed *out);

/* engine_ops.c's (src/engine/ops.h). */
enum sp_use sp_reclaim_referenced(void *ctx, sp_frame frame, uint32_t group);
bool sp_reclaim_locked(void *ctx, sp_frame frame);

#endif
