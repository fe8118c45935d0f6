/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advises memory of its own for merging, fills it as it is told, and stops itself by SIGSTOP.
 *
 * usage: k12_fill MIB. Prints "ready ADDRESS BYTES". A line of stdin:
 *   all C        every byte becomes C, page by page
 *   last PAGE C  the last byte of that page becomes C
 * then it stops, and once it is continued prints "done". At the end of stdin every byte is checked; exits 0 if
 * all are right.
 */
#include "pattern.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>

static char *region;
static size_t npages;

static void check(char c, size_t odd_page, char odd)
{
    for (size_t i = 0; i < npages * PAGE; i++) {
        bool is_odd = odd && i == odd_page * PAGE + PAGE - 1;

        if (region[i] != (is_odd ? odd : c)) {
            fprintf(stderr, "WRONG BYTES: %d at %zu\n", region[i], i);
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    char line[64], c = 0, filled = 0, odd = 0;
    size_t page = 0;

    npages = (size_t)(argc > 1 ? atoi(argv[1]) : 1) * (1 << 20) / PAGE;
    region = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || madvise(region, npages * PAGE, MADV_MERGEABLE))
        die("madvise");
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "all %c", &c) == 1) {
            for (size_t i = 0; i < npages; i++)
                memset(region + i * PAGE, c, PAGE);
            filled = c;
            odd = 0;
        } else if (sscanf(line, "last %zu %c", &page, &c) == 2) {
            region[page * PAGE + PAGE - 1] = c;
            odd = c;
        }
        raise(SIGSTOP);
        puts("done");
        fflush(stdout);
    }
    check(filled, page, odd);
    return 0;
}
