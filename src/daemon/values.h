/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The values of settings: the daemon's own, with which new domains begin, and each domain's. What is
 * of the daemon as a whole (settings.h) has only the daemon's.
 */
#ifndef SP_DAEMON_VALUES_H
#define SP_DAEMON_VALUES_H

#include "daemon.h"

/* A domain has a new engine: it gets the domain's values. */
void sp_values_apply(struct sp_domain *domain);

/* The configuration was read: settings that hang on others get their values. */
void sp_values_begin(struct sp_config *config);

/*
 * Sets one, but run (sp_passes_set_run()): of the daemon and every domain (domain NULL), or of one
 * domain. It holds at once, for all or for none. 0; -EBUSY: pages are merged (K14, N2);
 * -EOPNOTSUPP: cannot be here; -EINVAL: not with the other settings (K16).
 */
int sp_values_set(struct sp_daemon *daemon, struct sp_domain *domain, enum sp_key key,
                  uint64_t value);

/* What is in force: the domain's, or the daemon's (NULL, or the setting is of the daemon). */
uint64_t sp_values_get(const struct sp_daemon *daemon, const struct sp_domain *domain,
                       enum sp_key key);

#endif
