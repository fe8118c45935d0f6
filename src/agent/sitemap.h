/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The site map: which pages of this address space lie in mappings of the pool.
 *
 * One bit a page, in blocks of 512 pages found by an open-addressing hash table that lives in
 * memory reserved at the start. A set bit says: this address is mapped from a pool segment (the
 * page itself may have been written since, and be private). It is changed only with the gate
 * closed (agent), or by a program thread inside the gate for the range of its own call; it is read
 * inside the gate, or by the agent. A forked child inherits a true copy, because fork goes through
 * the gate; what MADV_DONTFORK kept from it is taken out before fork returns (sp_sites_forked).
 */
#ifndef SP_AGENT_SITEMAP_H
#define SP_AGENT_SITEMAP_H

#include <stdbool.h>
#include <stdint.h>

/* Reserves the table's address space (not its memory). 0 or a negative errno. */
int sp_sitemap_init(uint32_t page_size);
/* Sets or clears the bits of [addr, end). set: -1 if the table is full, nothing set then. */
int sp_sitemap_set(uint64_t addr, uint64_t end);
void sp_sitemap_clear(uint64_t addr, uint64_t end);
/* Is any page of [addr, end) mapped from the pool? Cheap when nothing is merged at all, and cheap
 * on unmerged 2 MiB blocks. */
bool sp_sitemap_any(uint64_t addr, uint64_t end);
/* Finds the first run of set pages at or after addr and below end: true, and [*start, *stop). */
bool sp_sitemap_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
/* Where the table itself lies: memory of ours, not to be merged. */
void sp_sitemap_area(uint64_t *start, uint64_t *end);
/* Pages set in all. */
uint64_t sp_sitemap_pages(void);

#endif
