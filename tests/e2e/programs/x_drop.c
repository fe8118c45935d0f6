/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives up rights and stays. usage: x_drop user|filter|forked: becomes nobody, installs a seccomp
 * filter (which allows all), or forks a child that becomes nobody.
 *
 * Fills a region that is equal in every x_drop, prints "ready ADDRESS BYTES"; on a line gives up,
 * prints "dropped PID"; on the next one checks all bytes and ends.
 */
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "pattern.h"

#define NPAGES 2048u
#define NOBODY 65534

static void listen_line(void)
{
    char line[16];

    if (read(0, line, sizeof(line)) <= 0)
        exit(3);
}

static void become_nobody(void)
{
    if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
        setresuid(NOBODY, NOBODY, NOBODY))
        die("setresuid");
}

static void filter_nothing(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("seccomp");
}

int main(int argc, char **argv)
{
    char *region = region_map(NPAGES);
    pid_t child = 0;
    int status = 0;

    if (argc != 2)
        return 2;
    region_fill(region, NPAGES, 0);
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    if (!strcmp(argv[1], "forked"))
        child = fork();
    if (child) {
        waitpid(child, &status, 0);
        return status != 0;
    }
    if (!strcmp(argv[1], "filter"))
        filter_nothing();
    else
        become_nobody();
    printf("dropped %d\n", getpid());
    fflush(stdout);
    listen_line();
    region_check(region, NPAGES, 0, "after rights were given up");
    return 0;
}
