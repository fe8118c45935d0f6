/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one table of what `get` and `set` know: every file of the kernel's /sys/kernel/mm/ksm under its
 * name there, and samepage's own. The daemon obeys it, the commands refuse wrong use by it without a
 * daemon, ksmfs makes its files of it. docs/control.md has it in words.
 *
 * A **setting** can be written, a **counter** only read. What is **of the daemon** as a whole has one
 * value, for one thread does all the work; everything else each domain has for itself.
 */
#ifndef SP_COMMON_SETTINGS_H
#define SP_COMMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Settings first: they index struct sp_config's values, too. */
enum sp_key {
    SP_KEY_RUN,
    SP_KEY_PAGES_TO_SCAN,
    SP_KEY_SLEEP_MILLISECS,
    SP_KEY_MERGE_ACROSS_NODES,
    SP_KEY_MAX_PAGE_SHARING,
    SP_KEY_PRUNE_MILLISECS,
    SP_KEY_USE_ZERO_PAGES,
    SP_KEY_SMART_SCAN,
    SP_KEY_ADVISOR_MODE,
    SP_KEY_ADVISOR_MAX_CPU,
    SP_KEY_ADVISOR_MIN_PAGES,
    SP_KEY_ADVISOR_MAX_PAGES,
    SP_KEY_ADVISOR_SCAN_TIME,
    SP_KEY_MAX_KERNEL_PAGES,
    SP_KEY_MAX_MAPPINGS,
    SP_SETTINGS,
    SP_KEY_FULL_SCANS = SP_SETTINGS,
    SP_KEY_PAGES_SCANNED,
    SP_KEY_PAGES_SHARED,
    SP_KEY_PAGES_SHARING,
    SP_KEY_PAGES_UNSHARED,
    SP_KEY_PAGES_VOLATILE,
    SP_KEY_PAGES_SKIPPED,
    SP_KEY_ZERO_PAGES,
    SP_KEY_CHAINS,
    SP_KEY_DUPS,
    SP_KEY_GENERAL_PROFIT,
    SP_KEY_KERNEL_PAGES_ALLOCATED,
    SP_KEYS
};

enum sp_kind {
    SP_KIND_NUMBER,
    SP_KIND_SWITCH, /* 0 or 1; the kernel takes words for it, too */
    SP_KIND_MODE,   /* the advisor's: index of sp_advisor_modes */
    SP_KIND_COUNTER,
    SP_KIND_SIGNED, /* a counter that may be negative */
};

struct sp_setting {
    const char *key;
    enum sp_kind kind;
    bool of_daemon;
    uint64_t min, max;
};

#define SP_SETTING_NAMES                                                                           \
    "run, pages_to_scan, sleep_millisecs, merge_across_nodes, max_page_sharing, "                  \
    "stable_node_chains_prune_millisecs, use_zero_pages, smart_scan, advisor_mode, "               \
    "advisor_max_cpu, advisor_min_pages_to_scan, advisor_max_pages_to_scan, "                      \
    "advisor_target_scan_time, max_kernel_pages, max_mappings"

#define SP_SETTING_TEXT_SIZE 32u /* any value as text, with its 0 */

/* Indexed by enum sp_key. */
extern const struct sp_setting sp_settings[SP_KEYS];

/* The setting or counter of that name, or NULL. */
const struct sp_setting *sp_key_find(const char *name);
/* The setting of that name, or NULL: not one, or a counter. */
const struct sp_setting *sp_setting_find(const char *name);
static inline enum sp_key sp_key_of(const struct sp_setting *setting)
{
    return (enum sp_key)(setting - sp_settings);
}

/* Reads a setting's value: digits only, or the name of a mode, within its bounds. -EINVAL: anything
 * else. */
int sp_setting_read(const struct sp_setting *setting, const char *text, uint64_t *value);
/* The same with what the kernel's file takes beside that: a + in front, and words for a switch; and
 * with -ERANGE where the kernel says that of a number that is too large. A newline is not taken: who
 * has one cuts it off. */
int sp_setting_read_as_kernel(const struct sp_setting *setting, const char *text, uint64_t *value);
/* A setting's or counter's value as its file shows it, without newline. A negative one of
 * SP_KIND_SIGNED comes as its two's complement. */
void sp_setting_show(const struct sp_setting *setting, uint64_t value,
                     char text[SP_SETTING_TEXT_SIZE]);
/* "a number from 1 to 4294967295", "none or scan-time": for messages. */
void sp_setting_bounds(const struct sp_setting *setting, char *text, size_t size);

#endif
