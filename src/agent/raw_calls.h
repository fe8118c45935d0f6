/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding system calls in x86-64 code that the gate does not see, and cannot be put before: calls whose
 * number comes from somewhere else than the code right before them. Reads mapped, readable code;
 * changes nothing.
 */
#ifndef SP_AGENT_RAW_CALLS_H
#define SP_AGENT_RAW_CALLS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The first system call in [text, end) that may be an address-space call and is not patched; 0: there
 * is none. patched: calls before which the gate is put do not count (those of objects that are there when
 * it is put in). What is no code, but looks like a call, is told
 * from it by what stands around it.
 */
uint64_t sp_raw_call(uint64_t text, uint64_t end, bool patched);

#endif
