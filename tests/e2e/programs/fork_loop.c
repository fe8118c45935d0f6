/* SPDX-License-Identifier: Apache-2.0 */
/* Forks all the time. Children and grandchildren must see the parent's bytes of that instant,
 * write their own, and not be seen by anybody else. */
#include <sys/wait.h>

#include "loop.h"

#define OWN_PAGES 256u

static char *own;
static uint64_t own_version;

static void wait_for(pid_t pid, const char *who)
{
    int status = -1;

    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        die(who);
    if (status) {
        fprintf(stderr, "%s %d ended with wait status %#x\n", who, pid, status);
        exit(3);
    }
}

static void child_work(unsigned round, int depth)
{
    loop_check_some(round * 3);
    region_check(own, OWN_PAGES, own_version, "in a forked child");
    pattern_fill(own, 0, own_version + 1000 + depth);
    for (unsigned i = 0; i < 16; i++)
        pattern_fill(loop_region + (round + i * 7) % LOOP_PAGES * PAGE, i, 77);
    for (unsigned i = 0; i < 16; i++)
        pattern_check(loop_region + (round + i * 7) % LOOP_PAGES * PAGE, i, 77, "the child's own");
    pattern_check(own, 0, own_version + 1000 + depth, "the child's own");
}

static void child(unsigned round)
{
    pid_t grandchild = fork();

    if (!grandchild) {
        child_work(round, 2);
        _exit(0);
    }
    child_work(round, 1);
    wait_for(grandchild, "grandchild");
    _exit(0);
}

static void one_round(unsigned round)
{
    pid_t pid = fork();

    if (!pid)
        child(round);
    if (round % 2)
        wait_for(pid, "child");
    own_version++;
    region_fill(own, OWN_PAGES, own_version);
    if (round % 2 == 0)
        wait_for(pid, "child");
    region_check(own, OWN_PAGES, own_version, "in the parent");
}

int main(int argc, char **argv)
{
    own = region_map(OWN_PAGES);
    region_fill(own, OWN_PAGES, 0);
    return loop_run(argc, argv, one_round);
}
