/* SPDX-License-Identifier: Apache-2.0 */
#include "advisor.h"

#include <errno.h>

void sp_advisor_init(struct sp_advisor *advisor, uint32_t pages_to_scan)
{
    *advisor = (struct sp_advisor){.mode = SP_ADVISOR_NONE,
                                   .target_ms = 200 * 1000,
                                   .max_cpu = 70,
                                   .min_pages = 500,
                                   .max_pages = 30000,
                                   .pages_to_scan = pages_to_scan};
}

static uint32_t within(const struct sp_advisor *advisor, uint64_t pages)
{
    if (pages < advisor->min_pages)
        return advisor->min_pages;
    return pages > advisor->max_pages ? advisor->max_pages : (uint32_t)pages;
}

static void apply_limits(struct sp_advisor *advisor)
{
    if (advisor->mode == SP_ADVISOR_SCAN_TIME)
        advisor->pages_to_scan = within(advisor, advisor->pages_to_scan);
}

int sp_advisor_set_mode(struct sp_advisor *advisor, enum sp_advisor_mode mode)
{
    if (mode != SP_ADVISOR_NONE && mode != SP_ADVISOR_SCAN_TIME)
        return -EINVAL;
    advisor->mode = mode;
    apply_limits(advisor);
    return 0;
}

int sp_advisor_set_pages_to_scan(struct sp_advisor *advisor, uint32_t pages)
{
    if (advisor->mode != SP_ADVISOR_NONE)
        return -EINVAL;
    advisor->pages_to_scan = pages;
    return 0;
}

int sp_advisor_set_limits(struct sp_advisor *advisor, uint32_t target_ms, uint32_t max_cpu,
                          uint32_t min_pages, uint32_t max_pages)
{
    if (target_ms == 0 || max_cpu == 0 || max_cpu > 100 || min_pages == 0 || min_pages > max_pages)
        return -EINVAL;
    advisor->target_ms = target_ms;
    advisor->max_cpu = max_cpu;
    advisor->min_pages = min_pages;
    advisor->max_pages = max_pages;
    apply_limits(advisor);
    return 0;
}

/* The pages that would have made this pass take the time wanted; at most twice as many as now and
 * at least half, and only half the way there: one odd pass must not decide. */
static uint64_t towards_target(const struct sp_advisor *advisor, uint64_t pass_ms)
{
    uint64_t now = advisor->pages_to_scan, most = (uint64_t)advisor->target_ms * 2;
    uint64_t wanted = now * (pass_ms > most ? most : pass_ms) / advisor->target_ms;

    if (wanted < now / 2)
        wanted = now / 2;
    return wanted > now ? now + (wanted - now + 1) / 2 : now - (now - wanted) / 2;
}

void sp_advisor_pass_done(struct sp_advisor *advisor, uint64_t pass_ms, uint64_t cpu_ms)
{
    uint64_t pages, cpu;

    if (advisor->mode != SP_ADVISOR_SCAN_TIME)
        return;
    if (pass_ms == 0)
        pass_ms = 1;
    pages = towards_target(advisor, pass_ms);
    cpu = (cpu_ms > pass_ms ? pass_ms : cpu_ms) * 100 / pass_ms;
    if (cpu && pages > (uint64_t)advisor->pages_to_scan * advisor->max_cpu / cpu)
        pages = (uint64_t)advisor->pages_to_scan * advisor->max_cpu / cpu;
    advisor->pages_to_scan = within(advisor, pages);
}
