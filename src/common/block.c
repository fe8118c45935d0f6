/* SPDX-License-Identifier: Apache-2.0 */
#include "block.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "ops.h"

static void unmap(char *from, const char *to)
{
    size_t size = (size_t)(to - from);

    /* Where mappings are short, so that none can be divided, the addresses stay, without memory. */
    if (size && munmap(from, size) != 0)
        (void)madvise(from, size, MADV_DONTNEED);
}

static char *map(size_t size)
{
    void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return area == MAP_FAILED ? NULL : area;
}

static size_t beyond_a_block(const char *area)
{
    return (uintptr_t)area % SP_BLOCK_BYTES;
}

/* Most kernels put it side by side with the block before, or where a large page begins; otherwise
 * one is cut out of twice as much. */
static char *map_block(void)
{
    char *area = map(SP_BLOCK_BYTES), *block;

    if (!area || !beyond_a_block(area))
        return area;
    unmap(area, area + SP_BLOCK_BYTES);
    area = map(2 * (size_t)SP_BLOCK_BYTES);
    if (!area)
        return NULL;
    block = beyond_a_block(area) ? area + SP_BLOCK_BYTES - beyond_a_block(area) : area;
    unmap(area, block);
    unmap(block + SP_BLOCK_BYTES, area + 2 * (size_t)SP_BLOCK_BYTES);
    return block;
}

void *sp_block_get(void *ctx)
{
    char *block = map_block();

    if (block)
        (void)madvise(block, SP_BLOCK_BYTES, MADV_HUGEPAGE); /* else it is plain memory */
    return block;
}

void sp_block_put(void *ctx, void *block)
{
    unmap(block, (char *)block + SP_BLOCK_BYTES);
}
