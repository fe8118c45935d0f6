/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes one half of its memory read-only, then the other: twice the gate asks the agent.
 *
 * Prints "ready ADDRESS BYTES"; on a line from stdin does the first half and prints "half"; on the
 * next line the other one; all must be as it was, and writable afterwards: prints "ok", exits 0.
 */
#include "pattern.h"

#define NPAGES 2048u

static char *region;

static void protect(size_t first, int protection)
{
    if (mprotect(region + first * PAGE, NPAGES / 2 * PAGE, protection))
        die("mprotect");
    region_check(region, NPAGES, 0, "read-only");
}

int main(void)
{
    char line[16];

    region = region_map(NPAGES);
    region_fill(region, NPAGES, 0);
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    for (size_t half = 0; half < 2; half++) {
        if (!fgets(line, sizeof(line), stdin))
            return 3;
        protect(half * NPAGES / 2, PROT_READ);
        puts(half ? "both" : "half");
        fflush(stdout);
    }
    protect(0, PROT_READ | PROT_WRITE);
    protect(NPAGES / 2, PROT_READ | PROT_WRITE);
    region_fill(region, NPAGES, 1);
    region_check(region, NPAGES, 1, "writable again");
    puts("ok");
    return 0;
}
