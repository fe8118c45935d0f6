/* SPDX-License-Identifier: Apache-2.0 */
/* The rule K17 as far as the VmFlags of /proc/PID/smaps tell, for the agent and the commands. */
#ifndef SP_COMMON_VMFLAGS_H
#define SP_COMMON_VMFLAGS_H

#include <stdbool.h>

/* Smaller stretches of memory are not looked at with --all: pages. */
#define SP_MIN_RANGE_PAGES 64u

/*
 * Whether a mapping of a frame has the flag of the two letters at f, too, or does not need it. All
 * others would be lost in a merge (the list is DESIGN.md's, with nr, which the frame's mapping is
 * given as well, sd, which means nothing to a program, mg, the advice itself, and uw, our own
 * tracking). dc, MADV_DONTFORK, is looked at apart: a frame's mapping is given that.
 */
static inline bool sp_vmflag_kept(const char *f)
{
    static const char kept[] = "rd wr mr mw me ac nh hg nr sd mg uw ";

    for (const char *k = kept; *k; k += 3)
        if (k[0] == f[0] && k[1] == f[1])
            return true;
    return false;
}

#endif
