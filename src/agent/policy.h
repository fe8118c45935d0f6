/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies of NUMA nodes that the program gave its memory by mbind(), where that is merged
 * because it was advised (K17, X).
 *
 * The mapping of a frame cannot have one: the policy of a mapping of a file in memory is the
 * file's, of that page for every program that maps it. So what a site would have is known by its
 * address; the memory that takes its place gets it back, and who asks for it is told it.
 *
 * A policy is a number in SP_RANGE_POLICY, of which 0 is none: the first fifteen that are met.
 * Numbers stay what they are, and a forked child has them and the list of sites, too.
 */
#ifndef SP_AGENT_POLICY_H
#define SP_AGENT_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* By the agent: the policy of the program's own memory at addr. False: one that could not be given
 * back (there are too many, or it has a home node). */
bool sp_policy_of(uint64_t addr, uint32_t *policy);

/* Gives new memory the policy that these attributes name: 0, also where the kernel refuses it
 * because the nodes are not the program's any more; -ENOMEM. Also by the program's threads, inside
 * the gate. */
long sp_policy_give(uint64_t addr, uint64_t length, uint32_t attributes);

/* By the agent, with the gate closed: what lies in [addr, end) and is merged has this policy.
 * False: there is no room to remember it. */
bool sp_policy_set_sites(uint64_t addr, uint64_t end, uint32_t policy);

/* By the agent, or inside the gate: the policy that the site at addr has. *end, above addr, becomes
 * less if what comes before it may have another one. */
uint32_t sp_policy_of_sites(uint64_t addr, uint64_t *end);

/* Inside the gate: are there merged pages in [addr, end) that have one? */
bool sp_policy_any(uint64_t addr, uint64_t end);

/* Inside the gate: the address of memory of ours that has the same policy as the merged page at
 * addr, or has none, too. 0: the page is not merged. */
uint64_t sp_policy_sample(uint64_t addr);

#endif
