/* SPDX-License-Identifier: Apache-2.0 */
#include "code_known.h"

#include <stddef.h>

#define KNOWN 1280u /* objects that a program begins with, and some that it loads */

static struct {
    uint64_t start, end, inode;
} known[KNOWN];
static uint32_t used, oldest;

static uint32_t place_for_one(void)
{
    if (used < KNOWN)
        return used++;
    for (uint32_t n = 0; n < KNOWN; n++) {
        oldest = (oldest + 1) % KNOWN;
        if (known[oldest].inode != SP_CODE_ANY)
            break;
    }
    return oldest;
}

void sp_code_add(uint64_t start, uint64_t end, uint64_t inode)
{
    uint32_t i = place_for_one();

    known[i].start = start;
    known[i].end = end;
    known[i].inode = inode;
}

bool sp_code_has(uint64_t start, uint64_t end, uint64_t inode)
{
    for (uint32_t i = 0; i < used; i++)
        if (known[i].start <= start && end <= known[i].end &&
            (known[i].inode == inode || known[i].inode == SP_CODE_ANY))
            return true;
    return false;
}
