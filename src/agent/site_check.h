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
    uint64_t text, at, end;
    uint64_t function,
        function_end; /* where the end of libc's syscall() counts too; 0, 0: nowhere */
    bool opens;       /* calls that open files are sites, too, optional ones */
};

enum sp_site_found {
    SP_SITE_NONE,  /* no more */
    SP_SITE_FOUND, /* site is filled */
    SP_SITE_STRAY, /* a gated number goes into the system call at site->address, which has no form
                      that can be patched */
};

void sp_site_scan_init(struct sp_site_scan *scan, uint64_t text, uint64_t text_end);
/* The next site of the text, ascending; it may still be only bytes that look like one. */
enum sp_site_found sp_site_scan_next(struct sp_site_scan *scan, struct sp_patch_site *site);

/* Is a call with this number one that goes through the gate (some only with certain arguments)? */
bool sp_site_is_gated(uint32_t number);
/* The next system call instruction, or what has its bytes, in [p, end); NULL: there is none. */
const uint8_t *sp_site_find_call(const uint8_t *p, const uint8_t *end);

/* Does the scan find a site that ends in the system call at call? */
bool sp_site_is_patched(uint64_t call, uint64_t text, uint64_t text_end);

/* The system call number that the site loads, 0 if it loads none. */
uint32_t sp_site_number(const struct sp_patch_site *site);

/* Does decoding from before arrive at the site, and does no short jump near it lead into it? */
bool sp_site_is_code(const struct sp_patch_site *site, uint64_t text_end);

/* The first of the n sites (ascending, all of one text) into which a call or a long jump in the
 * text leads, or NULL. */
const struct sp_patch_site *sp_site_jump_into(const struct sp_patch_site *sites, unsigned n,
                                              uint64_t text_end);

#endif
