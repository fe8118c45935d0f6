/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage explain: why pages of a process are not merged. The daemon counts (docs/control.md);
 * here is what each count means and what one can do. Of a process that the daemon does not know,
 * /proc tells why.
 */
#include "control_client.h"
#include "exe_probe.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PID_MAX 4194304 /* PID_MAX_LIMIT of the kernel: no pid reaches it */

struct reason {
    const char *key;
    const char *text;
};

static const struct reason of_process[] = {
    {"stopped", "merging is stopped; \"samepage set run=1\" starts it"},
    {"nothing_scanned", "nothing is scanned while pages_to_scan is 0; \"samepage set "
                        "pages_to_scan=5000\" sets the default"},
    {"joining", "it has just begun, or was given up for a while; ask again in some seconds"},
    {"stalled", "its agent does not answer; is the process samepage-agent stopped, or the machine "
                "overloaded?"},
    {"rests", "its agent is slow (very many mappings, or an overloaded machine) and rests for a "
              "while; ask again in some seconds"},
    {"agent_gone",
     "its agent has ended: what is merged stays so, nothing more is; start the program "
     "anew"},
    {"unmerged_on_request", "it was un-merged on request; \"samepage set run=1\" merges it again"},
    {"locks_future_memory", "mlockall(MCL_FUTURE) is in force in it: locked memory must not wait"},
    {"ran_out_of_mappings", "it ran out of mappings once and was given them back; raise "
                            "vm.max_map_count and start it anew"},
    {"needs_its_mappings", "it needs nearly all mappings itself; raise vm.max_map_count"},
    {"budget_used_up", "merging has used its mappings up in this process; raise max_mappings or "
                       "vm.max_map_count"},
    {"own_system_calls", "code in it makes system calls of its own, which samepage cannot see, and so "
                         "cannot keep apart from merging"},
    {"changed_unseen", "its memory changed by a system call that samepage did not see (code that it "
                       "made itself?)"},
    {"ring_advice", "it gives advice about its memory by an io_uring (IORING_OP_MADVISE), which samepage "
                    "cannot keep apart from merging"},
    {"limit_reached", "no more frames may be made; raise max_kernel_pages"},
    {"kept_pinned_memory", "pages written after their merge are kept private: it has pinned memory "
                           "(VmPin in /proc/PID/status)"},
    {"kept_aio", "pages written after their merge are kept private: it uses asynchronous I/O, which may "
                 "have them pinned"},
    {"kept_io_uring", "pages written after their merge are kept private: it uses io_uring, which may have "
                      "them pinned"},
    {"kept_direct_io", "pages written after their merge are kept private: it has a file open with "
                       "O_DIRECT, through which they may be pinned"},
    {"kept_file_system", "pages written after their merge are kept private: it has a file open of a file "
                         "system that may pin them (network, FUSE, 9p, overlay, zfs)"},
    {"kept_device", "pages written after their merge are kept private: it has a device open that may pin "
                    "them"},
    {"kept_socket", "pages written after their merge are kept private: it has a socket open of a kind "
                    "that may pin them (AF_XDP, AF_ALG, TLS in the kernel)"},
    {"kept_unknown", "pages written after their merge are kept private: what it has open could not be "
                     "looked at, or not in time"},
};

static const struct reason of_pages[] = {
    {"no_partner", "no partner: no page with the same content was found"},
    {"partner_refused", "a page with the same content was found, but could not be merged"},
    {"volatile", "volatile: changed within the last passes, or not quiet for a whole one yet"},
    {"changed_during_merge", "changed while it was to be merged; tried again when it is quiet"},
    {"pinned", "pinned: device or kernel I/O refers to it (O_DIRECT, io_uring, vmsplice, ...)"},
    {"shared_by_fork", "shared by fork already: replacing it would save nothing"},
    {"mappings", "budget: this process has no mappings left for it; raise max_mappings or "
                 "vm.max_map_count"},
    {"short_run", "budget: the mappings that are left are kept for longer runs of pages"},
    {"limit", "limit: max_kernel_pages is reached"},
    {"memory_short", "memory was short; tried again later"},
    {"attributes", "its mapping has attributes that a merge would lose"},
    {"unreachable", "its mapping was being changed, or it was given back meanwhile"},
    {"kept_private", "kept private: was merged, then written by the program; merged again when it is "
                     "quiet and meets its like, unless something may have it pinned"},
    {"absent", "no memory of its own: never written, given back, or the kernel's page of zeros"},
    {"swapped", "swapped out"},
    {"new", "not looked at yet"},
    {"not_decided", "quiet, but not decided on yet"},
};

static const struct reason of_memory[] = {
    {"not_advised", "not advised: start the program with \"samepage run --all\", or let it call "
                    "madvise(MADV_MERGEABLE)"},
    {"bound_to_nodes", "bound to nodes (mbind)"},
    {"too_small", "too small: below 64 pages in a row"},
    {"locked", "locked in memory (mlock; flag lo), and not advised by the program"},
    {"wipeonfork", "MADV_WIPEONFORK (flag wf)"},
    {"dontdump", "MADV_DONTDUMP (flag dd)"},
    {"sealed", "sealed (mseal; flag sl)"},
    {"protection_key", "has a protection key (pkey_mprotect)"},
    {"read_advice", "MADV_SEQUENTIAL or MADV_RANDOM (flags sr, rr)"},
    {"userfaultfd", "the program's own userfaultfd (flags um, ui)"},
    {"hugetlb", "huge pages of hugetlbfs (flag ht)"},
    {"device", "of a device (flags io, pf)"},
    {"other_attributes", "other attributes: see VmFlags in /proc/PID/smaps"},
    {"stack", "stacks and thread control blocks"},
    {"file", "mapped from files"},
    {"shared", "shared mappings"},
    {"executable", "executable"},
    {"read_only", "read-only"},
    {"no_access", "reserved: no access allowed"},
    {"special", "the kernel's ([vdso] and the like)"},
    {"samepage", "samepage's own areas"},
    {"too_many_ranges", "beyond the 16384 ranges that are looked after"},
};

#define N_REASONS(table) (sizeof(table) / sizeof((table)[0]))

static const char *text_of(const struct reason *table, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].key, key) == 0)
            return table[i].text;
    return key; /* of a newer daemon */
}

/* Text of other processes must not steer the terminal. */
static const char *printable(const char *text, char *buf, size_t size)
{
    size_t i;

    for (i = 0; i + 1 < size && text[i]; i++)
        buf[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
    buf[i] = 0;
    return buf;
}

static void print_because(json_object *answer)
{
    json_object *list = json_object_object_get(answer, "because");
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    char key[64];

    for (size_t i = 0; i < n; i++)
        printf("  %s\n",
               text_of(of_process, N_REASONS(of_process),
                       printable(json_object_get_string(json_object_array_get_idx(list, i)), key,
                                 sizeof(key))));
}

static void print_head(json_object *answer)
{
    json_object *pages = json_object_object_get(answer, "pages");
    int64_t size = sp_answer_number(answer, "page_size");
    char comm[32], state[32], tracked[32], merged[32];

    printf("%s (pid %" PRId64 "): %s",
           printable(sp_answer_text(answer, "comm"), comm, sizeof(comm)),
           sp_answer_number(answer, "pid"),
           printable(sp_answer_text(answer, "state"), state, sizeof(state)));
    if (pages)
        printf("; %" PRId64 " pages tracked (%s), %" PRId64 " of them merged (%s)",
               sp_answer_number(pages, "tracked"),
               sp_human_bytes(sp_answer_number(pages, "tracked") * size, tracked, sizeof(tracked)),
               sp_answer_number(pages, "merged"),
               sp_human_bytes(sp_answer_number(pages, "merged") * size, merged, sizeof(merged)));
    printf("; mappings %" PRId64 " of %" PRId64 "\n", sp_answer_number(answer, "mappings"),
           sp_answer_number(answer, "mappings_budget"));
}

static void print_pages(json_object *pages, int64_t page_size)
{
    int64_t tracked = sp_answer_number(pages, "tracked");
    char bytes[32];

    if (sp_answer_number(pages, "merged") < tracked)
        printf("Pages that are not merged, by reason:\n");
    for (size_t i = 0; i < N_REASONS(of_pages); i++) {
        int64_t n = sp_answer_number(pages, of_pages[i].key);

        if (n)
            printf("%12" PRId64 " %10s %3.0f %%  %s\n", n,
                   sp_human_bytes(n * page_size, bytes, sizeof(bytes)),
                   tracked ? 100.0 * (double)n / (double)tracked : 0, of_pages[i].text);
    }
}

static void print_left(json_object *left)
{
    bool any = false;
    char bytes[32];

    for (size_t i = 0; i < N_REASONS(of_memory); i++) {
        int64_t n = sp_answer_number(left, of_memory[i].key);

        if (!n)
            continue;
        if (!any)
            printf("Address space that is left alone, by reason:\n");
        any = true;
        printf("%12s %10s        %s\n", "", sp_human_bytes(n, bytes, sizeof(bytes)),
               of_memory[i].text);
    }
}

static int print_explained(json_object *answer)
{
    json_object *pages = json_object_object_get(answer, "pages");
    json_object *left = json_object_object_get(answer, "left_alone");

    print_head(answer);
    print_because(answer);
    if (pages)
        print_pages(pages, sp_answer_number(answer, "page_size"));
    if (left)
        print_left(left);
    return sp_finish_output();
}

/* The number behind a key in /proc/PID/status; -1: there is none. */
static int64_t status_number(uint64_t pid, const char *key)
{
    char path[64], line[256];
    int64_t value = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%" PRIu64 "/status", pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (value < 0 && fgets(line, sizeof(line), f))
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoll(line + strlen(key), NULL, 10);
    fclose(f);
    return value;
}

/* Has the process samepage's library in it? -1: it may not be looked into. */
static int has_library(uint64_t pid)
{
    char path[64], *line = NULL;
    size_t size = 0;
    int found = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%" PRIu64 "/maps", pid);
    f = fopen(path, "re");
    if (!f)
        return errno == ENOENT ? 0 : -1;
    while (!found && getline(&line, &size, f) > 0)
        found = strstr(line, "/libsamepage-agent.so") != NULL;
    if (ferror(f))
        found = -1;
    free(line);
    fclose(f);
    return found;
}

/* /proc/PID belongs to root where the process forbids looking into it (K17); of root's own
 * processes that cannot be told from outside. */
static bool is_dumpable(uint64_t pid, int64_t uid)
{
    struct stat st;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%" PRIu64, pid);
    return stat(path, &st) != 0 || (int64_t)st.st_uid == uid;
}

/* The daemon has no such client: says why, as far as this user can see. */
static int explain_unknown(uint64_t pid)
{
    int64_t uid = status_number(pid, "Uid:"), leader = status_number(pid, "Tgid:");
    const char *objection;
    char exe[64];
    int library;

    if (uid < 0) {
        sp_say("there is no process %" PRIu64 ", or you may not see it", pid);
        return SP_EXIT_COULD_NOT;
    }
    if (leader != (int64_t)pid) {
        sp_say("%" PRIu64 " is a thread: ask about its process, %" PRId64, pid, leader);
        return SP_EXIT_COULD_NOT;
    }
    if (geteuid() != 0 && uid != (int64_t)geteuid()) {
        sp_say("process %" PRIu64 " is another user's: only that user and root may ask about it",
               pid);
        return SP_EXIT_COULD_NOT;
    }
    library = has_library(pid);
    snprintf(exe, sizeof(exe), "/proc/%" PRIu64 "/exe", pid);
    objection = sp_exe_objection(exe);
    if (objection)
        sp_say("process %" PRIu64 " is not merged: %s", pid, objection);
    else if (!is_dumpable(pid, uid))
        sp_say("process %" PRIu64 " is not merged: it forbids looking into it (it is not dumpable)",
               pid);
    else if (library < 0)
        sp_say("process %" PRIu64 " is not under samepage here, and you may not look into it", pid);
    else if (library)
        sp_say("process %" PRIu64
               " was started under samepage but is not merged: its agent could not "
               "start, or has ended (killed, or the program changed its rights), or another daemon "
               "serves it; what was merged stays so; start it anew",
               pid);
    else
        sp_say("process %" PRIu64 " is not under samepage: start it with \"samepage run\"", pid);
    return SP_EXIT_COULD_NOT;
}

static int ask(uint64_t pid, bool json)
{
    json_object *answer = NULL, *request = json_object_new_object();
    int ret = SP_EXIT_COULD_NOT;

    if (!request || json_object_object_add(request, "op", json_object_new_string("explain")) < 0 ||
        json_object_object_add(request, "pid", json_object_new_int64((int64_t)pid)) < 0)
        sp_say("out of memory");
    else
        ret = sp_control_ask(request, SP_ASK_PATIENCE, &answer);
    if (ret == SP_EXIT_DONE && strcmp(sp_answer_text(answer, "state"), "unknown") == 0)
        ret = explain_unknown(pid);
    else if (ret == SP_EXIT_DONE)
        ret = json ? sp_print_json(answer) : print_explained(answer);
    json_object_put(answer);
    json_object_put(request);
    return ret;
}

static int explain(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
    uint64_t pid = 0;
    bool json = false;
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":j", options, NULL)) != -1) {
        if (opt != 'j')
            return sp_bad_option(&sp_command_explain, argv, opt);
        json = true;
    }
    if (argc - optind != 1)
        return sp_bad_use(&sp_command_explain, "takes one PID");
    if (!sp_parse_number(argv[optind], PID_MAX, &pid) || pid == 0)
        return sp_bad_use(&sp_command_explain, "'%s' is no PID", argv[optind]);
    return ask(pid, json);
}

const struct sp_command sp_command_explain = {
    .name = "explain",
    .usage = "explain [--json] PID",
    .summary = "Says why pages of a process are not merged",
    .help =
        "Counts the pages of the process that are looked after, as they are at present, by why\n"
        "they are not merged, and the bytes of its other memory by why that is left alone. The\n"
        "pages add up: each is counted once.\n"
        "  --json  print all counts as one JSON object\n",
    .run = explain,
};
