/* SPDX-License-Identifier: Apache-2.0 */
/* What both examples merge: four times the same memory, in the same order or shuffled. */
#ifndef EXAMPLE_MEMORY_H
#define EXAMPLE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define COPIES 4u

struct memory {
    char *start;
    size_t length, page, npages;
    bool shuffled;
};

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* What page i holds: one of npages / COPIES contents. */
static inline uint64_t content(const struct memory *m, size_t i)
{
    size_t distinct = m->npages / COPIES, copy = i / distinct;

    if (!m->shuffled)
        return i % distinct + 1;
    return (i % distinct * (2 * (copy * 7919 + 40503) + 1) + copy * 65537) % distinct + 1;
}

static inline void fill(const struct memory *m)
{
    for (size_t i = 0; i < m->npages; i++) {
        uint64_t *word = (uint64_t *)(m->start + i * m->page);

        for (size_t w = 0; w < m->page / sizeof(*word); w++)
            word[w] = mix(content(m, i) * 0x9e3779b97f4a7c15ull + w);
    }
}

/* Reads every word. */
static inline bool is_intact(const struct memory *m)
{
    for (size_t i = 0; i < m->npages; i++) {
        const uint64_t *word = (const uint64_t *)(m->start + i * m->page);

        for (size_t w = 0; w < m->page / sizeof(*word); w++)
            if (word[w] != mix(content(m, i) * 0x9e3779b97f4a7c15ull + w))
                return false;
    }
    return true;
}

/* usage: PROGRAM [--shuffled] [MIB] */
static inline bool make_memory(struct memory *m, int argc, char **argv)
{
    long mib = 128;

    *m = (struct memory){.page = (size_t)sysconf(_SC_PAGESIZE)};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--shuffled"))
            m->shuffled = true;
        else
            mib = atol(argv[i]);
    }
    if (mib < 1 || mib > 65536) {
        fprintf(stderr, "usage: %s [--shuffled] [MIB, 1 to 65536]\n", argv[0]);
        return false;
    }
    m->length = (size_t)mib << 20;
    m->npages = m->length / m->page;
    m->start = mmap(NULL, m->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->start == MAP_FAILED) {
        perror("mmap");
        return false;
    }
    fill(m);
    return true;
}

static inline double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
