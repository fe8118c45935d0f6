/* SPDX-License-Identifier: Apache-2.0 */
/* samepage status and ps: the counters of K12 and the merged processes, for people and as JSON. */
#include "control_client.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct option json_option[] = {{"json", no_argument, NULL, 'j'}, {0}};

/* Both commands take nothing but --json. Returns SP_EXIT_DONE to go on. */
static int parse_json_only(const struct sp_command *cmd, int argc, char **argv, bool *json)
{
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":j", json_option, NULL)) != -1) {
        if (opt != 'j')
            return sp_bad_option(cmd, argv, opt);
        *json = true;
    }
    if (optind < argc)
        return sp_bad_use(cmd, "does not know what to do with '%s'", argv[optind]);
    return SP_EXIT_DONE;
}

struct row {
    const char *key;
    enum { PAGES, BYTES, COUNT, SECONDS } kind;
    const char *meaning;
};

static const struct row rows[] = {
    {"bytes_saved", BYTES, "net of samepage's own memory"},
    {"pages_shared", PAGES, "frames in use"},
    {"pages_sharing", PAGES, "further sites: pages saved"},
    {"pages_unshared", PAGES, "looked at again and again, no partner"},
    {"pages_volatile", PAGES, "change too fast to merge"},
    {"pages_kept_private", PAGES, "written after their merge, not merged again"},
    {"pages_tracked", PAGES, "looked after in all processes"},
    {"full_scans", COUNT, "whole passes"},
    {"quiet_passes", COUNT, "of these, the last in a row that merged next to nothing"},
    {"pages_scanned", COUNT, "page looks so far"},
    {"pages_merged", COUNT, "pages that a frame has replaced so far"},
    {"pages_unmerged", COUNT, "frames' places given pages of their own again, so far"},
    {"cpu_seconds", SECONDS, "used by daemon and living agents"},
    {"pool_bytes", BYTES, "memory of all frames"},
    {"frames_evicted", COUNT, "frames that are out of memory, in the store"},
    {"store_memory_bytes", BYTES, "memory of the store for them"},
    {"store_file_bytes", BYTES, "of its file that is in use"},
    {"store_errors", COUNT, "frames that it could not give back: who touches one gets SIGBUS"},
    {"frames_lingering", COUNT, "frames without sites, not yet freed"},
    {"frames_stray", COUNT, "of these, mapped still when run was set to 2, by who has no agent"},
    {"mappings", COUNT, "mappings that merging uses"},
    {"bytes_per_tracked_page", SECONDS, "of bookkeeping"},
};

static void print_row(json_object *answer, const struct row *row)
{
    char value[32], bytes[32] = "";
    int64_t n = sp_answer_number(answer, row->key);

    if (!json_object_object_get_ex(answer, row->key, NULL))
        return;
    snprintf(value, sizeof(value), "%" PRId64, n);
    if (row->kind == PAGES)
        sp_human_bytes(n * sysconf(_SC_PAGESIZE), bytes, sizeof(bytes));
    else if (row->kind == BYTES)
        sp_human_bytes(n, bytes, sizeof(bytes));
    else if (row->kind == SECONDS)
        snprintf(value, sizeof(value), "%.2f", sp_answer_real(answer, row->key));
    printf("%-23s%14s  %10s  %s\n", row->key, value, bytes, row->meaning);
}

/* Why pages were given up, only where there is something to tell. */
static void print_refusals(json_object *answer)
{
    static const char *const key[] = {"merge_changed", "merge_pinned",     "merge_gone",
                                      "merge_fork",    "merge_attributes", "merge_mappings",
                                      "merge_memory"};
    const char *comma = "given up because of: ";

    for (size_t i = 0; i < sizeof(key) / sizeof(key[0]); i++) {
        int64_t n = sp_answer_number(answer, key[i]);

        if (!n)
            continue;
        printf("%s%s %" PRId64, comma, key[i] + strlen("merge_"), n);
        comma = ", ";
    }
    if (comma[0] == ',')
        putchar('\n');
}

static const char *run_text(int64_t run)
{
    return run == 1 ? "merging" : run == 0 ? "stopped, merged pages stay" : "un-merging";
}

static int print_status(json_object *answer)
{
    int64_t run = sp_answer_number(answer, "run");

    printf("samepaged %s, pid %" PRId64 ": %s (run=%" PRId64 "); processes: %" PRId64
           ", domains: %" PRId64 "\n",
           sp_answer_text(answer, "version"), sp_answer_number(answer, "daemon_pid"), run_text(run),
           run, sp_answer_number(answer, "processes"), sp_answer_number(answer, "domains"));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        print_row(answer, &rows[i]);
    print_refusals(answer);
    if (sp_answer_scans_nothing(answer))
        puts("nothing is scanned while pages_to_scan is 0");
    if (sp_answer_number(answer, "strict_accounting"))
        puts("nothing is merged while memory is accounted strictly (vm.overcommit_memory is 2)");
    return sp_finish_output();
}

static int status(int argc, char **argv)
{
    json_object *answer = NULL;
    bool json = false;
    int ret = parse_json_only(&sp_command_status, argc, argv, &json);

    if (ret == SP_EXIT_DONE)
        ret = sp_control_ask_op("status", &answer);
    if (ret == SP_EXIT_DONE)
        ret = json ? sp_print_json(answer) : print_status(answer);
    json_object_put(answer);
    return ret;
}

const struct sp_command sp_command_status = {
    .name = "status",
    .usage = "status [--json]",
    .summary = "Prints what is merged, what that saves and what it costs",
    .help = "  --json  print all counters as one JSON object\n",
    .run = status,
};

/* A name comes from a process that may be hostile: nothing of it may steer the terminal. */
static const char *printable(const char *text, char *buf, size_t size)
{
    size_t i;

    for (i = 0; i + 1 < size && text[i]; i++)
        buf[i] = (unsigned char)text[i] < ' ' || text[i] == 127 ? '?' : text[i];
    buf[i] = 0;
    return buf;
}

static void print_process(json_object *p)
{
    char comm[17], domain[33], state[33], saved[32], mappings[48];

    snprintf(mappings, sizeof(mappings), "%" PRId64 "/%" PRId64, sp_answer_number(p, "mappings"),
             sp_answer_number(p, "mappings_budget"));
    printf("%8" PRId64 "  %-15s %-12s %10" PRId64 " %10" PRId64 " %10s %8.2f %13s  %s\n",
           sp_answer_number(p, "pid"), printable(sp_answer_text(p, "comm"), comm, sizeof(comm)),
           printable(sp_answer_text(p, "domain"), domain, sizeof(domain)),
           sp_answer_number(p, "pages_tracked"), sp_answer_number(p, "sites"),
           sp_human_bytes(sp_answer_number(p, "bytes_saved"), saved, sizeof(saved)),
           sp_answer_real(p, "cpu_seconds"), mappings,
           printable(sp_answer_text(p, "state"), state, sizeof(state)));
}

static int print_processes(json_object *answer)
{
    json_object *list = json_object_object_get(answer, "processes");
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    printf("%8s  %-15s %-12s %10s %10s %10s %8s %13s  %s\n", "PID", "COMMAND", "DOMAIN", "TRACKED",
           "MERGED", "SAVED", "CPU s", "MAPPINGS", "STATE");
    for (size_t i = 0; i < n; i++)
        print_process(json_object_array_get_idx(list, i));
    return sp_finish_output();
}

static int ps(int argc, char **argv)
{
    json_object *answer = NULL;
    bool json = false;
    int ret = parse_json_only(&sp_command_ps, argc, argv, &json);

    if (ret == SP_EXIT_DONE)
        ret = sp_control_ask_op("ps", &answer);
    if (ret == SP_EXIT_DONE)
        ret = json ? sp_print_json(answer) : print_processes(answer);
    json_object_put(answer);
    return ret;
}

const struct sp_command sp_command_ps = {
    .name = "ps",
    .usage = "ps [--json]",
    .summary = "Lists the merged processes",
    .help =
        "Columns: pages tracked, pages merged, bytes saved, CPU seconds of its agent, mappings\n"
        "that merging uses of those it may use, state.\n"
        "  --json  print the list as one JSON object\n",
    .run = ps,
};
