/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that leaves its memory, merged by then, in the way that it is told. usage: exec_or_exit
 *
 * Prints "ready ADDRESS BYTES"; takes a line, checks all its region, and does what the line says:
 * "exit" ends it with status 7; "exec" and "exec-bare" execute it anew, the latter as a program
 * that is not merged. Then it prints "new", takes a line and ends with status 7.
 */
#include "loop.h"

static int new_image(void)
{
    printf("new\n");
    fflush(stdout);
    loop_take_line();
    return 7;
}

int main(int argc, char **argv)
{
    char line[32];

    if (argc > 1)
        return new_image();
    loop_start();
    printf("ready %p %u\n", (void *)loop_region, LOOP_PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        die("stdin");
    region_check(loop_region, LOOP_PAGES, 0, "before it leaves its memory");
    if (!strcmp(line, "exit\n"))
        return 7;
    if (!strcmp(line, "exec-bare\n"))
        unsetenv("LD_PRELOAD");
    execv("/proc/self/exe", (char *[]){argv[0], "new", NULL});
    die("execv");
}
