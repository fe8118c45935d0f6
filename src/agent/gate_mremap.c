/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mremap of memory that is many mappings by our doing, where the program knows one (X): merged pages
 * are mappings of their own, un-merged ones are pieces, and tracking tells old memory from new.
 *
 * The agent says whether it would be one mapping but for us, and what attributes it has. If so, what
 * the kernel does for one is done for all of them: mappings are moved, not copied, with all that they
 * have (gate_move.c). What is added has the attributes of the rest.
 *
 * If it would be many mappings without us, too, the call is the kernel's.
 */
#include <errno.h>

#include <linux/mman.h>

#include "attributes.h"
#include "gate_inside.h"
#include "policy.h"
#include "sitemap.h"
#include "sys.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define MOVE (MREMAP_MAYMOVE | MREMAP_FIXED)
#define SET_MASK 2 /* of rt_sigprocmask */
/* Above it no address is the program's: what names one the kernel refuses. */
#define ADDRESS_END (((uint64_t)1 << 47) - sp_gate.page_size)

/* One call of mremap. */
struct remap {
    struct sp_gate_pass *pass;
    const long *a;
    uint64_t addr, end; /* the old range */
    uint64_t length;    /* the new one's */
    uint64_t to;        /* where it is to be, if MREMAP_FIXED says so */
    long flags;
    uint32_t attributes;
};

static long native(const struct remap *r)
{
    return sp_sys(__NR_mremap, r->a[0], r->a[1], r->a[2], r->a[3], r->a[4]);
}

static uint64_t old_length(const struct remap *r)
{
    return r->end - r->addr;
}

/* Would the kernel, which knows the last mapping as one of the pool, add to it what follows in its file:
 * other frames? */
static bool grows_frames(const struct remap *r)
{
    return r->length > old_length(r) && sp_sitemap_any(r->end - sp_gate.page_size, r->end);
}

/* Will the kernel refuse it, whatever lies there? */
static bool is_refused(const struct remap *r)
{
    bool fixed = r->flags & MREMAP_FIXED, stays = r->flags & MREMAP_DONTUNMAP;

    if ((r->flags & ~(MOVE | MREMAP_DONTUNMAP)) || r->addr >= r->end || !r->length ||
        r->length < (uint64_t)r->a[2] || r->length > ADDRESS_END)
        return true;
    if ((fixed || stays) && !(r->flags & MREMAP_MAYMOVE))
        return true;
    if (stays && r->length != old_length(r))
        return true;
    return fixed && (!sp_gate_page_aligned(r->to) || r->to > ADDRESS_END - r->length ||
                     (r->to < r->end && r->addr < r->to + r->length));
}

/* What was at [addr, end) is at to now: merged pages, too. */
static void carry_sites(uint64_t addr, uint64_t end, uint64_t to)
{
    uint64_t start, stop, at = addr;

    sp_sitemap_clear(to, to + (end - addr));
    while (sp_sitemap_next(at, end, &start, &stop)) {
        if (sp_sitemap_set(start - addr + to, stop - addr + to) != 0)
            sp_sitemap_set(to, to + (end - addr)); /* the table is full: as good as never */
        at = stop;
    }
    if (sp_guarded_next(addr, end, &start, &stop))
        sp_guarded_add(to, to + (end - addr));
    sp_sitemap_clear(addr, end);
    sp_gate_forget_tcb(addr, end);
}

/* The old place of MREMAP_DONTUNMAP is empty: where a written page was in a mapping of the pool, that
 * would show its frame. */
static void empty_old_place(const struct remap *r, uint64_t end)
{
    uint64_t start, stop, at = r->addr;

    while (sp_sitemap_next(at, end, &start, &stop)) {
        sp_map_with(start, stop - start, MAP_FIXED, r->attributes);
        at = stop;
    }
}

/* Moves the old range up to end to `to`: the new place or a negative errno; *left as sp_gate_move() says. */
static long move_all(const struct remap *r, uint64_t to, uint64_t end, uint64_t *left)
{
    long ret = sp_gate_move(r->addr, end - r->addr, to, r->flags & MREMAP_DONTUNMAP, r->attributes, left);

    if (ret)
        return ret;
    if (r->flags & MREMAP_DONTUNMAP)
        empty_old_place(r, end);
    carry_sites(r->addr, end, to);
    return (long)to;
}

/* To a new place, which is made first, so that what is added has the attributes of the rest. */
static long move_and_grow(const struct remap *r, uint64_t to, int flags)
{
    long place = sp_map_with(to, r->length, flags, r->attributes), ret;
    uint64_t left;

    if (sp_is_err(place))
        return place;
    to = (uint64_t)place;
    sp_sitemap_clear(to, to + r->length);
    sp_gate_forget_tcb(to, to + r->length);
    ret = move_all(r, to, r->end, &left);
    if (sp_is_err(ret) && left < r->length)
        sp_sys(__NR_munmap, to + left, r->length - left);
    return ret;
}

static long move_fixed(struct remap *r)
{
    uint64_t to_end = r->to + r->length, left;
    long ret;

    if (r->length > old_length(r))
        return move_and_grow(r, r->to, MAP_FIXED);
    if (r->length < old_length(r)) {
        ret = sp_sys(__NR_munmap, r->addr + r->length, old_length(r) - r->length);
        if (ret != 0)
            return ret;
        sp_sitemap_clear(r->addr + r->length, r->end);
        sp_gate_forget_tcb(r->addr + r->length, r->end);
    }
    ret = move_all(r, r->to, r->addr + r->length, &left);
    if (!sp_is_err(ret))
        sp_gate_forget_tcb(r->to, to_end);
    return ret;
}

/* In place where there is room, as the kernel does it; else to a new place. */
static long grow(const struct remap *r)
{
    uint64_t more = r->length - old_length(r);
    long ret = sp_map_with(r->end, more, MAP_FIXED_NOREPLACE, r->attributes);

    if (!sp_is_err(ret) && (uint64_t)ret == r->end)
        return (long)r->addr;
    if (!sp_is_err(ret)) /* a kernel that takes the address for a hint */
        sp_sys(__NR_munmap, ret, more);
    if (!(r->flags & MREMAP_MAYMOVE))
        return -ENOMEM;
    return move_and_grow(r, 0, 0);
}

/*
 * The native call, where the gate may do nothing else. It fails where it would cross the border of
 * a mapping; if it moved the pages, the whole new range counts as merged, which is wrong on the
 * safe side: dropping it then writes zeros.
 */
static long move_natively(const struct remap *r)
{
    uint64_t start, stop;
    bool guarded = sp_guarded_next(r->addr, r->end, &start, &stop);
    long ret = grows_frames(r) ? -ENOMEM : native(r);

    if (sp_is_err(ret))
        return ret;
    if ((uint64_t)ret != r->addr) {
        sp_sitemap_clear(r->addr, r->end);
        sp_sitemap_clear((uint64_t)ret, (uint64_t)ret + r->length);
        sp_sitemap_set((uint64_t)ret, (uint64_t)ret + r->length);
        if (guarded)
            sp_guarded_add((uint64_t)ret, (uint64_t)ret + r->length);
    } else {
        sp_sitemap_clear(r->addr + r->length, r->end);
    }
    return ret;
}

/* What is unmapped at the end, or stays: one mapping or many, the kernel does it. */
static long shrink(const struct remap *r)
{
    long ret = native(r);

    if (!sp_is_err(ret)) {
        sp_sitemap_clear(r->addr + r->length, r->end);
        sp_gate_forget_tcb(r->addr + r->length, r->end);
    }
    return ret;
}

/* Does this kernel move many mappings by one call? Since 6.17. Tried once. */
static bool kernel_moves_many(void)
{
    static uint32_t answer; /* 1: no, 2: yes */
    uint64_t page = sp_gate.page_size;
    long at, ret, left;

    if (__atomic_load_n(&answer, __ATOMIC_RELAXED))
        return __atomic_load_n(&answer, __ATOMIC_RELAXED) == 2;
    at = sp_sys(__NR_mmap, 0, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sp_is_err(at))
        return false;
    ret = sp_sys(__NR_mprotect, at, page, PROT_READ);
    if (!ret) {
        ret = sp_sys(__NR_mremap, at, 2 * page, 2 * page, MOVE, at + 2 * (long)page);
        if (!sp_is_err(ret) || ret == -EFAULT)
            __atomic_store_n(&answer, sp_is_err(ret) ? 1 : 2, __ATOMIC_RELAXED);
    }
    /* What was moved, or unmapped for it, before it was refused: there another may map something by now. */
    left = sp_is_err(ret) ? at : at + 2 * (long)page;
    sp_sys(__NR_munmap, left, ret == -EFAULT || !sp_is_err(ret) ? 2 * page : 4 * page);
    return !sp_is_err(ret);
}

static bool is_mapped(uint64_t addr, uint64_t length)
{
    return sp_sys(__NR_msync, addr, length, MS_ASYNC) == 0;
}

/* Where what is mapped from `at` on ends, at the latest at `end`. */
static uint64_t mapped_until(uint64_t at, uint64_t end)
{
    uint64_t page = sp_gate.page_size, step = page;

    for (; at < end && is_mapped(at, step < end - at ? step : end - at); step *= 2)
        at += step < end - at ? step : end - at;
    for (; at < end && step > page;) {
        step /= 2;
        if (step <= end - at && is_mapped(at, step))
            at += step;
    }
    return at;
}

/* Would the kernel move it mapping by mapping? Then the gate does, which is not begun anew half-way, and moves those
 * of the store, too, of which the kernel moves one a call. (It wants something to be mapped at the start.) Holes
 * take time to find: without a store what has some is the kernel's. */
static bool moves_each(const struct remap *r)
{
    return (r->flags & MREMAP_FIXED) && r->length == old_length(r) &&
           is_mapped(r->addr, sp_load(&sp_gate.stored) ? sp_gate.page_size : r->length) &&
           sp_gate_is_one_mapping(r->addr, sp_gate.page_size) && /* not a device's */
           kernel_moves_many();
}

/* What is mapped, each part to its place; the kernel leaves alone what lies where there is a hole. */
static long move_parts(const struct remap *r)
{
    uint64_t page = sp_gate.page_size, stop, left;
    long flags = r->flags & MREMAP_DONTUNMAP, ret = 0;

    if (is_mapped(r->addr, r->length))
        return sp_gate_move(r->addr, r->length, r->to, flags, 0, &left);
    for (uint64_t at = r->addr; at < r->end && !ret; at = stop) {
        stop = mapped_until(at, r->end);
        if (stop > at)
            ret = sp_gate_move(at, stop - at, r->to + (at - r->addr), flags, 0, &left);
        else
            stop += page;
    }
    return ret;
}

/* Many mappings without us, too: what the kernel makes of them. It moves them; more than one does not
 * grow. */
static long move_many(const struct remap *r)
{
    long ret;

    if (moves_each(r)) {
        ret = move_parts(r);
        ret = ret ? ret : (long)r->to;
    } else {
        ret = grows_frames(r) ? -EFAULT : native(r);
    }
    if (sp_is_err(ret))
        return ret;
    if (r->flags & MREMAP_DONTUNMAP)
        empty_old_place(r, r->end);
    if ((uint64_t)ret != r->addr)
        carry_sites(r->addr, r->end, (uint64_t)ret);
    return ret;
}

/* With nothing tracked in the old range, until it is done. */
static long remap(struct remap *r)
{
    if (r->attributes & SP_RANGE_OTHER)
        return move_many(r);
    if (r->flags & MREMAP_FIXED)
        return move_fixed(r);
    return r->flags & MREMAP_DONTUNMAP ? move_and_grow(r, 0, 0) : grow(r);
}

/* Asks for what is to be known, which leaves the gate; what comes after is one stay in it. Between MREMAP_DONTUNMAP
 * and empty_old_place() other threads would see the frame of a written page. */
static void prepare(struct remap *r)
{
    long attributes;

    /* What policy a site has is known by its address. */
    if (sp_policy_any(r->addr, r->end) || (r->flags & MREMAP_DONTUNMAP))
        sp_merged_unmerge(r->pass, SP_GATE_UNMERGE_WRITTEN, r->addr, r->end);
    attributes = sp_gate_ask(r->pass, SP_GATE_ATTRIBUTES, r->addr, r->end);
    if (attributes == -ESRCH)
        attributes = sp_gate.attributes | SP_RANGE_RW;
    r->attributes = sp_is_err(attributes) ? SP_RANGE_OTHER | SP_RANGE_RW : (uint32_t)attributes;
    if ((r->attributes & SP_RANGE_OTHER) && grows_frames(r))
        sp_merged_unmerge(r->pass, SP_GATE_UNMERGE, r->addr, r->end);
    sp_gate_ask(r->pass, SP_GATE_UNTRACK, r->addr, r->end); /* refused: then it is moved as it is */
    sp_gate_note(r->addr, r->end);
    if (r->flags & MREMAP_FIXED)
        sp_gate_note(r->to, r->to + r->length);
}

/* One mapping, of whatever kind, without sites: it is the kernel's call. */
static long move_one(const struct remap *r)
{
    long ret = native(r);

    if (sp_is_err(ret)) {
        if (r->flags & MREMAP_FIXED)
            sp_sites_drop_unmapped(r->to, r->to + r->length);
        return ret;
    }
    if ((uint64_t)ret != r->addr) {
        sp_sitemap_clear((uint64_t)ret, (uint64_t)ret + r->length);
        sp_gate_forget_tcb((uint64_t)ret, (uint64_t)ret + r->length);
        if (!(r->flags & MREMAP_DONTUNMAP))
            sp_gate_forget_tcb(r->addr, r->end);
    }
    return ret;
}

long sp_merged_mremap(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end)
{
    struct remap r = {.pass = pass, .a = a, .addr = addr, .end = end, .to = (uint64_t)a[4],
                      .length = sp_gate_page_up((uint64_t)a[2]), .flags = a[3]};
    uint64_t all = ~(uint64_t)0, old = 0;
    long ret;

    if (is_refused(&r))
        return native(&r);
    if (__atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED)
        return move_natively(&r);
    if (!(r.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && r.length <= end - addr)
        return shrink(&r);
    if (!sp_sitemap_any(addr, end) && sp_gate_is_one_mapping(addr, end - addr))
        return move_one(&r);
    __atomic_fetch_add(&sp_gate.moving, 1, __ATOMIC_SEQ_CST);
    prepare(&r);
    /* A handler would find half of it at each place, or jump away from that. */
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    ret = remap(&r);
    __atomic_fetch_sub(&sp_gate.moving, 1, __ATOMIC_SEQ_CST);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
    return ret;
}
