/* SPDX-License-Identifier: Apache-2.0 */
/* Executes itself again and again, some rounds of work between: more each time, so that on any machine some
 * last long enough to be merged in. usage: exec_self SECONDS [END ROUNDS]: at least so long, and until there
 * is a line on stdin; END, the time of that, and ROUNDS, the work before the next time, it gives to itself. */
#include "loop.h"

static void one_round(unsigned round)
{
    region_check(loop_region, LOOP_PAGES, 0, "before exec");
    pause_ms(20);
}

int main(int argc, char **argv)
{
    double end = argc > 2 ? atof(argv[2]) : seconds_now() + atof(argv[1]);
    unsigned rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 20;
    char end_text[40], rounds_text[20];

    if (seconds_now() < end || !loop_told()) {
        loop_start();
        for (unsigned i = 0; i < rounds; i++)
            one_round(i);
        snprintf(end_text, sizeof(end_text), "%.3f", end);
        snprintf(rounds_text, sizeof(rounds_text), "%u", rounds + 5);
        execv("/proc/self/exe", (char *[]){ argv[0], argv[1], end_text, rounds_text, NULL });
        die("execv");
    }
    return loop_run(2, (char *[]){ argv[0], "-1", NULL }, one_round);
}
