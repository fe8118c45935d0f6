/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that loads many objects, as an interpreter with its modules does.
 *
 * usage: many_objects OBJECT...
 *
 * Loads them all, fills PAGES pages, the same in every such program, says "ready ADDRESS BYTES", and at a
 * line on standard input checks them and ends.
 */
#include <dlfcn.h>

#include "pattern.h"

#define PAGES 2048u

int main(int argc, char **argv)
{
    char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char line[16];

    if (memory == MAP_FAILED)
        return 2;
    for (int i = 1; i < argc; i++)
        if (!dlopen(argv[i], RTLD_NOW)) {
            fprintf(stderr, "%s\n", dlerror());
            return 2;
        }
    for (size_t i = 0; i < PAGES; i++)
        pattern_fill(memory + i * PAGE, i, 1);
    printf("ready %lx %lu\n", (unsigned long)memory, (unsigned long)(PAGES * PAGE));
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 2;
    for (size_t i = 0; i < PAGES; i++)
        pattern_check_from(memory + i * PAGE, 0, i, 1, "at the end");
    return 0;
}
