/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent needs of linked.c. */
#ifndef SP_AGENT_LINKED_START_H
#define SP_AGENT_LINKED_START_H

#include <stdbool.h>
#include <stdint.h>

/* Does the program need the agent, itself or by what it needs? Then it was there when the program
 * began. */
bool sp_linked_is_needed(void);

/* constant of struct sp_linked: by the program's threads, without a lock. */
void sp_linked_constant(uint64_t start, uint64_t end);
/* By the agent: does the program say that all of [start, end) will not change? A hint (K5): what is
 * merged is compared all the same. */
bool sp_linked_is_constant(uint64_t start, uint64_t end);

#endif
