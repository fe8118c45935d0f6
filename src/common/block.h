/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of memory for the engine's bookkeeping (block_get and block_put of src/engine/ops.h). */
#ifndef SP_COMMON_BLOCK_H
#define SP_COMMON_BLOCK_H

/* SP_BLOCK_BYTES of zeros: one large page where the kernel has them for who asks ("madvise" or
 * "always" in /sys/kernel/mm/transparent_hugepage/enabled) and has one left, otherwise plain
 * memory. NULL: memory or mappings are short. ctx is not looked at. */
void *sp_block_get(void *ctx);
void sp_block_put(void *ctx, void *block);

#endif
