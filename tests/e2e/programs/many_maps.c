/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nearly uses up the mappings that the kernel allows (vm.max_map_count), then works.
 * usage: many_maps before|after MAPPINGS SECONDS
 *
 * before: the many mappings are there before there is something to merge. after: a region whose
 * every second page has no partner, so that each merged page costs mappings, is merged first;
 * "ready" is printed, a line is read from stdin, then the mappings are made. Each must succeed as
 * it would without merging.
 */
#include "loop.h"

static void make_mappings(size_t count)
{
    /* Every second page has another protection: two mappings for two pages. */
    char *area = mmap(NULL, (count + 2) * PAGE, PROT_READ,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        die("mmap");
    for (size_t i = 1; i < count; i += 2)
        if (mprotect(area + i * PAGE, PAGE, PROT_NONE))
            die("mprotect: no mapping left");
}

static void one_round(unsigned round)
{
    char *data = malloc(1u << 20);

    if (!data)
        die("malloc");
    memset(data, (int)round, 1u << 20);
    free(data);
}

static int work_after(int argc, char **argv)
{
    char *region = region_map(LOOP_PAGES);
    char line[16];

    pattern_process = pattern_mix((uint64_t)getpid());
    for (size_t i = 0; i < LOOP_PAGES; i++)
        pattern_fill(region + i * PAGE, i % 2 ? i | PATTERN_OWN : i, 0);
    printf("ready %p %u\n", (void *)region, LOOP_PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    make_mappings((size_t)atoll(argv[2]));
    for (size_t i = 0; i < LOOP_PAGES; i++)
        pattern_check(region + i * PAGE, i % 2 ? i | PATTERN_OWN : i, 0, "with many mappings");
    return loop_run(argc - 2, argv + 2, one_round);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    if (!strcmp(argv[1], "after"))
        return work_after(argc, argv);
    make_mappings((size_t)atoll(argv[2]));
    return loop_run(argc - 2, argv + 2, one_round);
}
