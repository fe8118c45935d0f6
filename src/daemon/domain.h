/* SPDX-License-Identifier: Apache-2.0 */
/* Domains: one engine, one set of segments, one seed each. Nothing crosses from one to another. */
#ifndef SP_DAEMON_DOMAIN_H
#define SP_DAEMON_DOMAIN_H

#include "daemon.h"

/*
 * The domain of this user (name empty) or of this user's name, made if it is not there. The uid is
 * part of its name, so that no user gets into another's. NULL: memory short, or no seed.
 */
struct sp_domain *sp_domain_get(struct sp_daemon *daemon, uid_t uid, const char *name);
/* The domain of this full name that has an engine, or NULL. */
struct sp_domain *sp_domain_find(struct sp_daemon *daemon, const char *full_name);
/* A domain of before a takeover: its full name, and the id, the seed and the settings that it had.
 * NULL: memory, or a name that is none of ours. */
struct sp_domain *sp_domain_restore(struct sp_daemon *daemon, const char *full_name, uint32_t id,
                                    uint64_t seed, const uint64_t value[SP_SETTINGS]);
/* A client more. */
void sp_domain_hold(struct sp_domain *domain);
/* A client less: with the last one the engine goes, and all frames are forgotten (K9, D4). */
void sp_domain_release(struct sp_domain *domain);

/* Asks the clients of each domain to let go of segments without a frame in use, and frees those
 * that nothing maps any more (K9). Not from inside an engine call. Returns true if such segments
 * are left. */
bool sp_domains_sweep_live(struct sp_daemon *daemon);
/* The same for one domain; what follows from clients that fail at it is left to sp_clients_reap(). */
void sp_domain_sweep(struct sp_domain *domain);
/* The same for domains without clients, which then vanish. Returns true if some are left. */
bool sp_domains_sweep_dead(struct sp_daemon *daemon);
/* At the end of the daemon: forgets all domains, whose clients are gone. */
void sp_domains_free(struct sp_daemon *daemon);

#endif
