/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The advisor (K16): how many pages to scan before each sleep, so that a pass takes the time that
 * is wanted, within limits. It has no clock: the caller says what a pass took. One thread at a
 * time.
 */
#ifndef SP_ENGINE_ADVISOR_H
#define SP_ENGINE_ADVISOR_H

#include <stdint.h>

enum sp_advisor_mode { SP_ADVISOR_NONE = 0, SP_ADVISOR_SCAN_TIME = 1 };

struct sp_advisor {
    enum sp_advisor_mode mode;
    uint32_t target_ms;            /* that a pass is to take */
    uint32_t max_cpu;              /* percent of one processor at most */
    uint32_t min_pages, max_pages; /* of pages_to_scan */
    uint32_t pages_to_scan;
};

/* Off, with 200 s, 70 %, 500 and 30,000 pages for when it is on, and pages_to_scan as given. */
void sp_advisor_init(struct sp_advisor *advisor, uint32_t pages_to_scan);

/* -EINVAL: no such mode. Turning it on brings pages_to_scan within its limits. */
int sp_advisor_set_mode(struct sp_advisor *advisor, enum sp_advisor_mode mode);

/* What the administrator writes; 0: nothing is scanned. -EINVAL: the advisor is on and says it itself. */
int sp_advisor_set_pages_to_scan(struct sp_advisor *advisor, uint32_t pages);

/* -EINVAL, and nothing changes: a limit of 0, CPU above 100 %, or the least above the most. */
int sp_advisor_set_limits(struct sp_advisor *advisor, uint32_t target_ms, uint32_t max_cpu,
                          uint32_t min_pages, uint32_t max_pages);

/* A pass was done: it took so long, sleeps included, and so much CPU. Sets pages_to_scan anew. */
void sp_advisor_pass_done(struct sp_advisor *advisor, uint64_t pass_ms, uint64_t cpu_ms);

#endif
