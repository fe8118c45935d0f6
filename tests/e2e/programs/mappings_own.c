/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds equal memory; on a word it makes many mappings of its own (two for three pages of data, of
 * different protections) and works on them: checks, makes some of them anew, all the time, for SECONDS
 * (loop.h). Then it gives them back, and ends on a word.
 * usage: mappings_own MAPPINGS SECONDS
 */
#include "loop.h"

#define STRIDE 3u /* pages: two to write to, one to read */

static char *area;
static size_t nstrides;

static void fill_stride(size_t n)
{
    char *at = area + n * STRIDE * PAGE;

    for (unsigned i = 0; i < STRIDE; i++)
        pattern_fill(at + i * PAGE, n % 64 * STRIDE + i, 0);
    if (mprotect(at + 2 * PAGE, PAGE, PROT_READ))
        die("mprotect: no mapping left");
}

static void check_stride(size_t n)
{
    for (unsigned i = 0; i < STRIDE; i++)
        pattern_check(area + (n * STRIDE + i) * PAGE, n % 64 * STRIDE + i, 0, "in many mappings");
}

static void make_mappings(size_t count)
{
    nstrides = count / 2;
    area = region_map(nstrides * STRIDE);
    for (size_t n = 0; n < nstrides; n++)
        fill_stride(n);
}

static void remake_stride(size_t n)
{
    char *at = area + n * STRIDE * PAGE;

    if (munmap(at, STRIDE * PAGE) ||
        mmap(at, STRIDE * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
        die("mmap");
    region_zero(at, STRIDE, "in a mapping made anew");
    madvise(at, STRIDE * PAGE, MADV_NOHUGEPAGE);
    fill_stride(n);
}

static void one_round(unsigned round)
{
    for (unsigned i = 0; i < 50; i++)
        remake_stride((round * 50u + i) * 7919u % nstrides);
    for (unsigned i = 0; i < 500; i++)
        check_stride((round * 500u + i) % nstrides);
}

static void wait_word(void)
{
    char line[16];

    if (!fgets(line, sizeof(line), stdin))
        exit(3);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    loop_start();
    printf("held %p %u\n", (void *)loop_region, LOOP_PAGES * PAGE);
    fflush(stdout);
    wait_word();
    make_mappings((size_t)atoll(argv[1]));
    loop_run(argc - 1, argv + 1, one_round);
    for (size_t n = 0; n < nstrides; n++)
        check_stride(n);
    munmap(area, nstrides * STRIDE * PAGE);
    printf("given back\n");
    fflush(stdout);
    wait_word();
    region_check(loop_region, LOOP_PAGES, 0, "at the end");
    return 0;
}
