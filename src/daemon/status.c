/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hello.h"
#include "passes.h"
#include "pins_looker.h"
#include "turns.h"

#define MAPPING_BYTES 270 /* of kernel memory, for one mapping (docs/design.md) */

struct sums {
    struct sp_engine_counters e;
    struct sp_past past;
    uint64_t domains, processes, mappings, cpu_us;
    uint64_t kept, kept_because[SP_PINS_KINDS];
    struct sp_pool_counters pool;
};

static bool asked_for(uid_t asked, uid_t uid)
{
    return asked == SP_EVERYBODY || asked == uid;
}

static void add_engine(struct sums *sums, const struct sp_domain *domain)
{
    struct sp_engine_counters c;

    sp_engine_counters(domain->engine, &c);
    sums->e.pages_shared += c.pages_shared;
    sums->e.pages_sharing += c.pages_sharing;
    sums->e.pages_unshared += c.pages_unshared;
    sums->e.pages_volatile += c.pages_volatile;
    sums->e.pages_tracked += c.pages_tracked;
    sums->e.memory_bytes += c.memory_bytes;
    sums->past.pages_scanned += c.pages_scanned;
    sums->past.merge_changed += c.merge_changed;
    sums->past.merge_pinned += c.merge_pinned;
    sums->past.merge_gone += c.merge_gone;
    sums->past.merge_fork += c.merge_fork;
    sums->past.merge_attributes += c.merge_attributes;
    sums->past.merge_mappings += c.merge_mappings;
    sums->past.merge_memory += c.merge_memory;
    sums->domains++;
}

static void add_counts(uint64_t sum[SP_COUNTS], const uint64_t more[SP_COUNTS])
{
    for (unsigned i = 0; i < SP_COUNTS; i++)
        sum[i] += more[i];
}

static void add_pool(struct sums *sums, const struct sp_domain *domain)
{
    struct sp_pool_counters c;

    sp_pool_set_counters(domain->set, &c);
    sums->pool.segments += c.segments;
    sums->pool.frames_lingering += c.frames_lingering;
    sums->pool.bytes += c.bytes;
}

static void sum_up(const struct sp_daemon *daemon, uid_t uid, struct sums *sums)
{
    const struct sp_domain *domain;
    const struct sp_client *client;

    memset(sums, 0, sizeof(*sums));
    if (uid == SP_EVERYBODY)
        sums->past = daemon->past;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (!asked_for(uid, domain->uid))
            continue;
        if (domain->engine)
            add_engine(sums, domain);
        add_counts(sums->past.count, domain->count);
        add_pool(sums, domain);
    }
    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (!asked_for(uid, client->uid))
            continue;
        sp_client_add_counts(client, sums->past.count);
        if (client->state == SP_CLIENT_LEFT)
            continue;
        sums->processes++;
        sums->mappings += client->mappings;
        sums->kept += client->kept;
        sums->kept_because[client->pins] += client->kept;
        sums->cpu_us += client->cpu_us;
    }
}

uint64_t sp_own_cpu_us(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage))
        return 0;
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Bytes of anonymous memory of this process, the engines' included. */
static uint64_t own_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/self/status", "re");

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
            break;
    }
    fclose(f);
    return kib * 1024;
}

/* Net of samepage's own memory: frames that wait to be freed, mappings, and this process. */
static int64_t bytes_saved(const struct sp_daemon *daemon, const struct sums *sums)
{
    uint64_t own = own_bytes();
    uint64_t cost = sums->e.memory_bytes > own ? sums->e.memory_bytes : own;

    cost += sums->pool.frames_lingering * daemon->page_size + sums->mappings * MAPPING_BYTES;
    return (int64_t)(sums->e.pages_sharing * daemon->page_size) - (int64_t)cost;
}

static void add_u64(struct json_object *to, const char *key, uint64_t value)
{
    json_object_object_add(to, key, json_object_new_uint64(value));
}

static void add_settings(struct json_object *to, const struct sp_config *config)
{
    add_u64(to, "run", config->run);
    add_u64(to, "pages_to_scan", config->pages_to_scan);
    add_u64(to, "sleep_millisecs", config->sleep_millisecs);
    add_u64(to, "max_kernel_pages", config->max_kernel_pages);
    add_u64(to, "max_mappings", config->max_mappings);
}

static void add_done(struct json_object *to, const uint64_t count[SP_COUNTS])
{
    add_u64(to, "pages_lifted", count[SP_COUNT_LIFTED]);
    add_u64(to, "pages_put_back", count[SP_COUNT_PUT_BACK]);
    add_u64(to, "pages_merged", count[SP_COUNT_MERGED]);
    add_u64(to, "pages_unmerged", count[SP_COUNT_UNMERGED]);
}

static void add_merges(struct json_object *to, const struct sp_past *past)
{
    add_u64(to, "merge_changed", past->merge_changed);
    add_u64(to, "merge_pinned", past->merge_pinned);
    add_u64(to, "merge_gone", past->merge_gone);
    add_u64(to, "merge_fork", past->merge_fork);
    add_u64(to, "merge_attributes", past->merge_attributes);
    add_u64(to, "merge_mappings", past->merge_mappings);
    add_u64(to, "merge_memory", past->merge_memory);
}

/* Pages that were written after their merge, and what keeps them from being merged again. */
static void add_kept(struct json_object *to, const struct sums *sums)
{
    char key[64];

    add_u64(to, "pages_kept_private", sums->kept);
    for (unsigned i = 0; i < SP_PINS_KINDS; i++) {
        snprintf(key, sizeof(key), "kept_%s", sp_pins_name((enum sp_pins)i));
        add_u64(to, key, sums->kept_because[i]);
    }
}

struct json_object *sp_status_json(struct sp_daemon *daemon, uid_t uid)
{
    struct json_object *to = json_object_new_object();
    struct sums sums;
    double tracked;

    if (!to)
        return NULL;
    sum_up(daemon, uid, &sums);
    tracked = (double)(sums.e.pages_tracked ? sums.e.pages_tracked : 1);
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    add_u64(to, "pages_shared", sums.e.pages_shared);
    add_u64(to, "pages_sharing", sums.e.pages_sharing);
    add_u64(to, "pages_unshared", sums.e.pages_unshared);
    add_u64(to, "pages_volatile", sums.e.pages_volatile);
    add_kept(to, &sums);
    add_u64(to, "full_scans", sp_turns_passes(daemon, uid));
    add_u64(to, "pages_scanned", sums.past.pages_scanned);
    add_u64(to, "kernel_pages_allocated", sums.e.pages_shared);
    add_u64(to, "pages_tracked", sums.e.pages_tracked);
    add_settings(to, &daemon->config);
    json_object_object_add(to, "bytes_saved", json_object_new_int64(bytes_saved(daemon, &sums)));
    json_object_object_add(to, "bytes_per_tracked_page",
                           json_object_new_double((double)sums.e.memory_bytes / tracked));
    json_object_object_add(to, "cpu_seconds",
                           json_object_new_double((double)(sp_own_cpu_us() + sp_looker_cpu_us(daemon) + sums.cpu_us) / 1e6));
    add_u64(to, "daemon_pid", (uint64_t)getpid());
    add_u64(to, "domains", sums.domains);
    add_u64(to, "processes", sums.processes);
    add_u64(to, "mappings", sums.mappings);
    json_object_object_add(to, "strict_accounting",
                           json_object_new_boolean(sp_accounting_is_strict(&daemon->accounting)));
    add_u64(to, "quiet_passes", sp_passes_quiet(daemon, uid));
    add_done(to, sums.past.count);
    add_merges(to, &sums.past);
    add_u64(to, "frames_lingering", sums.pool.frames_lingering);
    add_u64(to, "segments", sums.pool.segments);
    add_u64(to, "pool_bytes", sums.pool.bytes);
    add_u64(to, "repairs", daemon->repairs);
    add_u64(to, "takeovers", daemon->takeovers);
    json_object_object_add(to, "version", json_object_new_string(SP_VERSION));
    return to;
}

static const char *state_name(const struct sp_client *client)
{
    switch (client->state) {
    case SP_CLIENT_JOINING:
        return "joining";
    case SP_CLIENT_STALLED:
        return "stalled";
    case SP_CLIENT_LEFT:
        return "left";
    case SP_CLIENT_READY:
        break;
    }
    if (client->raw_calls)
        return "unprotected";
    if (client->no_mappings)
        return "no mappings";
    return client->held ? "unmerged" : "merging";
}

struct json_object *sp_process_json(const struct sp_client *client)
{
    struct json_object *to = json_object_new_object();
    struct sp_mm_counters c = {0};
    char comm[sizeof(client->comm) + 1] = {0};
    int64_t saved;

    if (!to)
        return NULL;
    if (client->mm)
        sp_engine_mm_counters(client->mm, &c);
    memcpy(comm, client->comm, sizeof(client->comm));
    for (char *p = comm; *p; p++) {
        if (*p < ' ' || *p > '~')
            *p = '?'; /* only text that every terminal and JSON reader takes */
    }
    saved = (int64_t)(c.sites * client->daemon->page_size) -
            (int64_t)client->mappings * MAPPING_BYTES;
    add_u64(to, "pid", (uint64_t)client->program);
    json_object_object_add(to, "comm", json_object_new_string(comm));
    json_object_object_add(to, "domain", json_object_new_string(client->domain->name));
    add_u64(to, "pages_tracked", c.tracked);
    add_u64(to, "sites", c.sites);
    add_u64(to, "pages_kept_private", client->kept);
    json_object_object_add(to, "kept_because",
                           json_object_new_string(client->kept ? sp_pins_name(client->pins) : "none"));
    json_object_object_add(to, "bytes_saved", json_object_new_int64(saved));
    json_object_object_add(to, "cpu_seconds",
                           json_object_new_double((double)client->cpu_us / 1e6));
    add_u64(to, "mappings", client->mappings);
    add_u64(to, "mappings_budget", client->mappings_budget);
    json_object_object_add(to, "state", json_object_new_string(state_name(client)));
    return to;
}
