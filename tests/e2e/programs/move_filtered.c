/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves its memory by one mremap() when it is under a filter of its own: all of it is at the new place then,
 * or, where the kernel refuses, all of it at the old one.
 *
 * usage: move_filtered OWN: every ninth page is this program's own. Says "ready ADDRESS BYTES"; at "go" writes
 * to some pages, puts a filter on itself that allows everything, and says "filtered"; at the next "go" moves,
 * looks at all pages, and says "moved" or "stayed".
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "pattern.h"

#define PAGES 2048u

static uint64_t own;

static uint64_t number(size_t i)
{
    return i % 9 == 4 ? own + i : i;
}

static void read_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(4);
}

static void filter(void)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("prctl");
}

int main(int argc, char **argv)
{
    char *room = mmap(NULL, 3 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *region, *to;

    if (argc < 2 || room == MAP_FAILED)
        return 2;
    own = strtoull(argv[1], NULL, 10) * 100003u;
    region = mmap(room, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (region == MAP_FAILED)
        die("mmap");
    for (size_t i = 0; i < PAGES; i++)
        pattern_fill(region + i * PAGE, number(i), 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    read_line();
    for (size_t i = 5; i < PAGES; i += 16)
        pattern_fill(region + i * PAGE, number(i), 1);
    filter();
    puts("filtered");
    fflush(stdout);
    read_line();
    to = mremap(region, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + 2 * PAGES * PAGE);
    for (size_t i = 0; i < PAGES; i++)
        pattern_check((to == MAP_FAILED ? region : to) + i * PAGE, number(i), i % 16 == 5, "after mremap");
    puts(to == MAP_FAILED ? "stayed" : "moved");
    return 0;
}
