/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program with secrets: after a line on stdin it forbids others to look into it.
 *
 * usage: secret
 */
#include <sys/prctl.h>

#include "pattern.h"

#define PAGES 4096u

int main(void)
{
    char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char line[16];

    if (memory == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < PAGES; i++)
        pattern_fill(memory + i * PAGE, i, 0);
    printf("ready %p %u\n", (void *)memory, PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin) || prctl(PR_SET_DUMPABLE, 0))
        return 3;
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    for (size_t i = 0; i < PAGES; i++)
        pattern_check(memory + i * PAGE, i, 0, "after it became secret");
    return 0;
}
