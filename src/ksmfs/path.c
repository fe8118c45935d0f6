/* SPDX-License-Identifier: Apache-2.0 */
/* Names to places, and written bytes to values. */
#include "ksmfs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PID_DIGITS 7 /* of PID_MAX_LIMIT, 4194304 */

bool ksmfs_is_dir(const struct ksmfs_place *place)
{
    return place->kind < KSMFS_SETTING;
}

bool ksmfs_is_writable(const struct ksmfs_place *place)
{
    return place->kind == KSMFS_SETTING && sp_key_of(place->setting) < SP_SETTINGS;
}

bool ksmfs_shows(const struct sp_setting *setting)
{
    return sp_key_of(setting) != SP_KEY_MAX_MAPPINGS;
}

static int name_to_domain(const char *name, size_t size, char domain[KSMFS_DOMAIN_SIZE])
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-:";

    if (!size || size >= KSMFS_DOMAIN_SIZE || strspn(name, letters) < size)
        return -ENOENT;
    memcpy(domain, name, size);
    domain[size] = 0;
    return 0;
}

static int name_to_pid(const char *name, size_t size, pid_t *pid)
{
    pid_t value = 0;

    if (!size || size > PID_DIGITS || name[0] == '0')
        return -ENOENT;
    for (size_t i = 0; i < size; i++) {
        if (name[i] < '0' || name[i] > '9')
            return -ENOENT;
        value = value * 10 + (name[i] - '0');
    }
    *pid = value;
    return 0;
}

static int place_of_setting(const char *name, struct ksmfs_place *place)
{
    place->setting = sp_key_find(name);
    place->kind = KSMFS_SETTING;
    return place->setting && ksmfs_shows(place->setting) ? 0 : -ENOENT;
}

static int place_of_pid_file(const char *name, struct ksmfs_place *place)
{
    if (!strcmp(name, "ksm_stat"))
        place->kind = KSMFS_STAT;
    else if (!strcmp(name, "ksm_merging_pages"))
        place->kind = KSMFS_MERGING;
    else
        return -ENOENT;
    return 0;
}

int ksmfs_place_of(const char *path, struct ksmfs_place *place)
{
    bool domain = !strncmp(path, "/domains", 8) && (!path[8] || path[8] == '/');
    bool proc = !strncmp(path, "/proc", 5) && (!path[5] || path[5] == '/');
    const char *name, *slash;
    size_t size;
    int err;

    memset(place, 0, sizeof(*place));
    if (!strcmp(path, "/"))
        return 0;
    if (!domain && !proc)
        return place_of_setting(path + 1, place);
    name = path + (domain ? 8 : 5);
    if (!*name) {
        place->kind = domain ? KSMFS_DOMAINS : KSMFS_PROC;
        return 0;
    }
    name++;
    slash = strchrnul(name, '/');
    size = (size_t)(slash - name);
    err = domain ? name_to_domain(name, size, place->domain) : name_to_pid(name, size, &place->pid);
    place->kind = domain ? KSMFS_DOMAIN : KSMFS_PID;
    if (err || !*slash)
        return err;
    return domain ? place_of_setting(slash + 1, place) : place_of_pid_file(slash + 1, place);
}

int ksmfs_written(const struct sp_setting *setting, const char *data, size_t size,
                  char text[SP_SETTING_TEXT_SIZE])
{
    char copy[KSMFS_WRITE_MAX + 1];
    uint64_t value;
    size_t len;
    int err;

    len = strnlen(data, size < KSMFS_WRITE_MAX ? size : KSMFS_WRITE_MAX);
    memcpy(copy, data, len);
    if (len && copy[len - 1] == '\n')
        len--;
    copy[len] = 0;
    err = sp_setting_read_as_kernel(setting, copy, &value);
    if (err)
        return err;
    if (setting->kind == SP_KIND_MODE && len < SP_SETTING_TEXT_SIZE)
        memcpy(text, copy, len + 1); /* the name of a mode: that it was one says that it fits */
    else
        snprintf(text, SP_SETTING_TEXT_SIZE, "%" PRIu64, value);
    return 0;
}
