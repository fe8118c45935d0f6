/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage wait: returns when merging has settled.
 *
 * Settled means that, since we were called, three whole passes ended and the last two of them
 * merged next to nothing: a page needs two looks before it merges (K3), so fewer passes prove
 * nothing about pages that were written just before.
 */
#include "control_client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_MILLISECS   200
#define PASSES_NEEDED    3
#define QUIET_NEEDED     2
#define EXIT_INTERRUPTED (128 + SIGINT)
#define TIMEOUT_MAX      1000000000u /* 31 years, and no overflow in nanoseconds */

struct wait {
    bool json;
    bool limited;
    bool progress; /* a line on the terminal */
    uint64_t timeout;
    uint64_t started; /* ns */
    int64_t first_scan;
    int64_t scans, quiet, merged;
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int parse_options(int argc, char **argv, struct wait *w)
{
    static const struct option options[] = {
        {"timeout", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'}, {0}};
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":t:j", options, NULL)) != -1) {
        if (opt == 'j') {
            w->json = true;
        } else if (opt == 't') {
            w->limited = true;
            if (!sp_parse_number(optarg, TIMEOUT_MAX, &w->timeout))
                return sp_bad_use(&sp_command_wait, "'%s' is no number of seconds", optarg);
        } else {
            return sp_bad_option(&sp_command_wait, argv, opt);
        }
    }
    if (optind < argc)
        return sp_bad_use(&sp_command_wait, "does not know what to do with '%s'", argv[optind]);
    return SP_EXIT_DONE;
}

static void take_numbers(struct wait *w, json_object *answer, bool first)
{
    w->scans = sp_answer_number(answer, "full_scans");
    w->quiet = sp_answer_number(answer, "quiet_passes");
    w->merged = sp_answer_number(answer, "pages_sharing");
    /* A new daemon counts from 0 again: so do we. */
    if (first || w->scans < w->first_scan)
        w->first_scan = w->scans;
}

static bool settled(const struct wait *w)
{
    return w->scans >= w->first_scan + PASSES_NEEDED && w->quiet >= QUIET_NEEDED;
}

static void show_progress(const struct wait *w)
{
    if (w->progress)
        fprintf(stderr, "\r\033[K%" PRId64 " pages merged, %" PRId64 " passes, %" PRId64 " quiet",
                w->merged, w->scans - w->first_scan, w->quiet);
}

static void clear_progress(const struct wait *w)
{
    if (w->progress)
        fputs("\r\033[K", stderr);
}

/* The reason not to wait any longer, as an exit status; SP_EXIT_DONE to go on. */
static int reason_to_stop(const struct wait *w, json_object *answer)
{
    if (interrupted) {
        clear_progress(w);
        return EXIT_INTERRUPTED;
    }
    if (sp_answer_number(answer, "run") != 1) {
        clear_progress(w);
        sp_say("wait: merging is stopped (run=%" PRId64 "); \"samepage set run=1\" starts it",
               sp_answer_number(answer, "run"));
        return SP_EXIT_COULD_NOT;
    }
    if (sp_answer_scans_nothing(answer)) {
        clear_progress(w);
        sp_say("wait: nothing is scanned while pages_to_scan is 0");
        return SP_EXIT_COULD_NOT;
    }
    if (sp_answer_number(answer, "strict_accounting")) {
        clear_progress(w);
        sp_say("wait: nothing is merged while memory is accounted strictly (vm.overcommit_memory is 2)");
        return SP_EXIT_COULD_NOT;
    }
    if (w->limited && now_ns() - w->started >= w->timeout * 1000000000u) {
        clear_progress(w);
        sp_say("wait: not settled after %" PRIu64 " s: %" PRId64 " of %d passes, %" PRId64
               " of %d quiet; %" PRId64 " pages merged so far",
               w->timeout, w->scans - w->first_scan, PASSES_NEEDED, w->quiet, QUIET_NEEDED,
               w->merged);
        return SP_EXIT_COULD_NOT;
    }
    return SP_EXIT_DONE;
}

/* Asks until it has settled. Leaves the last answer in *answer, the caller's. */
static int poll_daemon(struct wait *w, json_object **answer)
{
    const struct timespec nap = {.tv_nsec = POLL_MILLISECS * 1000000L};
    bool first = true;

    for (;;) {
        int ret;

        json_object_put(*answer);
        *answer = NULL;
        ret = sp_control_ask_op("status", answer);
        if (ret != SP_EXIT_DONE)
            return ret;
        take_numbers(w, *answer, first);
        first = false;
        if (settled(w)) {
            clear_progress(w);
            return SP_EXIT_DONE;
        }
        ret = reason_to_stop(w, *answer);
        if (ret != SP_EXIT_DONE)
            return ret;
        show_progress(w);
        nanosleep(&nap, NULL);
    }
}

static int wait_settled(int argc, char **argv)
{
    struct sigaction on_interrupt = {.sa_handler = note_interrupt};
    struct wait w = {.progress = isatty(STDERR_FILENO) == 1, .started = now_ns()};
    json_object *answer = NULL;
    int ret = parse_options(argc, argv, &w);

    if (ret != SP_EXIT_DONE)
        return ret;
    sigaction(SIGINT, &on_interrupt, NULL);
    ret = poll_daemon(&w, &answer);
    if (ret == SP_EXIT_DONE && w.json)
        ret = sp_print_json(answer);
    json_object_put(answer);
    return ret;
}

const struct sp_command sp_command_wait = {
    .name = "wait",
    .usage = "wait [--timeout S] [--json]",
    .summary = "Returns when merging has settled",
    .help = "Settled: three whole passes since the call, of which the last two merged next to\n"
            "nothing. Exit status 1 when it has not settled in time, 130 on Ctrl-C.\n"
            "  --timeout S  give up after S seconds\n"
            "  --json       print the counters at the end, as status --json does\n",
    .run = wait_settled,
};
