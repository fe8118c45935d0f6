/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames may leave memory, and when (S1 to S5): to the store, or, of the tmpfs, to the machine's own swap
 * (pageout.h), where the kernel itself knows what is in use and what is locked. What follows is about the store.
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
 * were looked at. out->later: of so many, or of some that were asked for before, it is not known yet what became, for they
 * go to the machine's swap: who asks again learns it. 0; -EAGAIN: a drain runs, or it is not known what is locked;
 * without a store, too, -ENODEV: nor is there swap; -EACCES, -EOPNOTSUPP: we, or this kernel, cannot have it taken there
 * (sp_pageout_can()); -EBUSY: somebody else uses what it takes.
 */
int sp_reclaim(struct sp_daemon *daemon, uid_t uid, struct sp_domain *only, uint64_t bytes,
               struct sp_reclaimed *out);
/* Frames of those domains that are in memory, as far as was seen. */
uint64_t sp_reclaim_in_memory(const struct sp_daemon *daemon, uid_t uid, const struct sp_domain *only);

/* engine_ops.c's (src/engine/ops.h). */
enum sp_use sp_reclaim_referenced(void *ctx, sp_frame frame, uint32_t group);
bool sp_reclaim_locked(void *ctx, sp_frame frame);

#endif
