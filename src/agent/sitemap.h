/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of single pages of this address space: page maps (pagemap.h) in memory reserved at the
 * start.
 *
 * The site map: which pages lie in mappings of the pool. A set bit says: this address is mapped
 * from a pool segment (the page itself may have been written since, and be private). It is changed
 * only with the gate closed (agent), or by a program thread inside the gate for the range of its
 * own call; it is read inside the gate, or by the agent. A forked child inherits a true copy,
 * because fork goes through the gate; what MADV_DONTFORK kept from it is taken out before fork
 * returns (sp_sites_drop_unmapped).
 *
 * The spliced pages: which pages the program gave to a pipe (vmsplice). The pipe refers to the page
 * itself, and so does whoever splices or tees from it: nobody can tell when that ends. So they are
 * never merged, until the program drops or unmaps them. Set and cleared by program threads inside
 * the gate; what the agent sees with the gate closed is whole.
 *
 * The guarded sites: which sites may be such that the program may not write there, or has locked them. Under a
 * filter nobody can ask the kernel for that, and what is dropped there must not become zeros by being written.
 * Set by program threads inside the gate before the call that does it, or by the agent with the gate closed, which
 * also finds out which of them still are; a bit too many may stay, one too few may not. A forked child inherits it.
 *
 * The frozen sites: which sites the program may not write for certain, because a call that went through the gate took
 * that right, and none gave it back since. In doubt a site is not frozen.
 *
 * The owed pages: which frozen sites the program dropped under a filter: they can be made zeros only when it may write
 * them again, and must be then, before it does. A bit too many would lose what it wrote.
 * Both set and cleared by program threads inside the gate. A forked child inherits them. A page that is no site any
 * more is none of all these.
 *
 * The zeroed pages: which were given back to the kernel's own page of zeros (K15). They are plain
 * anonymous memory that anybody may write at any time: a set bit says only that nobody took the page
 * away since. Set by the agent with the gate closed, cleared by it when it sees that a page was written,
 * and by program threads inside the gate when a call took pages away. A forked child inherits it.
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

/* Notes the pages of [addr, end) as spliced. If there is no room, all pages count as spliced from
 * then on. */
void sp_spliced_add(uint64_t addr, uint64_t end);
/* The pages of [addr, end) are other ones, or none: takes them out, true if there were any. To be
 * called before a call that unmaps them: afterwards another thread may have new ones there. */
bool sp_spliced_clear(uint64_t addr, uint64_t end);
/* May a page of [addr, end) lie in a pipe? */
bool sp_spliced_any(uint64_t addr, uint64_t end);

/* Notes what of [addr, end) are sites as guarded. If there is no room, all sites count as guarded from then on. */
void sp_guarded_add(uint64_t addr, uint64_t end);
void sp_guarded_clear(uint64_t addr, uint64_t end);
/* With the gate closed, or where nobody adds any: there are none, until some are added. */
void sp_guarded_forget(void);
/* The first run of pages at or after addr and below end that may be guarded: true, and [*start, *stop). */
bool sp_guarded_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
/* Notes the sites in [addr, end) as frozen, by a call before which sp_thawed_times() was so; not if any was thawed since. */
void sp_frozen_add(uint64_t addr, uint64_t end, uint32_t times);
/* Before a call that may give the right to write. */
void sp_frozen_clear(uint64_t addr, uint64_t end);
uint32_t sp_thawed_times(void);
/* Notes what of [addr, end), which was dropped, is frozen as owed; lost if there is no room. */
void sp_owed_add(uint64_t addr, uint64_t end);
bool sp_owed_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
/* Takes the first run of owed pages out of [addr, end): true, and [*start, *stop). */
bool sp_owed_take(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
/* How often some were added: with none between two looks, nothing became guarded meanwhile. */
uint32_t sp_guarded_times(void);

/* As those of the site map. */
int sp_zeroed_set(uint64_t addr, uint64_t end);
void sp_zeroed_clear(uint64_t addr, uint64_t end);
bool sp_zeroed_any(uint64_t addr, uint64_t end);
bool sp_zeroed_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
uint64_t sp_zeroed_pages(void);

#endif
