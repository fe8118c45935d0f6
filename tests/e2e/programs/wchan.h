/* SPDX-License-Identifier: Apache-2.0 */
/* Waits until a thread of ours waits in the kernel: what is done to it then finds it there. */
#ifndef SP_E2E_WCHAN_H
#define SP_E2E_WCHAN_H

#include <stdatomic.h>

#include "pattern.h"

/* Until the thread, which puts its number into tid, is in a function of the kernel with this in its name. */
static inline void wchan_wait(atomic_int *tid, const char *name)
{
    char path[64], line[64] = "";

    while (!strstr(line, name)) {
        FILE *f;

        pause_ms(1);
        snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", *tid);
        f = *tid ? fopen(path, "r") : NULL;
        if (f && !fgets(line, sizeof(line), f))
            line[0] = 0;
        if (f)
            fclose(f);
    }
}

#endif
