/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thin segments: memory of the pool that only a few frames hold (docs/decisions/0012-stale-frames.md).
 *
 * A frame's memory is freed with its whole segment, and a server that writes here and there leaves a
 * few frames alive in each. So a full segment of which at most a half is in use is **thinned out**,
 * when more lingers than is worth it: its frames get no further sites, and the agents are told that
 * mappings of it are useless, and give them back (written.h). What was in them is merged again as any
 * other memory is, in neighbouring frames.
 */
#ifndef SP_DAEMON_THIN_H
#define SP_DAEMON_THIN_H

#include "daemon.h"

/* To be called often: chooses segments, gives up for now those that do not become free, and sets
 * domain->brakes. */
void sp_thin_work(struct sp_daemon *daemon);
/* The segments for the next question to a client of the domain. */
void sp_thin_tell(const struct sp_domain *domain, struct sp_scan_ask *ask);

#endif
