/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that locks its future memory with its very first code, before any library's
 * constructor. Maps some, finds it locked, prints "ok" and exits 0.
 *
 * locks_first child: does it in main(), and forks a child, which does not have it: prints the
 * child's pid, and "ready", and where the child's memory is; when a line was read the child checks
 * its bytes, and prints "ok".
 */
#include <sys/wait.h>

#include "pattern.h"

#define PAGES 512u

static void lock_first(int argc, char **argv, char **env)
{
    (void)argv, (void)env;
    if (argc == 1 && mlockall(MCL_FUTURE))
        _exit(77);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **,
                                                                            char **) = lock_first;

static int in_child(void)
{
    char *region =
        mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char line[16];

    if (region == MAP_FAILED)
        die("mmap");
    region_fill(region, PAGES, 0);
    printf("%d\nready %lx %u\n", (int)getpid(), (unsigned long)region, PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    region_check(region, PAGES, 0, "in the child");
    puts("ok");
    return 0;
}

static int fork_one(void)
{
    int status = 1;
    pid_t child;

    if (mlockall(MCL_FUTURE))
        return 77;
    child = fork();
    if (child == 0)
        exit(in_child());
    if (child < 0 || waitpid(child, &status, 0) != child)
        die("fork");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    char *page;

    if (argc > 1 && !strcmp(argv[1], "child"))
        return fork_one();
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || msync(page, PAGE, MS_ASYNC | MS_INVALIDATE) != -1)
        return 3;
    puts("ok");
    return 0;
}
