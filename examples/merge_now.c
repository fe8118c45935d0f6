/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges its memory at once, and prints what that saved.
 *
 *   cc merge_now.c $(pkg-config --cflags --libs samepage) -o merge_now
 *   ./merge_now 128
 *
 * It goes on without merging where that cannot be, and says why.
 */
#include <samepage.h>

#include "memory.h"

/* Pages that need no memory of their own, in all programs that share with this one. */
static long long saved(const struct samepage_statistics *s)
{
    return (long long)(s->frames_sites - s->frames);
}

static void say_what_is_left(const struct samepage_statistics *s)
{
    if (s->pages_left)
        printf("%llu more have an equal, but lie apart: each would need a mapping, of which %llu "
               "are used, and half of "
               "%llu are kept for longer runs (vm.max_map_count)\n",
               (unsigned long long)s->pages_left, (unsigned long long)s->mappings,
               (unsigned long long)s->mappings_budget);
}

int main(int argc, char **argv)
{
    struct samepage_merged merged = {.size = sizeof(merged)};
    struct samepage_statistics before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    struct memory memory;
    double began, took;
    int result;

    if (!make_memory(&memory, argc, argv))
        return 2;
    samepage_statistics(&before);
    began = seconds();
    result = samepage_merge_now(memory.start, memory.length, 60000, &merged);
    took = seconds() - began;
    if (result != SAMEPAGE_DONE)
        printf("not all is merged: %s\n", samepage_why());
    samepage_statistics(&after);
    if (!is_intact(&memory)) {
        fprintf(stderr, "wrong bytes\n");
        return 1;
    }
    printf("%llu of %llu pages merged in %.3f s, %.1f MiB saved\n",
           (unsigned long long)merged.pages_merged, (unsigned long long)merged.pages, took,
           (double)(saved(&after) - saved(&before)) * (double)memory.page / (1 << 20));
    say_what_is_left(&after);
    return 0;
}
