/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When work is done: portions of pages_to_scan pages with sleep_millisecs between (K2), domains in
 * turn, at most SP_SLICE_USECS in one go, so that commands and new clients never wait long.
 *
 * A **round** is complete when every domain completed a pass since the round before; full_scans
 * counts rounds. When a round looked into next to nothing and nothing merges any more, the sleep
 * grows: an idle system costs almost nothing. A new client or a setting wakes it.
 */
#ifndef SP_DAEMON_PASSES_H
#define SP_DAEMON_PASSES_H

#include "daemon.h"

/* 0 or a negative errno. */
int sp_passes_start(struct sp_daemon *daemon);
/* There is work: now, and no idle sleep. */
void sp_passes_wake(struct sp_daemon *daemon);
/* Somebody asks for something: it is looked at now, and merging goes on when its time has come. So
 * nobody makes it faster by asking. */
void sp_passes_ask(struct sp_daemon *daemon);

/*
 * Sets run (K13) of one domain, or of the daemon and all domains (NULL). 2 only begins it:
 * sp_control_run2_done() is called when all is un-merged; with off, run then reads 0. 1 also lets
 * processes merge again that were un-merged one by one.
 */
void sp_passes_set_run(struct sp_daemon *daemon, struct sp_domain *domain, enum sp_engine_run run,
                       bool off);

/* Run 2 is over for a domain: 0, or -EBUSY: frames are mapped still, or -ENODATA: that is not known (strays.h). */
void sp_passes_strays_done(struct sp_domain *domain, int status);

/* Whole passes in a row, up to now, that merged next to nothing: of this user's domains, or of all
 * (SP_EVERYBODY). 0 while a client of them is joining. */
uint64_t sp_passes_quiet(const struct sp_daemon *daemon, uid_t uid);

#endif
