/* SPDX-License-Identifier: Apache-2.0 */
/* The advisor (K16) in the daemon: measures what a round takes, and sets pages_to_scan by it. */
#ifndef SP_DAEMON_ADVISE_H
#define SP_DAEMON_ADVISE_H

#include "daemon.h"

/* The advisor says pages_to_scan itself: nobody else may. */
bool sp_advise_is_on(const struct sp_config *config);
/* advisor_mode was set to another value: pages_to_scan begins anew, as KSM's does. */
void sp_advise_begin(struct sp_config *config);
/* A round begins, unless it has begun already. */
void sp_advise_round_begins(struct sp_daemon *daemon);
/* It is over: idle sleeps between rounds are not counted. */
void sp_advise_round_done(struct sp_daemon *daemon);

#endif
