/* SPDX-License-Identifier: Apache-2.0 */
#include "pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "log.h"
#include "looks.h"
#include "reclaim.h"
#include "status.h"

/* Some process lost 200 ms within two seconds: before anything is killed, and not for every hiccup.
 * Only who has CAP_SYS_RESOURCE may ask about less than two seconds. */
#define TRIGGER   "some 200000 2000000"
#define SOON_USEC 3000000u /* so soon again: more is needed */
#define LOOK_USEC 50000u   /* between two looks at the limit */
#define REST_USEC 1000000u /* when nothing can leave */
#define LOOSE_ENDS                                                                                 \
    2u /* rounds without a frame that left: the first one may have used up second chances */
#define NEAR_SHARE  4u /* of the limit is near, at most */
#define SHORT_SHARE 4u /* of the machine's memory: when less is available it is short of it */

struct sp_pressure {
    struct sp_daemon *daemon;
    sd_event_source *psi, *timer;
    int usage, limit, stat;       /* of the daemon's own cgroup; -1: it has none */
    bool machine;                 /* the kernel tells of all of it, and not of our cgroup */
    bool total;                   /* version 1: the sums with those below it have other names */
    uint64_t told_at, told_bytes; /* us; when the kernel spoke last, and what was to leave then */
    uint64_t want;                /* bytes that are to leave yet */
    unsigned empty;               /* rounds in a row in which nothing left */
    uint64_t done;                /* bytes that left */
};

/* ---- what leaves ---- */

static uint64_t resident_bytes(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;
    uint64_t frames = 0;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        struct sp_engine_counters c;

        if (!domain->engine)
            continue;
        sp_engine_counters(domain->engine, &c);
        if (c.pages_shared > c.frames_evicted)
            frames += c.pages_shared - c.frames_evicted;
    }
    return frames * daemon->page_size;
}

/* What may leave now, of what is wanted. */
static uint64_t above_floor(const struct sp_daemon *daemon, uint64_t want)
{
    uint64_t there = resident_bytes(daemon), floor = daemon->config.swap.reclaim_floor;

    if (there <= floor)
        return 0;
    return want < there - floor ? want : there - floor;
}

static uint64_t within(const struct sp_swap_config *config, uint64_t bytes)
{
    if (bytes < config->reclaim_min)
        bytes = config->reclaim_min;
    return bytes < config->reclaim_max ? bytes : config->reclaim_max;
}

/* One piece, that the event loop can bear. False: that is all. */
static bool reclaim_piece(struct sp_pressure *p)
{
    uint64_t bytes = above_floor(p->daemon, p->want), left;
    struct sp_reclaimed got = {0};

    if (bytes)
        (void)sp_looks_fresh(p->daemon); /* from the next piece on: this one does not wait */
    if (bytes)
        (void)sp_reclaim(p->daemon, SP_EVERYBODY, NULL, bytes, &got);
    left = (uint64_t)got.evicted * p->daemon->page_size;
    p->done += left;
    p->want -= left < p->want ? left : p->want;
    p->empty = left ? 0 : p->empty + 1;
    return bytes && p->want && p->empty < LOOSE_ENDS;
}

/* ---- the limit of the cgroup ---- */

static bool read_text(int fd, char *to, size_t size)
{
    ssize_t n = pread(fd, to, size - 1, 0);

    if (n <= 0)
        return false;
    to[n] = 0;
    return true;
}

/* UINT64_MAX: none ("max"), or it cannot be read. */
static uint64_t read_number(int fd)
{
    char text[32], *end;
    unsigned long long number;

    if (!read_text(fd, text, sizeof(text)))
        return UINT64_MAX;
    number = strtoull(text, &end, 10);
    return end == text ? UINT64_MAX : number;
}

static uint64_t stat_of(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* What the kernel can drop by itself: pages of files. */
static uint64_t file_bytes(const struct sp_pressure *p)
{
    char text[8192];

    if (!read_text(p->stat, text, sizeof(text)))
        return 0;
    return p->total
               ? stat_of(text, "\ntotal_inactive_file ") + stat_of(text, "\ntotal_active_file ")
               : stat_of(text, "\ninactive_file ") + stat_of(text, "\nactive_file ");
}

/* How much has to leave; 0: there is room. Programs may fill what is near between two looks. */
static uint64_t over_limit(const struct sp_pressure *p)
{
    uint64_t limit = read_number(p->limit), usage = read_number(p->usage), near, files;

    if (limit >= INT64_MAX || usage >= INT64_MAX) /* version 1 writes the largest number for none */
        return 0;
    near = p->daemon->config.swap.reclaim_min;
    near = near < limit / NEAR_SHARE ? near : limit / NEAR_SHARE;
    if (usage + near <= limit)
        return 0;
    files = file_bytes(p);
    usage -= files < usage ? files : usage;
    return usage + near <= limit ? 0 : usage + near - limit;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
    struct sp_pressure *p = arg;
    uint64_t next = LOOK_USEC;

    (void)usec;
    if (!p->want && p->usage >= 0)
        p->want = over_limit(p);
    if (p->want > p->daemon->config.swap.reclaim_max)
        p->want = p->daemon->config.swap.reclaim_max;
    if (p->want) {
        if (reclaim_piece(p)) {
            next = 0;
        } else {
            next = p->empty ? REST_USEC : LOOK_USEC;
            p->want = p->empty = 0;
        }
    }
    if (!p->want && p->usage < 0)
        return sd_event_source_set_enabled(source, SD_EVENT_OFF);
    sd_event_source_set_time_relative(source, next);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* ---- the kernel's word ---- */

/* In what /proc/meminfo says, KiB. */
static uint64_t meminfo(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* A cgroup that reached its limit is told as the machine's pressure, too: nothing of ours would
 * help it. */
static bool machine_is_short(void)
{
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    char text[4096];
    bool got = fd >= 0 && read_text(fd, text, sizeof(text));

    if (fd >= 0)
        close(fd);
    return !got || meminfo(text, "MemAvailable:") < meminfo(text, "MemTotal:") / SHORT_SHARE;
}

static int on_pressure(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_pressure *p = arg;
    uint64_t now = sp_now_usecs();

    (void)fd;
    if (events & EPOLLERR) /* the cgroup is gone */
        return sd_event_source_set_enabled(source, SD_EVENT_OFF);
    if (p->machine && !machine_is_short())
        return 0;
    p->told_bytes = now - p->told_at < SOON_USEC ? p->told_bytes * 2 : 0;
    p->told_bytes = within(&p->daemon->config.swap, p->told_bytes);
    p->told_at = now;
    if (p->want < p->told_bytes)
        p->want = p->told_bytes;
    sd_event_source_set_time_relative(p->timer, 0);
    return sd_event_source_set_enabled(p->timer, SD_EVENT_ONESHOT);
}

/* ---- its beginning ---- */

/* The daemon's own cgroup: of version 2 (0::/path), or of version 1 that has memory
 * (4:memory:/path). */
static bool own_cgroup(bool v1, char *path, size_t size)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512];
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        char *controllers = strchr(line, ':'),
             *at = controllers ? strchr(controllers + 1, ':') : NULL;

        line[strcspn(line, "\n")] = 0;
        if (!at)
            continue;
        *at++ = 0;
        found = v1 ? !strcmp(controllers + 1, "memory") : !controllers[1];
        if (found)
            snprintf(path, size, "%s", at);
    }
    if (f)
        fclose(f);
    return found;
}

/* In a container the path may be one that is not seen from inside: then what is mounted is its own.
 */
static int open_in(bool v1, const char *name, int flags)
{
    const char *mount = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    char path[512], file[640];
    int fd;

    if (!own_cgroup(v1, path, sizeof(path)))
        return -1;
    snprintf(file, sizeof(file), "%s%s/%s", mount, path, name);
    fd = open(file, flags | O_CLOEXEC);
    if (fd < 0) {
        snprintf(file, sizeof(file), "%s/%s", mount, name);
        fd = open(file, flags | O_CLOEXEC);
    }
    return fd;
}

static void close_limit(struct sp_pressure *p)
{
    int *fds[] = {&p->usage, &p->limit, &p->stat};

    for (unsigned i = 0; i < 3; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

static bool open_limit(struct sp_pressure *p, bool v1)
{
    p->total = v1;
    p->usage = open_in(v1, v1 ? "memory.usage_in_bytes" : "memory.current", O_RDONLY);
    p->limit = open_in(v1, v1 ? "memory.limit_in_bytes" : "memory.max", O_RDONLY);
    p->stat = open_in(v1, "memory.stat", O_RDONLY);
    if (p->usage >= 0 && p->limit >= 0 && p->stat >= 0)
        return true;
    close_limit(p);
    return false;
}

/* PSI of the cgroup, else of the machine: a descriptor, or a negative errno. */
static int open_psi(bool *machine)
{
    int fd = open_in(false, "memory.pressure", O_RDWR | O_NONBLOCK), err;

    *machine = fd < 0;
    if (fd < 0)
        fd = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, TRIGGER, sizeof(TRIGGER)) >= 0)
        return fd;
    err = -errno;
    close(fd);
    return err;
}

static int add_psi(struct sp_pressure *p)
{
    int fd = open_psi(&p->machine), err;

    if (fd < 0)
        return fd;
    if (p->usage < 0) /* the root of all cgroups has no memory of its own */
        p->machine = true;
    err = sd_event_add_io(p->daemon->event, &p->psi, fd, EPOLLPRI, on_pressure, p);
    if (err < 0)
        close(fd);
    else
        sd_event_source_set_io_fd_own(p->psi, 1);
    return err;
}

int sp_pressure_open(struct sp_daemon *daemon)
{
    struct sp_pressure *p;
    bool limited;
    int err, psi;

    if (!daemon->storage || !daemon->config.swap.reclaim_max)
        return 0;
    p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->daemon = daemon;
    p->usage = p->limit = p->stat = -1;
    daemon->pressure = p;
    limited = open_limit(p, false) || open_limit(p, true);
    err = sd_event_add_time_relative(daemon->event, &p->timer, CLOCK_MONOTONIC, LOOK_USEC, 1000,
                                     on_timer, p);
    psi = err < 0 ? err : add_psi(p);
    if (psi < 0)
        sp_log(SP_LOG_WARNING,
               "the kernel does not tell when memory is short (PSI: %s): frames leave memory by "
               "themselves only near the limit of the daemon's cgroup%s",
               strerror(-psi), limited ? "" : ", which has none");
    return err < 0 ? err : 0;
}

uint64_t sp_pressure_bytes(const struct sp_daemon *daemon)
{
    return daemon->pressure ? daemon->pressure->done : 0;
}

void sp_pressure_close(struct sp_daemon *daemon)
{
    struct sp_pressure *p = daemon->pressure;

    if (!p)
        return;
    sd_event_source_disable_unref(p->psi);
    sd_event_source_disable_unref(p->timer);
    close_limit(p);
    free(p);
    daemon->pressure = NULL;
}
