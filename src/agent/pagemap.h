/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page map: a set of pages of this address space, one bit a page. What the sets are is in
 * sitemap.h; how they are kept, in pagemap.c.
 *
 * Any number of threads may set, clear and look at once. A look that runs beside a set or a clear
 * of the same block may miss what is being set; one that comes after both does not.
 */
#ifndef SP_AGENT_PAGEMAP_H
#define SP_AGENT_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

#define SP_PAGEMAP_ADDRESS_BITS 48u /* what lies above is in no map */

struct sp_pagemap_group {
    uint64_t key;    /* number of the group + 1; 0: free */
    uint64_t blocks; /* bit n: block n has a set bit */
};

struct sp_pagemap {
    uint64_t pages; /* set in all */
    uint32_t page_shift;
    uint32_t groups; /* a power of two; 128 MiB of 4 KiB pages each */
    uint32_t groups_used;
    struct sp_pagemap_group *group;
    uint64_t *word; /* 4 KiB for each group */
    uint64_t *used; /* one bit for each group of the address space */
    uint64_t used_groups;
};

/* Bytes of zeros that a map with so many groups needs; few of them are ever touched. */
uint64_t sp_pagemap_bytes(uint32_t groups, uint32_t page_size);
/* Makes an empty map in the zeros at base, which it keeps. */
void sp_pagemap_init(struct sp_pagemap *map, uint32_t groups, uint32_t page_size, uint64_t base);
/* Sets the bits of [addr, end). -1 if the map is full, or the range ends above what it knows:
 * nothing set then. */
int sp_pagemap_set(struct sp_pagemap *map, uint64_t addr, uint64_t end);
void sp_pagemap_clear(struct sp_pagemap *map, uint64_t addr, uint64_t end);
/* Finds the first run of set pages at or after addr and below end: true, and [*start, *stop). Cheap
 * when the map is empty, and cheap on empty 2 MiB blocks. */
bool sp_pagemap_next(const struct sp_pagemap *map, uint64_t addr, uint64_t end, uint64_t *start,
                     uint64_t *stop);

static inline uint64_t sp_pagemap_pages(const struct sp_pagemap *map)
{
    return __atomic_load_n(&map->pages, __ATOMIC_RELAXED);
}

#endif
