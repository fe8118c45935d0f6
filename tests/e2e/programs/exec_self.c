/* SPDX-License-Identifier: Apache-2.0 */
/* Executes itself again and again, some rounds of work between. usage: exec_self SECONDS [END]
 * where END, the time to stop at, is what it gives to itself. */
#include "loop.h"

static void one_round(unsigned round)
{
    region_check(loop_region, LOOP_PAGES, 0, "before exec");
    pause_ms(20);
}

int main(int argc, char **argv)
{
    double end = argc > 2 ? atof(argv[2]) : seconds_now() + atof(argv[1]);
    char end_text[40];

    snprintf(end_text, sizeof(end_text), "%.3f", end);
    if (seconds_now() < end) {
        loop_start();
        for (unsigned i = 0; i < 30; i++)
            one_round(i);
        execv("/proc/self/exe", (char *[]){ argv[0], argv[1], end_text, NULL });
        die("execv");
    }
    return loop_run(2, (char *[]){ argv[0], "1", NULL }, one_round);
}
