/* SPDX-License-Identifier: Apache-2.0 */
/* Holds and checks a region for SECONDS, then exits with a status of its own, 7. */
#include "loop.h"

static void one_round(unsigned round)
{
    (void)round;
}

int main(int argc, char **argv)
{
    return loop_run(argc, argv, one_round) ? 1 : 7;
}
