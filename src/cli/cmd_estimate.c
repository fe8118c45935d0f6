/* SPDX-License-Identifier: Apache-2.0 */
/* samepage estimate: reads running programs and says what merging them would save. */
#include "cli.h"
#include "estimate.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define PID_MAX          4194304 /* PID_MAX_LIMIT of the kernel: no pid reaches it */
#define SETTLE_MAX       86400u  /* seconds */
#define EXIT_INTERRUPTED (128 + SIGINT)
#define PROGRESS_MS      100u
#define MAX_MAP_COUNT    65530u /* the kernel's default */

struct estimate {
    bool json, advised, progress, settled;
    uint64_t settle; /* seconds */
    struct sp_estimate_list list;
    struct sp_estimate_sum sum;
    struct sp_estimate_scan scan;
    size_t at;                /* process that is being read */
    uint64_t pages, shown_at; /* for the progress; ms */
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static int parse_options(int argc, char **argv, struct estimate *e)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"all", no_argument, NULL, 'a'},
                                            {"advised", no_argument, NULL, 'm'},
                                            {"settle", required_argument, NULL, 's'},
                                            {0}};
    bool all = false;
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":jams:", options, NULL)) != -1) {
        if (opt == 'j') {
            e->json = true;
        } else if (opt == 'a') {
            all = true;
        } else if (opt == 'm') {
            e->advised = true;
        } else if (opt == 's') {
            e->settled = true;
            if (!sp_parse_number(optarg, SETTLE_MAX, &e->settle))
                return sp_bad_use(&sp_command_estimate, "'%s' is no number of seconds (at most %u)",
                                  optarg, SETTLE_MAX);
        } else {
            return sp_bad_option(&sp_command_estimate, argv, opt);
        }
    }
    if (all && e->advised)
        return sp_bad_use(&sp_command_estimate, "--all and --advised exclude each other");
    for (int i = optind; i < argc; i++) {
        uint64_t pid;

        if (!sp_parse_number(argv[i], PID_MAX, &pid) || !pid)
            return sp_bad_use(&sp_command_estimate, "'%s' is no PID", argv[i]);
    }
    return SP_EXIT_DONE;
}

/* ---- progress ---- */

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void show_progress(void *arg, uint64_t pages)
{
    struct estimate *e = arg;
    char bytes[32];

    e->pages += pages;
    if (!e->progress || now_ms() - e->shown_at < PROGRESS_MS)
        return;
    e->shown_at = now_ms();
    fprintf(stderr, "\r\033[Kreading pid %d (%zu of %zu), %s so far", e->list.process[e->at].pid,
            e->at + 1, e->list.n,
            sp_human_bytes((int64_t)e->pages * sysconf(_SC_PAGESIZE), bytes, sizeof(bytes)));
}

static void clear_progress(const struct estimate *e)
{
    if (e->progress)
        fputs("\r\033[K", stderr);
}

/* ---- the way of an estimate ---- */

static int no_memory(void)
{
    sp_say("estimate: out of memory: it needs about a hundredth of the memory that it reads; name "
           "fewer processes");
    return SP_EXIT_COULD_NOT;
}

static bool is_listed(const struct sp_estimate_list *list, pid_t pid)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->process[i].pid == pid)
            return true;
    return false;
}

static int list_named(struct estimate *e, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        enum sp_estimate_skip skip;
        uint64_t pid = 0;
        char why[256];
        int ret;

        if (!sp_parse_number(argv[i], PID_MAX, &pid) || is_listed(&e->list, (pid_t)pid))
            continue;
        ret = sp_estimate_list_add(&e->list, (pid_t)pid, &skip, why, sizeof(why));
        if (ret < 0)
            return no_memory();
        if (ret) {
            sp_say("estimate: pid %" PRIu64 " is not looked at: %s", pid, why);
            return SP_EXIT_COULD_NOT;
        }
    }
    return SP_EXIT_DONE;
}

static int list_processes(struct estimate *e, int argc, char **argv)
{
    int err;

    if (argc)
        return list_named(e, argc, argv);
    err = sp_estimate_list_all(&e->list);
    if (err == -ENOMEM)
        return no_memory();
    if (err) {
        sp_say("estimate: cannot list the processes in /proc: %s", strerror(-err));
        return SP_EXIT_COULD_NOT;
    }
    return SP_EXIT_DONE;
}

/* Only a process that was not named may be skipped without a word. */
static int take_error(struct estimate *e, bool named, int err)
{
    const struct sp_estimate_process *p = &e->list.process[e->at];
    bool denied = err == -EACCES || err == -EPERM;

    if (err == -ENOMEM) {
        clear_progress(e);
        return no_memory();
    }
    if (err == -ENOTTY || err == -EINVAL) {
        clear_progress(e);
        sp_say("estimate: this kernel cannot say which pages are in memory (PAGEMAP_SCAN): Linux "
               "6.7 or newer is needed");
        return SP_EXIT_COULD_NOT;
    }
    if (named) {
        clear_progress(e);
        sp_say("estimate: pid %d cannot be read: %s%s", p->pid, strerror(-err),
               denied ? "; ask as its user or as root" : "");
        return SP_EXIT_COULD_NOT;
    }
    sp_estimate_list_drop(&e->list, e->at, denied ? SP_SKIP_DENIED : SP_SKIP_GONE);
    return SP_EXIT_DONE;
}

static int read_processes(struct estimate *e, bool named)
{
    int ret = SP_EXIT_DONE;

    e->at = 0;
    while (ret == SP_EXIT_DONE && e->at < e->list.n && !interrupted) {
        int err = sp_estimate_scan(&e->scan, &e->list.process[e->at]);

        if (err)
            ret = take_error(e, named, err);
        else
            e->at++;
    }
    return ret;
}

/* Waits, and leaves out what changes meanwhile. */
static int settle(struct estimate *e)
{
    uint64_t until = now_ms() + e->settle * 1000;
    int err = 0;

    while (!interrupted && now_ms() < until) {
        struct timespec nap = {.tv_nsec = 50000000};

        nanosleep(&nap, NULL);
    }
    for (e->at = 0; !err && e->at < e->list.n && !interrupted; e->at++)
        err = sp_estimate_scan_again(&e->scan, &e->list.process[e->at]);
    return err == -ENOMEM ? no_memory() : SP_EXIT_DONE;
}

static uint32_t max_map_count(void)
{
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    uint32_t count = 0;

    if (!f || fscanf(f, "%" SCNu32, &count) != 1)
        count = MAX_MAP_COUNT;
    if (f)
        fclose(f);
    return count;
}

static int begin(struct estimate *e)
{
    struct sigaction on_interrupt = {.sa_handler = note_interrupt, .sa_flags = (int)SA_RESETHAND};

    e->progress = isatty(STDERR_FILENO) == 1;
    e->scan = (struct sp_estimate_scan){.all = !e->advised,
                                        .max_map_count = max_map_count(),
                                        .stop = &interrupted,
                                        .progress = show_progress,
                                        .arg = e};
    if (getrandom(&e->scan.seed, sizeof(e->scan.seed), 0) != sizeof(e->scan.seed)) {
        sp_say("estimate: no random number to begin with: %s", strerror(errno));
        return SP_EXIT_COULD_NOT;
    }
    sigaction(SIGINT, &on_interrupt, NULL);
    return SP_EXIT_DONE;
}

static int report(struct estimate *e, bool named)
{
    struct sp_estimate_report r = {.list = &e->list,
                                   .sum = &e->sum,
                                   .settled = e->settled,
                                   .complete = !interrupted,
                                   .every = named};
    int ret;

    if (sp_estimate_tally(e->list.process, e->list.n, sp_estimate_zero_hash(e->scan.seed), &e->sum))
        return no_memory();
    ret = e->json ? sp_estimate_print_json(&r) : sp_estimate_print(&r);
    return ret == SP_EXIT_DONE && !r.complete ? EXIT_INTERRUPTED : ret;
}

static int estimate(int argc, char **argv)
{
    struct estimate e = {0};
    int ret = parse_options(argc, argv, &e);
    bool named = optind < argc;

    if (ret == SP_EXIT_DONE)
        ret = begin(&e);
    if (ret == SP_EXIT_DONE)
        ret = list_processes(&e, argc - optind, argv + optind);
    if (ret == SP_EXIT_DONE)
        ret = read_processes(&e, named);
    if (ret == SP_EXIT_DONE && e.settled)
        ret = settle(&e);
    clear_progress(&e);
    if (ret == SP_EXIT_DONE)
        ret = report(&e, named);
    sp_estimate_list_free(&e.list);
    return ret;
}

const struct sp_command sp_command_estimate = {
    .name = "estimate",
    .usage = "estimate [--json] [--all|--advised] [--settle S] [PID]...",
    .summary = "Reads running programs and says what merging them would save",
    .help =
        "Changes nothing. Looks at the processes named, or at all that it may read; those of\n"
        "different users are never merged with one another. No daemon is needed. Memory needed:\n"
        "about a hundredth of what is read. Exit status 130 on Ctrl-C, after what was seen.\n"
        "  --all        the memory that \"samepage run --all\" would look after (default)\n"
        "  --advised    only memory that the programs advised with MADV_MERGEABLE\n"
        "  --settle S   look again after S seconds, and leave out what changed\n"
        "  --json       print all as one JSON object\n",
    .run = estimate,
};
