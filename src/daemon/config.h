/* SPDX-License-Identifier: Apache-2.0 */
/* All settings of the daemon in one place, and its limits. */
#ifndef SP_DAEMON_CONFIG_H
#define SP_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define SP_MAX_CLIENTS 4096u      /* merged address spaces */
#define SP_MAX_CONNECTIONS 512u   /* control connections, and those that said nothing yet */
#define SP_HELLO_SECONDS 5u       /* a new connection must speak within */
#define SP_CONTROL_SECONDS 60u    /* a control connection may be silent for */
#define SP_ANSWER_MSECS 2000u     /* an agent must answer within, or counts as stalled */
#define SP_SLOW_USECS 200000u     /* an answer that takes longer costs its client a rest, */
#define SP_SLOW_REST 9u           /* so many times as long */
#define SP_REJOIN_SECONDS 10u     /* after a takeover, agents have so long to come back (D1) */
#define SP_SLICE_USECS 20000u     /* work done in one go before the event loop runs again */
#define SP_IDLE_USECS_MIN 200000u /* sleep when nothing changes any more: from, */
#define SP_IDLE_USECS_MAX 1000000u /* to */
#define SP_STATE_DOMAINS 56u      /* domains whose seeds the keeper remembers */

struct sp_config {
    /* From the command line. */
    char socket[108];     /* where to listen */
    const char *log_file; /* NULL: stderr in the foreground, else nowhere */
    bool foreground;

    /* Set at run time too (docs/control.md). */
    uint32_t run;               /* enum sp_engine_run */
    uint32_t pages_to_scan;     /* pages looked into before each sleep */
    uint32_t sleep_millisecs;   /* that sleep */
    uint64_t max_kernel_pages;  /* frames in the pool at most, 0: no limit (K10) */
    uint32_t max_mappings;      /* mappings a process, 0: the agents' built-in budget */
};

#define SP_CONFIG_DEFAULT                                                                          \
    {                                                                                              \
        .run = 1, .pages_to_scan = 5000, .sleep_millisecs = 20                                     \
    }

#endif
