/* SPDX-License-Identifier: Apache-2.0 */
/* The settings that `get` and `set` know, for the daemon, which obeys them, and the commands, which
 * refuse wrong use without one. docs/control.md has them in words. */
#ifndef SP_COMMON_SETTINGS_H
#define SP_COMMON_SETTINGS_H

#include <stdint.h>
#include <string.h>

struct sp_setting {
    const char *key;
    uint64_t min, max;
};

#define SP_SETTING_NAMES "run, pages_to_scan, sleep_millisecs, max_kernel_pages, max_mappings"

static const struct sp_setting sp_settings[] = {
    {"run", 0, 2},
    {"pages_to_scan", 1, UINT32_MAX},
    {"sleep_millisecs", 0, UINT32_MAX},
    {"max_kernel_pages", 0, UINT64_MAX},
    {"max_mappings", 0, UINT32_MAX},
};

/* The setting of that name, or NULL. */
static inline const struct sp_setting *sp_setting_find(const char *key)
{
    for (unsigned i = 0; i < sizeof(sp_settings) / sizeof(sp_settings[0]); i++)
        if (strcmp(sp_settings[i].key, key) == 0)
            return &sp_settings[i];
    return NULL;
}

#endif
