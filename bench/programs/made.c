/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory with contents that are known, for measuring what merges.
 *
 * Usage: made MIB NUMBER RUN
 *   MIB     size of its memory
 *   NUMBER  which of the programs this is, from 0
 *   RUN     a number: runs of so many neighbouring pages that the other programs have too, at other
 *           places and with other neighbours, and one page that nobody else has after each run;
 *           "equal": every page is the same; "distinct": no page is like another
 *
 * Says "ready", and then does what its standard input says, a line each:
 *   read K      reads K of the pages that others have too; answers with the nanoseconds a page
 *   write K     writes to K of them, to each only once; answers likewise
 *   write-own K writes to K of the pages that nobody else has
 *   verify      compares everything with what must be there: "right", or "wrong PAGE"
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE  4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define OWN   (UINT64_C(1) << 63) /* in a content's name: nobody else has it */

static uint64_t (*memory)[WORDS];
static uint64_t *content;       /* by page, the name of its content */
static unsigned char *writings; /* by page, how often we wrote to it */
static size_t pages;

static uint64_t mixed(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void fill(uint64_t *page, uint64_t name)
{
    for (size_t i = 0; i < WORDS; i++)
        page[i] = mixed(mixed(name) + i);
}

/* The runs in an order of this program's own: so no run has the same neighbour twice. */
static void lay_out_runs(uint64_t number, size_t length)
{
    size_t runs = (pages + length) / (length + 1);
    size_t *order = calloc(runs, sizeof(*order));

    if (!order)
        exit(1);
    for (size_t i = 0; i < runs; i++)
        order[i] = i;
    for (size_t i = runs - 1; i > 0; i--) {
        size_t j = mixed(number << 32 | i) % (i + 1), kept = order[i];

        order[i] = order[j];
        order[j] = kept;
    }
    for (size_t page = 0; page < pages; page++) {
        size_t place = page % (length + 1);

        content[page] = place < length ? order[page / (length + 1)] * length + place
                                       : OWN | number << 40 | page;
    }
    free(order);
}

static bool lay_out(uint64_t number, const char *run)
{
    size_t length = strtoul(run, NULL, 10);

    if (!strcmp(run, "distinct")) {
        for (size_t page = 0; page < pages; page++)
            content[page] = OWN | number << 40 | page;
    } else if (length) {
        lay_out_runs(number, length);
    } else if (strcmp(run, "equal") != 0) {
        return false;
    }
    return true;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* Up to wanted pages of this kind that were not written yet, spread over all of the memory. */
static size_t choose(size_t *chosen, size_t wanted, bool own)
{
    size_t there = 0, step, n = 0;

    for (size_t page = 0; page < pages; page++)
        there += !writings[page] && !!(content[page] & OWN) == own;
    step = wanted && there > wanted ? there / wanted : 1;
    for (size_t page = 0, nth = 0; page < pages && n < wanted; page++) {
        if (writings[page] || !!(content[page] & OWN) != own)
            continue;
        if (nth++ % step == 0)
            chosen[n++] = page;
    }
    return n;
}

static void read_pages(const size_t *chosen, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)*(volatile uint64_t *)&memory[chosen[i]][0];
}

static void write_pages(const size_t *chosen, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ++*(volatile uint64_t *)&memory[chosen[i]][0];
}

static void timed(size_t wanted, bool writing, bool own)
{
    size_t *chosen = calloc(wanted + 1, sizeof(*chosen)), n;
    uint64_t begin;

    if (!chosen)
        exit(1);
    n = choose(chosen, wanted, own);
    begin = now_ns();
    (writing ? write_pages : read_pages)(chosen, n);
    printf("%.1f\n", n ? (double)(now_ns() - begin) / (double)n : 0.0);
    for (size_t i = 0; writing && i < n; i++)
        writings[chosen[i]]++;
    free(chosen);
}

static void verify(void)
{
    uint64_t right[WORDS];

    for (size_t page = 0; page < pages; page++) {
        fill(right, content[page]);
        right[0] += writings[page];
        if (memcmp(right, memory[page], PAGE) != 0) {
            printf("wrong %zu\n", page);
            return;
        }
    }
    printf("right\n");
}

static void obey(const char *line)
{
    size_t k;

    if (sscanf(line, "read %zu", &k) == 1 && k <= pages)
        timed(k, false, false);
    else if (sscanf(line, "write %zu", &k) == 1 && k <= pages)
        timed(k, true, false);
    else if (sscanf(line, "write-own %zu", &k) == 1 && k <= pages)
        timed(k, true, true);
    else if (!strcmp(line, "verify\n"))
        verify();
    else
        printf("what?\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[64];

    if (argc != 4) {
        fprintf(stderr, "usage: made MIB NUMBER RUN\n");
        return 2;
    }
    pages = strtoul(argv[1], NULL, 10) * ((1u << 20) / PAGE);
    content = calloc(pages + 1, sizeof(*content));
    writings = calloc(pages + 1, 1);
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!pages || !content || !writings || memory == MAP_FAILED) {
        fprintf(stderr, "made: no memory\n");
        return 1;
    }
    if (!lay_out(strtoul(argv[2], NULL, 10), argv[3])) {
        fprintf(stderr, "made: %s: neither a number nor \"equal\" nor \"distinct\"\n", argv[3]);
        return 2;
    }
    for (size_t page = 0; page < pages; page++)
        fill(memory[page], content[page]);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin))
        obey(line);
    return 0;
}
