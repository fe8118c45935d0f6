/* SPDX-License-Identifier: Apache-2.0 */
/* The program's io_urings, looked at for advice about its memory (X). */
#ifndef SP_AGENT_RINGS_H
#define SP_AGENT_RINGS_H

#include <stdbool.h>
#include <stdint.h>

struct sp_mapping;

/* The mappings are read anew; then each of them. */
void sp_rings_read_begin(void);
void sp_rings_note(const struct sp_mapping *m);
/* Looks at all of them that were read last. What it finds stands in sp_agent.raw_calls. */
void sp_rings_look(void);
/* Does one of the jobs from sqe to end give advice that would be wrong on merged memory? Jobs that
 * are done count, too. */
bool sp_ring_advises(const uint64_t *sqe, const uint64_t *end);

#endif
