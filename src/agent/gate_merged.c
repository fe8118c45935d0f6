/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls on merged pages, so that they do what they do on anonymous memory (X).
 *
 * A merged page is a private mapping of a frame. Dropping it brings the frame's bytes back instead
 * of zeros, mremap cannot grow over it, some advice is refused or lost. Three ways out, the
 * cheapest that is right: a new anonymous mapping instead (its bytes are to go anyway), the agent
 * un-merges with the bytes kept, or the bytes are copied by this thread, where no other may write
 * them at that moment by the program's own doing.
 *
 * Merged pages are readable and writable: they were when they were merged, and any call that makes
 * them something else un-merges them. Without an agent that may not be possible; see each. Pages that
 * were written after their merge stay in their mapping (unmerge.c): from then on it may be guarded,
 * or locked (gate_replace.c).
 */
#include <errno.h>

#include <linux/mman.h>

#include "attributes.h"
#include "gate_inside.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define SP_MADV_GUARD_INSTALL 102 /* Linux 6.13 */

#define READ_WRITE    (PROT_READ | PROT_WRITE)
#define UNMERGE_TRIES 20u /* of ten in the agent: some thread was in the gate all the time */
#define MUST_TRIES    100u /* where the call would be wrong: another thread's mlockall takes seconds */

static uint32_t agent_state(void)
{
    return __atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST);
}

static long native(long nr, const long *a)
{
    return sp_sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* What was merged because the program advised it stays advised. */
long sp_gate_map_anonymous(uint64_t addr, uint64_t length, int flags)
{
    return sp_map_with(addr, length, flags,
                       sp_gate.attributes | SP_RANGE_RW |
                           (sp_gate.advised_only ? SP_RANGE_ADVISED : 0));
}

static uint64_t count_sites(uint64_t addr, uint64_t end)
{
    uint64_t n = 0, start, stop;

    for (; sp_sitemap_next(addr, end, &start, &stop); addr = stop)
        n += (stop - start) / sp_gate.page_size;
    return n;
}

/* What a try counts that left so many pages, and the one before *left. In the store's mappings written pages stay
 * (stall_and_put()), and there may be thousands. */
static unsigned weight(uint64_t addr, uint64_t end, uint64_t *left)
{
    uint64_t before = *left;

    if (!sp_load(&sp_gate.stored))
        return 1;
    *left = count_sites(addr, end);
    return *left == before ? UNMERGE_TRIES / 2 : 1;
}

void sp_merged_unmerge(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr, uint64_t end)
{
    bool must = kind == SP_GATE_UNMERGE_WRITTEN;
    unsigned tries = must ? MUST_TRIES : UNMERGE_TRIES, done = 0;
    uint64_t left = 0;

    /* What is left when it was done was written after its merge, and stays unless that is to be
     * un-merged, too. */
    for (unsigned n = 0; n < tries && done < UNMERGE_TRIES && sp_sitemap_any(addr, end); n++) {
        long ret = sp_gate_ask(pass, kind, addr, end);

        if (ret == 0 && must) {
            sp_replace_left(pass, addr, end);
            done += weight(addr, end, &left);
        } else if (ret != -EAGAIN) {
            break;
        }
    }
    /* The gate was open meanwhile: the agent must not think that it knows the range. */
    sp_gate_note(addr, end);
}

/* What is left of the sites in [addr, end) may be given something that the others have not. */
static void sites_may_differ(uint64_t addr, uint64_t end)
{
    if (!sp_sitemap_any(addr, end))
        return;
    sp_gate.guarded = true;
    sp_gate.mixed = true;
}

void sp_merged_before_attributes(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr,
                                 uint64_t end)
{
    sp_merged_unmerge(pass, kind, addr, end);
    sites_may_differ(addr, end);
}

void sp_merged_before_lock(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    sp_merged_unmerge(pass, SP_GATE_UNMERGE, addr, end);
    if (sp_sitemap_any(addr, end))
        sp_gate.locked = true;
    sp_guarded_add(addr, end);
    sites_may_differ(addr, end);
}

/* A new mapping in place of a frame's would be one that fork copies, and that everybody may write.
 * Where that may be wrong the agent, who knows, un-merges first; what it cannot un-merge is zeroed
 * in place. */
static bool may_map_anew(void)
{
    return agent_state() != SP_GATE_FILTERED && !sp_gate.dontfork && !sp_gate.mixed;
}

/* May this thread write there? Reads nothing of the frame's if not. */
static bool may_write(uint64_t start, uint64_t stop)
{
    uint64_t a, b;

    if (!sp_gate.guarded)
        return true;
    if (agent_state() == SP_GATE_FILTERED)
        return !sp_guarded_next(start, stop, &a, &b);
    return sp_sys(__NR_madvise, start, stop - start, MADV_POPULATE_WRITE) == 0;
}

/* As sp_sitemap_next(), but under a filter without the sites that this thread may not write, or that are locked, for all
 * that is known: those are left to the kernel, which shows their frame, until they may be written (sitemap.h, owed pages).
 * Few are: see sp_gate_before_filter(). */
static bool next_ours(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    uint64_t a, b;

    for (; sp_sitemap_next(addr, end, start, stop); addr = b) {
        if (agent_state() != SP_GATE_FILTERED || !sp_gate.guarded || !sp_guarded_next(*start, *stop, &a, &b))
            return true;
        if (a > *start) {
            *stop = a;
            return true;
        }
    }
    return false;
}

/* What of [addr, end) is not merged is dropped, though another thread may have locked it since the program's
 * call did that. */
static void drop_unmerged(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    for (; addr < end; addr = stop) {
        if (!sp_sitemap_next(addr, end, &start, &stop))
            start = stop = end;
        if (start > addr)
            sp_sys(__NR_madvise, addr, start - addr, MADV_DONTNEED_LOCKED);
    }
}

/* A new mapping: who reads finds the old bytes, then zeros; the frames are free. */
static bool map_anew(uint64_t start, uint64_t stop)
{
    if (sp_is_err(sp_gate_map_anonymous(start, stop - start, MAP_FIXED)))
        return false;
    sp_sitemap_clear(start, stop);
    return true;
}

/*
 * The agent puts empty memory there. The gate is open meanwhile: sites may be un-merged for another thread's sake
 * before that, with their bytes. If so, they are dropped; only then, because what is written to
 * the empty memory by now is to stay.
 */
static void emptied_by_agent(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    uint64_t before = count_sites(addr, end), after;

    if (!before)
        return;
    for (unsigned n = 0; n < UNMERGE_TRIES && before; n++, before = after) {
        long done = sp_gate_ask(pass, SP_GATE_EMPTY, addr, end);

        after = count_sites(addr, end);
        if ((done > 0 ? (uint64_t)done : 0) + after != before)
            drop_unmerged(addr, end);
        if (done <= 0 && done != -EAGAIN)
            break;
    }
    sp_gate_note(addr, end);
}

/* Where something may have been guarded it is zeroed where it is: others may see a frame in a page
 * that is about to be zeros, if they may read it. */
static bool zeroed_by_agent(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    uint64_t before = count_sites(addr, end);
    long ret = before ? sp_gate_ask(pass, SP_GATE_ZERO, addr, end) : 0;

    if (count_sites(addr, end) != before) /* un-merged for another thread's sake */
        drop_unmerged(addr, end);
    sp_gate_note(addr, end);
    return ret == 0;
}

/* As the agent knows of [start, *stop), or if not all of it has the same, of its first page: *stop then. */
static long attributes_of(struct sp_gate_pass *pass, uint64_t start, uint64_t *stop)
{
    long attributes = sp_gate_ask(pass, SP_GATE_ATTRIBUTES, start, *stop);

    if (attributes != -EFAULT)
        return attributes;
    *stop = start + sp_gate.page_size;
    return sp_gate_ask(pass, SP_GATE_ATTRIBUTES, start, *stop);
}

static bool map_with(uint64_t start, uint64_t stop, long attributes)
{
    bool mapped = !sp_is_err(sp_map_with(start, stop - start, MAP_FIXED, (uint32_t)attributes));

    if (mapped)
        sp_sitemap_clear(start, stop);
    sp_gate_note(start, stop);
    return mapped;
}

/* Empty memory that is all else that the sites are. False: that is not known, or cannot be given; what is left of
 * them is as it was. */
static bool empty_alike(struct sp_gate_pass *pass, uint64_t start, uint64_t stop)
{
    uint64_t next;

    for (; start < stop; start = next) {
        long attributes;

        next = stop;
        attributes = attributes_of(pass, start, &next);
        if (sp_is_err(attributes) || (attributes & SP_RANGE_OTHER) || !map_with(start, next, attributes))
            return false;
    }
    return true;
}

/*
 * Zeros in [start, stop), all merged, for which there can be no new memory (a filter, no agent, no mappings
 * left): in place. What nobody may write the agent zeroes, or where it cannot (the store's mappings) there is new
 * memory that is the same; without it the kernel drops it.
 */
static void zero_in_place(struct sp_gate_pass *pass, uint64_t start, uint64_t stop)
{
    if (may_write(start, stop)) {
        if (agent_state() == SP_GATE_NO_AGENT) /* a pipe may have pages that were written, and keeps their bytes */
            sp_sys(__NR_madvise, start, stop - start, MADV_DONTNEED_LOCKED);
        memset((void *)start, 0, stop - start);
    } else if (agent_state() != SP_GATE_FILTERED) {
        bool zeroed = sp_gate_ask(pass, SP_GATE_ZERO, start, stop) == 0 ||
                      (agent_state() == SP_GATE_NO_AGENT && sp_alone_zero(start, stop));

        if (!zeroed && empty_alike(pass, start, stop))
            return;
        if (!zeroed)
            sp_sys(__NR_madvise, start, stop - start, MADV_DONTNEED_LOCKED);
        drop_unmerged(start, stop);
        sp_gate_note(start, stop);
    }
}

static void zero_left(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    for (; next_ours(addr, end, &start, &stop); addr = stop)
        zero_in_place(pass, start, stop);
}

/* Where in [start, stop), all merged, the kernel would refuse to drop: at what is locked. */
static uint64_t locked_at(uint64_t start, uint64_t stop)
{
    if (!sp_is_locked(start, stop - start))
        return stop;
    while (stop - start > sp_gate.page_size) {
        uint64_t half = start + sp_gate_page_up((stop - start) / 2);

        if (sp_is_locked(start, half - start))
            stop = half;
        else
            start = half;
    }
    return start;
}

/*
 * DONTNEED, DONTNEED_LOCKED. The native call on a site would show its frame, or what of it the program wrote over:
 * it only gets what lies between. As the kernel does, mapping by mapping, up to the first that it
 * refuses (locked memory); holes are told at the end.
 */
static long drop(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end)
{
    bool may_map = (int)a[2] != MADV_DONTNEED_LOCKED && may_map_anew();
    bool may_be_locked =
        (int)a[2] != MADV_DONTNEED_LOCKED && sp_gate.guarded && agent_state() != SP_GATE_FILTERED;
    uint64_t start, stop, limit;
    long ret = 0, last = 0;

    for (uint64_t at = addr; at < end; at = stop) {
        if (!next_ours(at, end, &start, &stop))
            start = stop = end;
        if (start > at)
            last = sp_sys(__NR_madvise, at, start - at, a[2]);
        if (start > at && (last == 0 || last == -ENOMEM) && agent_state() == SP_GATE_FILTERED)
            sp_owed_add(at, start);
        limit = may_be_locked && stop > start ? locked_at(start, stop) : stop;
        if (last != 0 && last != -ENOMEM) {
            end = at;
            break;
        }
        ret = last ? last : ret;
        last = 0;
        if (may_map && limit > start)
            map_anew(start, limit);
        if (limit < stop) {
            last = -EINVAL;
            end = limit;
            break;
        }
    }
    if (agent_state() == SP_GATE_AGENT && sp_gate.guarded && zeroed_by_agent(pass, addr, end))
        return last ? last : ret;
    if (agent_state() == SP_GATE_AGENT && !sp_gate.guarded)
        emptied_by_agent(pass, addr, end);
    zero_left(pass, addr, end);
    return last ? last : ret;
}

/* FREE is refused on the mapping of a frame: native between the merged runs, and on those what
 * DONTNEED does, which FREE allows, where that is cheap. */
static long free_pages(const long *a, uint64_t addr, uint64_t end)
{
    bool may_map = may_map_anew();
    uint64_t start, stop;
    long ret = 0, last;

    for (; addr < end; addr = stop) {
        if (!sp_sitemap_next(addr, end, &start, &stop))
            start = stop = end;
        if (start > addr) {
            last = sp_sys(__NR_madvise, addr, start - addr, a[2]);
            if (last != 0 && last != -ENOMEM)
                return last;
            ret = last ? last : ret;
        }
        if (stop > start && sp_gate.guarded && agent_state() != SP_GATE_FILTERED && locked_at(start, stop) < stop)
            return -EINVAL;
        if (stop > start && may_map)
            map_anew(start, stop);
    }
    return ret;
}

/* Empty memory in place of sites that have something of their own. What that is the agent knows; without
 * it, it is lost: better than to show a frame. */
static void empty_anew(struct sp_gate_pass *pass, uint64_t start, uint64_t stop)
{
    uint64_t next;

    for (; start < stop; start = next) {
        long attributes;

        next = stop;
        attributes = attributes_of(pass, start, &next);
        if (sp_is_err(attributes))
            attributes = sp_gate.attributes | SP_RANGE_RW;
        map_with(start, next, attributes);
    }
}

/* A guard is put on anonymous memory: what it covers is lost, if it is not refused. */
static long guard_sites(struct sp_gate_pass *pass, uint64_t start, uint64_t stop, long advice)
{
    uint64_t end = locked_at(start, stop), a, b, at = start;
    long ret = 0;

    for (; sp_sitemap_next(at, end, &a, &b); at = b)
        if (!may_map_anew() || !map_anew(a, b))
            empty_anew(pass, a, b);
    if (end > start)
        ret = sp_sys(__NR_madvise, start, end - start, advice);
    return ret == 0 && end < stop ? -EINVAL : ret;
}

/* GUARD_INSTALL. As the kernel does, mapping by mapping, up to the first that it refuses; holes are told at the end.
 * Older kernels (before 6.13) know no guards. */
static long install_guards(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end)
{
    uint64_t start, stop;
    long ret = 0, last;

    if (agent_state() == SP_GATE_FILTERED) {
        sp_guarded_add(addr, end); /* nor may it be written by us */
        sp_gate.guarded = true;
        return native(__NR_madvise, a);
    }
    if (sp_sys(__NR_madvise, addr, 0, a[2]) != 0)
        return -EINVAL;
    for (; addr < end; addr = stop) {
        if (!sp_sitemap_next(addr, end, &start, &stop))
            start = stop = end;
        last = start > addr ? sp_sys(__NR_madvise, addr, start - addr, a[2]) : 0;
        if (last != 0 && last != -ENOMEM)
            return last;
        ret = last ? last : ret;
        last = stop > start ? guard_sites(pass, start, stop, a[2]) : 0;
        if (last != 0)
            return last;
    }
    return ret;
}

static bool is_drop(long advice)
{
    return advice == MADV_DONTNEED || advice == MADV_DONTNEED_LOCKED || advice == MADV_FREE ||
           advice == SP_MADV_GUARD_INSTALL;
}

long sp_merged_madvise(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end)
{
    if ((int)a[2] == MADV_DONTFORK)
        sp_gate.dontfork = true;
    /* Un-merged pages can be written: what may be guarded is zeroed as it is. */
    if (sp_gate.mixed ? (int)a[2] == SP_MADV_GUARD_INSTALL
                      : sp_gate.dontfork && is_drop((int)a[2]))
        sp_merged_unmerge(pass,
                          (int)a[2] == SP_MADV_GUARD_INSTALL ? SP_GATE_UNMERGE_WRITTEN
                                                             : SP_GATE_UNMERGE,
                          addr, end);
    switch ((int)a[2]) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
        return drop(pass, a, addr, end);
    case MADV_FREE:
        return free_pages(a, addr, end);
    case SP_MADV_GUARD_INSTALL:
        return install_guards(pass, a, addr, end);
    case MADV_REMOVE: /* anonymous private memory refuses it */
        return -EINVAL;
    case MADV_NORMAL:
    case MADV_WILLNEED:
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_DODUMP:
    case MADV_KEEPONFORK:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return native(__NR_madvise, a);
    case MADV_WIPEONFORK: /* refused on any file's mapping */
        sp_merged_before_attributes(pass, SP_GATE_UNMERGE_WRITTEN, addr, end);
        return native(__NR_madvise, a);
    default:
        sp_merged_before_attributes(pass, SP_GATE_UNMERGE, addr, end);
        return native(__NR_madvise, a);
    }
}

static bool keeps_protection(long nr, const long *a)
{
    return nr == __NR_mprotect && a[2] == READ_WRITE;
}

void sp_merged_before_protect(struct sp_gate_pass *pass, long nr, const long *a, uint64_t addr,
                              uint64_t end)
{
    if (keeps_protection(nr, a))
        return;
    if (nr != __NR_mprotect && a[3] != -1)
        sp_gate.keyed = 1;
    sp_merged_unmerge(pass, SP_GATE_UNMERGE, addr, end);
    /* Before the protection changes: a handler, or a child of another thread, is not to take it for what it was. */
    sp_guarded_add(addr, end);
    if (agent_state() != SP_GATE_NO_AGENT)
        sites_may_differ(addr, end);
    else if (sp_sitemap_any(addr, end))
        sp_gate.guarded = true;
}

struct sp_rights sp_merged_rights(const long *a, uint64_t addr, uint64_t end)
{
    if (a[2] & PROT_WRITE)
        sp_frozen_clear(addr, end);
    return (struct sp_rights){.guarded = sp_guarded_times(), .thawed = sp_thawed_times()};
}

/*
 * What is locked is guarded whatever its protection; which that is cannot be asked under a filter. Another thread may
 * take the right away at the same time: the kernel knows the order, here it counts as guarded then, and not as frozen.
 * Until this returns nobody has been told that he may write what is owed: who tries it all the same may lose it.
 */
void sp_merged_after_rights(long nr, const long *a, uint64_t addr, uint64_t end, struct sp_rights before, long ret)
{
    uint64_t start, stop;

    if (!(a[2] & PROT_WRITE)) {
        if (ret == 0)
            sp_frozen_add(addr, end, before.thawed);
        return;
    }
    while (sp_owed_take(addr, end, &start, &stop))
        if (ret == 0 && !sp_gate.keyed) /* else perhaps some of it may be written, and is: not to be lost later */
            memset((void *)start, 0, stop - start);
    if (ret != 0 || !keeps_protection(nr, a) || sp_gate.locked || sp_gate.keyed ||
        sp_guarded_times() != before.guarded)
        return;
    sp_guarded_clear(addr, end);
    if (sp_guarded_times() != before.guarded)
        sp_guarded_add(addr, end);
}

/* With a key, or where some of it may be kept from fork, new memory would not be like it. */
void sp_merged_after_protect(long nr, const long *a, uint64_t addr, uint64_t end, long ret)
{
    if (keeps_protection(nr, a) || agent_state() != SP_GATE_NO_AGENT)
        return;
    if (ret == 0 && !(a[2] & ~(PROT_READ | PROT_EXEC)) && !sp_gate.keyed && !sp_gate.dontfork)
        sp_alone_freeze(addr, end, a[2]);
    sites_may_differ(addr, end);
}
