/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drops its memory, which was written after it was merged, part by part, while one thread reads it and another
 * writes what it finds empty. The reader must never see what lay there before it was written over; what was
 * written to an empty page must stay.
 * usage: drop_race dontneed|free|locked|dontfork|hold
 *   locked    by MADV_DONTNEED_LOCKED
 *   dontfork  after MADV_DONTFORK
 *   hold      nothing is done: the partner
 *
 * "ready ADDRESS BYTES", a word on stdin, the work, "ok".
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "pattern.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define PART  256u
#define PARTS 16u
#define PAGES (PART * PARTS)
#define NEW   0x5757575757575757ull
#define MARK  0x4141414141414141ull
#define AT    300u /* the word of a page that is marked */

static char *region;
static _Atomic(char *) part; /* that is being dropped; NULL: none */
static _Atomic unsigned long rounds[2]; /* of the two threads: through the pages */
static _Atomic bool over;
static bool marked[PART];

static _Atomic uint64_t *word(char *from, unsigned page, unsigned n)
{
    return (_Atomic uint64_t *)(from + page * PAGE) + n;
}

static void *reader(void *unused)
{
    (void)unused;
    while (!over) {
        char *now = part;

        for (unsigned i = 0; now && i < PART; i++) {
            uint64_t got = *word(now, i, i % 8);

            if (got != NEW && got != 0 && part == now) {
                fprintf(stderr, "WRONG BYTES: page %u of a part that is dropped reads %016llx\n", i,
                        (unsigned long long)got);
                abort();
            }
        }
        rounds[0]++;
    }
    return NULL;
}

/* A page of which one word is zero is dropped, all of it. */
static void *writer(void *unused)
{
    (void)unused;
    while (!over) {
        char *now = part;

        for (unsigned i = 0; now && i < PART; i++) {
            if (*word(now, i, 0) != 0 || marked[i])
                continue;
            *word(now, i, AT) = MARK;
            marked[i] = true;
        }
        rounds[1]++;
    }
    return NULL;
}

/* Until both have been through the pages, from first to last. */
static void wait_for_both(void)
{
    for (unsigned i = 0; i < 2; i++)
        for (unsigned long n = rounds[i]; rounds[i] < n + 2;)
            sched_yield();
}

static void check(char *from, bool zeros)
{
    for (unsigned i = 0; i < PART; i++) {
        uint64_t got = *word(from, i, AT), zero = *word(from, i, AT + 1);

        if (marked[i] ? got == MARK && zero == 0 : zeros ? !got && !zero : !got || got == NEW)
            continue;
        fprintf(stderr, "WRONG BYTES: page %u of a part that was dropped is %016llx %016llx, %smarked\n", i,
                (unsigned long long)got, (unsigned long long)zero, marked[i] ? "" : "not ");
        abort();
    }
}

static void drop(char *from, int advice)
{
    memset(from, NEW & 0xff, PART * PAGE);
    memset(marked, 0, sizeof(marked));
    part = from;
    wait_for_both();
    if (madvise(from, PART * PAGE, advice))
        die("madvise");
    wait_for_both();
    part = NULL;
    wait_for_both();
    check(from, advice != MADV_FREE);
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "dontneed";
    int advice = !strcmp(how, "free")     ? MADV_FREE
                 : !strcmp(how, "locked") ? MADV_DONTNEED_LOCKED
                                          : MADV_DONTNEED;
    pthread_t thread[2];
    char line[16];

    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    if (!strcmp(how, "dontfork") && madvise(region, PAGES * PAGE, MADV_DONTFORK))
        die("madvise");
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    if (!strcmp(how, "hold"))
        return 0;
    if (pthread_create(&thread[0], NULL, reader, NULL) || pthread_create(&thread[1], NULL, writer, NULL))
        die("pthread_create");
    for (unsigned i = 0; i < PARTS; i++)
        drop(region + i * PART * PAGE, advice);
    over = true;
    pthread_join(thread[0], NULL);
    pthread_join(thread[1], NULL);
    printf("ok\n");
    return 0;
}
