/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that would notice: every page of its memory checks itself, all the time.
 *
 * usage: checker MIB THREADS PROGRESS_FILE
 *
 * One page in eight has no partner; all others are equal in every checker. The first eighth of the
 * memory is hot: rewritten all the time, as a whole or in its first word. The rest is written now
 * and then, also by being dropped (MADV_DONTNEED, then it must read as zeros) and filled anew. Each
 * chunk of pages has a lock of the program's own, so that what a page must hold is known at every
 * check. A wrong word prints WRONG BYTES and aborts. Each thread counts its rounds in
 * PROGRESS_FILE (an array of 64-bit numbers), so that one that hangs is seen. TERM ends it: all is
 * checked once more, "ok" is printed, exit status 0.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#include "pattern.h"

#define CHUNK 64u /* pages under one lock */

struct state {
    uint64_t version;
    uint64_t bumps; /* what was added to word 0 since the page was filled */
};

static char *memory;
static size_t npages;
static struct state *state;
static pthread_mutex_t *lock;
static volatile uint64_t *progress;
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
    stop = sig;
}

static uint64_t number_of(size_t page)
{
    return page % 8 == 7 ? page | PATTERN_OWN : page;
}

static void check(size_t page, const char *when)
{
    uint64_t version = state[page].version, number = number_of(page);
    volatile uint64_t *first = (uint64_t *)(memory + page * PAGE);
    uint64_t want = pattern_mix(pattern_seed(number, version)) + state[page].bumps;

    if (*first != want) {
        uint64_t got = *first;

        fprintf(stderr, "WRONG BYTES %s: pid %d page %zu version %llu: first word %016llx, not %016llx\n",
                when, getpid(), page, (unsigned long long)version, (unsigned long long)got,
                (unsigned long long)want);
        abort();
    }
    pattern_check_from((char *)first, 1, number, version, when);
}

static void rewrite(size_t page, uint64_t version)
{
    state[page] = (struct state){ .version = version };
    pattern_fill(memory + page * PAGE, number_of(page), version);
}

/* Of the whole chunk: its pages are new ones afterwards, with the contents of the start. */
static void renew(size_t page)
{
    size_t first = page - page % CHUNK;

    madvise(memory + first * PAGE, CHUNK * PAGE, MADV_DONTNEED);
    region_zero(memory + first * PAGE, CHUNK, "after MADV_DONTNEED");
    for (size_t i = first; i < first + CHUNK; i++)
        rewrite(i, 0);
}

static void write_somehow(size_t page, uint64_t chance)
{
    check(page, "before a write");
    if (chance % 4 == 0) {
        rewrite(page, state[page].version + 1);
    } else if (chance % 64 == 1) {
        renew(page);
    } else {
        state[page].bumps++;
        __atomic_add_fetch((uint64_t *)(memory + page * PAGE), 1, __ATOMIC_RELAXED);
    }
    check(page, "after a write");
}

static void with_lock(size_t page, int writes, uint64_t chance)
{
    pthread_mutex_lock(&lock[page / CHUNK]);
    if (writes)
        write_somehow(page, chance);
    else
        check(page, "at a read");
    pthread_mutex_unlock(&lock[page / CHUNK]);
}

static void *worker(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t random = pattern_mix(pattern_process + me);

    while (!stop) {
        for (unsigned i = 0; i < 48; i++) {
            random = pattern_mix(random);
            with_lock(random % npages, 0, 0);
        }
        for (unsigned i = 0; i < 8; i++) {
            random = pattern_mix(random);
            with_lock(random % (npages / 8), 1, random >> 40);
        }
        random = pattern_mix(random);
        if (random % 8 == 0)
            with_lock((random >> 16) % npages, 1, random >> 40);
        progress[me]++;
        pause_ms(1);
    }
    return NULL;
}

static volatile uint64_t *map_progress(const char *path, unsigned threads)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *map;

    if (fd < 0 || ftruncate(fd, threads * sizeof(uint64_t)))
        die(path);
    map = mmap(NULL, threads * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die("mmap of the progress file");
    close(fd);
    return map;
}

static void prepare(size_t mib)
{
    pattern_process = pattern_mix((uint64_t)getpid() << 20 ^ (uint64_t)time(NULL));
    npages = (mib << 20) / PAGE;
    memory = region_map(npages);
    state = calloc(npages, sizeof(*state));
    lock = calloc(npages / CHUNK, sizeof(*lock));
    if (!state || !lock)
        die("calloc");
    for (size_t i = 0; i < npages / CHUNK; i++)
        pthread_mutex_init(&lock[i], NULL);
    for (size_t i = 0; i < npages; i++)
        rewrite(i, 0);
}

int main(int argc, char **argv)
{
    unsigned threads = argc == 4 ? (unsigned)atoi(argv[2]) : 0;
    pthread_t thread[64];

    if (threads < 1 || threads > 64 || atoi(argv[1]) < 1) {
        fprintf(stderr, "usage: checker MIB THREADS PROGRESS_FILE\n");
        return 2;
    }
    signal(SIGTERM, on_term);
    progress = map_progress(argv[3], threads);
    prepare((size_t)atoi(argv[1]));
    for (uintptr_t i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, worker, (void *)i))
            die("pthread_create");
    printf("ready %p %zu\n", (void *)memory, npages * PAGE);
    fflush(stdout);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    for (size_t i = 0; i < npages; i++)
        check(i, "at the end");
    printf("ok\n");
    return 0;
}
