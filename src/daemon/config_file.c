/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inih cuts the lines; what it would let pass is found here: lines that are too long for it, bytes
 * that no text has, sections that nobody knows. The first error counts.
 */
#include "config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "control_parse.h"
#include "log.h"
#include "settings.h"
#include "store.h"

#define SHOWN_MAX 64 /* bytes of a wrong word that are shown */
#define WHAT_MAX  512

/* Keys that may stand there once only. */
enum { SEEN_SOCKET = SP_SETTINGS, SEEN_LOG, SEEN_PROGRAMS, SEEN_CONNECTIONS, SEEN_ALLOW,
       SEEN_SWAP, SEEN_SWAP_FILE, SEEN_SWAP_SIZE, SEEN_SWAP_MEMORY, SEEN_SWAP_COMPRESSOR, SEEN_SWAP_ENCRYPT, SEEN_MIN,
       SEEN_MAX, SEEN_FLOOR };

struct reading {
    struct sp_config *config;
    const char *at, *end;
    int line;
    uint64_t seen;  /* bits: numbers of sp_settings, then SEEN_* */
    int wrong_line; /* 0: nothing was wrong */
    char what[WHAT_MAX];
};

__attribute__((format(printf, 2, 3))) static int wrong(struct reading *r, const char *format, ...)
{
    va_list args;

    if (r->wrong_line)
        return 0;
    r->wrong_line = r->line;
    va_start(args, format);
    vsnprintf(r->what, sizeof(r->what), format, args);
    va_end(args);
    return 0;
}

struct shown {
    char text[SHOWN_MAX];
};

/* A word of the file as it may be printed. */
static struct shown shown(const char *word)
{
    struct shown s;

    sp_log_name(s.text, sizeof(s.text), word, strlen(word));
    return s;
}

static bool twice(struct reading *r, unsigned bit)
{
    bool was = r->seen & (UINT64_C(1) << bit);

    r->seen |= UINT64_C(1) << bit;
    return was;
}

static int take_setting(struct reading *r, const struct sp_setting *setting, const char *value)
{
    enum sp_key key = sp_key_of(setting);
    char bounds[80];
    uint64_t number;

    if (sp_setting_read(setting, value, &number)) {
        sp_setting_bounds(setting, bounds, sizeof(bounds));
        return wrong(r, "%s takes %s, not \"%s\"", setting->key, bounds, shown(value).text);
    }
    if (twice(r, key))
        return wrong(r, "%s is given twice", setting->key);
    r->config->value[key] = number;
    return 1;
}

static int take_path(struct reading *r, const char *key, const char *value, char *to, size_t size,
                     unsigned bit)
{
    if (value[0] != '/')
        return wrong(r, "%s takes a path that starts with /, not \"%s\"", key, shown(value).text);
    if (strlen(value) >= size)
        return wrong(r, "the path of %s is longer than %zu bytes", key, size - 1);
    if (twice(r, bit))
        return wrong(r, "%s is given twice", key);
    memcpy(to, value, strlen(value) + 1);
    return 1;
}

static int take_daemon(struct reading *r, const char *key, const char *value)
{
    const struct sp_setting *setting = sp_setting_find(key);
    struct sp_config *config = r->config;

    if (setting)
        return take_setting(r, setting, value);
    if (!strcmp(key, "socket"))
        return take_path(r, key, value, config->socket, sizeof(config->socket), SEEN_SOCKET);
    if (!strcmp(key, "log"))
        return take_path(r, key, value, config->log_file, sizeof(config->log_file), SEEN_LOG);
    return wrong(r, "there is no key \"%s\" in [samepaged]; it has socket, log, " SP_SETTING_NAMES,
                 shown(key).text);
}

static int take_limit(struct reading *r, const char *key, const char *value, uint32_t max,
                      uint32_t *to, unsigned bit)
{
    uint64_t number;

    if (!sp_parse_number(value, max, &number) || number < 1)
        return wrong(r, "%s takes a number from 1 to %" PRIu32 ", not \"%s\"", key, max,
                     shown(value).text);
    if (twice(r, bit))
        return wrong(r, "%s is given twice", key);
    *to = (uint32_t)number;
    return 1;
}

/* The first line of allow replaces "everybody"; later ones add, as those of userfaultfd do. */
static int take_users(struct reading *r, const char *key, const char *value)
{
    struct sp_config *config = r->config;
    bool allow = !strcmp(key, "allow");
    char why[WHAT_MAX / 2];

    if (allow && !twice(r, SEEN_ALLOW))
        config->allow.everybody = false;
    if (sp_users_add(allow ? &config->allow : &config->userfaultfd, value, why, sizeof(why)))
        return wrong(r, "%s: %s", key, why);
    return 1;
}

static int take_user_key(struct reading *r, const char *key, const char *value)
{
    struct sp_config *config = r->config;

    if (!strcmp(key, "allow") || !strcmp(key, "userfaultfd"))
        return take_users(r, key, value);
    if (!strcmp(key, "max_programs"))
        return take_limit(r, key, value, SP_MAX_CLIENTS, &config->max_programs, SEEN_PROGRAMS);
    if (!strcmp(key, "max_connections"))
        return take_limit(r, key, value, SP_MAX_CONNECTIONS, &config->max_connections,
                          SEEN_CONNECTIONS);
    return wrong(r,
                 "there is no key \"%s\" in [users]; it has allow, userfaultfd, max_programs, "
                 "max_connections",
                 shown(key).text);
}

/* A number of bytes, perhaps with K, M, G or T behind it. */
static bool read_bytes(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char digits[24];
    size_t len = strlen(text);
    const char *unit = len > 1 ? strchr(units, text[len - 1]) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;

    len -= unit != NULL;
    if (len >= sizeof(digits))
        return false;
    memcpy(digits, text, len);
    digits[len] = 0;
    if (!sp_parse_number(digits, UINT64_MAX >> shift, bytes))
        return false;
    *bytes <<= shift;
    return true;
}

/* most 0: any number. */
static int take_bytes(struct reading *r, const char *key, const char *value, uint64_t min,
                      uint64_t most, uint64_t *to, unsigned bit)
{
    uint64_t bytes;

    if (read_bytes(value, &bytes) && most && bytes > most)
        return wrong(r, "%s takes at most %" PRIu64 "G, not \"%s\"", key, most >> 30,
                     shown(value).text);
    if (!read_bytes(value, &bytes) || bytes < min)
        return wrong(r, "%s takes bytes, at least %" PRIu64 "M, like 512M or 4G, not \"%s\"", key,
                     min >> 20, shown(value).text);
    if (twice(r, bit))
        return wrong(r, "%s is given twice", key);
    *to = bytes;
    return 1;
}

static int take_choice(struct reading *r, const char *key, const char *value, const char *no,
                       const char *yes, bool *to, unsigned bit)
{
    if (strcmp(value, no) && strcmp(value, yes))
        return wrong(r, "%s takes %s or %s, not \"%s\"", key, no, yes, shown(value).text);
    if (twice(r, bit))
        return wrong(r, "%s is given twice", key);
    *to = !strcmp(value, yes);
    return 1;
}

static int take_swap_key(struct reading *r, const char *key, const char *value)
{
    struct sp_swap_config *swap = &r->config->swap;

    if (!strcmp(key, "swap"))
        return take_choice(r, key, value, "none", "store", &swap->store, SEEN_SWAP);
    if (!strcmp(key, "swap_compressor"))
        return take_choice(r, key, value, "lz4", "zstd", &swap->zstd, SEEN_SWAP_COMPRESSOR);
    if (!strcmp(key, "swap_file"))
        return take_path(r, key, value, swap->file, sizeof(swap->file), SEEN_SWAP_FILE);
    if (!strcmp(key, "swap_encrypt"))
        return take_choice(r, key, value, "no", "yes", &swap->encrypt, SEEN_SWAP_ENCRYPT);
    if (!strcmp(key, "swap_size"))
        return take_bytes(r, key, value, SP_SWAP_LEAST, SP_STORE_MOST_BYTES, &swap->size, SEEN_SWAP_SIZE);
    if (!strcmp(key, "swap_memory"))
        return take_bytes(r, key, value, SP_SWAP_LEAST, SP_STORE_MOST_BYTES, &swap->memory, SEEN_SWAP_MEMORY);
    if (!strcmp(key, "reclaim_min"))
        return take_bytes(r, key, value, 1 << 20, 0, &swap->reclaim_min, SEEN_MIN);
    if (!strcmp(key, "reclaim_max"))
        return take_bytes(r, key, value, 0, 0, &swap->reclaim_max, SEEN_MAX);
    if (!strcmp(key, "reclaim_floor"))
        return take_bytes(r, key, value, 0, 0, &swap->reclaim_floor, SEEN_FLOOR);
    return wrong(r,
                 "there is no key \"%s\" in [swap]; it has swap, swap_file, swap_size, "
                 "swap_encrypt, swap_memory, swap_compressor, reclaim_min, reclaim_max, reclaim_floor",
                 shown(key).text);
}

static int take(void *arg, const char *section, const char *key, const char *value)
{
    struct reading *r = arg;

    if (!strcmp(section, "samepaged"))
        return take_daemon(r, key, value);
    if (!strcmp(section, "users"))
        return take_user_key(r, key, value);
    if (!strcmp(section, "swap"))
        return take_swap_key(r, key, value);
    if (!*section)
        return wrong(r, "\"%s\" stands before any section; begin with [samepaged] or [users]",
                     shown(key).text);
    return 0; /* the section's own line told */
}

/* inih does not tell of a section without keys. */
static void check_section(struct reading *r, const char *line)
{
    char name[SHOWN_MAX];
    size_t len;

    line += strspn(line, " \t");
    if (*line != '[')
        return;
    len = strcspn(++line, "]\r\n");
    snprintf(name, sizeof(name), "%.*s", (int)(len < sizeof(name) ? len : sizeof(name) - 1), line);
    if (len >= sizeof(name) || (strcmp(name, "samepaged") && strcmp(name, "users") && strcmp(name, "swap")))
        wrong(r, "there is no section \"%s\"; the sections are [samepaged], [users] and [swap]",
              shown(name).text);
}

/* What fgets() is to a file. */
static char *next_line(char *buf, int size, void *arg)
{
    struct reading *r = arg;
    size_t left = (size_t)(r->end - r->at), len;
    const char *newline;

    if (left == 0 || r->wrong_line)
        return NULL;
    newline = memchr(r->at, '\n', left);
    len = newline ? (size_t)(newline - r->at) + 1 : left;
    r->line++;
    if (memchr(r->at, 0, len)) {
        wrong(r, "a byte 0 is in it, so it is no text file");
        return NULL;
    }
    if (len >= (size_t)size) {
        wrong(r, "the line is longer than %d bytes; break long lists into several lines", size - 2);
        return NULL;
    }
    memcpy(buf, r->at, len);
    buf[len] = 0;
    r->at += len;
    check_section(r, buf);
    return buf;
}

/* What each key for itself does not tell. */
static void check_swap(struct reading *r)
{
    const struct sp_swap_config *swap = &r->config->swap;

    if (swap->file[0] && !swap->size)
        snprintf(r->what, sizeof(r->what), "swap_file needs swap_size: how large it is to be");
    else if (swap->encrypt && !swap->file[0])
        snprintf(r->what, sizeof(r->what),
                 "swap_encrypt is about swap_file, and there is none: what is packed in memory is not encrypted");
    else if (swap->reclaim_max && swap->reclaim_max < swap->reclaim_min)
        snprintf(r->what, sizeof(r->what), "reclaim_max is less than reclaim_min; 0 has nothing leave by itself");
    else
        return;
    r->wrong_line = r->line > 0 ? r->line : 1;
}

int sp_config_parse(const char *name, const char *text, size_t size, struct sp_config *config,
                    char *why, size_t why_size)
{
    struct reading r = {.config = config, .at = text, .end = text + size};
    int line = ini_parse_stream(next_line, &r, take, &r);

    if (line > 0 && (!r.wrong_line || line < r.wrong_line)) {
        r.wrong_line = line;
        snprintf(r.what, sizeof(r.what), "neither [SECTION] nor KEY = VALUE nor a comment");
    } else if (line < 0 && !r.wrong_line) {
        r.wrong_line = 1;
        snprintf(r.what, sizeof(r.what), "memory is short");
    }
    if (!r.wrong_line)
        check_swap(&r);
    if (!r.wrong_line)
        return 0;
    snprintf(why, why_size, "%s:%d: %s", name, r.wrong_line, r.what);
    return -1;
}

/* Who can write it decides who gets what. */
static int check_file(const char *path, int fd, char *why, size_t why_size)
{
    const char *what = NULL;
    struct stat st;

    if (fstat(fd, &st))
        what = strerror(errno);
    else if (!S_ISREG(st.st_mode))
        what = "it is no plain file";
    else if (st.st_uid != 0 && st.st_uid != geteuid())
        what = "it belongs to neither root nor the daemon's user";
    else if (st.st_mode & 022)
        what = "others can write it; chmod go-w";
    else if (st.st_size > (off_t)SP_CONFIG_FILE_MAX)
        what = "it is longer than 65536 bytes";
    if (what)
        snprintf(why, why_size, "cannot use %s: %s", path, what);
    return what ? -1 : 0;
}

/* Up to size bytes; -1 with errno. */
static ssize_t read_all(int fd, char *text, size_t size)
{
    size_t got = 0;

    while (got < size) {
        ssize_t n = read(fd, text + got, size - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

int sp_config_file_read(const char *path, bool must_exist, struct sp_config *config, char *why,
                        size_t why_size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    char *text = NULL;
    ssize_t size;
    int err = -1;

    /* A folder that may not be entered is not this user's home: su keeps HOME. */
    if (fd < 0 && !must_exist && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
        return 0;
    if (fd < 0) {
        snprintf(why, why_size, "cannot read %s: %s", path, strerror(errno));
        return -1;
    }
    if (check_file(path, fd, why, why_size))
        goto out;
    text = malloc(SP_CONFIG_FILE_MAX);
    size = text ? read_all(fd, text, SP_CONFIG_FILE_MAX) : -1;
    if (size < 0)
        snprintf(why, why_size, "cannot read %s: %s", path, strerror(errno));
    else
        err = sp_config_parse(path, text, (size_t)size, config, why, why_size);
out:
    free(text);
    close(fd);
    return err;
}
