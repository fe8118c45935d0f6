/* SPDX-License-Identifier: Apache-2.0 */
/* The points themselves: see fault.h. */
#include "fault.h"

#include <stdint.h>

#include "mem.h"
#include "sys.h"

#ifdef SP_FAULT_POINTS
static char point[32];
static uint64_t countdown;
static long signal_number = 9;

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
    if (*p == ':') {
        p++;
        signal_number = (long)sp_parse_dec(&p, p + sp_strlen(p));
    }
}

static void send_self(void)
{
    long self = sp_sys(__NR_getpid);

    sp_sys(__NR_kill, self, signal_number);
}

void sp_fault_point(const char *name)
{
    if (countdown && sp_streq(name, point) && !--countdown)
        send_self();
}
#endif
