/* SPDX-License-Identifier: Apache-2.0 */
#include "advise.h"

#include "advisor.h"
#include "status.h"

bool sp_advise_is_on(const struct sp_config *config)
{
    return config->value[SP_KEY_ADVISOR_MODE] == SP_ADVISOR_SCAN_TIME;
}

static uint32_t within(uint64_t value, uint32_t min, uint32_t max)
{
    if (value < min)
        return min;
    return value > max ? max : (uint32_t)value;
}

/* What the settings come to. KSM takes limits that contradict each other, too; there the most wins
 * over the least, as here. At least one page is scanned. */
static void limit(struct sp_advisor *advisor, const struct sp_config *config)
{
    const uint64_t *value = config->value;
    uint32_t most = within(value[SP_KEY_ADVISOR_MAX_PAGES], 1, UINT32_MAX);
    uint32_t least = within(value[SP_KEY_ADVISOR_MIN_PAGES], 1, most);
    uint64_t seconds = within(value[SP_KEY_ADVISOR_SCAN_TIME], 1, UINT32_MAX / 1000);
    uint32_t cpu = within(value[SP_KEY_ADVISOR_MAX_CPU], 1, 100);

    (void)!sp_advisor_set_limits(advisor, (uint32_t)seconds * 1000, cpu, least, most);
}

void sp_advise_begin(struct sp_config *config)
{
    struct sp_advisor advisor;

    sp_advisor_init(&advisor, SP_PAGES_TO_SCAN);
    limit(&advisor, config);
    config->value[SP_KEY_PAGES_TO_SCAN] =
        sp_advise_is_on(config) ? advisor.min_pages : SP_PAGES_TO_SCAN;
}

void sp_advise_round_begins(struct sp_daemon *daemon)
{
    if (daemon->round_began || !sp_advise_is_on(&daemon->config))
        return;
    daemon->round_began = sp_now_usecs();
    daemon->round_cpu = sp_status_cpu_us(daemon);
}

void sp_advise_round_done(struct sp_daemon *daemon)
{
    struct sp_config *config = &daemon->config;
    uint64_t took = sp_now_usecs() - daemon->round_began, cpu = sp_status_cpu_us(daemon);
    struct sp_advisor advisor;

    if (!daemon->round_began)
        return;
    daemon->round_began = 0;
    if (!sp_advise_is_on(config))
        return;
    cpu = cpu > daemon->round_cpu ? cpu - daemon->round_cpu : 0; /* that of ended agents is missing */
    sp_advisor_init(&advisor, (uint32_t)config->value[SP_KEY_PAGES_TO_SCAN]);
    limit(&advisor, config);
    (void)!sp_advisor_set_mode(&advisor, SP_ADVISOR_SCAN_TIME);
    sp_advisor_pass_done(&advisor, took / 1000, cpu / 1000);
    config->value[SP_KEY_PAGES_TO_SCAN] = advisor.pages_to_scan;
}
