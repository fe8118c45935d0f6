/* SPDX-License-Identifier: Apache-2.0 */
/* What samepage estimate found, for people and as JSON. */
#include "estimate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control_client.h"

#define MOST_LINES 20u /* of processes, where none was named */

static const char *const skip_key[SP_SKIPS] = {"own",    "kernel",       "gone",
                                               "denied", "not_dumpable", "unfit"};
static const char *const skip_text[SP_SKIPS] = {
    "samepage's own",  "threads of the kernel", "ended meanwhile",
    "may not be read", "forbid looking into",   "programs that samepage cannot merge",
};

/* A name comes from a process that may be hostile: only text that every terminal and JSON reader
 * takes. */
static const char *printable(const char *comm, char *buf, size_t size)
{
    size_t i;

    for (i = 0; i + 1 < size && comm[i]; i++)
        buf[i] = comm[i] < ' ' || comm[i] > '~' ? '?' : comm[i];
    buf[i] = 0;
    return buf;
}

static void print_pages(const char *key, uint64_t pages, const char *meaning)
{
    char bytes[32];

    printf("%-16s%14" PRIu64 "  %10s  %s\n", key, pages,
           sp_human_bytes((int64_t)pages * sysconf(_SC_PAGESIZE), bytes, sizeof(bytes)), meaning);
}

static void print_sum(const struct sp_estimate_report *report)
{
    const struct sp_estimate_sum *sum = report->sum;
    char bytes[32], own[32];

    sp_human_bytes(sum->bytes_saved, bytes, sizeof(bytes));
    sp_human_bytes((int64_t)sum->own_bytes, own, sizeof(own));
    printf("merging %zu process%s of %zu user%s would save %s, net of %s for samepage itself\n",
           report->list->n, report->list->n == 1 ? "" : "es", sum->nusers,
           sum->nusers == 1 ? "" : "s", bytes, own);
    print_pages("pages", sum->pages, "in memory that samepage would look after");
    print_pages("pages_sharing", sum->pages_sharing, "saved");
    print_pages("pages_shared", sum->pages_shared, "frames that they would share");
    print_pages("zero_pages", sum->zero_pages, "pages of zeros among those that would be merged");
    printf("%-16s%14" PRIu64 "  %10s  %s\n", "mappings", sum->mappings, "",
           "that merging would use");
    if (report->settled)
        print_pages("volatile_pages", sum->volatile_pages, "changed between two looks: left out");
    if (sum->swapped_pages)
        print_pages("swapped_pages", sum->swapped_pages, "in swap: not looked at");
    if (sum->merged_pages)
        print_pages("merged_pages", sum->merged_pages, "are merged already, and counted as above");
}

static void print_skipped(const struct sp_estimate_list *list)
{
    const char *comma = "not looked at: ";

    for (unsigned i = 0; i < SP_SKIPS; i++) {
        if (!list->skipped[i])
            continue;
        printf("%s%" PRIu64 " %s", comma, list->skipped[i], skip_text[i]);
        comma = ", ";
    }
    if (comma[0] == ',')
        putchar('\n');
}

static int by_savings(const void *left, const void *right)
{
    const struct sp_estimate_process *const *a = left, *const *b = right;

    if ((*a)->pages_saved != (*b)->pages_saved)
        return (*a)->pages_saved > (*b)->pages_saved ? -1 : 1;
    return (*a)->pid < (*b)->pid ? -1 : (*a)->pid > (*b)->pid;
}

static void print_process(const struct sp_estimate_process *p)
{
    char comm[sizeof(p->comm)], saved[32], mappings[48];

    snprintf(mappings, sizeof(mappings), "%" PRIu32 "/%" PRIu32, p->mappings, p->mappings_budget);
    printf("%8d  %-15s %8u %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10s %13s\n", p->pid,
           printable(p->comm, comm, sizeof(comm)), p->uid, p->npages, p->sites, p->zero_sites,
           sp_human_bytes(sp_estimate_process_bytes(p), saved, sizeof(saved)), mappings);
}

static void print_processes(const struct sp_estimate_report *report)
{
    const struct sp_estimate_list *list = report->list;
    size_t n = report->every || list->n <= MOST_LINES ? list->n : MOST_LINES;
    const struct sp_estimate_process **sorted = calloc(list->n + 1, sizeof(*sorted));

    if (!sorted)
        return; /* the sums stand above */
    for (size_t i = 0; i < list->n; i++)
        sorted[i] = &list->process[i];
    qsort(sorted, list->n, sizeof(*sorted), by_savings);
    printf("\n%8s  %-15s %8s %10s %10s %10s %10s %13s\n", "PID", "COMMAND", "USER", "PAGES",
           "MERGED", "ZEROS", "SAVED", "MAPPINGS");
    for (size_t i = 0; i < n; i++)
        print_process(sorted[i]);
    if (n < list->n)
        printf("and %zu more; --json lists all\n", list->n - n);
    free(sorted);
}

int sp_estimate_print(const struct sp_estimate_report *report)
{
    print_sum(report);
    print_skipped(report->list);
    if (!report->complete)
        printf("interrupted: this is what was seen so far\n");
    print_processes(report);
    return sp_finish_output();
}

static void add(json_object *to, const char *key, json_object *value)
{
    json_object_object_add(to, key, value);
}

static json_object *process_json(const struct sp_estimate_process *p)
{
    json_object *to = json_object_new_object();
    char comm[sizeof(p->comm)];

    if (!to)
        return NULL;
    add(to, "pid", json_object_new_int(p->pid));
    add(to, "comm", json_object_new_string(printable(p->comm, comm, sizeof(comm))));
    add(to, "uid", json_object_new_uint64(p->uid));
    add(to, "pages", json_object_new_uint64(p->npages));
    add(to, "sites", json_object_new_uint64(p->sites));
    add(to, "pages_sharing", json_object_new_uint64((uint64_t)(p->pages_sharing + 0.5)));
    add(to, "zero_pages", json_object_new_uint64(p->zero_sites));
    add(to, "bytes_saved", json_object_new_int64(sp_estimate_process_bytes(p)));
    add(to, "mappings", json_object_new_uint64(p->mappings));
    add(to, "mappings_budget", json_object_new_uint64(p->mappings_budget));
    return to;
}

static json_object *skipped_json(const struct sp_estimate_list *list)
{
    json_object *to = json_object_new_object();

    for (unsigned i = 0; to && i < SP_SKIPS; i++)
        add(to, skip_key[i], json_object_new_uint64(list->skipped[i]));
    return to;
}

static void add_sum(json_object *to, const struct sp_estimate_report *report)
{
    const struct sp_estimate_sum *sum = report->sum;

    add(to, "pages", json_object_new_uint64(sum->pages));
    add(to, "pages_sharing", json_object_new_uint64(sum->pages_sharing));
    add(to, "pages_shared", json_object_new_uint64(sum->pages_shared));
    add(to, "zero_pages", json_object_new_uint64(sum->zero_pages));
    add(to, "bytes_saved", json_object_new_int64(sum->bytes_saved));
    add(to, "own_bytes", json_object_new_uint64(sum->own_bytes));
    add(to, "mappings", json_object_new_uint64(sum->mappings));
    if (report->settled)
        add(to, "volatile_pages", json_object_new_uint64(sum->volatile_pages));
    add(to, "swapped_pages", json_object_new_uint64(sum->swapped_pages));
    add(to, "merged_pages", json_object_new_uint64(sum->merged_pages));
    add(to, "complete", json_object_new_boolean(report->complete));
}

int sp_estimate_print_json(const struct sp_estimate_report *report)
{
    json_object *to = json_object_new_object(), *list = json_object_new_array();
    int ret = SP_EXIT_COULD_NOT;

    if (to && list) {
        add_sum(to, report);
        for (size_t i = 0; i < report->list->n; i++)
            json_object_array_add(list, process_json(&report->list->process[i]));
        add(to, "processes", list);
        list = NULL;
        add(to, "skipped", skipped_json(report->list));
        ret = sp_print_json(to);
    } else {
        sp_say("out of memory");
    }
    json_object_put(list);
    json_object_put(to);
    return ret;
}
