/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing code in a process that may not change code (PR_SET_MDWE): the changed pages are written
 * to a file in memory and mapped read-execute over the old ones.
 */
#ifndef SP_AGENT_PATCH_H
#define SP_AGENT_PATCH_H

#include <stdint.h>

#define SP_SITE_BYTES 7u /* mov $nr,%eax (or mov 8(%rsp),%r9); syscall */
#define SP_SITE_HEAD 5u  /* the first of the two */

struct sp_patch_site {
    uint64_t address;
    uint64_t text; /* start of the mapping that holds it, all of which is code */
    uint64_t stub; /* set by sp_patch_sites() */
};

/*
 * Gives each of the n sites (ascending, SP_SITE_BYTES long, not overlapping) a stub and replaces it
 * by a jump there. One thread only. Returns 0, or a negative errno with everything as it was.
 */
int sp_patch_sites(struct sp_patch_site *sites, unsigned n, uint32_t page_size);

#endif
