/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advises its memory, which is equal in every such program, and takes the advice back.
 *
 * usage: unmerges MIB. Prints "ready ADDRESS BYTES"; on a line from stdin prints "now" and calls
 * MADV_UNMERGEABLE; then all must be there, and can be written: prints "ok", exits 0.
 */
#include "pattern.h"

int main(int argc, char **argv)
{
    size_t npages = (size_t)(argc > 1 ? atoi(argv[1]) : 8) * 256;
    char *region = region_map(npages), line[16];

    if (madvise(region, npages * PAGE, MADV_MERGEABLE))
        die("MADV_MERGEABLE");
    region_fill(region, npages, 0);
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    puts("now");
    fflush(stdout);
    madvise(region, npages * PAGE, MADV_UNMERGEABLE);
    region_check(region, npages, 0, "after MADV_UNMERGEABLE");
    region_fill(region, npages, 1);
    region_check(region, npages, 1, "written after MADV_UNMERGEABLE");
    puts("ok");
    return 0;
}
