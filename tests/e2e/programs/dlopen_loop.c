/* SPDX-License-Identifier: Apache-2.0 */
/* Loads a library, calls into it, unloads it, again and again: ld.so's own mmaps and munmaps.
 * usage: dlopen_loop SECONDS LIBRARY SYMBOL (a function double -> double) */
#include <dlfcn.h>

#include "loop.h"

static const char *library, *symbol;

static void one_round(unsigned round)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    double (*function)(double) = handle ? (double (*)(double))dlsym(handle, symbol) : NULL;

    if (!function || function(0) != 0) {
        fprintf(stderr, "round %u: %s\n", round, handle ? "wrong answer" : dlerror());
        exit(3);
    }
    dlclose(handle);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    library = argv[2];
    symbol = argv[3];
    return loop_run(argc, argv, one_round);
}
