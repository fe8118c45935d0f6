/* SPDX-License-Identifier: Apache-2.0 */
/* Forbids itself new executable memory (PR_SET_MDWE) and executes itself, so that it starts under
 * that rule; then works. The rule must be in force all the time. Exit status 77: no such prctl. */
#include <sys/prctl.h>

#include "loop.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif

static void one_round(unsigned round)
{
    char *data = region_map(64);

    region_fill(data, 64, 0);
    if (prctl(PR_GET_MDWE, 0, 0, 0, 0) != 1 || !mprotect(data, PAGE, PROT_READ | PROT_EXEC)) {
        fprintf(stderr, "round %u: PR_SET_MDWE is not in force\n", round);
        exit(3);
    }
    region_check(data, 64, 0, "under PR_SET_MDWE");
    munmap(data, 64 * PAGE);
}

int main(int argc, char **argv)
{
    if (prctl(PR_GET_MDWE, 0, 0, 0, 0) != 1) {
        if (prctl(PR_SET_MDWE, 1, 0, 0, 0))
            return 77;
        execv("/proc/self/exe", argv);
        die("execv");
    }
    return loop_run(argc, argv, one_round);
}
