/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: any bytes are looked at as code within their bounds. The length of an instruction does not
 * depend on what stands behind it, and whatever passes as a site is whole and within the text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "raw_calls.h"
#include "site_check.h"
#include "x86_length.h"

#define SITES 64u

static void check_length(const uint8_t *code, size_t size)
{
    unsigned length = sp_x86_length(code, size);
    int distance = 0;

    expect(length <= 15 && length <= size);
    if (!length)
        return;
    expect(sp_x86_length(code, length) == length);
    expect(sp_x86_length(code, length - 1) == 0);
    if (sp_x86_short_jump(code, length, &distance))
        expect(length >= 2 && distance >= -128 && distance <= 127);
}

static void check_sites(const uint8_t *code, size_t size)
{
    uint64_t text = (uint64_t)code, end = text + size, last = text;
    struct sp_patch_site site[SITES];
    struct sp_site_scan scan;
    unsigned n = 0;

    sp_site_scan_init(&scan, text, end);
    while (n < SITES && sp_site_scan_next(&scan, &site[n]) == SP_SITE_FOUND) {
        expect(site[n].address >= last && sp_site_end(&site[n]) <= end);
        last = sp_site_end(&site[n]);
        (void)sp_site_number(&site[n]);
        if (sp_site_is_code(&site[n], end))
            n++;
    }
    if (n)
        (void)sp_site_jump_into(site, n, end);
}

/* A call that is found is one. */
static void check_raw_calls(const uint8_t *code, size_t size)
{
    for (unsigned patched = 0; patched < 2; patched++) {
        const uint8_t *call =
            (const uint8_t *)sp_raw_call((uint64_t)code, (uint64_t)code + size, patched);

        expect(!call || (call >= code && call + 2 <= code + size && call[0] == 0x0f && call[1] == 5));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *code; /* exactly as long as the input: the sanitizer sees every step over */

    if (!size)
        return 0;
    code = malloc(size);
    if (!code)
        return 0;
    memcpy(code, data, size);
    for (size_t at = 0; at < size && at < 256; at++)
        check_length(code + at, size - at);
    check_sites(code, size);
    check_raw_calls(code, size);
    free(code);
    return 0;
}
