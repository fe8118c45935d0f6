/* SPDX-License-Identifier: Apache-2.0 */
/* Closes every descriptor at its start, as daemons do, and opens its own in their place. */
#include <fcntl.h>

#include "loop.h"

#define FILES 16

static int file[FILES];

/* The descriptors that the program opened stay its own. */
static void one_round(unsigned round)
{
    for (int i = 0; i < FILES; i++) {
        if (file[i] == 3 + i && fcntl(file[i], F_GETFD) >= 0)
            continue;
        fprintf(stderr, "round %u: descriptor %d is not the program's any more\n", round, file[i]);
        exit(3);
    }
    for (int i = 0; i < FILES; i++) {
        close(file[i]);
        file[i] = open("/dev/null", O_RDWR);
    }
}

int main(int argc, char **argv)
{
    for (int fd = 3; fd < 4096; fd++)
        close(fd);
    for (int i = 0; i < FILES; i++)
        file[i] = open("/dev/null", O_RDWR);
    return loop_run(argc, argv, one_round);
}
