/* SPDX-License-Identifier: Apache-2.0 */
/* The advisor (K16), on passes whose time is worked out. */
#include "sim.h"

#include "advisor.h"

/* a: pages that a pass looks at; b: microseconds for each; c: the time wanted. The pass comes to
 * take that, or to a limit. */
void sim_advise(struct sim *sim, const struct sim_step *s)
{
    uint64_t pages = 1000 + s->a % 10000000, cost = s->b % 20, pass = 0, cpu = 0;
    struct sp_advisor advisor;
    uint32_t target = 1000 + s->c % 300000;

    sp_advisor_init(&advisor, 100);
    (void)sp_advisor_set_mode(&advisor, SP_ADVISOR_SCAN_TIME);
    (void)sp_advisor_set_limits(&advisor, target, 70, 500, 30000);
    for (unsigned i = 0; i < 60; i++) {
        cpu = pages * cost / 1000;
        pass = cpu + pages * 20 / advisor.pages_to_scan; /* it sleeps 20 ms after each portion */
        sp_advisor_pass_done(&advisor, pass, cpu);
    }
    if (advisor.pages_to_scan < 500 || advisor.pages_to_scan > 30000)
        sim_fail(sim, "K16: %u pages to scan", advisor.pages_to_scan);
    if (pass > target + target / 4 && advisor.pages_to_scan < 29999 && cpu * 100 < pass * 66)
        sim_fail(sim, "K16: a pass takes %u ms, not %u", (unsigned)pass, target);
    if (pass < target - target / 4 && advisor.pages_to_scan > 501)
        sim_fail(sim, "K16: a pass takes %u ms, not %u", (unsigned)pass, target);
    if (sp_advisor_set_pages_to_scan(&advisor, 1000) == 0)
        sim_fail(sim, "K16: pages_to_scan is written though the advisor says it");
    sim_took(sim, SIM_P_K16_ADVISED);
}
