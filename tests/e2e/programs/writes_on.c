/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that write to memory while it is un-merged: no word is lost, whoever copies its page
 * when.
 *
 * usage: writes_on PAGES THREADS. The memory is equal in every such program. Prints "ready ADDRESS
 * BYTES", and then takes lines from stdin, each answered "ok":
 * - write: the threads write, each to pages of its own in an order of its own, again and again.
 * - rest: they do not any more, and all bytes are right.
 * - equal: the bytes are again what they were in the beginning.
 * - leave: MADV_UNMERGEABLE.
 * - touch: each page is written to once.
 * - wipe: MADV_WIPEONFORK, which may be refused.
 */
#include <pthread.h>
#include <stdbool.h>

#include "pattern.h"

#define THREADS_MOST 8u
#define PAUSE_NS                                                                                   \
    20000        /* some pages are to be written for the first time while they are un-merged */
#define WORD 64u /* of a page, that is written to */

static char *region;
static size_t npages;
static unsigned nthreads;
static uint64_t *written; /* of each page: how often */
static bool writing;
static unsigned rests;

static void write_once(size_t page)
{
    volatile uint64_t *word = (volatile uint64_t *)(region + page * PAGE) + WORD;
    uint64_t first = pattern_mix(pattern_seed(page, 0) + WORD), want = first + written[page];

    if (*word != want) {
        fprintf(stderr, "LOST: pid %d page %zu: %llu writes, not %llu\n", getpid(), page,
                (unsigned long long)(*word - first), (unsigned long long)written[page]);
        abort();
    }
    *word = first + ++written[page];
}

static void *write_on(void *arg)
{
    uint64_t own = (uintptr_t)arg, n = 0;

    for (;;) {
        if (!__atomic_load_n(&writing, __ATOMIC_SEQ_CST)) {
            __atomic_fetch_add(&rests, 1, __ATOMIC_SEQ_CST);
            while (!__atomic_load_n(&writing, __ATOMIC_SEQ_CST))
                pause_ms(1);
            __atomic_fetch_sub(&rests, 1, __ATOMIC_SEQ_CST);
        }
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        write_once(pattern_mix(own << 32 | n++) % (npages / nthreads) * nthreads + own);
    }
    return NULL;
}

static void set_writing(bool is)
{
    __atomic_store_n(&writing, is, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&rests, __ATOMIC_SEQ_CST) != (is ? 0 : nthreads))
        pause_ms(1);
}

static void check(void)
{
    for (size_t i = 0; i < npages; i++) {
        const char *page = region + i * PAGE;
        uint64_t word;

        memcpy(&word, page + WORD * sizeof(word), sizeof(word));
        if (word != pattern_mix(pattern_seed(i, 0) + WORD) + written[i]) {
            fprintf(stderr, "LOST: pid %d page %zu\n", getpid(), i);
            abort();
        }
        pattern_check_from(page, WORD + 1, i, 0, "after the word");
    }
}

int main(int argc, char **argv)
{
    char line[16];

    npages = argc > 1 ? (size_t)atol(argv[1]) : 4096;
    nthreads = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    if (!nthreads || nthreads > THREADS_MOST || npages % nthreads)
        return 2;
    region = region_map(npages);
    region_fill(region, npages, 0);
    written = calloc(npages, sizeof(*written));
    for (unsigned i = 0; i < nthreads; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, write_on, (void *)(uintptr_t)i))
            die("pthread_create");
    }
    set_writing(false);
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (!strncmp(line, "write", 5))
            set_writing(true);
        if (!strncmp(line, "rest", 4)) {
            set_writing(false);
            check();
        }
        if (!strncmp(line, "equal", 5)) {
            memset(written, 0, npages * sizeof(*written));
            region_fill(region, npages, 0);
        }
        if (!strncmp(line, "leave", 5))
            madvise(region, npages * PAGE, MADV_UNMERGEABLE);
        if (!strncmp(line, "touch", 5))
            for (size_t i = 0; i < npages; i++)
                write_once(i);
        if (!strncmp(line, "wipe", 4))
            madvise(region, npages * PAGE, MADV_WIPEONFORK);
        puts("ok");
        fflush(stdout);
    }
    return 0;
}
