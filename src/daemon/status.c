/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hello.h"
#include "passes.h"
#include "looks.h"
#include "pins_looker.h"
#include "pressure.h"
#include "storage.h"
#include "taker.h"
#include "turns.h"
#include "values.h"

#define MAPPING_BYTES 270 /* of kernel memory, for one mapping (docs/design.md) */

struct sums {
    struct sp_engine_counters e;
    struct sp_past past;
    uint64_t domains, processes, mappings, cpu_us;
    uint64_t kept, kept_because[SP_PINS_KINDS];
    struct sp_pool_counters pool;
    uint64_t strays;
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
    sums->e.bookkeeping_bytes += c.bookkeeping_bytes;
    sums->e.ksm_zero_pages += c.ksm_zero_pages;
    sums->e.frames_evicted += c.frames_evicted;
    sums->e.evictions += c.evictions;
    sums->e.second_chances += c.second_chances;
    sums->e.store_errors += c.store_errors;
    sums->e.stable_node_chains += c.stable_node_chains;
    sums->e.stable_node_dups += c.stable_node_dups;
    sums->past.pages_skipped += c.pages_skipped;
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

static void add_client(struct sums *sums, const struct sp_client *client)
{
    sp_client_add_counts(client, sums->past.count);
    if (client->state == SP_CLIENT_LEFT)
        return;
    sums->processes++;
    sums->mappings += client->mappings;
    sums->kept += client->kept;
    sums->kept_because[client->pins] += client->kept;
    sums->cpu_us += client->cpu_us;
}

/* Of one domain, or (NULL) of all of uid. */
static void sum_up(const struct sp_daemon *daemon, const struct sp_domain *only, uid_t uid,
                   struct sums *sums)
{
    const struct sp_domain *domain;
    const struct sp_client *client;

    memset(sums, 0, sizeof(*sums));
    if (uid == SP_EVERYBODY && !only)
        sums->past = daemon->past;
    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (only ? domain != only : !asked_for(uid, domain->uid))
            continue;
        if (domain->engine)
            add_engine(sums, domain);
        add_counts(sums->past.count, domain->count);
        add_pool(sums, domain);
        sums->strays += domain->nstrays;
    }
    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (only ? client->domain == only : asked_for(uid, client->uid))
            add_client(sums, client);
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

uint64_t sp_status_cpu_us(const struct sp_daemon *daemon)
{
    uint64_t cpu = sp_own_cpu_us() + sp_looker_cpu_us(daemon) + sp_taker_cpu_us(daemon) + sp_looks_cpu_us(daemon);
    const struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->state != SP_CLIENT_LEFT)
            cpu += client->cpu_us;
    }
    return cpu;
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

/* Pages saved, less what it takes to save them: the engines' tables, frames that linger, mappings.
 * Unlike bytes_saved without what this process needs when it merges nothing. */
static int64_t general_profit(const struct sp_daemon *daemon, const struct sums *sums)
{
    uint64_t pages = sums->e.pages_sharing + sums->e.ksm_zero_pages;
    uint64_t cost = sums->e.bookkeeping_bytes + sums->pool.frames_lingering * daemon->page_size +
                    sums->mappings * MAPPING_BYTES;

    return (int64_t)(pages * daemon->page_size) - (int64_t)cost;
}

static void values_of(struct sp_daemon *daemon, const struct sp_domain *domain, uid_t uid,
                      const struct sums *sums, uint64_t value[SP_KEYS])
{
    for (unsigned i = 0; i < SP_SETTINGS; i++)
        value[i] = sp_values_get(daemon, domain, (enum sp_key)i);
    value[SP_KEY_FULL_SCANS] = domain ? domain->passes : sp_turns_passes(daemon, uid);
    value[SP_KEY_PAGES_SCANNED] = sums->past.pages_scanned;
    value[SP_KEY_PAGES_SHARED] = sums->e.pages_shared;
    value[SP_KEY_PAGES_SHARING] = sums->e.pages_sharing;
    value[SP_KEY_PAGES_UNSHARED] = sums->e.pages_unshared;
    value[SP_KEY_PAGES_VOLATILE] = sums->e.pages_volatile;
    value[SP_KEY_PAGES_SKIPPED] = sums->past.pages_skipped;
    value[SP_KEY_ZERO_PAGES] = sums->e.ksm_zero_pages;
    value[SP_KEY_CHAINS] = sums->e.stable_node_chains;
    value[SP_KEY_DUPS] = sums->e.stable_node_dups;
    value[SP_KEY_GENERAL_PROFIT] = (uint64_t)general_profit(daemon, sums);
    value[SP_KEY_KERNEL_PAGES_ALLOCATED] = sums->e.pages_shared;
}

void sp_status_values(struct sp_daemon *daemon, const struct sp_domain *domain, uid_t uid,
                      uint64_t value[SP_KEYS])
{
    struct sums sums;

    sum_up(daemon, domain, uid, &sums);
    values_of(daemon, domain, uid, &sums, value);
}

/* All that settings.h lists. */
static void add_values(struct json_object *to, struct sp_daemon *daemon, uid_t uid,
                       const struct sums *sums)
{
    uint64_t value[SP_KEYS];
    char text[SP_SETTING_TEXT_SIZE];

    values_of(daemon, NULL, uid, sums, value);
    for (unsigned i = 0; i < SP_KEYS; i++) {
        const struct sp_setting *s = &sp_settings[i];

        sp_setting_show(s, value[i], text);
        if (s->kind == SP_KIND_MODE)
            json_object_object_add(to, s->key, json_object_new_string(text));
        else if (s->kind == SP_KIND_SIGNED)
            json_object_object_add(to, s->key, json_object_new_int64((int64_t)value[i]));
        else
            add_u64(to, s->key, value[i]);
    }
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

/* Frames that left memory. The store is one for all: what it takes is told to who may know of all. */
static void add_swapped(struct json_object *to, struct sp_daemon *daemon, uid_t uid, const struct sums *sums)
{
    struct sp_store_counters store = {0};

    if (uid == SP_EVERYBODY)
        store = sp_storage_counters(daemon->storage);
    add_u64(to, "frames_evicted", sums->e.frames_evicted);
    add_u64(to, "evictions", sums->e.evictions);
    add_u64(to, "second_chances", sums->e.second_chances);
    add_u64(to, "looks", sp_looks_count(daemon));
    /* Those of domains that are gone, too. */
    add_u64(to, "store_errors", uid == SP_EVERYBODY && daemon->storage ? sp_storage_lost(daemon->storage) : sums->e.store_errors);
    add_u64(to, "store_memory_bytes", store.memory_bytes);
    add_u64(to, "store_file_bytes", store.file_bytes);
    add_u64(to, "store_read_errors", store.read_errors);
    add_u64(to, "store_checksum_errors", store.checksum_errors);
    add_u64(to, "store_write_errors", store.write_errors);
    add_u64(to, "pressure_bytes", sp_pressure_bytes(daemon));
}

struct json_object *sp_status_json(struct sp_daemon *daemon, uid_t uid)
{
    struct json_object *to = json_object_new_object();
    struct sums sums;
    double tracked;
    uint64_t out;

    if (!to)
        return NULL;
    sum_up(daemon, NULL, uid, &sums);
    out = sums.e.frames_evicted * daemon->page_size;
    tracked = (double)(sums.e.pages_tracked ? sums.e.pages_tracked : 1);
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    add_values(to, daemon, uid, &sums);
    add_kept(to, &sums);
    add_u64(to, "pages_tracked", sums.e.pages_tracked);
    json_object_object_add(to, "bytes_saved", json_object_new_int64(bytes_saved(daemon, &sums)));
    json_object_object_add(to, "bytes_per_tracked_page",
                           json_object_new_double((double)sums.e.memory_bytes / tracked));
    json_object_object_add(to, "cpu_seconds",
                           json_object_new_double((double)(sp_own_cpu_us() + sp_looker_cpu_us(daemon) + sp_taker_cpu_us(daemon) + sp_looks_cpu_us(daemon) + sums.cpu_us) / 1e6));
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
    add_u64(to, "frames_stray", sums.strays);
    add_u64(to, "segments", sums.pool.segments);
    add_u64(to, "pool_bytes", sums.pool.bytes - (out < sums.pool.bytes ? out : sums.pool.bytes));
    add_swapped(to, daemon, uid, &sums);
    add_u64(to, "repairs", daemon->repairs);
    add_u64(to, "takeovers", daemon->takeovers);
    json_object_object_add(to, "version", json_object_new_string(SP_VERSION));
    return to;
}

/* What one process' share of its domain's tables takes. */
static uint64_t items_bytes(const struct sp_client *client, uint64_t tracked)
{
    struct sp_engine_counters c = {0};

    if (client->domain->engine)
        sp_engine_counters(client->domain->engine, &c);
    if (!c.pages_tracked)
        return 0;
    return (uint64_t)((double)c.bookkeeping_bytes * (double)tracked / (double)c.pages_tracked);
}

struct ksm_stat {
    bool known, merge_any, mergeable;
    uint64_t items, zero, merging;
    int64_t profit;
};

static void add_ksm_stat(struct ksm_stat *stat, const struct sp_client *client)
{
    uint64_t page_size = client->daemon->page_size;
    struct sp_mm_counters c = {0};

    if (client->mm)
        sp_engine_mm_counters(client->mm, &c);
    stat->known = true;
    stat->merge_any = stat->merge_any || (client->flags & SP_HELLO_ALL);
    stat->mergeable = stat->mergeable || c.tracked;
    stat->items += c.tracked;
    stat->zero += c.zero_pages;
    stat->merging += c.sites;
    stat->profit += (int64_t)((c.sites + c.zero_pages) * page_size) -
                    (int64_t)(client->mappings * MAPPING_BYTES + items_bytes(client, c.tracked));
}

struct json_object *sp_status_process_json(struct sp_daemon *daemon, uid_t uid, pid_t pid)
{
    struct json_object *to = json_object_new_object();
    struct ksm_stat stat = {0};
    const struct sp_client *client;

    if (!to)
        return NULL;
    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->program == pid && client->state != SP_CLIENT_LEFT && asked_for(uid, client->uid))
            add_ksm_stat(&stat, client);
    }
    json_object_object_add(to, "ok", json_object_new_boolean(true));
    add_u64(to, "pid", (uint64_t)pid);
    if (!stat.known) {
        json_object_object_add(to, "state", json_object_new_string("unknown"));
        return to;
    }
    add_u64(to, "ksm_rmap_items", stat.items);
    add_u64(to, "ksm_zero_pages", stat.zero);
    add_u64(to, "ksm_merging_pages", stat.merging);
    json_object_object_add(to, "ksm_process_profit", json_object_new_int64(stat.profit));
    json_object_object_add(to, "ksm_merge_any", json_object_new_boolean(stat.merge_any));
    json_object_object_add(to, "ksm_mergeable", json_object_new_boolean(stat.mergeable));
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
