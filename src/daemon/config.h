/* SPDX-License-Identifier: Apache-2.0 */
/* All settings of the daemon in one place, and its limits. */
#ifndef SP_DAEMON_CONFIG_H
#define SP_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "settings.h"
#include "users.h"

#define SP_MAX_CLIENTS     4096u    /* merged address spaces */
#define SP_MAX_CONNECTIONS 512u     /* control connections, and those that said nothing yet */
#define SP_HELLO_SECONDS   5u       /* a new connection must speak within */
#define SP_CONTROL_SECONDS 60u      /* a control connection may be silent for */
#define SP_ANSWER_MSECS    2000u    /* an agent must answer within, or counts as stalled */
#define SP_SLOW_USECS      200000u  /* an answer that takes longer costs its client a rest, */
#define SP_SLOW_REST       9u       /* so many times as long */
#define SP_SLOW_TOTAL      2000000u /* us: after so much of it in one go a user is asked nothing */
#define SP_REJOIN_SECONDS  10u      /* after a takeover, agents have so long to come back (D1) */
#define SP_SLICE_USECS     20000u   /* work done in one go before the event loop runs again */
#define SP_AWAY_USECS     50000u    /* after so long without it, readers are answered in between (meanwhile.h) */
#define SP_HURRY_USECS     10000000u /* a user's synchronous merges may take at a time; then they wait as long */
#define SP_IDLE_USECS_MIN  200000u  /* sleep when nothing changes any more: from, */
#define SP_IDLE_USECS_MAX  1000000u /* to */
#define SP_SWAP_MEMORY     (256ull << 20) /* bytes of packed frames in memory, where nothing else is said */
#define SP_RECLAIM_MIN     (16ull << 20)
#define SP_RECLAIM_MAX     (1ull << 30)
#define SP_SWAP_LEAST      (4ull << 20)   /* bytes; that memory or that file is at least so large */
#define SP_STATE_DOMAINS   56u      /* domains whose seeds and values the keeper remembers */
#define SP_PAGES_TO_SCAN   5000u    /* by default, and again when the advisor is switched off */

/* Frames that leave memory ([swap] of samepaged.conf(5), storage.h). */
struct sp_swap_config {
    bool store;      /* swap = store; else none leaves memory */
    bool zstd;       /* packs better than lz4, and takes longer */
    char file[256];  /* swap_file, "": none */
    uint64_t size;   /* swap_size: bytes of that file */
    bool encrypt;    /* swap_encrypt: that file */
    uint64_t memory; /* swap_memory: bytes that packed frames may take in memory */
    /* pressure.h, bytes: when memory is short so much leaves, at most, and stays. max 0: nothing leaves by itself */
    uint64_t reclaim_min, reclaim_max, reclaim_floor;
};

struct sp_config {
    /* From the command line or the file (samepaged.conf(5)). */
    char socket[108];            /* where to listen */
    char log_file[256];          /* "": stderr in the foreground, else nowhere */
    struct sp_users allow;       /* whose programs are merged, beside root's and the daemon's own */
    struct sp_users userfaultfd; /* who gets the descriptor of /dev/userfaultfd, beside root */
    uint32_t max_programs;       /* of one user, but root and the daemon's own */
    uint32_t max_connections;    /* of the same, that are no programs (yet) */
    struct sp_swap_config swap;

    /* From the command line. */
    char file[256];    /* the configuration file that was read or looked for, "": none */
    bool check_config; /* only read the file, and say what is wrong */
    bool foreground;

    /* Set at run time too (docs/control.md), by enum sp_key. What is not of the daemon as a whole is
     * what new domains begin with; each has its own (struct sp_domain). Of max_kernel_pages this one
     * limits all domains together, too. */
    uint64_t value[SP_SETTINGS];
};

/*
 * Everybody is served, a domain each; nobody gets userfaultfd from us, which would undo what the
 * kernel forbids. A quarter of the places is enough for one user; and as a user's connections are
 * accepted 64 at a time, of twice as many none has to go before it was heard.
 */
#define SP_CONFIG_DEFAULT                                                                          \
    {                                                                                              \
        .allow = {.everybody = true}, .max_programs = SP_MAX_CLIENTS / 4,                          \
        .max_connections = SP_MAX_CONNECTIONS / 4, .swap = {.memory = SP_SWAP_MEMORY, .reclaim_min = SP_RECLAIM_MIN, .reclaim_max = SP_RECLAIM_MAX}, .value = {                                      \
            [SP_KEY_RUN] = 1,                                                                      \
            [SP_KEY_PAGES_TO_SCAN] = SP_PAGES_TO_SCAN,                                             \
            [SP_KEY_SLEEP_MILLISECS] = 20,                                                         \
            [SP_KEY_MERGE_ACROSS_NODES] = 1,                                                       \
            [SP_KEY_MAX_PAGE_SHARING] = 256,                                                       \
            [SP_KEY_PRUNE_MILLISECS] = 2000,                                                       \
            [SP_KEY_SMART_SCAN] = 1,                                                               \
            [SP_KEY_ADVISOR_MAX_CPU] = 70,                                                         \
            [SP_KEY_ADVISOR_MIN_PAGES] = 500,                                                      \
            [SP_KEY_ADVISOR_MAX_PAGES] = 30000,                                                    \
            [SP_KEY_ADVISOR_SCAN_TIME] = 200,                                                      \
        }                                                                                          \
    }

#endif
