/* SPDX-License-Identifier: Apache-2.0 */
#include "damon.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kernel-page-flags.h>
#include <linux/mempolicy.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FOLDER   "/sys/kernel/mm/damon/admin/kdamonds"
#define CONTEXT  "0/contexts/0"
#define SCHEME   CONTEXT "/schemes/0"
#define REGIONS  CONTEXT "/targets/0/regions"
#define PATH_MAX_OF_OURS 96u

#define MARK_MSECS   1514041809u /* the quota's window; by it ours is known */
#define SAMPLE_USECS 1000u       /* how soon DAMON takes notice of what it is told */
#define TURN_MSECS   2000u       /* for another one of ours to be done */
#define WRITE_MSECS  10000u      /* for the disk */
#define REGIONS_MIN  3u          /* DAMON's own least */

#define KPF(name) (UINT64_C(1) << KPF_##name)

/* ---- its files ---- */

static int read_file(int folder, const char *path, char *to, size_t size)
{
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, to, size - 1);
    int err = n < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    to[n < 0 ? 0 : n] = 0;
    return err;
}

/* UINT64_MAX: it cannot be read. */
static uint64_t read_number(int folder, const char *path)
{
    char text[32];

    return read_file(folder, path, text, sizeof(text)) ? UINT64_MAX : strtoull(text, NULL, 10);
}

/* One write; what is refused is an error at once: half an order would have other pages go. */
static int write_file(int folder, const char *path, const char *text)
{
    int fd = openat(folder, path, O_WRONLY | O_CLOEXEC), err = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        err = -errno;
    close(fd);
    return err;
}

static int write_number(int folder, const char *path, uint64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, number);
    return write_file(folder, path, text);
}

/* ---- whose turn it is ---- */

static int take_turn(int lock)
{
    const struct timespec wait = {.tv_nsec = 1000000};

    for (unsigned i = 0; flock(lock, LOCK_EX | LOCK_NB); i++) {
        if (errno != EWOULDBLOCK || i == TURN_MSECS)
            return -EBUSY;
        nanosleep(&wait, NULL);
    }
    return 0;
}

static void take_down(int folder)
{
    (void)write_file(folder, "0/state", "off"); /* EINVAL: it was never begun */
    (void)write_number(folder, "nr_kdamonds", 0);
}

/* 0: nobody uses it now; what one of ours left is gone. */
static int is_free(int folder)
{
    uint64_t n = read_number(folder, "nr_kdamonds");

    if (n == 1 && read_number(folder, SCHEME "/quotas/reset_interval_ms") == MARK_MSECS) {
        take_down(folder);
        n = read_number(folder, "nr_kdamonds");
    }
    return n == 0 ? 0 : -EBUSY;
}

/* ---- the order ---- */

struct setting {
    const char *path, *text;
};

/*
 * In this order. It is to be carried out each time that DAMON looks (an interval that is less than the sampling's),
 * so also the first time that it sees the regions: else it would first look at a page of each region, and take its mark
 * away, before the filter asks for it. That is why they come when it runs already.
 */
static const struct setting settings[] = {
    {"nr_kdamonds", "1"},
    {"0/contexts/nr_contexts", "1"},
    {CONTEXT "/operations", "paddr"},
    {CONTEXT "/targets/nr_targets", "1"},
    {CONTEXT "/schemes/nr_schemes", "1"},
    {SCHEME "/action", "pageout"},
    {SCHEME "/access_pattern/sz/max", "18446744073709551615"},
    {SCHEME "/access_pattern/nr_accesses/max", "4294967295"},
    {SCHEME "/access_pattern/age/max", "4294967295"},
    {SCHEME "/apply_interval_us", "1"},
    {SCHEME "/filters/nr_filters", "1"},
    {SCHEME "/filters/0/type", "young"}, /* Linux 6.10 */
    {SCHEME "/filters/0/matching", "Y"}, /* those are left out */
};

/* Pages that are to go. */
struct pages {
    const struct sp_damon_run *run;
    uint32_t nruns;
};

static uint64_t count_pages(const struct pages *pages)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < pages->nruns; i++)
        n += pages->run[i].to - pages->run[i].from;
    return n;
}

static int begin(int folder, const struct pages *pages, uint64_t page_size)
{
    const char *intervals = CONTEXT "/monitoring_attrs/intervals";
    char path[PATH_MAX_OF_OURS];
    int err = 0;

    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && !err; i++)
        err = write_file(folder, settings[i].path, settings[i].text);
    if (err)
        return err == -EBUSY ? err : -EOPNOTSUPP;
    snprintf(path, sizeof(path), "%s/sample_us", intervals);
    err = write_number(folder, path, SAMPLE_USECS);
    if (!err)
        err = write_number(folder, CONTEXT "/monitoring_attrs/nr_regions/max", pages->nruns + REGIONS_MIN);
    if (!err)
        err = write_number(folder, CONTEXT "/monitoring_attrs/nr_regions/min", REGIONS_MIN);
    if (!err)
        err = write_number(folder, SCHEME "/quotas/bytes", count_pages(pages) * page_size);
    if (!err)
        err = write_number(folder, SCHEME "/quotas/reset_interval_ms", MARK_MSECS);
    return err ? err : write_file(folder, "0/state", "on");
}

static int put_regions(int folder, const struct pages *pages, uint64_t page_size)
{
    char path[PATH_MAX_OF_OURS];
    int err = write_number(folder, REGIONS "/nr_regions", pages->nruns);

    for (uint32_t i = 0; i < pages->nruns && !err; i++) {
        snprintf(path, sizeof(path), REGIONS "/%" PRIu32 "/start", i);
        err = write_number(folder, path, pages->run[i].from * page_size);
        snprintf(path, sizeof(path), REGIONS "/%" PRIu32 "/end", i);
        if (!err)
            err = write_number(folder, path, pages->run[i].to * page_size);
    }
    return err;
}

/* What it says of itself is what was so when it was asked last: asking is answered when it comes round. */
static int take_answer(int folder, struct sp_damon_order *order, uint64_t page_size)
{
    int err = write_file(folder, "0/state", "update_schemes_stats");
    uint64_t applied;

    if (err)
        return err;
    order->passed = read_number(folder, SCHEME "/stats/sz_ops_filter_passed");
    if (order->passed != UINT64_MAX)
        order->passed /= page_size;
    applied = read_number(folder, SCHEME "/stats/sz_applied");
    if (applied == UINT64_MAX)
        return -EOPNOTSUPP;
    order->applied += applied / page_size;
    return 0;
}

/*
 * Pages that were put on a list of the kernel's just now are held back by each processor, some tens of them, and DAMON
 * passes them by. To move pages all processors must give up theirs; where one stays no other is meant. Without
 * NUMA in the kernel this does nothing, and these pages stay for now.
 */
static void have_lists_settled(void)
{
    static char here;
    void *page = &here;
    int node = 0, status;

    here = 1;
    (void)!syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, MPOL_MF_MOVE);
}

static int carry_out(int folder, const struct pages *pages, struct sp_damon_order *order)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    int err = begin(folder, pages, page_size);

    have_lists_settled();
    if (!err)
        err = put_regions(folder, pages, page_size);
    if (!err)
        err = write_file(folder, "0/state", "commit");
    if (!err)
        err = take_answer(folder, order, page_size);
    take_down(folder);
    return err;
}

/* ---- pages on their way ---- */

/*
 * To a disk a page is written first, and it is free only when somebody comes by after that: it is nobody's
 * by then, and waits in the cache of swap.
 */
static bool is_on_its_way(uint64_t flags)
{
    return flags & KPF(SWAPCACHE) && !(flags & KPF(MMAP));
}

/* Those pages of the order that are on their way go to run, if that is not NULL. Returns into how many runs, and
 * sets *writing: there are some that are not written yet. Pages of which nothing can be learnt are left out. */
static uint32_t find_on_their_way(int flags, const struct sp_damon_order *order, struct sp_damon_run *run,
                                  bool *writing)
{
    uint32_t n = 0;

    *writing = false;
    for (uint32_t i = 0; i < order->nruns; i++)
        for (uint64_t page = order->run[i].from; page < order->run[i].to; page++) {
            uint64_t is;

            if (pread(flags, &is, sizeof(is), (off_t)(page * sizeof(is))) != sizeof(is) || !is_on_its_way(is))
                continue;
            *writing = *writing || is & KPF(WRITEBACK);
            if (n && run[n - 1].to == page)
                run[n - 1].to++;
            else
                run[n++] = (struct sp_damon_run){page, page + 1};
        }
    return n;
}

/* Waits until they are written, and has them go. What is used again meanwhile stays. */
static int send_on_their_way(int folder, struct sp_damon_order *order)
{
    const struct timespec wait = {.tv_nsec = 1000000};
    const struct pages all = {order->run, order->nruns};
    struct sp_damon_run *run = calloc(count_pages(&all), sizeof(*run));
    int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC), err = run && flags >= 0 ? 0 : -ENOMEM;
    uint64_t passed = order->passed;
    bool writing = false;
    struct pages rest = {run, 0};

    for (unsigned i = 0; i < WRITE_MSECS && !err; i++) {
        rest.nruns = find_on_their_way(flags, order, run, &writing);
        if (!writing)
            break;
        nanosleep(&wait, NULL);
    }
    if (!err && rest.nruns)
        err = carry_out(folder, &rest, order);
    order->passed = passed;
    if (flags >= 0)
        close(flags);
    free(run);
    return err;
}

int sp_damon_can(void)
{
    if (access(FOLDER "/nr_kdamonds", F_OK))
        return -EOPNOTSUPP;
    return access(FOLDER "/nr_kdamonds", W_OK) ? -EACCES : 0;
}

void sp_damon_carry_out(struct sp_damon_order *order)
{
    int folder = open(FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC), lock = -1, err;
    const struct pages all = {order->run, order->nruns};

    order->passed = UINT64_MAX;
    order->applied = 0;
    if (folder >= 0)
        lock = openat(folder, "nr_kdamonds", O_RDWR | O_CLOEXEC);
    err = lock < 0 ? -errno : take_turn(lock);
    if (!err)
        err = is_free(folder);
    if (!err && order->nruns)
        err = carry_out(folder, &all, order);
    if (!err && order->applied < order->passed)
        err = send_on_their_way(folder, order);
    order->status = err;
    if (lock >= 0)
        close(lock);
    if (folder >= 0)
        close(folder);
}
