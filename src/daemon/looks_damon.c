/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DAMON as one who tells which pages were used (looks_ask.h).
 *
 * Its scheme goes through regions of physical memory, and passes by what is anonymous, mapped
 * nowhere, or not young. Asking whether a page is young makes it old, in all page tables, and sets
 * its idle mark. What is left is treated as used ("lru_prio"), and that takes the mark off again.
 * So after one such pass /proc/kpageflags shows who was used; another pass, that does nothing with
 * what is young ("stat"), sets the marks for the next look. Each pass can happen more than once
 * without harm.
 *
 * Frames lie all over the memory, and regions are few and large, with what lies between frames:
 * DAMON takes one page of each for its own statistics and makes it old first, so what was known of
 * that is lost; each costs some 50 us to describe, and 3 KiB of the kernel's memory for a while,
 * where to go through a page that is not ours costs 0.07 us. Mapped file pages of others that are
 * young are marked as used, which they were.
 *
 * The interface is one for all. Whoever finds it in use leaves it alone; samepage's own use is
 * under a lock, and has an interval by which it is known if it was killed in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "looks_ask.h"

#define KDAMONDS      "/sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT       "0/contexts/0/"
#define INTERVALS     CONTEXT "monitoring_attrs/intervals/"
#define REGIONS       CONTEXT "targets/0/regions/"
#define SCHEME        CONTEXT "schemes/0/"
#define OURS          UINT64_C(60736570) /* us: by which our use is known */
#define INTERVAL      1000u              /* us: a pass begins so soon */
#define REGIONS_MAX   64u
#define BLOCK         512u     /* pages */
#define PATIENCE      10000u   /* ms, for a pass */
#define HOUR          3600000u /* ms */
#define KPF_IDLE      25u
#define FLAGS_AT_ONCE 512u

struct region {
    uint64_t from, to; /* pages */
};

static int put(const char *name, const char *text)
{
    char path[192];
    int fd, err = 0;

    snprintf(path, sizeof(path), KDAMONDS "%s", name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        err = -errno;
    close(fd);
    return err;
}

static int put_number(const char *name, uint64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return put(name, text);
}

/* UINT64_MAX: it cannot be read. */
static uint64_t get_number(const char *name)
{
    char path[192], text[32];
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), KDAMONDS "%s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return UINT64_MAX;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return UINT64_MAX;
    text[n] = 0;
    return strtoull(text, NULL, 10);
}

/* ---- whose it is ---- */

static void give_up(void)
{
    (void)put("0/state", "off"); /* waits for its end */
    (void)put_number("nr_kdamonds", 0);
}

/* The descriptor that has the lock, or a negative errno. */
static int take(void)
{
    int fd = open(KDAMONDS "nr_kdamonds", O_RDWR | O_CLOEXEC);
    uint64_t n;

    if (fd < 0)
        return -EOPNOTSUPP;
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        return -EBUSY;
    }
    n = get_number("nr_kdamonds");
    if (n == 1 && get_number(INTERVALS "update_us") == OURS) {
        give_up();
        n = get_number("nr_kdamonds");
    }
    if (n != 0) {
        close(fd);
        return -EBUSY;
    }
    return fd;
}

/* ---- what it is told ---- */

struct line {
    const char *name, *text;
};

static int put_all(const struct line *line, size_t n)
{
    int err = 0;

    for (size_t i = 0; i < n && !err; i++)
        err = put(line[i].name, line[i].text);
    return err;
}

static int make_context(void)
{
    static const struct line lines[] = {
        {"nr_kdamonds", "1"},
        {"0/contexts/nr_contexts", "1"},
        {CONTEXT "operations", "paddr"},
        {CONTEXT "targets/nr_targets", "1"},
        {CONTEXT "schemes/nr_schemes", "1"},
        {SCHEME "access_pattern/sz/max", "18446744073709551615"},
        {SCHEME "access_pattern/nr_accesses/max", "4294967295"},
        {SCHEME "access_pattern/age/max", "4294967295"},
        {SCHEME "filters/nr_filters", "3"},
        {SCHEME "filters/0/type", "anon"},
        {SCHEME "filters/0/matching", "Y"},
        {SCHEME "filters/0/allow", "N"},
        {SCHEME "filters/1/type", "unmapped"},
        {SCHEME "filters/1/matching", "Y"},
        {SCHEME "filters/1/allow", "N"},
        {SCHEME "filters/2/type", "young"},
        {SCHEME "filters/2/matching", "N"},
        {SCHEME "filters/2/allow", "N"},
    };
    int err = put_all(lines, sizeof(lines) / sizeof(lines[0]));

    if (!err)
        err = put_number(INTERVALS "update_us", OURS);
    if (!err)
        err = put_number(INTERVALS "sample_us", INTERVAL);
    if (!err)
        err = put_number(INTERVALS "aggr_us", INTERVAL);
    /* Twice as many: it would split them. */
    return err ? err : put_number(CONTEXT "monitoring_attrs/nr_regions/max", REGIONS_MAX * 2);
}

static int put_region(size_t i, const struct region *region, uint64_t page_size)
{
    char name[96];
    int err;

    snprintf(name, sizeof(name), REGIONS "%zu/start", i);
    err = put_number(name, region->from * page_size);
    snprintf(name, sizeof(name), REGIONS "%zu/end", i);
    return err ? err : put_number(name, region->to * page_size);
}

/* The blocks of n pages, those side by side as one, and if these are too many, with ever larger
 * gaps between them. Returns how many. */
static size_t make_regions(struct region *region, const struct sp_look_page *page, size_t n)
{
    size_t made = 0;

    for (uint64_t gap = 0; !made; gap = gap * 2 + BLOCK) {
        for (size_t i = 0; i < n; i++) {
            uint64_t from = page[i].pfn / BLOCK * BLOCK;

            if (made && from <= region[made - 1].to + gap) {
                region[made - 1].to = from + BLOCK;
                continue;
            }
            if (made == REGIONS_MAX) {
                made = 0;
                break;
            }
            region[made++] = (struct region){from, from + BLOCK};
        }
    }
    return made;
}

static int put_regions(const struct sp_look_page *page, size_t n, uint64_t *bytes)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    struct region region[REGIONS_MAX];
    size_t made = make_regions(region, page, n);
    int err = put_number(REGIONS "nr_regions", made);

    *bytes = 0;
    for (size_t i = 0; i < made && !err; i++) {
        err = put_region(i, &region[i], page_size);
        *bytes += (region[i].to - region[i].from) * page_size;
    }
    return err;
}

/* ---- what it does ---- */

static uint64_t now_msecs(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until all of it has been gone through once. */
static int wait_for_pass(uint64_t bytes)
{
    uint64_t until = now_msecs() + PATIENCE, tried;
    int err;

    do {
        err = put("0/state", "update_schemes_stats");
        tried = get_number(SCHEME "stats/sz_tried");
        if (err || tried == UINT64_MAX)
            return err ? err : -EIO;
        if (tried < bytes)
            usleep(INTERVAL);
    } while (tried < bytes && now_msecs() < until);
    return tried < bytes ? -ETIMEDOUT : 0;
}

/* If nobody ends it, because this process is killed, the kernel goes through it twice in an hour,
 * and not all the time. */
static int put_limit(uint64_t bytes)
{
    int err = put_number(SCHEME "quotas/bytes", bytes * 2);

    return err ? err : put_number(SCHEME "quotas/reset_interval_ms", HOUR);
}

static int pass(const char *action, uint64_t bytes)
{
    int err = put(SCHEME "action", action);

    if (!err)
        err = put_limit(bytes);
    if (!err)
        err = put("0/state", "on");
    if (err)
        return err;
    err = wait_for_pass(bytes);
    (void)put("0/state", "off");
    return err;
}

/* Runs of pages at once. */
static int read_marks(struct sp_look_page *page, size_t n)
{
    int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC), err = 0;
    uint64_t flags[FLAGS_AT_ONCE];

    if (fd < 0)
        return -EOPNOTSUPP;
    for (size_t i = 0, k; i < n && !err; i = k) {
        uint64_t first = page[i].pfn;
        size_t size;

        for (k = i + 1; k < n && page[k].pfn - first < FLAGS_AT_ONCE;)
            k++;
        size = (page[k - 1].pfn - first + 1) * sizeof(*flags);
        if (pread(fd, flags, size, (off_t)(first * sizeof(*flags))) != (ssize_t)size)
            err = -EIO;
        for (size_t p = i; p < k && !err; p++)
            page[p].used = !(flags[page[p].pfn - first] >> KPF_IDLE & 1);
    }
    close(fd);
    return err;
}

int sp_look_damon(struct sp_look_page *page, size_t n)
{
    uint64_t bytes;
    int lock, err;

    if (!n)
        return -EOPNOTSUPP;
    lock = take();
    if (lock < 0)
        return lock;
    err = make_context();
    if (err)
        err = -EOPNOTSUPP;
    if (!err)
        err = put_regions(page, n, &bytes);
    if (!err)
        err = pass("lru_prio", bytes);
    if (!err)
        err = read_marks(page, n);
    if (!err)
        err = pass("stat", bytes);
    give_up();
    close(lock);
    return err;
}
