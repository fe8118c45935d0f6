/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Forks 100 times a second, whatever becomes of the children, which live for 0 to 70 ms: longer than it
 * takes until a child has an agent. Each sees the parent's bytes of its instant, and writes its own. It
 * forks LEAST times at least, however busy the machine is.
 */
#include <sys/wait.h>

#include "loop.h"

#define OWN_PAGES 64u
#define PERIOD    0.010
#define LEAST     100u

static char *own;
static unsigned forked, reaped;

static void reap(int options)
{
    int status;

    while (waitpid(-1, &status, options) > 0) {
        if (status) {
            fprintf(stderr, "a child ended with wait status %#x\n", status);
            exit(3);
        }
        reaped++;
    }
}

static void child(unsigned round)
{
    region_check(own, OWN_PAGES, round, "in a forked child");
    loop_check_some(round);
    for (unsigned i = 0; i < 16; i++)
        pattern_fill(loop_region + (round * 16 + i) % LOOP_PAGES * PAGE, i, 77);
    pause_ms(round % 8 * 10);
    region_check(own, OWN_PAGES, round, "in a forked child, later");
    for (unsigned i = 0; i < 16; i++)
        pattern_check(loop_region + (round * 16 + i) % LOOP_PAGES * PAGE, i, 77, "the child's own");
    _exit(0);
}

static void one_round(unsigned round)
{
    static double next;
    double now = seconds_now();
    pid_t pid = fork();

    if (!pid)
        child(round);
    if (pid < 0)
        die("fork");
    forked++;
    region_fill(own, OWN_PAGES, round + 1);
    reap(WNOHANG);
    next = next ? next + PERIOD : now + PERIOD;
    now = seconds_now();
    if (next > now)
        usleep((useconds_t)((next - now) * 1e6));
    else
        next = now; /* a machine too busy for it */
}

int main(int argc, char **argv)
{
    int status;

    own = region_map(OWN_PAGES);
    region_fill(own, OWN_PAGES, 0);
    status = loop_run(argc, argv, one_round);
    while (forked < LEAST)
        one_round(forked);
    reap(0);
    printf("forks %u\n", forked);
    return reaped == forked ? status : 4;
}
