/* SPDX-License-Identifier: Apache-2.0 */
/* Starts and joins threads, each with a large stack that it fills with mergeable bytes, and memory
 * of its own that it maps and unmaps. */
#include <pthread.h>

#include "loop.h"

#define THREADS     6u
#define STACK_PAGES 32u
#define MAP_PAGES   128u

static void *thread_main(void *arg)
{
    char stack[STACK_PAGES * PAGE];
    char *own = region_map(MAP_PAGES);

    region_fill(stack, STACK_PAGES, 0);
    region_fill(own, MAP_PAGES, 0);
    loop_check_some((unsigned)(uintptr_t)arg);
    pause_ms(5);
    region_check(stack, STACK_PAGES, 0, "on a thread's stack");
    region_check(own, MAP_PAGES, 0, "in a thread's memory");
    munmap(own, MAP_PAGES * PAGE);
    return arg;
}

static void one_round(unsigned round)
{
    pthread_t thread[THREADS];
    void *answer;

    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&thread[i], NULL, thread_main, (void *)(round + i)))
            die("pthread_create");
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_join(thread[i], &answer) || answer != (void *)(round + i))
            die("pthread_join");
}

int main(int argc, char **argv)
{
    return loop_run(argc, argv, one_round);
}
