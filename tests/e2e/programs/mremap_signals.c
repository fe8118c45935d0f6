/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mremap_signals OWN: memory of which every third page is this process' own, so that merging makes many
 * mappings of it, advised with MADV_MERGEABLE; a thread sends signals to who moves it, all the time, and another maps
 * memory, which may lie where some of it was, and looks whether that stays its own.
 *
 * Prints "ready ADDRESS BYTES". Then a line of stdin each:
 *   fork           a child gets a copy of the memory, and keeps it
 *   KIND ROUNDS    moves it: fixed, both (and DONTUNMAP), dontunmap, grow. "done KIND, N signals"
 *   mix            each fourth page is a mapping of its own without us, too. "mixed", or, where the kernel does not
 *                  move such memory by one call, "skip"
 *   short KIND N   the same, where N mappings more than there are may be, or fewer. "done KIND", or "refused KIND"
 * A byte that is wrong ends it with 1 and a line on stderr; a call that fails, with 2.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE   4096u
#define PAGES  1536u
#define BYTES  ((size_t)PAGES * PAGE)
#define MORE   PAGE
#define GAP_US 30

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static pthread_t mover;
static volatile int stop;
static volatile unsigned long signals;
static unsigned long own;

static void count(int number)
{
    (void)number;
    signals++;
}

static void *send(void *unused)
{
    while (!stop) {
        pthread_kill(mover, SIGUSR1);
        usleep(GAP_US);
    }
    return unused;
}

static void *map(void *unused)
{
    for (uint64_t n = 1; !stop; n++) {
        size_t bytes = n % 8 ? PAGE : 16 * PAGE;
        uint64_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
            continue;
        *p = n;
        if (n % 64 == 0)
            usleep(10);
        if (*p != n) {
            fprintf(stderr, "WRONG BYTES in what another thread mapped\n");
            exit(1);
        }
        munmap(p, bytes);
    }
    return unused;
}

static uint64_t word_of(unsigned page)
{
    return page * 0x9e3779b97f4a7c15u + (page % 3 ? 0 : own);
}

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static void *must_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

static void check(const char *area, const char *kind)
{
    for (unsigned page = 0; page < PAGES; page++) {
        uint64_t found;

        memcpy(&found, area + (size_t)page * PAGE, sizeof(found));
        if (found == word_of(page))
            continue;
        fprintf(stderr, "WRONG BYTES after %s: page %u has %llx\n", kind, page, (unsigned long long)found);
        exit(1);
    }
}

static char *move_fixed(char *area)
{
    char *place = must_map(BYTES);

    return mremap(area, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, place);
}

static char *move_both(char *area)
{
    char *place = must_map(BYTES), *to;

    to = mremap(area, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, place);
    if (to != MAP_FAILED && munmap(area, BYTES))
        fail("munmap");
    return to;
}

static char *move_dontunmap(char *area)
{
    char *to = mremap(area, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

    if (to != MAP_FAILED && munmap(area, BYTES))
        fail("munmap");
    return to;
}

/* What lies behind keeps it from growing where it is. */
static char *move_grow(char *area)
{
    char *behind = mmap(area + BYTES, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    char *to = mremap(area, BYTES, BYTES + MORE, MREMAP_MAYMOVE, NULL);

    if (behind == area + BYTES)
        munmap(behind, PAGE);
    if (to != MAP_FAILED && munmap(to + BYTES, MORE))
        fail("munmap");
    return to;
}

static char *move(char *area, const char *kind, unsigned rounds)
{
    char *(*how)(char *) = !strcmp(kind, "fixed")       ? move_fixed
                           : !strcmp(kind, "both")      ? move_both
                           : !strcmp(kind, "dontunmap") ? move_dontunmap
                                                        : move_grow;
    pthread_t sends, maps;

    stop = 0;
    if (pthread_create(&sends, NULL, send, NULL) || pthread_create(&maps, NULL, map, NULL))
        fail("pthread_create");
    for (unsigned i = 0; i < rounds; i++) {
        area = how(area);
        if (area == MAP_FAILED)
            fail(kind);
        check(area, kind);
    }
    stop = 1;
    pthread_join(sends, NULL);
    pthread_join(maps, NULL);
    return area;
}

static void mix(char *area)
{
    char *two = must_map(2 * PAGE), *place = must_map(2 * PAGE);

    if (mprotect(two, PAGE, PROT_READ))
        fail("mprotect");
    for (unsigned page = 0; page < PAGES; page += 4)
        if (madvise(area + (size_t)page * PAGE, PAGE, MADV_DONTDUMP))
            fail("MADV_DONTDUMP");
    printf(mremap(two, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place ? "mixed\n"
                                                                                     : "skip\n");
    fflush(stdout);
}

/* Every second page of it is a mapping of its own, up to the limit. */
static char *fill_mappings(unsigned but, size_t *bytes)
{
    unsigned most = 1u << 17, n = 1;
    char *at;

    *bytes = (size_t)most * PAGE;
    at = mmap(NULL, *bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap of what fills the mappings");
    while (n < most && !mprotect(at + (size_t)n * PAGE, PAGE, PROT_READ))
        n += 2;
    if (n >= most)
        fail("so many mappings are no limit");
    for (n -= 2; but > 1; but -= 2, n -= 2)
        if (mprotect(at + (size_t)n * PAGE, PAGE, PROT_NONE))
            fail("mprotect");
    return at;
}

static char *move_short(char *area, const char *kind, unsigned but)
{
    char *(*how)(char *) = !strcmp(kind, "fixed") ? move_fixed : move_dontunmap, *to, *filler;
    size_t bytes;

    filler = fill_mappings(but, &bytes);
    to = how(area);
    check(to == MAP_FAILED ? area : to, kind);
    if (munmap(filler, bytes))
        fail("munmap of what filled the mappings");
    printf("%s %s\n", to == MAP_FAILED ? "refused" : "done", kind);
    fflush(stdout);
    return to == MAP_FAILED ? area : to;
}

static char *start(void)
{
    char *area = must_map(BYTES);

    madvise(area, BYTES, MADV_MERGEABLE); /* a kernel without KSM does not know it */
    for (unsigned page = 0; page < PAGES; page++) {
        uint64_t word = word_of(page);

        memcpy(area + (size_t)page * PAGE, &word, sizeof(word));
    }
    printf("ready %p %zu\n", (void *)area, BYTES);
    fflush(stdout);
    return area;
}

static void keep_child(void)
{
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    printf("child %d\n", (int)child);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = count, .sa_flags = SA_RESTART };
    char line[64], kind[16], *area;
    unsigned rounds;

    own = argc > 1 ? strtoul(argv[1], NULL, 10) * 1000003 : 1;
    sigaction(SIGUSR1, &action, NULL);
    mover = pthread_self();
    area = start();
    while (fgets(line, sizeof(line), stdin)) {
        if (!strcmp(line, "fork\n")) {
            keep_child();
        } else if (!strcmp(line, "mix\n")) {
            mix(area);
        } else if (sscanf(line, "short %15s %u", kind, &rounds) == 2) {
            area = move_short(area, kind, rounds);
        } else if (sscanf(line, "%15s %u", kind, &rounds) == 2) {
            area = move(area, kind, rounds);
            printf("done %s, %lu signals\n", kind, signals);
            fflush(stdout);
        }
    }
    return 0;
}
