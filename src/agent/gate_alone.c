/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the gate does to merged pages where no agent is (D2), or where that cannot help: rights that the program takes
 * from them, what it drops of those that it may not write, and what a pipe is to have of them.
 *
 * Some of a site's pages are the program's own: written since the merge, or made its own by what refers to them, a
 * ring, a pipe, a read on its way. Those must stay the pages that they are; so they stay in their mapping of the
 * pool. Which ones they are only /proc tells, so it is read by a thread that has descriptors of its own
 * (sp_aside()). Where it cannot be read all pages count as frames but those that the gate knows to be held. All that
 * comes after the program's call, and only if the kernel did it: what it refuses keeps its rights.
 */
#include <linux/mman.h>

#include "attributes.h"
#include "clone.h"
#include "gate_inside.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define AT_CWD  (-100)
#define O_WRITE 01
#define O_READ_WRITE 02
#define ZEROS   4096u
#define SET_MASK     2   /* of rt_sigprocmask */
#define WAIT_PRIVATE 128 /* of futex */
#define WAKE_PRIVATE 129

static const uint8_t zeros[ZEROS];

uint64_t sp_alone_begin(void)
{
    uint64_t all = ~(uint64_t)0, signals = 0;

    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &signals, sizeof(all));
    while (__atomic_exchange_n(&sp_gate.protecting, 1, __ATOMIC_SEQ_CST))
        sp_sys(__NR_futex, &sp_gate.protecting, WAIT_PRIVATE, 1, 0);
    return signals;
}

void sp_alone_end(uint64_t signals)
{
    sp_store(&sp_gate.protecting, 0);
    sp_sys(__NR_futex, &sp_gate.protecting, WAKE_PRIVATE, 1);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &signals, 0, sizeof(signals));
}

/* In a thread of sp_aside(): one of the program's own files, and nothing else is open. */
static long open_own(const char *path, int flags)
{
    sp_sys(__NR_close_range, 0, ~0u, 0);
    return sp_sys(__NR_openat, AT_CWD, path, flags);
}

struct freeze {
    uint64_t addr, end;
    long prot;
    long pagemap; /* or a negative errno */
};

/* The first page at or after `at` that is the program's own, and where such pages end; `end` if there is none. */
static uint64_t next_own(const struct freeze *f, uint64_t at, uint64_t end, uint64_t *stop)
{
    struct sp_page_region own = {.start = end, .end = end};
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg), .start = at, .end = end, .vec = (uintptr_t)&own, .vec_len = 1,
        .category_inverted = SP_PAGE_FILE, .category_mask = SP_PAGE_FILE,
        .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED, .return_mask = SP_PAGE_PRESENT};

    *stop = end;
    if (!sp_is_err(f->pagemap) && !sp_is_err(sp_sys(__NR_ioctl, f->pagemap, SP_PAGEMAP_SCAN, &arg))) {
        *stop = own.end;
        return own.start;
    }
    while (at < end && !sp_spliced_any(at, at + sp_gate.page_size))
        at += sp_gate.page_size;
    if (at < end)
        *stop = at + sp_gate.page_size;
    return at;
}

/* By the kernel: what cannot be read is an error, and not this thread's fault. */
static bool copy_bytes(uint64_t to, uint64_t from, uint64_t length)
{
    long pid = sp_sys(__NR_getpid), n;

    for (uint64_t done = 0; done < length; done += (uint64_t)n) {
        struct iovec here = {(void *)(to + done), length - done}, there = {(void *)(from + done), length - done};

        n = sp_sys(__NR_process_vm_readv, pid, &here, 1, &there, 1, 0);
        if (n <= 0)
            return false;
    }
    return true;
}

/* Anonymous memory with the same bytes in place of frames that nobody may write any more. The move is one step of the
 * kernel's. What fails leaves them merged, which only matters if they are later dropped. */
static void copy_frames(uint64_t start, uint64_t stop, long prot)
{
    long copy;

    if (start >= stop)
        return;
    copy = sp_gate_map_anonymous(0, stop - start, 0);
    if (sp_is_err(copy))
        return;
    if (!(prot & PROT_READ))
        sp_sys(__NR_mprotect, start, stop - start, PROT_READ);
    if (copy_bytes((uint64_t)copy, start, stop - start) && sp_sys(__NR_mprotect, copy, stop - start, prot) == 0 &&
        sp_move_over((uint64_t)copy, stop - start, start, MREMAP_MAYMOVE | MREMAP_FIXED,
                     sp_gate.advised_only || sp_gate.advise_all) == 0) {
        sp_sitemap_clear(start, stop);
        return;
    }
    sp_sys(__NR_munmap, copy, stop - start);
    if (!(prot & PROT_READ))
        sp_sys(__NR_mprotect, start, stop - start, prot);
}

static void freeze_run(const struct freeze *f, uint64_t start, uint64_t stop)
{
    for (uint64_t at = start; at < stop;) {
        uint64_t after, own = next_own(f, at, stop, &after);

        copy_frames(at, own, f->prot);
        at = after;
    }
}

static void freeze_all(struct freeze *f)
{
    uint64_t start, stop;

    for (uint64_t at = f->addr; sp_sitemap_next(at, f->end, &start, &stop); at = stop)
        freeze_run(f, start, stop);
}

static void freeze_aside(void *arg)
{
    struct freeze *f = arg;

    f->pagemap = open_own("/proc/self/pagemap", 0);
    freeze_all(f);
}

void sp_alone_freeze(uint64_t addr, uint64_t end, long prot)
{
    struct freeze f = {addr, end, prot, -EBADF};

    if (sp_sitemap_any(addr, end) && sp_aside(freeze_aside, &f, 0))
        freeze_all(&f);
}

/* What a line of /proc/self/maps begins with. False: it is none. */
static bool parse_mapping(const char *line, const char *end, uint64_t *start, uint64_t *stop, long *prot)
{
    *start = sp_parse_hex(&line, end);
    if (line == end || *line++ != '-')
        return false;
    *stop = sp_parse_hex(&line, end);
    if (end - line < 5)
        return false;
    *prot = (line[1] == 'r' ? PROT_READ : 0) | (line[2] == 'w' ? PROT_WRITE : 0) | (line[3] == 'x' ? PROT_EXEC : 0);
    return *stop > *start;
}

/* Sites in [start, stop), all of one mapping: what may be written becomes the program's own, the rest anonymous memory,
 * also what the program wrote, but for what is known to be held. True if nothing is left that may not be written. */
static bool own_mapping(uint64_t start, uint64_t stop, long prot)
{
    struct freeze f = {start, stop, prot, -EBADF};
    uint64_t a, b;
    bool done = true, own, locked = sp_gate.locked && sp_is_locked(start, stop - start);

    if (!locked && !(prot & PROT_WRITE) && !sp_gate.dontfork && !sp_gate.keyed)
        freeze_all(&f);
    for (; sp_sitemap_next(start, stop, &a, &b); start = b) {
        own = (prot & PROT_WRITE) && sp_sys(__NR_madvise, a, b - a, SP_MADV_POPULATE_WRITE) == 0;
        if (!own || locked)
            sp_guarded_add(a, b);
        done &= own;
    }
    return done;
}

/* True if all that is left of what they name may be written. */
static bool own_lines(const char *line, const char *end, bool guarded_only)
{
    uint64_t start, stop;
    bool done = true;
    long prot;

    while (line < end) {
        const char *next = line;

        while (next < end && *next != '\n')
            next++;
        if (parse_mapping(line, next, &start, &stop, &prot) && sp_sitemap_any(start, stop) &&
            !(guarded_only && (prot & PROT_WRITE)))
            done &= own_mapping(start, stop, prot);
        line = next + 1;
    }
    return done;
}

struct settle {
    bool guarded_only, done, whole;
};

/* A read gives whole lines, if there is room for one. */
static void own_all_aside(void *arg)
{
    struct settle *s = arg;
    char text[2 * ZEROS];
    long file = open_own("/proc/self/maps", 0), n = -1;

    s->done = true;
    if (!sp_is_err(file) && !s->guarded_only)
        sp_guarded_forget();
    while (!sp_is_err(file) && (n = sp_sys(__NR_read, file, text, sizeof(text))) > 0)
        s->done &= own_lines(text, text + n, s->guarded_only);
    s->whole = n == 0;
    if (!s->whole && !s->guarded_only) /* else the agent found out which */
        sp_guarded_add(0, ~0ull);
}

bool sp_alone_before_filter(bool guarded_only)
{
    uint64_t start, stop, signals = sp_alone_begin();
    struct settle s = {.guarded_only = guarded_only};
    bool done = true;

    if (sp_aside(own_all_aside, &s, 0) == 0 && s.whole) {
        done = s.done;
    } else if (guarded_only) {
        done = false;
    } else {
        for (uint64_t at = 0; done && sp_sitemap_next(at, ~0ull, &start, &stop); at = stop)
            done = sp_sys(__NR_madvise, start, stop - start, SP_MADV_POPULATE_WRITE) == 0;
    }
    sp_alone_end(signals);
    return done;
}

struct clear {
    uint64_t start, stop;
    bool done;
};

/* As a debugger writes, whatever the protection. */
static void clear_aside(void *arg)
{
    struct clear *c = arg;
    long mem = open_own("/proc/self/mem", O_WRITE);

    if (sp_is_err(mem))
        return;
    /* What refers to a page that was the program's own keeps its bytes. */
    sp_sys(__NR_madvise, c->start, c->stop - c->start, SP_MADV_DONTNEED_LOCKED);
    c->done = true;
    for (uint64_t at = c->start; c->done && at < c->stop; at += ZEROS)
        c->done = sp_sys(__NR_pwrite64, mem, zeros, ZEROS, at) == ZEROS;
}

/* Where that may not be opened: new memory, of which only the right to execute is lost. What may be written is. */
static bool zero_page(uint64_t page)
{
    uint32_t right = sp_gate_can_read(page, page + sizeof(uint64_t)) ? SP_RANGE_READ : 0;
    uint32_t advised = sp_gate.advised_only ? SP_RANGE_ADVISED : 0;
    uint64_t length = sp_gate.page_size;

    if (sp_sys(__NR_madvise, page, length, SP_MADV_POPULATE_WRITE) == 0) {
        memset((void *)page, 0, length);
        return true;
    }
    if (sp_is_err(sp_map_with(page, length, MAP_FIXED, sp_gate.attributes | right | advised)))
        return false;
    sp_sitemap_clear(page, page + length);
    return true;
}

bool sp_alone_zero(uint64_t start, uint64_t stop)
{
    struct clear c = {start, stop, false};
    bool done = sp_aside(clear_aside, &c, 0) == 0 && c.done;

    if (done)
        return true;
    for (done = true; start < stop; start += sp_gate.page_size)
        done &= zero_page(start);
    return done;
}

struct own {
    uint64_t start, stop;
};

/* A write that changes nothing. Who may not write the page now does not do so meanwhile. */
static void own_aside(void *arg)
{
    const struct own *o = arg;
    long mem = open_own("/proc/self/mem", O_READ_WRITE);
    uint8_t byte;

    for (uint64_t at = o->start; !sp_is_err(mem) && at < o->stop; at += sp_gate.page_size)
        if (sp_sys(__NR_madvise, at, sp_gate.page_size, SP_MADV_POPULATE_WRITE) != 0 &&
            sp_sys(__NR_pread64, mem, &byte, 1, at) == 1)
            sp_sys(__NR_pwrite64, mem, &byte, 1, at);
}

void sp_alone_own(uint64_t start, uint64_t stop)
{
    struct own o = {start, stop};

    if (sp_sys(__NR_madvise, start, stop - start, SP_MADV_POPULATE_WRITE) != 0)
        sp_aside(own_aside, &o, 0);
}
