/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that check themselves, for the programs of the end-to-end tests.
 *
 * Every word of a page follows from (number, version), so a wrong byte is found wherever it comes
 * from, and two programs that fill the same numbers have equal pages, with no page equal to its
 * neighbour. A number with PATTERN_OWN set follows from the process too: it has no partner.
 */
#ifndef SP_E2E_PATTERN_H
#define SP_E2E_PATTERN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define PATTERN_OWN (1ull << 63)

static inline uint64_t pattern_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t pattern_process;

static inline uint64_t pattern_seed(uint64_t number, uint64_t version)
{
    uint64_t own = number & PATTERN_OWN ? pattern_process : 0;

    return pattern_mix(pattern_mix(number + own) + version);
}

static inline void pattern_fill(void *page, uint64_t number, uint64_t version)
{
    uint64_t seed = pattern_seed(number, version);
    uint64_t *word = page;

    for (unsigned i = 0; i < WORDS; i++)
        word[i] = pattern_mix(seed + i);
}

/* Ends the program, loudly, if a word from first on is not what it must be. */
static inline void pattern_check_from(const void *page, unsigned first, uint64_t number,
                                      uint64_t version, const char *when)
{
    uint64_t seed = pattern_seed(number, version);
    const volatile uint64_t *word = page;

    for (unsigned i = first; i < WORDS; i++) {
        uint64_t got = word[i], want = pattern_mix(seed + i);

        if (got == want)
            continue;
        fprintf(stderr, "WRONG BYTES %s: pid %d page %llu at %p version %llu word %u: %016llx, not %016llx (again: %016llx)\n",
                when, getpid(), (unsigned long long)number, page, (unsigned long long)version, i,
                (unsigned long long)got, (unsigned long long)want, (unsigned long long)word[i]);
        abort();
    }
}

static inline void pattern_check(const void *page, uint64_t number, uint64_t version,
                                 const char *when)
{
    pattern_check_from(page, 0, number, version, when);
}

static inline void die(const char *what)
{
    perror(what);
    exit(3);
}

/* Anonymous memory without huge pages: what is tested here is merging, not their splitting. */
static inline char *region_map(size_t npages)
{
    char *region = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);

    if (region == MAP_FAILED)
        die("mmap");
    madvise(region, npages * PAGE, MADV_NOHUGEPAGE);
    return region;
}

static inline void region_fill(char *region, size_t npages, uint64_t version)
{
    for (size_t i = 0; i < npages; i++)
        pattern_fill(region + i * PAGE, i, version);
}

static inline void region_check(const char *region, size_t npages, uint64_t version,
                                const char *when)
{
    for (size_t i = 0; i < npages; i++)
        pattern_check(region + i * PAGE, i, version, when);
}

static inline void region_zero(const char *region, size_t npages, const char *when)
{
    static const char zeros[PAGE];

    for (size_t i = 0; i < npages; i++) {
        if (!memcmp(region + i * PAGE, zeros, PAGE))
            continue;
        fprintf(stderr, "NOT ZERO %s: pid %d page %zu at %p\n", when, getpid(), i,
                (const void *)(region + i * PAGE));
        abort();
    }
}

static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static inline void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L }, NULL);
}

#endif
