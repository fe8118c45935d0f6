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
 * again, for those that were moved to another node are not reported for that. Once a minute, and where such
 * a pass takes more than three seconds a twentieth of the time at most. */
void sp_nodes_pass_begins(struct sp_client *client);
/* It is over. Of a client of whose pages not one had a node yet it is told why none is merged (N1). */
void sp_nodes_pass_ends(struct sp_client *client);
/* In it so many pages were reported with the node that they lie on, and so many without. */
void sp_nodes_reported(struct sp_client *client, uint32_t known, uint32_t silent);
/* The pool answered err (a negative errno) when frames of a node were wanted: where that is -EPERM, logs once that
 * the daemon may not choose the node. */
void sp_nodes_refused(struct sp_daemon *daemon, int node, int err);
/* Of n frames that were just filled, has *ok cleared for those that did not come to lie where they
 * were wanted, and their memory given back. */
void sp_nodes_check_filled(struct sp_domain *domain, struct sp_fill_page *page, unsigned n);
/* Frames were adopted, which count as node 0's: where nodes matter they become those of the node that they were
 * wanted on, until they are looked at. */
void sp_nodes_adopted(struct sp_domain *domain, uint32_t segment, uint32_t index, unsigned n);
/* Looks where some of the frames lie, other ones each time, and tells the engines (N3). */
void sp_nodes_look(struct sp_daemon *daemon);

#endif
