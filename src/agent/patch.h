/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing code in a process that may not change code (PR_SET_MDWE): the changed pages are written
 * to a file in memory and mapped read-execute over the old ones.
 */
#ifndef SP_AGENT_PATCH_H
#define SP_AGENT_PATCH_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A site is two instructions, the **head** and the system call itself (2 bytes): mov $nr,%eax or,
 * in libc's syscall(), mov 8(%rsp),%r9, both 5 bytes; elsewhere what stands between the two, if it
 * does the same at another place. Both together have room for a jump.
 */
#define SP_SITE_HEAD       5u
#define SP_SITE_SHORT_HEAD 3u /* the shortest */
#define SP_SITE_LONG_HEAD  9u /* the longest */
#define SP_SITE_MAX        (SP_SITE_LONG_HEAD + 2u)

struct sp_patch_site {
    uint64_t address;
    uint32_t head; /* bytes: SP_SITE_SHORT_HEAD to SP_SITE_LONG_HEAD */
    uint64_t text; /* start of the mapping that holds it, all of which is code */
    uint64_t stub; /* set by sp_patch_sites() */
    bool optional; /* the gate is right without it */
};

/* Behind the site. */
static inline uint64_t sp_site_end(const struct sp_patch_site *site)
{
    return site->address + site->head + 2;
}

/*
 * Gives each of the n sites (ascending, not overlapping) a stub and replaces it
 * by a jump there. One thread only. Returns 0, or a negative errno with everything as it was.
 */
int sp_patch_sites(struct sp_patch_site *sites, unsigned n, uint32_t page_size);

#endif
