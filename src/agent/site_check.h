/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding gated system calls in x86-64 code, and proving that they are what they look like. Reads
 * mapped, readable code; changes nothing.
 */
#ifndef SP_AGENT_SITE_CHECK_H
#define SP_AGENT_SITE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "patch.h"

struct sp_site_scan {
    uint64_t at, end;
    uint64_t function, function_end; /* where the end of libc's syscall() counts too; 0, 0: nowhere */
};

void sp_site_scan_init(struct sp_site_scan *scan, uint64_t text, uint64_t text_end);
/* The next site's address, ascending; 0 at the end. */
uint64_t sp_site_scan_next(struct sp_site_scan *scan);

/* The system call number that the site at address loads. */
uint32_t sp_site_number(uint64_t address);

/* Does decoding from before arrive at the site, and does no short jump near it lead into it? */
bool sp_site_is_code(uint64_t site, uint64_t text, uint64_t text_end);

/* A site of the n (ascending) into which a call or a long jump in the text leads: its address, or
 * 0 if there is none. */
uint64_t sp_site_jump_into(const struct sp_patch_site *sites, unsigned n, uint64_t text,
                           uint64_t text_end);

/* Where a gated number is loaded and then used by a system call that is no site: the address of the
 * load, or 0. */
uint64_t sp_site_stray(uint64_t text, uint64_t text_end);

#endif
