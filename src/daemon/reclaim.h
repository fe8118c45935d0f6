/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames may leave memory, and when (S1 to S5).
 *
 * Whether a frame is in use is known from the store: a frame that came back since it was evicted
 * was touched by one of its sites, whichever, a forked child's without an agent, too. That counts
 * once, as a second chance (S2). Of a frame that was never evicted nothing is known: it is evicted,
 * and comes back at its first touch from memory, packed as it is there first.
 */
#ifndef SP_DAEMON_RECLAIM_H
#define SP_DAEMON_RECLAIM_H

#include "daemon.h"

/* engine_ops.c's (src/engine/ops.h). */
bool sp_reclaim_referenced(void *ctx, sp_frame frame, uint32_t group);
bool sp_reclaim_locked(void *ctx, sp_frame frame);

#endif
