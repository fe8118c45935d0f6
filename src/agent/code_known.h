/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which executable mappings were looked at. No system calls, no allocation.
 */
#ifndef SP_AGENT_CODE_KNOWN_H
#define SP_AGENT_CODE_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

#define SP_CODE_ANY 0ull /* in place of a file's inode: whatever is mapped there */

/* Notes [start, end) of the file as looked at. Where there is no room the oldest of those that are
 * tied to a file is forgotten, and looked at again. */
void sp_code_add(uint64_t start, uint64_t end, uint64_t inode);
/* Is all of [start, end) of that file in one that was noted? */
bool sp_code_has(uint64_t start, uint64_t end, uint64_t inode);

#endif
