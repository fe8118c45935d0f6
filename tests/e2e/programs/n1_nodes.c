/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory at a known address, advised for merging, and a table of the nodes that it is to be taken for lying on
 * (src/agent/nodes.c).
 *
 * usage: n1_nodes MIB. Prints "ready ADDRESS BYTES". A line of stdin:
 *   fill C          every page becomes its number, and then C
 *   node N FROM TO  the table says N for the pages from FROM to before TO
 * then it stops, and once it is continued prints "done". At the end of stdin every byte is checked; exits 0 if
 * all are right.
 */
#include "pattern.h"

#include <signal.h>
#include <sys/mman.h>

#define REGION ((void *)0x100000000000ul)
#define TABLE  ((void *)0x200000000000ul)

static char *region;
static size_t npages;

static void fill(char c)
{
    for (size_t i = 0; i < npages; i++) {
        memset(region + i * PAGE, c, PAGE);
        memcpy(region + i * PAGE, &i, sizeof(i));
    }
}

static void check(char c)
{
    for (size_t i = 0; c && i < npages; i++) {
        for (size_t k = sizeof(i); k < PAGE; k++) {
            if (region[i * PAGE + k] == c && memcmp(region + i * PAGE, &i, sizeof(i)) == 0)
                continue;
            fprintf(stderr, "WRONG BYTES: page %zu\n", i);
            exit(1);
        }
    }
}

static void *map(void *at, size_t size, int flags)
{
    void *got = mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (got != at)
        die("mmap");
    return got;
}

int main(int argc, char **argv)
{
    size_t from, to;
    unsigned char *table;
    char line[64], c, filled = 0;
    int node;

    npages = (size_t)(argc > 1 ? atoi(argv[1]) : 1) * (1 << 20) / PAGE;
    region = map(REGION, npages * PAGE, MAP_PRIVATE);
    table = map(TABLE, PAGE, MAP_SHARED);
    if (madvise(region, npages * PAGE, MADV_MERGEABLE))
        die("madvise");
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "fill %c", &c) == 1)
            fill(filled = c);
        else if (sscanf(line, "node %d %zu %zu", &node, &from, &to) == 3 && from <= to && to <= npages)
            memset(table + from, node, to - from);
        raise(SIGSTOP);
        puts("done");
        fflush(stdout);
    }
    check(filled);
    return 0;
}
