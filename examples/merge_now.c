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
static long long pages_saved(void)
{
    struct samepage_statistics s = {.size = sizeof(s)};

    samepage_statistics(&s);
    return (long long)(s.frames_sites - s.frames);
}

int main(int argc, char **argv)
{
    struct samepage_merged merged = {.size = sizeof(merged)};
    struct memory memory;
    long long before;
    double began, took;
    int result;

    if (!make_memory(&memory, argc, argv))
        return 2;
    before = pages_saved();
    began = seconds();
    result = samepage_merge_now(memory.start, memory.length, 60000, &merged);
    took = seconds() - began;
    if (result != SAMEPAGE_DONE)
        printf("not all is merged: %s\n", samepage_why());
    if (!is_intact(&memory)) {
        fprintf(stderr, "wrong bytes\n");
        return 1;
    }
    printf("%llu of %llu pages merged in %.3f s, %.1f MiB saved\n",
           (unsigned long long)merged.pages_merged, (unsigned long long)merged.pages, took,
           (double)(pages_saved() - before) * (double)memory.page / (1 << 20));
    return 0;
}
