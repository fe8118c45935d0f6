/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine asks of the outside, answered by messages to agents and by the pool. */
#ifndef SP_DAEMON_ENGINE_OPS_H
#define SP_DAEMON_ENGINE_OPS_H

#include "daemon.h"

/* ctx is the struct sp_domain, mm the struct sp_client. */
extern const struct sp_engine_ops sp_daemon_engine_ops;

/* Asks the agent to merge n pages, 1 to SP_MERGE_PAGES; flags are those of every run (SP_MERGE_WRITTEN,
 * SP_MERGE_LOOKED). Sets the results, also to SP_RESULT_HELD. 0, or a negative errno as sp_ask(). */
int sp_engine_ask_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n,
                        uint32_t flags);

/* Hashes a page's bytes with the domain's seed, as agents do. */
struct sp_hash sp_page_hash(const struct sp_domain *domain, const void *page);
/* That of a page of zeros (K15). */
struct sp_hash sp_zero_hash(const struct sp_domain *domain);

/*
 * To be called when an engine call is over: frames of merges whose answer was lost may be handed
 * out again only through sp_pool_forget() until then.
 */
void sp_engine_call_done(struct sp_domain *domain);

#endif
