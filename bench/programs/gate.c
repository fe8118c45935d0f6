/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a gated call costs: cheap calls that change nothing, by one thread and by many at once.
 *
 *     gate THREADS CALLS
 *
 * prints one line for each kind of call, "NAME NANOSECONDS": processor time of a call, over all
 * threads. The kinds: munmap of an address that is not one of a page, which the kernel refuses at
 * once; mprotect of no bytes; madvise(MADV_WILLNEED) of a page, which is looked up and found.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum kind { MUNMAP, MPROTECT, MADVISE, KINDS };

static const char *const name[KINDS] = {"munmap", "mprotect", "madvise"};

struct thread {
    pthread_t id;
    char *page;
    long calls;
    double ns[KINDS];
};

static pthread_barrier_t together;

static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void call(enum kind kind, char *page)
{
    switch (kind) {
    case MUNMAP:
        munmap(page + 1, 4096);
        break;
    case MPROTECT:
        mprotect(page, 0, PROT_READ | PROT_WRITE);
        break;
    default:
        madvise(page, 4096, MADV_WILLNEED);
    }
}

static void *run(void *arg)
{
    struct thread *thread = arg;

    for (enum kind kind = 0; kind < KINDS; kind++) {
        double begin;

        pthread_barrier_wait(&together);
        begin = cpu_ns();
        for (long i = 0; i < thread->calls; i++)
            call(kind, thread->page);
        thread->ns[kind] = (cpu_ns() - begin) / (double)thread->calls;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long threads = argc > 1 ? atol(argv[1]) : 1, calls = argc > 2 ? atol(argv[2]) : 100000;
    struct thread *thread = calloc((size_t)threads, sizeof(*thread));

    if (!thread || threads < 1 || calls < 1 ||
        pthread_barrier_init(&together, NULL, (unsigned)threads))
        return 2;
    for (long i = 0; i < threads; i++) {
        thread[i].calls = calls;
        thread[i].page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (thread[i].page == MAP_FAILED || pthread_create(&thread[i].id, NULL, run, &thread[i]))
            return 1;
    }
    for (long i = 0; i < threads; i++)
        pthread_join(thread[i].id, NULL);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        double sum = 0;

        for (long i = 0; i < threads; i++)
            sum += thread[i].ns[kind];
        printf("%s %.1f\n", name[kind], sum / (double)threads);
    }
    return 0;
}
