/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has its memory un-merged by calls, and goes on with the same bytes.
 *
 * usage: protect_again PAGES. Prints "ready ADDRESS BYTES". A line N of stdin: of every N pages the
 * first (1: all of them at once) is made read-only, looked at, and made writable again; then prints
 * "done". Exits 0 at the end of stdin, if every byte is right.
 */
#include "pattern.h"

static char *region;

static void protect(size_t page, size_t npages, int protection)
{
    if (mprotect(region + page * PAGE, npages * PAGE, protection))
        die("mprotect");
}

static void protect_every(size_t apart, size_t npages)
{
    if (apart == 1) {
        protect(0, npages, PROT_READ);
        region_check(region, npages, 0, "made read-only");
        protect(0, npages, PROT_READ | PROT_WRITE);
        return;
    }
    for (size_t page = 0; page < npages; page += apart) {
        protect(page, 1, PROT_READ);
        pattern_check(region + page * PAGE, page, 0, "made read-only");
        protect(page, 1, PROT_READ | PROT_WRITE);
    }
}

int main(int argc, char **argv)
{
    size_t npages = (size_t)(argc > 1 ? atoi(argv[1]) : 1024), apart;
    char line[32];

    region = region_map(npages);
    region_fill(region, npages, 0);
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        apart = (size_t)atoi(line);
        protect_every(apart ? apart : 1, npages);
        puts("done");
        fflush(stdout);
    }
    region_check(region, npages, 0, "in the end");
    return 0;
}
