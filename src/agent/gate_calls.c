/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One gated call: what it may change is noted, then it is done, inside the gate.
 *
 * Ranges without merged pages take the native call and nothing else. On merged pages most calls
 * behave as on anonymous memory too; those that do not are in gate_merged.c.
 */
#include <errno.h>

#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/shm.h>
#include <linux/uio.h>
#include <linux/userfaultfd.h>

#include "fault.h"
#include "gate_inside.h"
#include "kernel.h"
#include "policy.h"
#include "sitemap.h"
#include "sys.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#ifndef __NR_set_mempolicy_home_node
#define __NR_set_mempolicy_home_node 450
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

#define EVERYTHING (~(uint64_t)0)
#define SET_MASK 2 /* of rt_sigprocmask */
#define ZERO_TRIES 20u /* of ten in the agent, as to un-merge */
#define RELEASES 20u  /* times that a range is asked to be left alone: some thread was in the gate */
#define PART_ROUNDS 4u /* times that the parts of one call are un-merged */
#define MOVE_TRIES 4u   /* times that the pages of a move are un-merged */
#define GIVE_BACKS 2u /* times that a call which lacks mappings is tried again */

static bool is_gated_prctl(const long *a)
{
    return (int)a[0] == PR_SET_MEMORY_MERGE || (int)a[0] == PR_GET_MEMORY_MERGE ||
           (int)a[0] == PR_SET_VMA;
}

bool sp_gate_is_gated(long nr, const long *a)
{
    switch ((int)nr) {
    case __NR_mmap:
    case __NR_munmap:
    case __NR_mremap:
    case __NR_mprotect:
    case __NR_pkey_mprotect:
    case __NR_madvise:
    case __NR_process_madvise:
    case __NR_mlock:
    case __NR_mlock2:
    case __NR_munlock:
    case __NR_mlockall:
    case __NR_munlockall:
    case __NR_mbind:
    case __NR_set_mempolicy_home_node:
    case __NR_mseal:
    case __NR_shmat:
    case __NR_shmdt:
    case __NR_remap_file_pages:
    case __NR_move_pages:
        return true;
    case __NR_brk:
        return a[0] != 0;
    case __NR_get_mempolicy:
        return a[4] == SP_MPOL_F_ADDR;
    case __NR_ioctl:
        return (uint32_t)a[1] == (uint32_t)UFFDIO_REGISTER || (uint32_t)a[1] == (uint32_t)SP_UFFDIO_MOVE;
    case __NR_prctl:
        return is_gated_prctl(a);
    }
    return false;
}

static long native(long nr, const long *a)
{
    return sp_sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ENOMEM is also what a range with holes gets: no reason to give anything back. */
static bool has_holes(long nr, const long *a)
{
    return nr != __NR_mmap && nr != __NR_munmap && nr != __NR_shmat &&
           sp_sys(__NR_msync, a[0], a[1], MS_ASYNC) == -ENOMEM;
}

static bool may_give_back(long nr, const long *a)
{
    return sp_sitemap_pages() &&
           __atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_AGENT && !has_holes(nr, a);
}

/*
 * Asks for mappings back. The agent replaces runs in a way that nobody may look at (unmerge.c,
 * replace_plain), so not even a handler of this thread runs meanwhile. If the agent dies in there,
 * this thread finishes the run that it was at.
 */
static long ask_give_back(struct sp_gate_pass *pass)
{
    uint64_t all = ~(uint64_t)0, old = 0;
    long status;

    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    status = sp_gate_ask(pass, SP_GATE_GIVE_BACK, 0, EVERYTHING);
    sp_agent_finish_plain();
    sp_gate_note(0, EVERYTHING); /* the gate was open meanwhile, and the call is made after this */
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
    return status;
}

/*
 * The native call. If it lacks something while pages are merged, that may be the mappings which
 * merging took: the agent is asked to give some back (it knows whether they are short), and the
 * call is tried again (X, runs out of mappings).
 */
static long with_mappings(struct sp_gate_pass *pass, long nr, const long *a)
{
    long ret = native(nr, a);

    for (unsigned n = 0; n < GIVE_BACKS && ret == -ENOMEM && may_give_back(nr, a); n++) {
        if (ask_give_back(pass) != 0)
            break;
        ret = native(nr, a);
    }
    return ret;
}

/* The end of a range that a call names, or addr itself if the call will refuse it. */
static uint64_t range_end(uint64_t addr, uint64_t length)
{
    uint64_t end = sp_gate_page_up(addr + length);

    return sp_gate_page_aligned(addr) && length && end > addr ? end : addr;
}

/* [addr, end) is not what it was: no merged pages, no control blocks of threads, nothing that was advised. */
static void range_gone(uint64_t addr, uint64_t end)
{
    sp_sitemap_clear(addr, end);
    sp_zeroed_clear(addr, end);
    sp_gate_forget_tcb(addr, end);
    sp_gate_forget_advice(addr, end);
}

/* A call that takes the pages of [addr, end) away. Should it fail, those among them that lie in a pipe
 * are not told from the others any more. */
static long call_replacing(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);
    bool spliced;
    long ret;

    sp_gate_note(addr, end);
    spliced = sp_spliced_clear(addr, end);
    ret = with_mappings(pass, nr, a);
    if (!sp_is_err(ret)) {
        range_gone(addr, end);
        return ret;
    }
    /* mmap unmaps before it asks the file, which may refuse. */
    if (__atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) != SP_GATE_FILTERED)
        sp_sites_drop_unmapped(addr, end);
    if (spliced)
        sp_spliced_add(addr, end);
    return ret;
}

/* An mmap at a place of the kernel's choice, or at a free one, changes nothing that is there. */
static bool mmap_replaces(const long *a)
{
    return (a[3] & MAP_FIXED) && !(a[3] & MAP_FIXED_NOREPLACE);
}

/* Code of a file, as dlopen maps it: the agent looks at it before it merges anything more. */
static bool maps_code(const long *a)
{
    return (a[2] & PROT_EXEC) && !(a[3] & MAP_ANONYMOUS);
}

/* What it locks counts against RLIMIT_MEMLOCK, and so does, for as long as a lift takes, where locked pages are
 * put aside: the two are kept apart. */
static bool locks(const long *a)
{
    return (a[3] & MAP_LOCKED) != 0;
}

/* It stays outside the gate unless it fails. */
static long call_mmap_free(struct sp_gate_pass *pass, const long *a)
{
    long ret = native(__NR_mmap, a);

    if (ret != -ENOMEM || !sp_sitemap_pages())
        return ret;
    sp_gate_enter(pass);
    ret = with_mappings(pass, __NR_mmap, a);
    sp_gate_leave(pass);
    return ret;
}

static long call_brk(struct sp_gate_pass *pass, const long *a)
{
    uint64_t old = __atomic_load_n(&sp_gate_brk, __ATOMIC_SEQ_CST), asked = (uint64_t)a[0], now;

    sp_gate_note(asked < old ? asked : old, sp_gate_page_up(asked < old ? old : asked));
    now = (uint64_t)native(__NR_brk, a);
    /* brk says "no" by answering the old break. */
    if (now != asked && asked > old && sp_sitemap_pages() &&
        ask_give_back(pass) == 0)
        now = (uint64_t)native(__NR_brk, a);
    if (now < old) {
        range_gone(sp_gate_page_up(now), sp_gate_page_up(old));
        sp_spliced_clear(sp_gate_page_up(now), sp_gate_page_up(old));
    }
    __atomic_store_n(&sp_gate_brk, now, __ATOMIC_SEQ_CST);
    return (long)now;
}

/* May a thread be replacing merged memory (gate_alone.c)? Under a filter only while one is at it, who is about to put
 * it up: what it takes to wait for that may not be allowed here. */
static bool is_alone(void)
{
    uint32_t agent = sp_load(&sp_gate.agent);

    return agent == SP_GATE_NO_AGENT || (agent == SP_GATE_FILTERED && sp_load(&sp_gate.protecting));
}

/* What un-merges first is noted afterwards only: until then it changes nothing, and the agent would take the
 * range for changed and read all mappings again. */
static long call_protect(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);
    bool merged = sp_sitemap_any(addr, end);
    struct sp_rights rights = {0};
    uint64_t signals;
    long ret;

    if (merged) {
        rights = sp_merged_rights(a, addr, end);
        sp_merged_before_protect(pass, nr, a, addr, end);
    }
    sp_gate_note(addr, end);
    if (!merged || !is_alone()) {
        ret = with_mappings(pass, nr, a);
    } else {
        signals = sp_alone_begin();
        ret = native(nr, a);
        sp_merged_after_protect(nr, a, addr, end, ret);
        sp_alone_end(signals);
    }
    if (merged)
        sp_merged_after_rights(nr, a, addr, end, rights, ret);
    return ret;
}

/* Many mappings take more to move than one. */
static long merged_mremap(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end)
{
    long ret = sp_merged_mremap(pass, a, addr, end);

    for (unsigned n = 0; n < GIVE_BACKS && ret == -ENOMEM && may_give_back(__NR_mremap, a); n++) {
        if (ask_give_back(pass) != 0)
            break;
        ret = sp_merged_mremap(pass, a, addr, end);
    }
    return ret;
}

static long call_mremap(struct sp_gate_pass *pass, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);
    long ret;

    sp_gate_note(addr, end);
    if (a[3] & MREMAP_FIXED)
        sp_gate_note((uint64_t)a[4], range_end((uint64_t)a[4], (uint64_t)a[2]));
    /* Several mappings by our doing, which the kernel would refuse, or, if only some of them are
     * tracked, move in part. */
    if (sp_sitemap_any(addr, end) || ((a[3] & MREMAP_FIXED) && addr < end))
        return merged_mremap(pass, a, addr, end);
    ret = with_mappings(pass, __NR_mremap, a);
    if (ret == -EFAULT && addr < end)
        return merged_mremap(pass, a, addr, end);
    if (sp_is_err(ret))
        return ret;
    if ((uint64_t)ret != addr && !(a[3] & 4 /* MREMAP_DONTUNMAP */))
        sp_gate_forget_tcb(addr, end);
    return ret;
}

/* Pages that lie in a pipe go on lying there when they move. Which of the range they are is not kept,
 * and the old place stays noted: both only cost savings. */
static long call_mremap_spliced(struct sp_gate_pass *pass, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);
    uint64_t length = sp_gate_page_up((uint64_t)a[2]);
    uint64_t to = (uint64_t)a[4], to_end = range_end(to, (uint64_t)a[2]);
    bool spliced = end > addr && sp_spliced_any(addr, end);
    bool covers = (a[3] & MREMAP_FIXED) && sp_spliced_clear(to, to_end);
    long ret = call_mremap(pass, a);

    if (covers && sp_is_err(ret))
        sp_spliced_add(to, to_end);
    if (!sp_is_err(ret) && end > addr && ((uint64_t)ret != addr || length < end - addr))
        sp_zeroed_clear((uint64_t)ret != addr ? addr : addr + length, end);
    if (!sp_is_err(ret) && (a[3] & MREMAP_FIXED))
        sp_zeroed_clear(to, to_end);
    if (!sp_is_err(ret) && end > addr)
        sp_gate_move_advice(addr, end, (uint64_t)ret, length, a[3] & 4 /* MREMAP_DONTUNMAP */);
    if (spliced && !sp_is_err(ret))
        sp_spliced_add((uint64_t)ret, (uint64_t)ret + (length < end - addr ? length : end - addr));
    return ret;
}

/* The kernel gives pages of their own where one writes, and the agent writes nothing there. Not this thread: what it
 * calls may not pass a filter that is just there. */
void sp_gate_own_zeros(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    long ret = sp_zeroed_any(addr, end) ? -EAGAIN : 0;

    for (unsigned n = 0; n < ZERO_TRIES && ret == -EAGAIN; n++)
        ret = sp_gate_ask(pass, SP_GATE_OWN_ZEROS, addr, end);
}

/* Before it returns, all of [addr, end) is to have pages of its own (K1), those of zeros, too (K15). */
static void unmerge_all(struct sp_gate_pass *pass, uint64_t addr, uint64_t end)
{
    sp_merged_unmerge(pass, SP_GATE_UNMERGE, addr, end);
    sp_gate_own_zeros(pass, addr, end);
    /* The gate was open meanwhile. */
    sp_gate_note(addr, end);
}

static bool has_ours(uint64_t addr, uint64_t end)
{
    return end > addr && (sp_sitemap_any(addr, end) || sp_zeroed_any(addr, end));
}

/* A kernel without KSM does not know this advice; the agent follows it all the same (K1). msync
 * with MS_ASYNC does nothing but report holes, as madvise does. */
static long advise_mergeable(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end,
                             bool mergeable)
{
    long ret;

    if (!mergeable)
        unmerge_all(pass, addr, end);
    if (!sp_gate_no_ksm)
        ret = with_mappings(pass, __NR_madvise, a);
    else if (!sp_gate_page_aligned(addr) || addr + (uint64_t)a[1] < addr)
        ret = -EINVAL;
    else if (end == addr || __atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED)
        ret = 0;
    else
        ret = sp_sys(__NR_msync, addr, end - addr, MS_ASYNC);
    if ((ret == 0 || ret == -ENOMEM) && end > addr)
        sp_gate_note_advice(addr, end, mergeable ? SP_WORD_MERGEABLE : SP_WORD_UNMERGEABLE);
    return ret;
}

static void pages_dropped(uint64_t addr, uint64_t end)
{
    sp_spliced_clear(addr, end);
    sp_zeroed_clear(addr, end);
}

static long call_madvise(struct sp_gate_pass *pass, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);
    long ret;

    sp_gate_note(addr, end);
    if ((int)a[2] == MADV_MERGEABLE || (int)a[2] == MADV_UNMERGEABLE)
        return advise_mergeable(pass, a, addr, end, (int)a[2] == MADV_MERGEABLE);
    if (sp_sitemap_any(addr, end))
        ret = sp_merged_madvise(pass, a, addr, end);
    else
        ret = with_mappings(pass, __NR_madvise, a);
    if (ret == 0 && ((int)a[2] == MADV_DONTNEED || (int)a[2] == MADV_DONTNEED_LOCKED))
        pages_dropped(addr, end);
    return ret;
}

/* Calls that a mapping of a frame could not carry out as anonymous memory does; in the pool's mappings
 * they would set the policy of the pool. */
static long call_policy(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);

    long ret;

    sp_merged_unmerge(pass, SP_GATE_UNMERGE_WRITTEN, addr, end);
    sp_gate_note(addr, end);
    ret = with_mappings(pass, nr, a);
    /* A call that fails may have given some of the range a home before; by these it was refused whole. */
    if (nr == __NR_set_mempolicy_home_node && ret != -EINVAL && ret != -ENOSYS)
        __atomic_store_n(&sp_gate.home_nodes, 1, __ATOMIC_SEQ_CST);
    return ret;
}

/* The policy of memory of ours, or if that is 0 of what the call names. */
static long get_policy(const long *a, uint64_t sample)
{
    const long other[6] = {a[0], a[1], a[2], (long)sample, a[4]};

    return native(__NR_get_mempolicy, sample ? other : a);
}

/* Of a merged page the kernel knows the policy of the pool. It is asked for memory of ours that has the page's. */
static long call_get_policy(const long *a)
{
    return get_policy(a, sp_policy_sample((uint64_t)a[3]));
}

/*
 * The same outside the gate, so that a thread that does nothing else keeps no lift waiting. True if the gate was open
 * all the time: else a lift may have come between our look and the kernel's answer, which is asked for again.
 */
static bool get_policy_outside(const long *a, long *ret)
{
    uint32_t closings = sp_load(&sp_gate.closings);
    uint64_t sample;

    if (sp_load(&sp_gate.closed))
        return false;
    sample = sp_policy_sample((uint64_t)a[3]);
    sp_fault_point("gate-policy");
    *ret = get_policy(a, sample);
    return sp_load(&sp_gate.closings) == closings;
}

/* Is this pid of move_pages the program itself? By another thread's it is not known, and nothing is
 * lost but what the call answers. */
static bool names_itself(long pid)
{
    return (int)pid == 0 || (int)pid == sp_sys(__NR_getpid) || (int)pid == sp_sys(__NR_gettid);
}

/* Un-merged, or else in the page tables, which a merged page is in from its first touch on. It is
 * not touched by this thread itself: whether it may be read, or is still there, the kernel says. */
static bool ready_run(struct sp_gate_pass *pass, bool unmerge, uint64_t addr, uint64_t end)
{
    if (!sp_sitemap_any(addr, end))
        return false;
    if (unmerge)
        sp_merged_unmerge(pass, SP_GATE_UNMERGE, addr, end);
    else
        sp_sys(__NR_madvise, addr, end - addr, MADV_POPULATE_READ);
    return true;
}

/* The pages that lie behind each other at once. Was any merged? */
static bool ready_pages(struct sp_gate_pass *pass, bool unmerge, const uint64_t *page,
                        uint64_t pages)
{
    uint64_t mask = ~((uint64_t)sp_gate.page_size - 1), addr = 0, end = 0;
    bool any = false;

    for (uint64_t i = 0; i < pages; i++) {
        uint64_t at = page[i] & mask;

        if (at != end || !end) {
            any |= ready_run(pass, unmerge, addr, end);
            addr = at;
        }
        end = at + sp_gate.page_size;
    }
    return any | ready_run(pass, unmerge, addr, end);
}

/* The kernel asks the page tables where a page lies, and moves only what this process alone has.
 * While some are un-merged others may be merged again: what is so in the end is at least known. */
static long call_move_pages(struct sp_gate_pass *pass, const long *a)
{
    const uint64_t *page = (const uint64_t *)a[2];
    uint64_t pages = (uint64_t)a[1];

    if (!sp_sitemap_pages() || !pages || pages > UINT32_MAX || (uint64_t)page % sizeof(*page) ||
        sp_load(&sp_gate.agent) == SP_GATE_FILTERED || !names_itself(a[0]) ||
        !sp_gate_can_read((uint64_t)page, (uint64_t)(page + pages)))
        return native(__NR_move_pages, a);
    for (unsigned n = 0; n < MOVE_TRIES && a[3] && ready_pages(pass, true, page, pages); n++)
        ;
    ready_pages(pass, false, page, pages);
    return native(__NR_move_pages, a);
}

/* Locks are in force on whole pages, whatever the call names. */
static long call_lock(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t addr = (uint64_t)a[0] & ~((uint64_t)sp_gate.page_size - 1);
    uint64_t end = sp_gate_page_up((uint64_t)a[0] + (uint64_t)a[1]);

    if (end > addr && nr != __NR_munlock)
        sp_merged_before_lock(pass, addr, end);
    sp_gate_note(addr, end);
    return with_mappings(pass, nr, a);
}

/* Calls that a mapping of a frame could not carry out as anonymous memory does. */
static long call_unmerged(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t addr = (uint64_t)a[0], end = range_end(addr, (uint64_t)a[1]);

    sp_merged_unmerge(pass, SP_GATE_UNMERGE, addr, end);
    sp_gate_note(addr, end);
    return with_mappings(pass, nr, a);
}

static long call_in_range(struct sp_gate_pass *pass, long nr, const long *a)
{
    sp_gate_note((uint64_t)a[0], range_end((uint64_t)a[0], (uint64_t)a[1]));
    return with_mappings(pass, nr, a);
}

/* Calls of which nobody but the kernel knows the range. */
static long call_anywhere(struct sp_gate_pass *pass, long nr, const long *a)
{
    sp_gate_note(0, EVERYTHING);
    return with_mappings(pass, nr, a);
}

/* What another process' memory can be advised, too; of one's own nothing is lost by it. */
static bool is_remote_advice(long advice)
{
    return (int)advice == MADV_COLD || (int)advice == MADV_PAGEOUT || (int)advice == MADV_WILLNEED;
}

/* It is noted what the program said of this memory, merged or not. */
static bool is_word(long advice)
{
    return (int)advice == MADV_MERGEABLE || (int)advice == MADV_UNMERGEABLE;
}

/* While one part is un-merged the gate is open, and another can be merged anew: then all are taken out again. This thread
 * is inside when it looks, so what it finds is so until the call is made. */
static void unmerge_parts(struct sp_gate_pass *pass, const struct iovec *part, uint64_t parts)
{
    bool left = true;

    for (unsigned n = 0; n < PART_ROUNDS && left; n++) {
        left = false;
        for (uint64_t i = 0; i < parts; i++)
            unmerge_all(pass, (uint64_t)part[i].iov_base,
                        range_end((uint64_t)part[i].iov_base, part[i].iov_len));
        for (uint64_t i = 0; i < parts && !left; i++)
            left = has_ours((uint64_t)part[i].iov_base,
                            range_end((uint64_t)part[i].iov_base, part[i].iov_len));
    }
}

/* The same words by process_madvise about the caller's own memory: what is refused is the kernel's to say. */
static long call_process_word(struct sp_gate_pass *pass, const long *a)
{
    const struct iovec *part = (const struct iovec *)a[1];
    bool mergeable = (int)a[3] == MADV_MERGEABLE;
    uint64_t parts = (uint64_t)a[2], left;
    long ret;

    if (!mergeable)
        unmerge_parts(pass, part, parts);
    ret = call_anywhere(pass, __NR_process_madvise, a);
    left = ret > 0 ? (uint64_t)ret : 0;
    for (uint64_t i = 0; i < parts && left && left >= part[i].iov_len; left -= part[i++].iov_len) {
        uint64_t addr = (uint64_t)part[i].iov_base, end = range_end(addr, part[i].iov_len);

        if (end > addr)
            sp_gate_note_advice(addr, end, mergeable ? SP_WORD_MERGEABLE : SP_WORD_UNMERGEABLE);
    }
    return ret;
}

/*
 * process_madvise on merged pages. All but some advice is only for the caller's own memory: whether it
 * is this, the call says of no memory at all; then it is madvise, part by part. MADV_COLLAPSE is also
 * for others', but un-merging what has the same address here does no harm.
 */
static long call_process_madvise(struct sp_gate_pass *pass, const long *a)
{
    const struct iovec *part = (const struct iovec *)a[1];
    uint64_t parts = (uint64_t)a[2], done = 0;
    long none[6] = {a[0], a[1], 0, a[3], a[4]}, ret = 0;

    if (is_remote_advice(a[3]) || !(sp_sitemap_pages() || is_word(a[3])) || !parts || parts > UIO_MAXIOV ||
        __atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED ||
        !sp_gate_can_read((uint64_t)part, (uint64_t)(part + parts)) ||
        native(__NR_process_madvise, none) != 0)
        return call_anywhere(pass, __NR_process_madvise, a);
    if (is_word(a[3]) && !sp_gate_no_ksm)
        return call_process_word(pass, a);
    for (uint64_t i = 0; i < parts && (int)a[3] == MADV_COLLAPSE; i++)
        sp_merged_unmerge(pass, SP_GATE_UNMERGE, (uint64_t)part[i].iov_base,
                          range_end((uint64_t)part[i].iov_base, part[i].iov_len));
    if ((int)a[3] == MADV_COLLAPSE)
        return call_anywhere(pass, __NR_process_madvise, a);
    for (uint64_t i = 0; i < parts && ret == 0; i++) {
        long one[6] = {(long)part[i].iov_base, (long)part[i].iov_len, a[3]};

        ret = call_madvise(pass, one);
        done += ret == 0 ? part[i].iov_len : 0;
    }
    return done ? (long)done : ret;
}

/* While everything to come is locked, frames would be copied as soon as they are mapped. */
static long call_lock_all(struct sp_gate_pass *pass, long nr, const long *a)
{
    long ret;

    /* What is un-merged later would not have the lock. */
    if (nr == __NR_mlockall && (a[0] & MCL_CURRENT))
        sp_merged_before_lock(pass, 0, EVERYTHING);
    ret = call_anywhere(pass, nr, a);
    if (ret == 0)
        __atomic_store_n(&sp_gate.locks_future, nr == __NR_mlockall && (a[0] & MCL_FUTURE),
                         __ATOMIC_SEQ_CST);
    return ret;
}

/* Where the segment will end that shmat maps over what is there; EVERYTHING: who knows. */
static uint64_t segment_end(const long *a)
{
    struct shmid64_ds segment = {0};

    if (__atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED ||
        sp_is_err(sp_sys(__NR_shmctl, a[0], IPC_STAT, &segment)))
        return EVERYTHING;
    return range_end((uint64_t)a[1] & ~((uint64_t)sp_gate.page_size - 1), segment.shm_segsz);
}

static long call_shmat(struct sp_gate_pass *pass, const long *a)
{
    uint64_t end;
    long ret;

    if (!(a[2] & SHM_REMAP) ||
        (!sp_sitemap_pages() && !__atomic_load_n(&sp_gate.advise_seq, __ATOMIC_SEQ_CST))) {
        if (a[2] & SHM_REMAP)
            sp_gate_note(0, EVERYTHING); /* what it covers nobody here knows */
        return with_mappings(pass, __NR_shmat, a);
    }
    end = segment_end(a);
    sp_gate_note((uint64_t)a[1], end);
    sp_merged_unmerge(pass, SP_GATE_UNMERGE, (uint64_t)a[1], end);
    ret = with_mappings(pass, __NR_shmat, a);
    if (!sp_is_err(ret) && end != EVERYTHING)
        range_gone((uint64_t)ret, end);
    return ret;
}

/* The program gives a range to a userfaultfd of its own: no two can have it. */
static long call_uffd_register(struct sp_gate_pass *pass, const long *a)
{
    const struct uffdio_register *reg = (const struct uffdio_register *)a[2];
    uint64_t addr, end;

    if ((uint64_t)a[2] >= sp_gate.page_size) {
        addr = reg->range.start;
        end = range_end(addr, reg->range.len);
        sp_gate_note(addr, end);
        sp_merged_unmerge(pass, SP_GATE_UNMERGE_WRITTEN, addr, end);
        for (unsigned n = 0; n < RELEASES && end > addr; n++)
            if (sp_gate_ask(pass, SP_GATE_RELEASE, addr, end) != -EAGAIN)
                break;
        sp_gate_note(addr, end); /* the gate was open meanwhile */
    }
    return native(__NR_ioctl, a);
}

/*
 * The kernel moves between two mappings. What was merged are several now, where the program knows of one: page by
 * page, with the kernel's answer: so many bytes and EAGAIN, or the first page's error.
 */
static long move_by_pages(const long *a, struct sp_uffdio_move *move)
{
    uint64_t done = 0;
    long ret = 0;

    while (done < move->len && !ret) {
        struct sp_uffdio_move one = {.dst = move->dst + done, .src = move->src + done,
                                     .len = sp_gate.page_size, .mode = move->mode};
        const long b[6] = {a[0], a[1], (long)&one};

        ret = native(__NR_ioctl, b);
        if (one.move > 0)
            done += (uint64_t)one.move;
        else if (!ret)
            ret = -EAGAIN;
    }
    move->move = done ? (int64_t)done : ret;
    return ret && done ? -EAGAIN : ret;
}

/* A userfaultfd of the program's own moves pages from any memory into what is registered with it: only such as are
 * no file's. */
static long call_uffd_move(struct sp_gate_pass *pass, const long *a)
{
    struct sp_uffdio_move *move = (struct sp_uffdio_move *)a[2];
    bool readable = (uint64_t)a[2] >= sp_gate.page_size;
    uint64_t addr, end;
    long ret;

    if (readable) {
        addr = move->src;
        end = range_end(addr, move->len);
        sp_merged_unmerge(pass, SP_GATE_UNMERGE_WRITTEN, addr, end);
        sp_gate_note(addr, end);
        sp_zeroed_clear(addr, end);
    }
    ret = native(__NR_ioctl, a);
    if (ret == -EINVAL && readable && move->len > sp_gate.page_size &&
        !((move->dst | move->src | move->len) & (sp_gate.page_size - 1)))
        ret = move_by_pages(a, move);
    return ret;
}

/* Un-merged first: what takes the frames' place is advised as they were, and the kernel takes that back. */
static long call_memory_merge(struct sp_gate_pass *pass, const long *a)
{
    long ret;

    if (a[2] || a[3] || a[4])
        return -EINVAL;
    sp_gate_note(0, EVERYTHING);
    if (a[1] == 0)
        unmerge_all(pass, 0, EVERYTHING);
    ret = sp_gate_no_ksm ? 0 : native(__NR_prctl, a);
    /* The kernel takes back what madvise said, too, either way. */
    if (ret == 0 && sp_gate_no_ksm && (a[1] != 0) != (sp_load(&sp_gate.advise_all) != 0) &&
        (a[1] || sp_gate.advised_only))
        sp_gate_forget_advice(0, EVERYTHING);
    if (ret == 0)
        __atomic_store_n(&sp_gate.advise_all, a[1] != 0, __ATOMIC_SEQ_CST);
    return ret;
}

static long call_prctl(struct sp_gate_pass *pass, const long *a)
{
    uint64_t addr = (uint64_t)a[2], end = range_end(addr, (uint64_t)a[3]);
    long ret;

    if ((int)a[0] == PR_SET_MEMORY_MERGE)
        return call_memory_merge(pass, a);
    if ((int)a[0] == PR_GET_MEMORY_MERGE) {
        if (!sp_gate_no_ksm)
            return native(__NR_prctl, a);
        return a[1] || a[2] || a[3] || a[4]
                   ? -EINVAL
                   : (long)__atomic_load_n(&sp_gate.advise_all, __ATOMIC_SEQ_CST);
    }
    sp_gate_note(addr, end);
    ret = native(__NR_prctl, a);
    /* Only anonymous memory can be named; a name is not worth un-merging for. */
    return ret == -EBADF && sp_sitemap_any(addr, end) ? 0 : ret;
}

void sp_gate_before_filter(struct sp_gate_pass *pass)
{
    uint32_t none = SP_GATE_NO_AGENT;
    bool filtered = sp_load(&sp_gate.agent) == SP_GATE_FILTERED; /* there may be a filter already */
    long status;

    sp_gate_enter(pass);
    status = sp_gate_ask(pass, SP_GATE_FILTER, 0, EVERYTHING);
    /* With more threads (-EBUSY) another may write what is being replaced. */
    if (!filtered && (status == -ESRCH || status == -EAGAIN) && sp_gate.guarded &&
        sp_alone_before_filter(status == -EAGAIN))
        sp_gate.guarded = sp_gate.locked;
    sp_gate_leave(pass);
    sp_store(&sp_gate.filter, 1);
    /* Answered, it is what could not be given back in time: the agent has yet to leave. One that died left what it
     * had merged. */
    if (status != -ESRCH)
        sp_store(&sp_gate.agent, SP_GATE_FILTERED);
    __atomic_compare_exchange_n(&sp_gate.agent, &none, SP_GATE_FILTERED, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
}

static long call_inside(struct sp_gate_pass *pass, long nr, const long *a)
{
    switch (nr) {
    case __NR_mmap:
        if (!mmap_replaces(a))
            return with_mappings(pass, nr, a);
        return call_replacing(pass, nr, a);
    case __NR_munmap:
        return call_replacing(pass, nr, a);
    case __NR_mremap:
        return call_mremap_spliced(pass, a);
    case __NR_brk:
        return call_brk(pass, a);
    case __NR_mprotect:
    case __NR_pkey_mprotect:
        return call_protect(pass, nr, a);
    case __NR_madvise:
        return call_madvise(pass, a);
    case __NR_mbind:
    case __NR_set_mempolicy_home_node:
        return call_policy(pass, nr, a);
    case __NR_get_mempolicy:
        return call_get_policy(a);
    case __NR_move_pages:
        return call_move_pages(pass, a);
    case __NR_mseal:
        return call_unmerged(pass, nr, a);
    case __NR_mlock:
    case __NR_mlock2:
    case __NR_munlock:
        return call_lock(pass, nr, a);
    case __NR_process_madvise:
        return call_process_madvise(pass, a);
    case __NR_remap_file_pages:
        return call_in_range(pass, nr, a);
    case __NR_shmat:
        return call_shmat(pass, a);
    case __NR_ioctl:
        return (uint32_t)a[1] == (uint32_t)UFFDIO_REGISTER ? call_uffd_register(pass, a)
                                                           : call_uffd_move(pass, a);
    case __NR_prctl:
        return call_prctl(pass, a);
    case __NR_mlockall:
    case __NR_munlockall:
        return call_lock_all(pass, nr, a);
    default: /* shmdt */
        return call_anywhere(pass, nr, a);
    }
}

long sp_gate_call(struct sp_gate_pass *pass, long nr, const long *a)
{
    struct sp_removal removal;
    bool removes;
    long ret;

    nr = (int)nr;
    if (nr == __NR_mmap && !mmap_replaces(a) && !maps_code(a) && !locks(a))
        return call_mmap_free(pass, a);
    if (nr == __NR_get_mempolicy && get_policy_outside(a, &ret))
        return ret;
    removes = sp_removals_may_be(nr, a);
    sp_gate_enter(pass);
    if (removes)
        removal = sp_removals_begin(pass);
    if (nr == __NR_mmap && maps_code(a))
        __atomic_fetch_add(&sp_gate.code, 1, __ATOMIC_SEQ_CST);
    ret = call_inside(pass, nr, a);
    if (removes)
        sp_removals_end(removal);
    sp_gate_leave(pass);
    return ret;
}
