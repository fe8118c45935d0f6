/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of the test programs that do one thing again and again while they are merged.
 *
 * Beside what it does, each holds a region that is equal in every program, and checks parts of it
 * in every round, the whole of it at the end.
 * usage: PROGRAM SECONDS; -SECONDS: at least so long, and until there is a line on stdin, which is read
 */
#ifndef SP_E2E_LOOP_H
#define SP_E2E_LOOP_H

#include <poll.h>
#include <stdbool.h>

#include "pattern.h"

#define LOOP_PAGES 4096u /* 16 MiB */

static char *loop_region;

/* One round of the program's own. */
typedef void (*loop_round)(unsigned round);

static inline void loop_check_some(unsigned round)
{
    for (unsigned i = 0; i < 128; i++) {
        size_t page = (round * 128u + i) % LOOP_PAGES;

        pattern_check(loop_region + page * PAGE, page, 0, "in the loop");
    }
}

static inline void loop_start(void)
{
    loop_region = region_map(LOOP_PAGES);
    region_fill(loop_region, LOOP_PAGES, 0);
}

static inline bool loop_told(void)
{
    struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

    return poll(&input, 1, 0) != 0;
}

static inline void loop_take_line(void)
{
    int c;

    while ((c = getchar()) != EOF && c != '\n')
        ;
}

static inline int loop_run(int argc, char **argv, loop_round round)
{
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    double end = seconds_now() + (seconds < 0 ? -seconds : seconds);
    unsigned rounds = 0;

    if (!loop_region)
        loop_start();
    printf("ready %p %u\n", (void *)loop_region, LOOP_PAGES * PAGE);
    fflush(stdout);
    do {
        round(rounds);
        loop_check_some(rounds++);
        pause_ms(1);
    } while (seconds_now() < end || (seconds < 0 && !loop_told()));
    if (seconds < 0)
        loop_take_line();
    region_check(loop_region, LOOP_PAGES, 0, "at the end");
    printf("ok %u\n", rounds);
    return 0;
}

#endif
