/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>

#include "advise.h"
#include "log.h"
#include "nodes.h"
#include "passes.h"

#define ENGINE_SHARING_MAX (1u << 20) /* sites of one frame (engine.h) */

/* What this machine cannot have, whether a domain lives or not. */
static int check(enum sp_key key, uint64_t value)
{
    return key == SP_KEY_MERGE_ACROSS_NODES && !value && sp_nodes_too_many() ? -EOPNOTSUPP : 0;
}

/* Tells the engine. 0, or what it says against it. */
static int tell_engine(struct sp_engine *engine, enum sp_key key, uint64_t value)
{
    switch (key) {
    case SP_KEY_MERGE_ACROSS_NODES:
        return sp_engine_set_merge_across_nodes(engine, value);
    case SP_KEY_MAX_PAGE_SHARING:
        /* From the engine's own limit on that holds, and it counts less than for one that is set. */
        return sp_engine_set_max_page_sharing(
            engine, value >= ENGINE_SHARING_MAX ? 0 : (uint32_t)value);
    case SP_KEY_USE_ZERO_PAGES:
        return sp_engine_set_use_zero_pages(engine, value);
    case SP_KEY_SMART_SCAN:
        sp_engine_set_smart_scan(engine, value);
        return 0;
    case SP_KEY_MAX_KERNEL_PAGES:
        sp_engine_set_max_kernel_pages(engine, value);
        return 0;
    default:
        return 0;
    }
}

void sp_values_apply(struct sp_domain *domain)
{
    for (unsigned key = 0; key < SP_SETTINGS; key++) {
        if (check((enum sp_key)key, domain->value[key]) ||
            tell_engine(domain->engine, (enum sp_key)key, domain->value[key]))
            sp_log(SP_LOG_WARNING, "domain %s: %s cannot be as it is set", domain->name,
                   sp_settings[key].key);
    }
    sp_engine_set_run(domain->engine, (enum sp_engine_run)domain->value[SP_KEY_RUN]);
}

/* K14: to the engine two limits above its own are one, to the kernel another value is another one. */
static bool is_busy(const struct sp_domain *domain, enum sp_key key, uint64_t value)
{
    struct sp_engine_counters c;

    if (key != SP_KEY_MAX_PAGE_SHARING || value == domain->value[key])
        return false;
    sp_engine_counters(domain->engine, &c);
    return c.pages_shared != 0;
}

static int set_one(struct sp_domain *domain, enum sp_key key, uint64_t value)
{
    int err = 0;

    if (domain->engine)
        err = is_busy(domain, key, value) ? -EBUSY : tell_engine(domain->engine, key, value);

    if (!err)
        domain->value[key] = value;
    return err;
}

/* All or none: what refuses for one domain is undone for those before it, which cannot refuse, for
 * they have just shown that nothing stands against a change. */
static int set_all(struct sp_daemon *daemon, enum sp_key key, uint64_t value)
{
    struct sp_domain *domain, *undo;
    int err = 0;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        domain->value_before = domain->value[key];
        err = set_one(domain, key, value);
        if (err)
            break;
    }
    for (undo = TAILQ_FIRST(&daemon->domains); err && undo != domain; undo = TAILQ_NEXT(undo, link))
        (void)!set_one(undo, key, undo->value_before);
    if (!err)
        daemon->config.value[key] = value;
    return err;
}

void sp_values_begin(struct sp_config *config)
{
    if (sp_advise_is_on(config))
        sp_advise_begin(config);
}

int sp_values_set(struct sp_daemon *daemon, struct sp_domain *domain, enum sp_key key,
                  uint64_t value)
{
    bool other_mode = key == SP_KEY_ADVISOR_MODE && value != daemon->config.value[key];
    int err;

    if (key == SP_KEY_PAGES_TO_SCAN && sp_advise_is_on(&daemon->config))
        return -EINVAL;
    err = check(key, value);
    if (err)
        return err;
    err = domain ? set_one(domain, key, value) : set_all(daemon, key, value);
    if (err)
        return err;
    if (other_mode)
        sp_advise_begin(&daemon->config);
    if (sp_settings[key].of_daemon)
        daemon->quota = 0;
    sp_keep_state(daemon);
    sp_passes_wake(daemon);
    return 0;
}

uint64_t sp_values_get(const struct sp_daemon *daemon, const struct sp_domain *domain,
                       enum sp_key key)
{
    if (domain && !sp_settings[key].of_daemon)
        return domain->value[key];
    return daemon->config.value[key];
}
