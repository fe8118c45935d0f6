/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct sp_setting sp_settings[SP_KEYS] = {
    [SP_KEY_RUN] = {"run", SP_KIND_NUMBER, false, 0, 2},
    [SP_KEY_PAGES_TO_SCAN] = {"pages_to_scan", SP_KIND_NUMBER, true, 0, UINT32_MAX},
    [SP_KEY_SLEEP_MILLISECS] = {"sleep_millisecs", SP_KIND_NUMBER, true, 0, UINT32_MAX},
    [SP_KEY_MERGE_ACROSS_NODES] = {"merge_across_nodes", SP_KIND_NUMBER, false, 0, 1},
    [SP_KEY_MAX_PAGE_SHARING] = {"max_page_sharing", SP_KIND_NUMBER, false, 2, INT32_MAX},
    [SP_KEY_PRUNE_MILLISECS] = {"stable_node_chains_prune_millisecs", SP_KIND_NUMBER, true, 0,
                                UINT32_MAX},
    [SP_KEY_USE_ZERO_PAGES] = {"use_zero_pages", SP_KIND_SWITCH, false, 0, 1},
    [SP_KEY_SMART_SCAN] = {"smart_scan", SP_KIND_SWITCH, false, 0, 1},
    [SP_KEY_ADVISOR_MODE] = {"advisor_mode", SP_KIND_MODE, true, 0, 1},
    [SP_KEY_ADVISOR_MAX_CPU] = {"advisor_max_cpu", SP_KIND_NUMBER, true, 0, UINT32_MAX},
    [SP_KEY_ADVISOR_MIN_PAGES] = {"advisor_min_pages_to_scan", SP_KIND_NUMBER, true, 0,
                                  UINT64_MAX},
    [SP_KEY_ADVISOR_MAX_PAGES] = {"advisor_max_pages_to_scan", SP_KIND_NUMBER, true, 0,
                                  UINT64_MAX},
    [SP_KEY_ADVISOR_SCAN_TIME] = {"advisor_target_scan_time", SP_KIND_NUMBER, true, 1,
                                  UINT64_MAX},
    [SP_KEY_MAX_KERNEL_PAGES] = {"max_kernel_pages", SP_KIND_NUMBER, false, 0, UINT64_MAX},
    [SP_KEY_MAX_MAPPINGS] = {"max_mappings", SP_KIND_NUMBER, false, 0, UINT32_MAX},
    [SP_KEY_FULL_SCANS] = {"full_scans", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_SCANNED] = {"pages_scanned", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_SHARED] = {"pages_shared", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_SHARING] = {"pages_sharing", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_UNSHARED] = {"pages_unshared", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_VOLATILE] = {"pages_volatile", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_PAGES_SKIPPED] = {"pages_skipped", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_ZERO_PAGES] = {"ksm_zero_pages", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_CHAINS] = {"stable_node_chains", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_DUPS] = {"stable_node_dups", SP_KIND_COUNTER, false, 0, 0},
    [SP_KEY_GENERAL_PROFIT] = {"general_profit", SP_KIND_SIGNED, false, 0, 0},
    [SP_KEY_KERNEL_PAGES_ALLOCATED] = {"kernel_pages_allocated", SP_KIND_COUNTER, false, 0, 0},
};

static const char *const modes[] = {"none", "scan-time"};
#define MODES (sizeof(modes) / sizeof(modes[0]))

const struct sp_setting *sp_key_find(const char *name)
{
    for (unsigned i = 0; i < SP_KEYS; i++)
        if (strcmp(sp_settings[i].key, name) == 0)
            return &sp_settings[i];
    return NULL;
}

const struct sp_setting *sp_setting_find(const char *name)
{
    const struct sp_setting *found = sp_key_find(name);

    return found && sp_key_of(found) < SP_SETTINGS ? found : NULL;
}

/* -ERANGE: a number, but not one of 64 bits. */
static int read_number(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    bool over = false;

    if (!*text)
        return -EINVAL;
    for (; *text; text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        if (*text < '0' || *text > '9')
            return -EINVAL;
        over = over || value > (UINT64_MAX - digit) / 10;
        value = value * 10 + digit;
    }
    *out = value;
    return over ? -ERANGE : 0;
}

static int read_mode(const char *text, uint64_t *value)
{
    for (unsigned i = 0; i < MODES; i++) {
        if (strcmp(modes[i], text))
            continue;
        *value = i;
        return 0;
    }
    return -EINVAL;
}

int sp_setting_read(const struct sp_setting *setting, const char *text, uint64_t *value)
{
    uint64_t number;

    if (setting->kind == SP_KIND_MODE)
        return read_mode(text, value);
    if (sp_key_of(setting) >= SP_SETTINGS || read_number(text, &number) ||
        number < setting->min || number > setting->max)
        return -EINVAL;
    *value = number;
    return 0;
}

/* As kstrtobool(): the first character decides, of "on" and "off" the second. */
static int read_switch(const char *text, uint64_t *value)
{
    char c = text[0];

    if (c == 'o' || c == 'O')
        c = text[1] == 'n' || text[1] == 'N' ? '1' : text[1] == 'f' || text[1] == 'F' ? '0' : 'x';
    if (!c || !strchr("eEyYtT1dDnNfF0", c))
        return -EINVAL;
    *value = strchr("eEyYtT1", c) != NULL;
    return 0;
}

/* The two files whose errors the kernel passes on as they are. The first of them is an int there. */
static int too_large(const struct sp_setting *setting, const char *text)
{
    uint64_t number;
    int err = read_number(text, &number);

    if (err == -EINVAL)
        return -EINVAL;
    if (sp_key_of(setting) == SP_KEY_MAX_PAGE_SHARING)
        return err || number > INT32_MAX ? -ERANGE : -EINVAL;
    return sp_key_of(setting) == SP_KEY_MERGE_ACROSS_NODES && err ? -ERANGE : -EINVAL;
}

int sp_setting_read_as_kernel(const struct sp_setting *setting, const char *text, uint64_t *value)
{
    if (setting->kind == SP_KIND_SWITCH)
        return read_switch(text, value);
    if (setting->kind == SP_KIND_NUMBER && *text == '+')
        text++;
    return sp_setting_read(setting, text, value) ? too_large(setting, text) : 0;
}

void sp_setting_show(const struct sp_setting *setting, uint64_t value,
                     char text[SP_SETTING_TEXT_SIZE])
{
    if (setting->kind == SP_KIND_MODE)
        snprintf(text, SP_SETTING_TEXT_SIZE, value ? "none [scan-time]" : "[none] scan-time");
    else if (setting->kind == SP_KIND_SIGNED)
        snprintf(text, SP_SETTING_TEXT_SIZE, "%" PRId64, (int64_t)value);
    else
        snprintf(text, SP_SETTING_TEXT_SIZE, "%" PRIu64, value);
}

void sp_setting_bounds(const struct sp_setting *setting, char *text, size_t size)
{
    if (setting->kind == SP_KIND_MODE)
        snprintf(text, size, "%s or %s", modes[0], modes[1]);
    else
        snprintf(text, size, "a number from %" PRIu64 " to %" PRIu64, setting->min, setting->max);
}
