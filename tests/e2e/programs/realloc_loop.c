/* SPDX-License-Identifier: Apache-2.0 */
/* Grows and shrinks blocks by realloc, small (heap) and large (mremap inside libc), whose contents
 * must come along. */
#include "loop.h"

#define BLOCKS    8u
#define BIG_PAGES 1024u

static char *block[BLOCKS];
static size_t filled[BLOCKS]; /* pages */
static unsigned char *small[BLOCKS];
static size_t small_size[BLOCKS];

static void resize_big(unsigned i, size_t pages)
{
    size_t kept = filled[i] < pages ? filled[i] : pages;

    block[i] = realloc(block[i], pages * PAGE);
    if (!block[i])
        die("realloc");
    region_check(block[i], kept, 0, "after realloc");
    for (size_t page = kept; page < pages; page++)
        pattern_fill(block[i] + page * PAGE, page, 0);
    filled[i] = pages;
}

static void resize_small(unsigned i, size_t size)
{
    size_t kept = small_size[i] < size ? small_size[i] : size;

    small[i] = realloc(small[i], size);
    if (!small[i])
        die("realloc");
    for (size_t at = 0; at < kept; at++) {
        if (small[i][at] == (unsigned char)(at + i))
            continue;
        fprintf(stderr, "WRONG BYTES in a small block, byte %zu\n", at);
        abort();
    }
    for (size_t at = kept; at < size; at++)
        small[i][at] = (unsigned char)(at + i);
    small_size[i] = size;
}

static void one_round(unsigned round)
{
    uint64_t chance = pattern_mix(round);
    unsigned i = chance % BLOCKS;

    resize_big(i, 1 + (chance >> 8) % BIG_PAGES);
    resize_small(i, 1 + (chance >> 24) % 60000);
    if (chance % 16 == 0) {
        free(block[i]);
        block[i] = NULL;
        filled[i] = 0;
    }
}

int main(int argc, char **argv)
{
    return loop_run(argc, argv, one_round);
}
