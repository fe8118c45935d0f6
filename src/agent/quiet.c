/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes that need not look at all.
 *
 * To write a page that is write-protected, or that maps a frame, a thread must take a page fault, and
 * the kernel counts those for each process. When a whole pass found nothing, nothing was merged or
 * mapped since, and the program took no fault, then there is nothing to find: the walk over its page
 * tables, which is what a pass over unchanged memory costs, is left out. Hot pages are not protected:
 * a pass in which some are to be tried (hot.c) is never left out.
 *
 * The count does not know writes from outside (process_vm_writev, a debugger's /proc/PID/mem). So a
 * pass that is left out is never more than a hint (K5; what was merged is compared, K6), and every
 * SP_QUIET_PASSES-th is not left out.
 */
#include "blocks.h"
#include "mem.h"
#include "sys.h"

#define SP_QUIET_PASSES 16u
#define MINFLT_FIELD    10u /* proc_pid_stat(5); fields are counted from 1 */
#define MAJFLT_FIELD    12u

static bool settled, found;
static uint64_t faults; /* when the last pass that looked began */

/* Faults of all threads, living and dead; ~0: not known. */
static uint64_t count_faults(void)
{
    char buf[512];
    long n = sp_sys(__NR_pread64, sp_agent.program_stat, buf, sizeof(buf), 0);
    const char *p = buf + (n > 0 ? n : 0), *end = p;
    uint64_t sum = 0;

    /* The name, field 2, may hold anything: the last ')' ends it. */
    while (p > buf && p[-1] != ')')
        p--;
    if (p == buf)
        return ~0ull;
    for (unsigned field = 3; p < end; field++) {
        while (p < end && *p == ' ')
            p++;
        if (field == MINFLT_FIELD)
            sum = sp_parse_dec(&p, end);
        if (field == MAJFLT_FIELD)
            return sum + sp_parse_dec(&p, end);
        while (p < end && *p != ' ')
            p++;
    }
    return ~0ull;
}

void sp_quiet_disturb(void)
{
    settled = false;
    found = true;
}

void sp_quiet_pass_done(void)
{
    settled = !found;
}

bool sp_quiet_pass(bool known)
{
    uint64_t now = count_faults();

    if (known && settled && now == faults && now != ~0ull && !sp_hot_is_due() &&
        sp_track_pass % SP_QUIET_PASSES)
        return true;
    sp_hot_pass();
    faults = now;
    settled = found = false;
    return false;
}
