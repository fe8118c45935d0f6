/* SPDX-License-Identifier: Apache-2.0 */
/* Fault points, in test builds only: SAMEPAGE_FAULT=NAME:N kills the agent when it passes the point
 * NAME for the N-th time. */
#include "agent.h"
#include "mem.h"
#include "sys.h"
#include "sys.h"

#ifdef SP_FAULT_POINTS
static char point[32];
static uint64_t countdown;

void sp_fault_set(const char *spec)
{
    const char *p = spec;
    unsigned n = 0;

    while (*p && *p != ':' && n + 1 < sizeof(point))
        point[n++] = *p++;
    point[n] = 0;
    if (*p == ':')
        p++;
    countdown = sp_parse_dec(&p, p + sp_strlen(p));
}

static void kill_self(void)
{
    long self = sp_sys(__NR_getpid);

    sp_sys(__NR_kill, self, 9);
}

void sp_fault_point(const char *name)
{
    if (countdown && sp_streq(name, point) && !--countdown)
        kill_self();
}
#endif
