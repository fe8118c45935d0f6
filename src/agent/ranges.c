/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which memory is looked at: what the program advised, or with --all every large private anonymous
 * range that K17 allows.
 *
 * A range is a stretch of neighbouring mappings that are eligible or are the pool's (merged pages
 * split a range into many mappings, and must not make it look small). The flags are those of
 * smaps, read again when the gate noted a change or the size of the address space changed, but not
 * so often that reading costs more than a fortieth of the time.
 */
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "gate_inside.h"
#include "kernel.h"
#include "maps.h"
#include "mem.h"
#include "policy.h"
#include "rings.h"
#include "sitemap.h"
#include "sys.h"
#include "vmflags.h"

#define REFRESH_SHARE 40u /* reading the mappings takes at most a fortieth of the time */
#define REST_PASSES 8u    /* in which nothing was merged: merging has come to rest */

struct build {
    uint64_t start, end; /* of the stretch that grows, 0: none */
    uint64_t flags; /* of all of it */
    bool plain; /* there is a plain mapping in it: flags are known whole */
    uint64_t guard_end; /* of the last mapping that nobody may touch */
    bool keep; /* however small: advised, or with sites in it */
    uint32_t n, mappings, pool_mappings, pool_stretches;
    uint64_t pool_end; /* of the last one */
    uint64_t tracked;
    uint64_t left[SP_LEFT_KINDS];
};

static uint64_t total_vm(void)
{
    char buf[32];
    const char *p = buf;
    long n = sp_sys(__NR_pread64, sp_agent.own_statm, buf, sizeof(buf), 0);

    return n > 0 ? sp_parse_dec(&p, buf + n) : 0;
}

static bool is_ours(const struct sp_mapping *m)
{
    uint64_t state = (uint64_t)&sp_gate, agent = (uint64_t)&sp_agent, map, map_end;

    sp_sitemap_area(&map, &map_end);
    return (m->start < map_end && m->end > map) ||
           (m->start < sp_agent.arena_end && m->end > sp_agent.arena) ||
           (state >= m->start && state < m->end) || (agent >= m->start && agent < m->end);
}

/* What the program advised: the kernel's flag; or, where the gate answers in the kernel's place, its last word alone: a
 * flag is then what un-merged memory was given here, and no call of the program takes that back. */
static bool is_advised(const struct sp_mapping *m)
{
    return sp_gate_no_ksm ? m->word == SP_WORD_MERGEABLE : m->advised;
}

/* Is what nobody advised tracked, too? A kernel with KSM gives its flag to all that PR_SET_MEMORY_MERGE means,
 * but for what the program took out of it. */
static bool is_for_all(const struct sp_mapping *m)
{
    return (sp_agent.all || (sp_gate_no_ksm && sp_gate.advise_all)) && m->word != SP_WORD_UNMERGEABLE;
}

/*
 * A thread's stack lies between a guard page and its control block; the kernel joins it with other
 * memory above it where the flags are the same. Returns where that memory begins: behind the last
 * control block, m->start where there is no stack, m->end if it is not known where stacks end. A
 * control block elsewhere (a stack made in a heap) keeps only its own surroundings from being
 * lifted (lift.c).
 */
static uint64_t behind_stacks(const struct sp_mapping *m)
{
    uint64_t at = m->start;

    if (!sp_gate_tcb_in(m->start, m->end))
        return at;
    for (uint32_t i = 0; i < SP_GATE_TCBS; i++) {
        uint64_t page = __atomic_load_n(&sp_gate.tcb[i], __ATOMIC_SEQ_CST);

        if (page >= at && page < m->end)
            at = page + sp_agent.page_size;
    }
    return at > m->start ? at : m->end;
}

/* What kind of memory never is looked at, whatever its flags. */
static enum sp_left why_not_plain(const struct sp_mapping *m)
{
    if (is_ours(m))
        return SP_LEFT_OURS;
    if (m->shared)
        return SP_LEFT_SHARED;
    if (m->stack)
        return SP_LEFT_STACK;
    if (m->special)
        return SP_LEFT_SPECIAL;
    if (m->named || m->inode)
        return SP_LEFT_FILE;
    if (!m->readable && !m->writable && !m->executable)
        return SP_LEFT_NO_ACCESS;
    if (m->executable)
        return SP_LEFT_EXECUTABLE;
    return m->readable && m->writable ? SP_LEFT_NOT : SP_LEFT_READ_ONLY;
}

/* S4: what the program advised is merged though it is locked. */
static bool may_merge_locked(const struct sp_mapping *m)
{
    return m->lock_alone && is_advised(m) && !sp_gate.locks_future;
}

/*
 * K17: memory that the program bound to nodes is merged only if it advised it. What a call of mbind() does from now
 * on the gate notes. The policy of the whole process (set_mempolicy) is no matter: a private page that a write to a
 * site makes follows it, and where frames lie is the daemon's choice.
 */
static bool is_bound_and_left(struct sp_mapping *m)
{
    uint32_t policy;

    if (!sp_policy_of(m->start, &policy))
        return true;
    m->given |= policy;
    return policy && !is_advised(m);
}

/* Why a mapping is left alone (K17); SP_LEFT_NOT: it is not, and what it has is known whole. */
static enum sp_left why_left(struct sp_mapping *m)
{
    enum sp_left left = why_not_plain(m);
    bool released = sp_released_holds(m);

    if (left != SP_LEFT_NOT)
        return left;
    if (!m->merge_keeps && !may_merge_locked(m))
        return (enum sp_left)m->lost;
    if (released)
        return SP_LEFT_USERFAULTFD;
    if (!is_advised(m) && !is_for_all(m))
        return SP_LEFT_NOT_ADVISED;
    return is_bound_and_left(m) ? SP_LEFT_BOUND : SP_LEFT_NOT;
}

static void finish_range(struct build *b)
{
    uint64_t pages = (b->end - b->start) >> sp_agent.page_shift;

    if (b->end && (pages >= SP_MIN_RANGE_PAGES || b->keep)) {
        if (b->n < SP_AGENT_RANGES) {
            sp_agent.range[b->n++] = (struct sp_range){b->start, b->end, b->flags};
            b->tracked += pages;
        } else {
            b->left[SP_LEFT_TOO_MANY] += b->end - b->start;
        }
    } else {
        b->left[SP_LEFT_SMALL] += b->end - b->start;
    }
    b->start = b->end = b->flags = 0;
    b->keep = b->plain = false;
}

static void add_pool_mapping(struct build *b, const struct sp_mapping *m)
{
    b->pool_mappings++;
    b->pool_stretches += m->start != b->pool_end;
    b->pool_end = m->end;
    sp_useless_note(m);
}

/* What is un-merged gets the flags of its range: so all that is in one has the same, as far as the
 * mappings of frames show it. */
static bool is_alike(const struct build *b, const struct sp_mapping *m, bool pool)
{
    return !((m->given ^ b->flags) & (pool || !b->plain ? SP_RANGE_OF_POOL : SP_RANGE_MERGES));
}

/* A mapping, or a part of one about which the program has one word, or whose sites have one policy, or that
 * it keeps for a userfaultfd of its own. */
static void add_part(struct build *b, struct sp_mapping *m, bool pool)
{
    enum sp_left left = SP_LEFT_NOT;
    bool eligible;

    if (!pool && m->start < m->end)
        left = why_left(m);
    eligible = !pool && m->start < m->end && left == SP_LEFT_NOT;
    if (pool && m->shared)
        left = SP_LEFT_OURS; /* a view of our own */
    if (left != SP_LEFT_NOT)
        b->left[left] += m->end - m->start;
    if (pool && m->shared)
        return;
    if (pool)
        add_pool_mapping(b, m);
    if (b->end && (m->start != b->end || (!eligible && !pool) || !is_alike(b, m, pool)))
        finish_range(b);
    if (!eligible && !pool)
        return;
    if (!b->end)
        b->start = m->start;
    if (!pool || !b->plain)
        b->flags = m->given & (pool ? SP_RANGE_OF_POOL | SP_RANGE_ADVISED : SP_RANGE_MERGES);
    b->end = m->end;
    b->plain |= !pool;
    b->keep |= pool || is_advised(m);
}

/* What sites have: what their mapping shows, and what is only known by address. */
static uint32_t given_to_sites(struct sp_mapping *part)
{
    uint32_t given = part->given & ~(SP_RANGE_ADVISED | SP_RANGE_POLICY);

    if (part->advised || part->word == SP_WORD_MERGEABLE)
        given |= SP_RANGE_ADVISED;
    return given | sp_policy_of_sites(part->start, &part->end);
}

static bool add_mapping(void *arg, const struct sp_mapping *mapping)
{
    struct build *b = arg;
    struct sp_mapping part = *mapping;
    bool pool = sp_view_is_pool(mapping), words = pool || sp_agent.all || sp_gate_no_ksm;

    if (mapping->executable && mapping->inode)
        sp_code_seen(mapping);
    sp_rings_note(mapping);
    if (!pool && mapping->start == b->guard_end)
        part.start = behind_stacks(mapping);
    if (!mapping->readable && !mapping->writable)
        b->guard_end = mapping->end;
    b->mappings++;
    b->left[SP_LEFT_STACK] += part.start - mapping->start;
    do {
        part.end = mapping->end;
        part.offset = mapping->offset + (part.start - mapping->start);
        part.given = mapping->given;
        part.word = words && part.start < part.end ? sp_gate_advice_at(part.start, &part.end) : SP_WORD_NONE;
        if (pool && part.start < part.end)
            part.given = given_to_sites(&part);
        else
            sp_released_cut(part.start, &part.end);
        add_part(b, &part, pool);
        part.start = part.end;
    } while (part.start < mapping->end);
    return true;
}

/* While a thread moves memory that must not be tracked, nothing is registered: what is not is found at
 * the next look. */
static bool is_moving(void)
{
    return __atomic_load_n(&sp_gate.moving, __ATOMIC_SEQ_CST) != 0;
}

/* Registers what is not yet tracked. The kernel skips what is: one call a range would do but for
 * the pool's mappings in it, so stretch by stretch. */
static void track_range(const struct sp_range *range)
{
    uint64_t at = range->start, start, stop;

    while (at < range->end && !is_moving()) {
        struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};

        if (!sp_sitemap_next(at, range->end, &start, &stop))
            start = stop = range->end;
        if (start > at) {
            reg.range.start = at;
            reg.range.len = start - at;
            sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
        }
        at = stop;
    }
}

/* Tells the next report of every page that was in a range and is in none now. */
static void note_gone(const struct sp_range *old, uint32_t nold)
{
    uint32_t j = 0;

    for (uint32_t i = 0; i < nold; i++) {
        uint64_t at = old[i].start;

        while (j < sp_agent.nranges && sp_agent.range[j].end <= at)
            j++;
        for (uint32_t k = j; at < old[i].end; k++) {
            uint64_t next = k < sp_agent.nranges ? sp_agent.range[k].start : ~0ull;

            if (next > old[i].end)
                next = old[i].end;
            if (next > at)
                sp_track_gone(at, next);
            if (k >= sp_agent.nranges)
                break;
            if (sp_agent.range[k].end > at)
                at = sp_agent.range[k].end;
        }
    }
}

/*
 * Runs that continue one another are one mapping, which is only seen by reading: when so many are
 * counted that it may matter to the budget, and once when merging has come to rest. Not sooner: to
 * read 2,500 mappings took as long as to merge 6,000 pages.
 */
bool sp_mappings_are_stale(void)
{
    uint32_t budget = sp_mappings_budget();
    uint32_t more = sp_agent.mappings > sp_agent.mappings_read
                        ? sp_agent.mappings - sp_agent.mappings_read
                        : 0;

    return more && (sp_agent.rest_passes >= REST_PASSES ||
                    (sp_agent.mappings > budget / 4 && more > budget / 16));
}

static bool too_soon(uint64_t now)
{
    return now - sp_agent.ranges_at_us < sp_agent.ranges_cost_us * REFRESH_SHARE;
}

/*
 * Begins an epoch at a moment when no gated call is under way: what such a call does comes before the
 * mappings are read, or is marked in this epoch. False if a thread stays in one.
 */
static bool begin_epoch(bool now)
{
    if (!sp_agent.running) { /* before main(): there is nobody else, and no gate yet */
        sp_gate_begin_epoch();
        return true;
    }
    if (!sp_gate_close_to_merge(now)) {
        sp_serve_gate();
        return false;
    }
    sp_gate_begin_epoch();
    sp_released_calls_done();
    if (sp_gate_open())
        sp_serve_gate();
    return true;
}

static bool is_as_before(const struct sp_range *old, uint32_t nold)
{
    uint32_t i = 0;

    while (i < nold && i < sp_agent.nranges && old[i].start == sp_agent.range[i].start &&
           old[i].end == sp_agent.range[i].end && old[i].flags == sp_agent.range[i].flags)
        i++;
    return i == nold && i == sp_agent.nranges;
}

bool sp_ranges_refresh(bool force)
{
    struct sp_range *old = sp_agent.range + SP_AGENT_RANGES;
    uint32_t nold = sp_agent.nranges;
    bool changed = sp_gate_changed_any();
    uint64_t vm = total_vm(), now = sp_now_us(), cpu;
    uint32_t epoch = sp_gate.epoch; /* of the last time */
    struct build b = {0};

    if (!force && sp_agent.ranges_at_us &&
        ((!changed && vm == sp_agent.ranges_vm && sp_code_is_known() && !sp_released_any()) ||
         too_soon(now)))
        return !changed;
    if (!begin_epoch(force))
        return false;
    sp_code_look_begin();
    sp_useless_read_begin();
    sp_rings_read_begin();
    nold = sp_agent.nranges; /* a request that was served meanwhile may have read them, too */
    memcpy(old, sp_agent.range, nold * sizeof(*old));
    cpu = sp_cpu_us();
    sp_released_read_begin();
    if (sp_maps_read(add_mapping, &b) < 0)
        b.n = 0; /* nothing is certain: nothing is looked at */
    else
        sp_released_read_end();
    finish_range(&b);
    sp_agent.nranges = b.n;
    sp_agent.tracked = b.tracked;
    memcpy(sp_agent.left, b.left, sizeof(sp_agent.left));
    /* Each makes one more; and what lies around those that adjoin one another is in two pieces. */
    sp_agent.mappings = sp_agent.mappings_read = b.pool_mappings + b.pool_stretches;
    sp_agent.all_mappings = b.mappings;
    sp_agent.own_mappings =
        b.mappings > sp_agent.mappings ? b.mappings - sp_agent.mappings : b.mappings / 2;
    if (sp_agent.raw_done)
        sp_agent.nranges = sp_agent.tracked = 0;
    else if (!sp_agent.raw_calls)
        sp_code_look_end(epoch, old, nold);
    note_gone(old, nold);
    if (changed || vm != sp_agent.ranges_vm || !is_as_before(old, nold))
        sp_quiet_disturb(); /* there may be memory that was never looked at */
    for (uint32_t i = 0; i < sp_agent.nranges; i++)
        track_range(&sp_agent.range[i]);
    sp_agent.ranges_vm = is_moving() ? 0 : vm;
    sp_agent.ranges_at_us = sp_now_us();
    sp_agent.ranges_cost_us = sp_cpu_us() - cpu;
    return true;
}

const struct sp_range *sp_range_of(uint64_t addr, uint64_t end)
{
    uint32_t lo = 0, hi = sp_agent.nranges;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (sp_agent.range[mid].end <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < sp_agent.nranges && sp_agent.range[lo].start <= addr && end <= sp_agent.range[lo].end)
        return &sp_agent.range[lo];
    return NULL;
}

struct alike {
    uint64_t at, end; /* alike up to at */
    uint32_t attributes, anonymous; /* of all; what only anonymous mappings tell */
    bool any, any_anonymous;
};

/* What the mapping of a frame has of its own, or has not. */
#define NOT_OF_POOL (SP_RANGE_NORESERVE | SP_RANGE_NO_HUGE | SP_RANGE_HUGE | SP_RANGE_ADVISED)

/* The policy of what a mapping has from `at` on: false if it cannot be told, or is not the same up to end. */
static bool one_policy(const struct sp_mapping *m, bool pool, uint64_t at, uint64_t end, uint32_t *policy)
{
    uint64_t stop = m->end < end ? m->end : end, alike = stop;

    if (!pool)
        return sp_policy_of(m->start, policy);
    *policy = sp_policy_of_sites(at, &alike);
    return alike == stop;
}

static bool alike_mapping(void *arg, const struct sp_mapping *m)
{
    bool pool = !m->shared && sp_view_is_pool(m);
    uint32_t attributes = m->given & ~NOT_OF_POOL, anonymous = m->given & NOT_OF_POOL, policy;
    struct alike *p = arg;

    if (m->end <= p->at)
        return true;
    if (m->start > p->at || p->at >= p->end || m->shared || m->special || m->stack ||
        (m->given & SP_RANGE_OTHER) || (!pool && (m->named || m->inode)) ||
        !one_policy(m, pool, p->at, p->end, &policy))
        return false;
    attributes |= policy;
    if ((p->any && attributes != p->attributes) ||
        (p->any_anonymous && !pool && anonymous != p->anonymous))
        return false;
    p->any = true;
    p->attributes = attributes;
    if (!pool) {
        p->any_anonymous = true;
        p->anonymous = anonymous;
    }
    p->at = m->end;
    return true;
}

long sp_range_attributes(uint64_t addr, uint64_t end)
{
    const struct sp_range *range = sp_range_of(addr, addr + sp_agent.page_size);
    struct alike p = {.at = addr, .end = end};

    /* What no call touched since it was read is what it was, unless pages in the pool's mappings were
     * given something. */
    if (range && end <= range->end && !(range->flags & SP_RANGE_LOCKED) && !sp_gate.mixed &&
        !sp_gate_changed(addr, end))
        return (long)range->flags | SP_RANGE_RW;
    if (sp_maps_read(alike_mapping, &p) || p.at < end)
        return -EFAULT;
    if (!p.any_anonymous && range)
        p.anonymous = range->flags & NOT_OF_POOL;
    return p.attributes | p.anonymous;
}

int sp_range_untrack(uint64_t addr, uint64_t end)
{
    struct uffdio_range range = {.start = addr, .len = end - addr};

    sp_agent.ranges_vm = 0; /* read the mappings again, and track them, at the next look */
    return (int)sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &range);
}

long sp_range_map(uint64_t addr, uint64_t length, uint64_t at)
{
    const struct sp_range *r = sp_range_of(addr, addr + sp_agent.page_size);

    return sp_map_with(at, length, at ? MAP_FIXED : 0,
                       (r ? (uint32_t)r->flags & ~SP_RANGE_LOCKED : 0) | SP_RANGE_RW);
}

bool sp_mappings_short(void)
{
    return sp_agent.gave_back ||
           sp_agent.own_mappings >= sp_agent.max_map_count - sp_agent.max_map_count / 4;
}

/*
 * The budget of mappings (DESIGN.md: a safety rule): a quarter of vm.max_map_count with --all, three
 * quarters for what the program advised; and never so many that less than a quarter is left for
 * the program itself to grow into.
 */
uint32_t sp_mappings_budget(void)
{
    uint32_t max = sp_agent.max_map_count, budget = sp_agent.all ? max / 4 : max / 4 * 3;
    uint32_t room = max - max / 4;

    if (sp_agent.gave_back)
        return 0;
    if (sp_agent.max_mappings && sp_agent.max_mappings < budget)
        budget = sp_agent.max_mappings;
    room = room > sp_agent.own_mappings ? room - sp_agent.own_mappings : 0;
    return budget < room ? budget : room;
}

bool sp_mappings_left(void)
{
    return sp_agent.mappings + 2 <= sp_mappings_budget();
}
