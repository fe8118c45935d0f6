/* SPDX-License-Identifier: Apache-2.0 */
/* Threads map, fill, check and unmap memory all the time, each way that there is; what they map has
 * equal pages in all threads and programs. usage: map_threads SECONDS THREADS */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "loop.h"

#define THREADS   200u /* at most */
#define MAP_PAGES 80u
#define HALF      (MAP_PAGES / 2)

static atomic_bool ending;
static atomic_uint rounds_done;

/* The second half, made anew by one call after another that replaces mappings. */
static void replace_half(char *own, unsigned round)
{
    char *half = own + HALF * PAGE;
    size_t length = HALF * PAGE;

    switch (round % 4) {
    case 0:
        if (munmap(half, length) || mmap(half, length, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
                                         0) != half)
            return; /* another thread was faster: it is its memory now */
        break;
    case 1:
        if (mmap(half, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) != half)
            die("mmap");
        break;
    case 2:
        if (madvise(half, length, MADV_DONTNEED))
            die("madvise");
        break;
    default:
        if (mprotect(half, length, PROT_READ) || mprotect(half, length, PROT_READ | PROT_WRITE))
            die("mprotect");
        region_check(half, HALF, 1, "after mprotect");
        munmap(half, length);
        return;
    }
    region_zero(half, HALF, "in memory made anew");
    munmap(half, length);
}

static void one_map(unsigned round)
{
    char *own = region_map(MAP_PAGES);

    region_fill(own, HALF, 0);
    region_fill(own + HALF * PAGE, HALF, 1);
    pause_ms(100 + round % 5 * 100);
    region_check(own, HALF, 0, "in a thread's memory");
    region_check(own + HALF * PAGE, HALF, 1, "in a thread's memory");
    replace_half(own, round);
    region_check(own, HALF, 0, "beside memory made anew");
    if (munmap(own, HALF * PAGE))
        die("munmap");
}

static void *thread_main(void *arg)
{
    unsigned round = (unsigned)(uintptr_t)arg;

    while (!ending) {
        one_map(round++);
        rounds_done++;
    }
    return arg;
}

static void one_round(unsigned round)
{
    pause_ms(10);
}

int main(int argc, char **argv)
{
    static pthread_t thread[THREADS];
    unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : THREADS;
    int status;

    if (threads > THREADS)
        return 2;
    loop_start();
    for (uintptr_t i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, thread_main, (void *)i))
            die("pthread_create");
    status = loop_run(argc, argv, one_round);
    ending = true;
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("maps %u\n", rounds_done);
    return rounds_done < threads ? 4 : status;
}
