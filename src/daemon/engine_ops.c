/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef static_assert
#define static_assert _Static_assert /* xxhash.h, all inline, means C11's <assert.h> */
#endif
#include <xxhash.h>

#include "answers.h"
#include "ask.h"
#include "block.h"
#include "hurry.h"
#include "notice.h"
#include "log.h"
#include "nodes.h"
#include "pageout.h"
#include "reclaim.h"
#include "storage.h"
#include "thin.h"
#include "written.h"

_Static_assert(SP_FILL_PAGES >= SP_FILL_PAGES_MAX, "the engine fills more than one offer holds");

#define PAGE_SIZE_MAX 65536u
#define UNMERGE_PAGES 2048u /* in one answer: some ten milliseconds */

struct sp_hash sp_zero_hash(const struct sp_domain *domain)
{
    static _Alignas(64) const char zeros[PAGE_SIZE_MAX];

    return sp_page_hash(domain, zeros);
}

struct sp_hash sp_page_hash(const struct sp_domain *domain, const void *page)
{
    XXH128_hash_t hash =
        XXH3_128bits_withSeed(page, domain->daemon->page_size, (XXH64_hash_t)domain->seed);

    return (struct sp_hash){hash.low64, hash.high64};
}

static void copy_runs(struct sp_scan_run *to, const struct sp_run *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = (struct sp_scan_run){from[i].addr, from[i].npages};
}

/* Where nodes matter pages whose node is not known are left out. They are reported again later (nodes.h). */
static uint32_t take_pages(struct sp_client *client, struct sp_scan_page *to,
                           const struct sp_report_view *view, bool nodes)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < view->head->npages; i++) {
        const struct sp_page_hash *page = &view->page[i];
        uint64_t node = (page->addr & SP_PAGE_NODE) >> SP_PAGE_NODE_SHIFT;

        if (nodes && !node)
            continue;
        to[n++] = (struct sp_scan_page){.addr = page->addr & ~(SP_PAGE_KEPT | SP_PAGE_NODE),
                                        .hash = {page->lo, page->hi},
                                        .node = (uint8_t)(node ? node - 1 : 0),
                                        .kept = page->addr & SP_PAGE_KEPT};
    }
    if (nodes)
        sp_nodes_reported(client, n, view->head->npages - n);
    return n;
}

static void take_report(struct sp_client *client, struct sp_scan *scan,
                        const struct sp_report_view *view, bool nodes)
{
    const struct sp_report *head = view->head;

    scan->npages = take_pages(client, scan->page, view, nodes);
    copy_runs(scan->changed, view->changed, head->nchanged);
    copy_runs(scan->gone, view->gone, head->ngone);
    scan->nchanged = head->nchanged;
    scan->ngone = head->ngone;
    scan->next = head->next;
    scan->tracked = head->tracked;
    scan->looked = head->looked;
    scan->passed = head->passed;
    scan->waiting = head->waiting;
    scan->mappings = head->mappings;
    scan->mappings_budget = head->mappings_budget;
    client->tracked = head->tracked;
    client->merged = head->merged;
    client->cpu_us = head->cpu_us;
    client->kept = head->kept;
    client->useless = head->useless;
    client->mappings = head->mappings;
    client->mappings_budget = head->mappings_budget;
    client->no_mappings = head->state == SP_REPORT_NO_MAPPINGS;
    client->raw_calls = head->state == SP_REPORT_RAW_CALLS || head->state == SP_REPORT_RAW_TOLD;
    if (client->no_mappings)
        sp_notice_mappings(client);
    if (head->state == SP_REPORT_RAW_CALLS)
        sp_notice_raw_calls(client);
}

static int ops_scan(void *ctx, void *mm, struct sp_scan *scan)
{
    struct sp_domain *domain = ctx;
    struct sp_client *client = mm;
    uint32_t budget = scan->budget < scan->max_pages ? scan->budget : scan->max_pages;
    struct sp_scan_ask ask = {
        .from = scan->from,
        .budget = budget,
        .max_mappings = (uint32_t)domain->value[SP_KEY_MAX_MAPPINGS]};
    bool nodes = sp_nodes_matter(domain);
    struct sp_report_view view;
    const void *body;
    size_t size;
    int err;

    if (ask.budget > SP_REPORT_PAGES)
        ask.budget = SP_REPORT_PAGES;
    if (nodes)
        ask.flags |= SP_SCAN_NODES;
    if (nodes && !scan->from)
        sp_nodes_pass_begins(client);
    if (scan->restart || client->restart)
        ask.flags |= SP_SCAN_RESTART;
    if (sp_written_may_report(client, scan->from == 0) && !domain->brakes)
        ask.flags |= SP_SCAN_WRITTEN;
    if (!scan->from && sp_hurry_wants(client))
        ask.flags |= SP_SCAN_NOW;
    sp_thin_tell(domain, &ask);
    err = sp_ask(client, SP_MSG_SCAN, &ask, sizeof(ask), -1, SP_MSG_SCAN, &body, &size);
    if (err)
        return err;
    if (sp_check_report(body, size, domain->daemon->page_size, scan->from, nodes, &view) ||
        view.head->npages > scan->max_pages || view.head->nchanged > scan->max_runs ||
        view.head->ngone > scan->max_runs)
        return sp_ask_malformed(client);
    client->restart = false;
    take_report(client, scan, &view, nodes);
    sp_written_want_look(client);
    if (nodes && !scan->next)
        sp_nodes_pass_ends(client);
    if (!scan->next)
        sp_written_give_back(client); /* an error marks the client; what was reported is good */
    return 0;
}

/*
 * Copies offered pages, which hold memory, into n neighbouring frames, and hashes what the frames
 * then hold: the client may be changing the offer meanwhile.
 */
static void fill_frames(struct sp_domain *domain, const char *offer, struct sp_fill_page *page,
                        unsigned n)
{
    uint32_t segment = SP_FRAME_SEGMENT(page->frame), index = SP_FRAME_INDEX(page->frame);
    uint32_t page_size = domain->daemon->page_size;
    const void *filled;

    if (sp_pool_write(domain->set, segment, index, n, offer, &filled))
        return;
    for (unsigned i = 0; i < n; i++) {
        struct sp_hash hash = sp_page_hash(domain, (const char *)filled + (size_t)i * page_size);

        page[i].ok = hash.lo == page[i].want.lo && hash.hi == page[i].want.hi;
    }
    sp_nodes_check_filled(domain, page, n);
}

static bool offered(const struct sp_filled *filled, unsigned i)
{
    return filled->ok[i / 64] >> (i % 64) & 1;
}

static void take_offer(struct sp_domain *domain, const struct sp_client *client,
                       const struct sp_filled *filled, struct sp_fill_page *page, unsigned n)
{
    const char *offer = (const char *)client->shm + SP_SHM_OFFER;
    unsigned end;

    for (unsigned i = 0; i < n; i++)
        page[i].ok = 0;
    for (unsigned i = 0; i < n; i = end) {
        end = i + 1;
        if (!offered(filled, i))
            continue;
        while (end < n && offered(filled, end) && page[end].frame == page[end - 1].frame + 1)
            end++;
        fill_frames(domain, offer + (size_t)i * domain->daemon->page_size, &page[i], end - i);
    }
}

static int ops_fill(void *ctx, void *mm, struct sp_fill_page *page, unsigned n)
{
    static union {
        struct sp_fill_ask ask;
        uint8_t room[sizeof(struct sp_fill_ask) + SP_FILL_PAGES * sizeof(uint64_t)];
    } out;
    struct sp_domain *domain = ctx;
    struct sp_client *client = mm;
    struct sp_filled filled;
    const void *body;
    size_t size;
    int err;

    if (n == 0 || n > SP_FILL_PAGES)
        return -EINVAL;
    out.ask = (struct sp_fill_ask){.npages = n};
    for (unsigned i = 0; i < n; i++)
        out.ask.addr[i] = page[i].addr;
    err = sp_ask(client, SP_MSG_FILL, &out, sizeof(out.ask) + n * sizeof(uint64_t), -1, SP_MSG_FILL,
                 &body, &size);
    if (err)
        return err;
    if (sp_check_filled(body, size, n, &filled))
        return sp_ask_malformed(client);
    client->offered = true;
    take_offer(domain, client, &filled, page, n);
    return 0;
}

/* The client may map these frames although no answer says so. If that cannot be noted, every frame
 * counts as such until the engine call is over. */
static void suspect_frames(struct sp_domain *domain, const struct sp_merge_page *page, unsigned n)
{
    if (domain->nsuspects + n > domain->suspects_size) {
        size_t size = (domain->nsuspects + n) * 2;
        sp_frame *more = reallocarray(domain->suspect, size, sizeof(*more));

        if (!more) {
            domain->all_suspect = true;
            return;
        }
        domain->suspect = more;
        domain->suspects_size = size;
    }
    for (unsigned i = 0; i < n; i++)
        domain->suspect[domain->nsuspects++] = page[i].frame;
}

static bool is_suspect(const struct sp_domain *domain, sp_frame frame)
{
    for (size_t i = 0; i < domain->nsuspects; i++) {
        if (domain->suspect[i] == frame)
            return true;
    }
    return domain->all_suspect;
}

void sp_engine_call_done(struct sp_domain *domain)
{
    free(domain->suspect);
    domain->suspect = NULL;
    domain->nsuspects = 0;
    domain->suspects_size = 0;
    domain->all_suspect = false;
}

static bool run_goes_on(const struct sp_merge_run *run, const struct sp_merge_page *page,
                        uint32_t page_size, uint32_t flags)
{
    return page->addr == run->addr + (uint64_t)run->npages * page_size &&
           SP_FRAME_SEGMENT(page->frame) == run->segment &&
           (run->segment == SP_SEGMENT_ZEROS ||
            SP_FRAME_INDEX(page->frame) == run->index + run->npages) &&
           flags == run->flags;
}

/* What one page's run must have. N1: where the engine names no node, any will do. */
static uint32_t run_flags(const struct sp_merge_page *page, uint32_t flags, bool nodes)
{
    if (page->break_fork)
        flags |= SP_MERGE_BREAK_FORK;
    if (nodes && page->node < SP_NODES_MAX)
        flags |= (page->node + 1u) << SP_MERGE_NODE_SHIFT;
    return flags;
}

/* Groups neighbouring pages with neighbouring frames: each run will be one mapping. */
static uint32_t group_runs(struct sp_domain *domain, struct sp_merge_run *run,
                           const struct sp_merge_page *page, unsigned n, uint32_t flags)
{
    uint32_t nruns = 0, page_size = domain->daemon->page_size;
    bool nodes = sp_nodes_matter(domain);

    for (unsigned i = 0; i < n; i++) {
        uint32_t own = run_flags(&page[i], flags, nodes);

        if (nruns && run_goes_on(&run[nruns - 1], &page[i], page_size, own)) {
            run[nruns - 1].npages++;
            continue;
        }
        run[nruns++] = (struct sp_merge_run){
            .addr = page[i].addr,
            .segment = SP_FRAME_SEGMENT(page[i].frame),
            .index = SP_FRAME_INDEX(page[i].frame),
            .npages = 1,
            .flags = own,
        };
    }
    return nruns;
}

static int send_segments(struct sp_client *client, const struct sp_merge_run *run, uint32_t nruns)
{
    for (uint32_t i = 0; i < nruns; i++) {
        int err = run[i].segment == SP_SEGMENT_ZEROS ? 0 : sp_ask_segment(client, run[i].segment);

        if (err)
            return err;
    }
    return 0;
}

static uint32_t named_nodes(const struct sp_merge_ask *ask)
{
    uint32_t named = 0;

    for (uint32_t i = 0; i < ask->nruns; i++)
        named |= ask->run[i].flags & SP_MERGE_NODE;
    return named;
}

static void set_results(struct sp_merge_page *page, unsigned n, const uint8_t *result)
{
    for (unsigned i = 0; i < n; i++)
        page[i].result = result ? result[i] : SP_OUT_OF_MEMORY;
}

int sp_engine_ask_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n,
                        uint32_t flags)
{
    struct sp_domain *domain = client->domain;
    _Alignas(struct sp_merge_ask) char
        buffer[sizeof(struct sp_merge_ask) + SP_MERGE_PAGES * sizeof(struct sp_merge_run)];
    struct sp_merge_ask *ask = (struct sp_merge_ask *)buffer;
    const struct sp_merged *merged;
    const void *body;
    size_t size;
    int err;

    ask->npages = n;
    ask->nruns = group_runs(domain, ask->run, page, n, flags);
    err = send_segments(client, ask->run, ask->nruns);
    if (err && !client->failed && err != -EHOSTDOWN) {
        set_results(page, n, NULL); /* it has no room for the segment: its pages stay */
        return 0;
    }
    if (err)
        return err;
    err = sp_ask(client, SP_MSG_MERGE, ask, sizeof(*ask) + ask->nruns * sizeof(ask->run[0]), -1,
                 SP_MSG_MERGE, &body, &size);
    if (!err && sp_check_merged(body, size, n, flags | named_nodes(ask), &merged))
        err = sp_ask_malformed(client);
    if (err)
        return err;
    client->mappings = merged->mappings;
    set_results(page, n, merged->result);
    return 0;
}

/* Where pages are to be held (wire.h) a few at a time: none is held for longer than it takes with these. */
static int merge(struct sp_client *client, struct sp_merge_page *page, unsigned n)
{
    uint32_t flags = sp_written_may_hold(client) && client->kept ? SP_MERGE_WRITTEN : 0;
    unsigned most = flags ? SP_HOLD_PAGES : SP_MERGE_PAGES, part;
    int err = 0;

    if (n == 0 || n > SP_MERGE_PAGES)
        return -EINVAL;
    for (unsigned i = 0; i < n && !err; i += part) {
        part = n - i < most ? n - i : most;
        err = sp_engine_ask_merge(client, page + i, part, flags);
        if (!err)
            err = sp_written_merge(client, page + i, part);
        if (i && err == -EHOSTDOWN) { /* some were asked for: the others as if there had been no room */
            set_results(page + i, n - i, NULL);
            return 0;
        }
    }
    return err;
}

static int ops_merge(void *ctx, void *mm, struct sp_merge_page *page, unsigned n)
{
    int err = merge(mm, page, n);

    if (err && err != -EHOSTDOWN)
        suspect_frames(ctx, page, n);
    return err;
}

/* K15: no frame is asked for, so none is suspect. */
static int ops_zero(void *ctx, void *mm, struct sp_merge_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].frame = SP_FRAME(SP_SEGMENT_ZEROS, 0);
    return merge(mm, page, n);
}

static int ops_unmerge(void *ctx, void *mm, uint64_t start, uint64_t end, uint64_t *next,
                       uint64_t *npages)
{
    struct sp_domain *domain = ctx;
    struct sp_client *client = mm;
    struct sp_unmerge_ask ask = {.start = start, .end = end, .max_pages = UNMERGE_PAGES};
    struct sp_unmerged done;
    const void *body;
    size_t size;
    int err = sp_ask(client, SP_MSG_UNMERGE, &ask, sizeof(ask), -1, SP_MSG_UNMERGE, &body, &size);

    *next = 0;
    *npages = 0;
    if (err)
        return err;
    if (sp_check_unmerged(body, size, domain->daemon->page_size, start, end, &done))
        return sp_ask_malformed(client);
    client->mappings = done.mappings;
    domain->unmerged += done.npages;
    *next = done.next;
    *npages = done.npages;
    return done.status;
}

/* K10 for one domain is its engine's own matter; the daemon's limit is one for all together. */
static unsigned within_limit(const struct sp_daemon *daemon, unsigned want)
{
    uint64_t limit = daemon->config.value[SP_KEY_MAX_KERNEL_PAGES];
    struct sp_pool_counters counters;

    if (limit == 0)
        return want;
    sp_pool_counters(daemon->pool, &counters);
    if (counters.frames_used >= limit)
        return 0;
    return want < limit - counters.frames_used ? want : (unsigned)(limit - counters.frames_used);
}

static sp_frame ops_frame_alloc(void *ctx, unsigned *node, unsigned want, unsigned *got)
{
    struct sp_domain *domain = ctx;
    int wanted = *node < SP_NODES_MAX && sp_nodes_matter(domain) ? (int)*node : -1;
    uint32_t segment, index;
    int err;

    *got = 0;
    want = within_limit(domain->daemon, want);
    if (want == 0)
        return 0;
    err = sp_pool_alloc_on(domain->set, wanted, want, &segment, &index, got);
    if (err && wanted >= 0)
        sp_nodes_refused(domain->daemon, wanted, err);
    if (err || *got == 0)
        return 0;
    return SP_FRAME(segment, index);
}

static void ops_frame_free_unused(void *ctx, sp_frame frame, unsigned n)
{
    struct sp_domain *domain = ctx;

    for (unsigned i = 0; i < n; i++) {
        uint32_t segment = SP_FRAME_SEGMENT(frame + i), index = SP_FRAME_INDEX(frame + i);

        /* A frame that may be mapped after all must never be written again (K11). */
        if (is_suspect(domain, frame + i))
            sp_pool_forget(domain->set, segment, index);
        else
            sp_pool_unalloc(domain->set, segment, index, 1);
    }
}

static void ops_frame_forget(void *ctx, sp_frame frame)
{
    struct sp_domain *domain = ctx;

    sp_pool_forget(domain->set, SP_FRAME_SEGMENT(frame), SP_FRAME_INDEX(frame));
}

static struct sp_store_link *store_of(struct sp_domain *domain, sp_frame frame)
{
    return sp_pool_is_stored(domain->set, SP_FRAME_SEGMENT(frame))
               ? sp_storage_link(domain->daemon->storage)
               : NULL;
}

static enum sp_evicted ops_frame_evict(void *ctx, sp_frame frame)
{
    static const enum sp_evicted meant[] = {SP_EVICTED_DONE, SP_EVICTED_AGAIN, SP_EVICTED_CANNOT};
    struct sp_store_link *store = store_of(ctx, frame);
    const struct sp_store_answer *said;

    if (!store)
        return sp_pageout_choose(((struct sp_domain *)ctx)->daemon, frame);
    if (sp_store_ask(store, SP_STORE_EVICT, SP_FRAME_SEGMENT(frame), SP_FRAME_INDEX(frame), 1, &said))
        return SP_EVICTED_CANNOT;
    return said->result[0] <= SP_STORE_CANNOT ? meant[said->result[0]] : SP_EVICTED_CANNOT;
}

/* S8: one that the machine's swap cannot give back. The kernel gives SIGBUS to all who touch it. */
static int bring_in(struct sp_domain *domain, sp_frame frame)
{
    uint32_t segment = SP_FRAME_SEGMENT(frame), index = SP_FRAME_INDEX(frame);
    int err = sp_pool_bring(domain->set, segment, index);

    if (err == -EIO)
        sp_log(SP_LOG_ERROR,
               "frame %u of segment %u is lost: the machine's swap cannot give its bytes back; who touches it "
               "gets SIGBUS",
               index, segment);
    return err;
}

static int ops_frame_bring_back(void *ctx, sp_frame frame, unsigned *node)
{
    struct sp_store_link *store = store_of(ctx, frame);
    const struct sp_store_answer *said;
    int err;

    if (!store)
        return bring_in(ctx, frame); /* nodes.c sees to where it lies (N3) */
    *node = 0;
    err = sp_store_ask(store, SP_STORE_BRING, SP_FRAME_SEGMENT(frame), SP_FRAME_INDEX(frame), 1, &said);
    if (err) /* held for an agent, or nobody answers: of its bytes that says nothing (S8) */
        return err == -ENOENT || err == -EINVAL ? -EIO : -ENOMEM;
    return said->result[0] == SP_STORE_DONE ? 0 : -EIO;
}

const struct sp_engine_ops sp_daemon_engine_ops = {
    .scan = ops_scan,
    .fill = ops_fill,
    .merge = ops_merge,
    .unmerge = ops_unmerge,
    .frame_alloc = ops_frame_alloc,
    .frame_free_unused = ops_frame_free_unused,
    .frame_forget = ops_frame_forget,
    .zero = ops_zero,
    .frame_referenced = sp_reclaim_referenced,
    .frame_locked = sp_reclaim_locked,
    .frame_evict = ops_frame_evict,
    .frame_bring_back = ops_frame_bring_back,
    .block_get = sp_block_get,
    .block_put = sp_block_put,
};
