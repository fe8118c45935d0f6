/* SPDX-License-Identifier: Apache-2.0 */
/* Answers the daemon's questions, and the program's threads that wait at the gate. */
#include <linux/time_types.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "ops.h"
#include "own_file.h"
#include "sitemap.h"
#include "sys.h"

#define WAKE_SPINS 200u
#define GIVE_BACK_SLACK 64u /* mappings */
#define GIVE_BACK_RUNS 1024u /* at a time */

static void done(const struct sp_msg *msg, int status)
{
    struct sp_done d = {.status = status};

    sp_link_answer(msg, SP_MSG_DONE, &d, sizeof(d));
}

static void serve_scan(const struct sp_msg *msg, const struct sp_scan_ask *ask)
{
    static struct sp_report_out found;
    static uint8_t packet[SP_WIRE_MAX];
    struct sp_scan_ask checked = *ask;
    size_t n = sizeof(found.head);

    if (!checked.budget || checked.budget > SP_REPORT_PAGES)
        checked.budget = SP_REPORT_PAGES;
    sp_agent.max_mappings = checked.max_mappings;
    sp_track_scan(&checked, &found);
    if (checked.flags & SP_SCAN_NODES)
        sp_nodes_tell(found.page, found.head.npages);
    memcpy(packet, &found.head, n);
    memcpy(packet + n, found.page, found.head.npages * sizeof(found.page[0]));
    n += found.head.npages * sizeof(found.page[0]);
    memcpy(packet + n, found.changed, found.head.nchanged * sizeof(found.changed[0]));
    n += found.head.nchanged * sizeof(found.changed[0]);
    memcpy(packet + n, found.gone, found.head.ngone * sizeof(found.gone[0]));
    n += found.head.ngone * sizeof(found.gone[0]);
    sp_link_answer(msg, SP_MSG_SCAN, packet, n);
}

static void serve_fill(const struct sp_msg *msg, const struct sp_fill_ask *ask)
{
    struct sp_filled f = {{0}};

    if (ask->npages > SP_FILL_PAGES ||
        msg->length != sizeof(*ask) + ask->npages * sizeof(ask->addr[0])) {
        sp_agent.leave = true; /* not the daemon we know */
        return;
    }
    for (uint32_t i = 0; i < ask->npages; i++) {
        uint64_t addr = ask->addr[i];
        uint8_t *slot = (uint8_t *)SP_OFFER + ((uint64_t)i << sp_agent.page_shift);

        if (sp_range_of(addr, addr + sp_agent.page_size) && sp_peek_copy(slot, addr))
            f.ok[i / 64] |= 1ull << (i % 64);
    }
    sp_link_answer(msg, SP_MSG_FILL, &f, sizeof(f));
}

static bool merge_is_sane(const struct sp_merge_ask *ask, size_t length)
{
    uint64_t pages = 0;

    if (ask->nruns > SP_MERGE_PAGES ||
        length != sizeof(*ask) + ask->nruns * sizeof(struct sp_merge_run))
        return false;
    for (uint32_t i = 0; i < ask->nruns; i++)
        pages += ask->run[i].npages;
    return pages == ask->npages && pages <= SP_MERGE_PAGES;
}

static void serve_merge(const struct sp_msg *msg, const struct sp_merge_ask *ask)
{
    static union {
        struct sp_merged head;
        uint8_t room[sizeof(struct sp_merged) + SP_MERGE_PAGES];
    } out;

    if (!merge_is_sane(ask, msg->length)) {
        sp_agent.leave = true; /* not the daemon we know */
        return;
    }
    if (!ask->nruns)
        sp_again_release();
    else if (ask->run[0].flags & SP_MERGE_LOOKED)
        sp_again_merge(ask, out.head.result);
    else
        sp_lift_merge(ask, out.head.result);
    out.head.npages = ask->npages;
    out.head.mappings = sp_agent.mappings;
    sp_link_answer(msg, SP_MSG_MERGE, &out, sizeof(out.head) + ask->npages);
}

/* Zeros first, up to where that ends: what lies before *next has pages of its own, of both kinds. */
static int unmerge(const struct sp_unmerge_ask *ask, uint64_t *next, uint64_t *npages)
{
    uint64_t end, zeros, sites;
    int ret = sp_unmerge_zeros(ask->start, ask->end, ask->max_pages, &end, &zeros), status = 0;

    *npages = zeros;
    *next = end;
    if (ret && !end)
        return ret;
    status = sp_unmerge(ask->start, end ? end : ask->end, ask->max_pages, next, &sites);
    *npages += sites;
    if (!*next && !status)
        *next = end;
    return status ? status : ret;
}

static void serve_unmerge(const struct sp_msg *msg, const struct sp_unmerge_ask *ask)
{
    struct sp_unmerged u = {0};

    if (ask->flags & SP_UNMERGE_STAY)
        sp_agent.stay_unmerged = true;
    if (ask->flags & SP_UNMERGE_HOLD)
        u.npages = sp_again_hold_useless(ask->max_pages);
    else if (ask->flags & SP_UNMERGE_LOOKED)
        u.npages = sp_again_unmerge();
    else {
        sp_agent.daemon_unmerges = true;
        u.status = unmerge(ask, &u.next, &u.npages);
        sp_agent.daemon_unmerges = false;
        if (!u.status && !u.next)
            sp_ranges_refresh(true); /* the mappings that are left are told (K12) */
    }
    u.mappings = sp_agent.mappings;
    sp_link_answer(msg, SP_MSG_UNMERGE, &u, sizeof(u));
}

static void serve_explain(const struct sp_msg *msg, const struct sp_from *ask)
{
    static struct sp_explained e;

    memset(&e, 0, sizeof(e));
    if (ask->from == 0) {
        sp_ranges_refresh(false); /* as seldom as a scan does: the daemon waits meanwhile */
        memcpy(e.left, sp_agent.left, sizeof(e.left));
    }
    sp_track_explain(ask->from, &e);
    e.flags = (sp_gate.locks_future ? SP_EXPLAINED_LOCKS_FUTURE : 0) |
              (sp_agent.gave_back ? SP_EXPLAINED_GAVE_BACK : 0) |
              (sp_mappings_short() ? SP_EXPLAINED_SHORT : 0) |
              (sp_agent.stay_unmerged ? SP_EXPLAINED_STAYS : 0) | sp_agent.raw_calls;
    sp_link_answer(msg, SP_MSG_EXPLAIN, &e, sizeof(e));
}

static size_t body_size(uint16_t type)
{
    switch (type) {
    case SP_MSG_SEGMENT:
    case SP_MSG_DROP_SEGMENT:
        return sizeof(struct sp_segment);
    case SP_MSG_SITES:
    case SP_MSG_LOCKED:
    case SP_MSG_ZEROED:
    case SP_MSG_EXPLAIN:
        return sizeof(struct sp_from);
    case SP_MSG_SCAN:
        return sizeof(struct sp_scan_ask);
    case SP_MSG_FILL:
        return sizeof(struct sp_fill_ask);
    case SP_MSG_MERGE:
        return sizeof(struct sp_merge_ask);
    case SP_MSG_UNMERGE:
        return sizeof(struct sp_unmerge_ask);
    default:
        return 0;
    }
}

void sp_serve(const struct sp_msg *msg, const uint8_t *body, int fd)
{
    const struct sp_segment *segment = (const void *)body;

    if (msg->length < body_size(msg->type)) {
        sp_agent.leave = true;
        msg = NULL;
    }
    if (fd >= 0 && (!msg || (msg->type != SP_MSG_SEGMENT && msg->type != SP_MSG_STALL)))
        sp_sys(__NR_close, fd);
    if (!msg)
        return;
    switch (msg->type) {
    case SP_MSG_SEGMENT:
        done(msg, sp_view_add(segment->id, segment->npages, fd));
        break;
    case SP_MSG_STALL:
        sp_stall_take(fd);
        done(msg, 0);
        break;
    case SP_MSG_DROP_SEGMENT:
        sp_view_drop(segment->id);
        if (segment->id < SP_AGENT_SEGMENTS)
            sp_agent.view[segment->id].dropped = true;
        done(msg, 0);
        break;
    case SP_MSG_SITES:
    case SP_MSG_LOCKED:
        sp_sites_report(msg, ((const struct sp_from *)body)->from);
        break;
    case SP_MSG_ZEROED:
        sp_zeroed_report(msg, ((const struct sp_from *)body)->from);
        break;
    case SP_MSG_SCAN:
        serve_scan(msg, (const void *)body);
        break;
    case SP_MSG_FILL:
        serve_fill(msg, (const void *)body);
        break;
    case SP_MSG_MERGE:
        serve_merge(msg, (const void *)body);
        break;
    case SP_MSG_UNMERGE:
        serve_unmerge(msg, (const void *)body);
        break;
    case SP_MSG_EXPLAIN:
        serve_explain(msg, (const void *)body);
        break;
    case SP_MSG_QUIT:
        done(msg, 0);
        sp_agent.leave = true;
        break;
    default:
        done(msg, -EINVAL);
    }
}

/*
 * The program is out of mappings. If it really is (an ENOMEM has other causes too), no more is
 * merged here, and runs are given back: 0 means that the call is worth a second try.
 */
static int64_t give_back(void)
{
    uint64_t given;

    sp_ranges_refresh(true);
    if (sp_agent.all_mappings + GIVE_BACK_SLACK < sp_agent.max_map_count)
        return -EAGAIN;
    sp_agent.gave_back = true;
    given = sp_unmerge_plain(GIVE_BACK_RUNS);
    sp_ranges_refresh(true);
    return given ? 0 : -ENOMEM;
}

/* For a userfaultfd of the program's own, which is to be told of what is missing: nothing ever is in a
 * mapping of the pool, so what was written since its merge does not stay in one either. */
static int release(uint64_t start, uint64_t end)
{
    struct uffdio_range range = {.start = start, .len = end - start};
    int ret = sp_unmerge_written(start, end);

    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &range);
    sp_released_add(start, end);
    sp_ranges_refresh(true);
    return ret;
}

/* Also what was merged since the asker looked for that: to ask it left the gate. */
static int own_zeros(uint64_t start, uint64_t end)
{
    uint64_t next, npages;
    int ret = sp_unmerge_zeros(start, end, ~0ull, &next, &npages);

    return ret ? ret : sp_unmerge(start, end, ~0ull, &next, &npages);
}

static int64_t serve_request(const struct sp_gate_request *r)
{
    uint64_t next = 0, npages;

    if (r->kind == SP_GATE_OWN_NAME)
        return sp_own_is_named(r->addr, sp_peek_word);
    sp_again_release(); /* another userfaultfd may be needed there */
    if (r->kind == SP_GATE_GIVE_BACK)
        return give_back();
    if (r->kind == SP_GATE_ATTRIBUTES)
        return sp_range_attributes(r->addr, r->end);
    if (r->kind == SP_GATE_LEFT)
        return sp_unmerge_must_leave(r->addr, r->end) ? -EINVAL : sp_range_attributes(r->addr, r->end);
    if (r->kind == SP_GATE_UNTRACK)
        return sp_range_untrack(r->addr, r->end);
    if (r->kind == SP_GATE_UNMERGE_WRITTEN)
        return sp_unmerge_written(r->addr, r->end);
    if (r->kind == SP_GATE_UNMERGE_INTO)
        return sp_unmerge_into(r->addr, r->end, r->copy, r->attributes);
    if (r->kind == SP_GATE_EMPTY)
        return sp_empty_sites(r->addr, r->end);
    if (r->kind == SP_GATE_ZERO)
        return sp_zero_sites(r->addr, r->end);
    if (r->kind == SP_GATE_OWN_ZEROS)
        return own_zeros(r->addr, r->end);
    if (r->kind == SP_GATE_FILTER)
        return sp_agent_before_filter();
    if (r->kind == SP_GATE_RELEASE)
        return release(r->addr, r->end);
    return sp_unmerge(r->addr, r->end, ~0ull, &next, &npages);
}

/*
 * Threads that wait. One that was given the page and still counts after a while was slow, and then
 * touches the page again, which is an event; or a handler of it jumped away, and it counts for ever.
 */
static uint32_t ghosts;

static uint32_t waiters(void)
{
    uint32_t n = __atomic_load_n(&sp_gate.waiters, __ATOMIC_SEQ_CST);

    if (ghosts > n)
        ghosts = n;
    return n - ghosts;
}

/*
 * Nobody but the agent, and threads at the gate, touches staging and the wait page, unless the
 * program has all of its memory filled: mlockall() would wait for these pages for ever. It gets
 * them, and keeps them until it is through (taken away at once, it would ask for ever);
 * sp_arena_clean() takes them away.
 */
static void serve_touch(uint64_t addr)
{
    struct uffdio_zeropage zero = {.range = {addr & ~((uint64_t)sp_agent.page_size - 1),
                                             sp_agent.page_size}};

    if (addr < sp_agent.arena || addr >= sp_agent.arena_end)
        return; /* the program's, and a lift's: it was woken when that ended */
    if (zero.range.start == (uint64_t)sp_gate.wait_page)
        ghosts = 0;
    if (waiters() && zero.range.start == (uint64_t)sp_gate.wait_page)
        return; /* they get it when the gate is open, and all requests are served */
    sp_agent.arena_filled = true;
    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_ZEROPAGE, &zero);
}

void sp_arena_clean(void)
{
    if (!sp_agent.arena_filled)
        return;
    sp_sys(__NR_munlock, sp_agent.arena, sp_agent.arena_end - sp_agent.arena);
    sp_sys(__NR_madvise, sp_agent.staging, SP_LIFT_PAGES << sp_agent.page_shift, 4);
    sp_sys(__NR_madvise, sp_gate.wait_page, sp_agent.page_size, 4);
    sp_agent.arena_filled = false;
}

/* What threads wait for: pages of ours, and pages that are held (again.c). */
static void drain_events(void)
{
    static struct uffd_msg events[16];
    long n;

    while ((n = sp_sys(__NR_read, sp_agent.uffd, events, sizeof(events))) > 0)
        for (unsigned i = 0; i < (unsigned long)n / sizeof(events[0]); i++)
            if (events[i].event == UFFD_EVENT_PAGEFAULT)
                serve_touch(events[i].arg.pagefault.address);
    while ((n = sp_sys(__NR_read, sp_agent.uffd_sync, events, sizeof(events))) > 0)
        for (unsigned i = 0; i < (unsigned long)n / sizeof(events[0]); i++)
            if (events[i].event == UFFD_EVENT_PAGEFAULT)
                sp_again_touched(events[i].arg.pagefault.address);
}

/*
 * Gives the wait page until nobody waits any more, then takes it away: a thread that comes later
 * faults again, and that fault wakes us.
 */
void sp_serve_gate(void)
{
    uint64_t wait = (uint64_t)sp_gate.wait_page;
    struct uffdio_zeropage zero = {.range = {wait, sp_agent.page_size}};
    struct sp_gate_request *r;

    /* Un-merging for a request opens the gate and comes here again: one level is enough. */
    if (sp_agent.serving)
        return;
    drain_events();
    if (!waiters() && !sp_gate_next_request())
        return;
    sp_agent.serving = true;
    do {
        drain_events();
        while (!sp_agent.filtered && (r = sp_gate_next_request())) {
            bool daemon_unmerges = sp_agent.daemon_unmerges;

            sp_agent.daemon_unmerges = false; /* not these pages */
            sp_gate_parked = r->owner;
            sp_agent.alone = r->quiet && sp_program_threads() == 1;
            sp_gate_request_done(r, serve_request(r));
            sp_agent.alone = false;
            sp_gate_parked = 0;
            sp_agent.daemon_unmerges = daemon_unmerges;
            if (sp_agent.filtered) /* only now: see sp_agent_before_filter() */
                __atomic_store_n(&sp_gate.agent, SP_GATE_FILTERED, __ATOMIC_SEQ_CST);
        }
        zero.zeropage = 0;
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_ZEROPAGE, &zero);
        sp_fault_point("gate-given");
        for (uint32_t i = 0; i < WAKE_SPINS && waiters(); i++)
            sp_sys(__NR_sched_yield);
        ghosts += waiters();
        /* Locked by mlockall(): it stays for now, and who waits spins until it is cleaned. */
        if (sp_is_err(sp_sys(__NR_madvise, wait, sp_agent.page_size, 4)))
            sp_agent.arena_filled = true;
    } while (!sp_agent.filtered && sp_gate_next_request());
    sp_agent.serving = false;
}
