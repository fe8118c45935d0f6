/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's nodes of memory, as far as merging heeds them: where merge_across_nodes is 0 (N).
 * Agents say on which node a page lies, the pool's segments are each of one node, and what the
 * kernel moved to another one is noticed (N3). On a machine with one node nothing of this is done.
 */
#ifndef SP_DAEMON_NODES_H
#define SP_DAEMON_NODES_H

#include "daemon.h"

/* Memory lies on nodes that cannot be told from one another: their numbers are beyond SP_NODES_MAX.
 */
bool sp_nodes_too_many(void);
/* Is the node of the domain's pages asked for? What is answered holds for a second. */
bool sp_nodes_matter(struct sp_domain *domain);
/* A pass over the client begins, in which nodes matter: now and then its pages are to be reported
 * again, for those that were moved to another node are not reported for that. */
void sp_nodes_pass_begins(struct sp_client *client);
/* Of n frames that were just filled, has *ok cleared for those that did not come to lie where they
 * were wanted, and their memory given back. */
void sp_nodes_check_filled(struct sp_domain *domain, struct sp_fill_page *page, unsigned n);
/* Frames were adopted, which count as node 0's: as those of the node that they were wanted on,
 * until they are looked at. */
void sp_nodes_adopted(struct sp_domain *domain, uint32_t segment, uint32_t index, unsigned n);
/* Looks where some of the frames lie, other ones each time, and tells the engines (N3). */
void sp_nodes_look(struct sp_daemon *daemon);

#endif
