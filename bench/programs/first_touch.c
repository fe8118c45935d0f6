/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the first touch of a page costs that is not in memory.
 *
 *     first_touch PAGES private|shared
 *
 * has twice PAGES pages of text like JSON, the same in every such program: private anonymous
 * memory, or a memfd. Prints "ready". Lines on stdin, each answered:
 *
 *     out      MADV_PAGEOUT of all of it: "out"
 *     in       how many of the pages are in memory
 *     random   touches each page of the first half once, in no order: "MEDIAN P99 MEAN MAJOR",
 * nanoseconds a touch, and how many of them the kernel counted as major faults. MADV_RANDOM would
 * un-merge order    the same with the second half, from the first to the last right    "right", if
 * all bytes are what they were
 *
 * All else that it has stays in memory.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE 4096u
#define STEP (1021u * 1021u) /* odd: it comes to each of a power of two pages once */

static char *pages;
static size_t n;
static double *took;
static unsigned char *present;

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* About half of it is left when lz4 packs it. */
static void fill(char *page, size_t number)
{
    uint32_t seed = (uint32_t)number;
    char text[256];

    for (size_t at = 0; at < PAGE;) {
        int length = snprintf(
            text, sizeof(text),
            "{\"id\":%u,\"user\":\"u%06u\",\"email\":\"user%u@example.com\",\"score\":%u.%02u,"
            "\"tags\":[\"t%u\",\"t%u\"],\"token\":\"%06x%06x\"}",
            next(&seed) % 1000000, next(&seed) % 1000000, next(&seed) % 100000, next(&seed) % 1000,
            next(&seed) % 100, next(&seed) % 50, next(&seed) % 50, next(&seed), next(&seed));
        size_t some = (size_t)length < PAGE - at ? (size_t)length : PAGE - at;

        memcpy(page + at, text, some);
        at += some;
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static long major_faults(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) ? -1 : usage.ru_majflt;
}

static void touch(const char *half, size_t step)
{
    long major = major_faults();
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        const volatile char *byte = half + i * step % n * PAGE;
        double begin = now_ns();

        (void)*byte;
        took[i] = now_ns() - begin;
        sum += took[i];
    }
    major = major_faults() - major;
    qsort(took, n, sizeof(*took), compare);
    printf("%.0f %.0f %.0f %ld\n", took[n / 2], took[n * 99 / 100], sum / (double)n, major);
}

static void count_present(void)
{
    size_t count = 0;

    if (mincore(pages, 2 * n * PAGE, present)) {
        puts("cannot");
        return;
    }
    for (size_t i = 0; i < 2 * n; i++)
        count += present[i] & 1;
    printf("%zu\n", count);
}

static const char *check(void)
{
    static char want[PAGE];

    for (size_t i = 0; i < 2 * n; i++) {
        fill(want, i);
        if (memcmp(want, pages + i * PAGE, PAGE))
            return "WRONG";
    }
    return "right";
}

/* 0; -1: there is no memory. */
static int prepare(int shared)
{
    int fd = shared ? memfd_create("first_touch", MFD_CLOEXEC) : -1;
    size_t size = 2 * n * PAGE;

    took = malloc(n * sizeof(*took));
    present = malloc(2 * n);
    if (!took || !present || mlockall(MCL_CURRENT) ||
        (shared && (fd < 0 || ftruncate(fd, (off_t)size))))
        return -1;
    pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                 shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (pages == MAP_FAILED)
        return -1;
    madvise(pages, size, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < 2 * n; i++)
        fill(pages + i * PAGE, i);
    return 0;
}

int main(int argc, char **argv)
{
    char line[16];

    n = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    if (!n || (n & (n - 1)))
        return 2;
    if (prepare(!strcmp(argv[2], "shared"))) {
        perror("first_touch");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (!strncmp(line, "out", 3)) {
            puts(madvise(pages, 2 * n * PAGE, MADV_PAGEOUT) ? "cannot" : "out");
        } else if (!strncmp(line, "in", 2)) {
            count_present();
        } else if (!strncmp(line, "random", 6)) {
            touch(pages, STEP);
        } else if (!strncmp(line, "order", 5)) {
            touch(pages + n * PAGE, 1);
        } else {
            puts(check());
        }
        fflush(stdout);
    }
    return 0;
}
