/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before a vmsplice: its pages are made ones that behave as anonymous memory does (X).
 *
 * The pipe refers to the pages themselves, so what the program writes to them later shows there.
 * That ends when another page takes their place: when one of them is merged, and when the program
 * writes to one that was. So the pages are noted (sitemap.h) and never merged from then on, and
 * what is merged of them becomes the program's own before the call.
 *
 * The call itself is done natively, outside the gate: it may wait for the pipe's reader for ever.
 */
#include <errno.h>

#include "gate_inside.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define MAX_PARTS 1024u       /* of a vector; the kernel refuses more */
#define MAX_BYTES 0x7ffff000u /* that one call moves at most */
#define SET_MASK  2           /* of rt_sigprocmask */
#define NO_HOW    (-1)

/*
 * Can the program's memory at [addr, end) be read? The vector may be garbage, and its fault is to
 * be an error of the call. rt_sigprocmask looks at the new mask before it finds that it is not told
 * what to do with it (a null pointer would be no mask). A filter that refuses even that does not
 * tell: then the vector is believed.
 */
bool sp_gate_can_read(uint64_t addr, uint64_t end)
{
    if (addr < sp_gate.page_size || end < addr)
        return false;
    for (uint64_t at = addr; at < end; at = sp_gate_page_up(at + 1))
        if (sp_sys(__NR_rt_sigprocmask, NO_HOW, at, 0, sizeof(uint64_t)) == -EFAULT)
            return false;
    return true;
}

bool sp_gate_is_vector(uint64_t vector, uint64_t parts)
{
    uint64_t end = vector + parts * sizeof(struct iovec);

    return vector && parts && parts <= MAX_PARTS && end > vector && sp_gate_can_read(vector, end);
}

bool sp_gate_next_part(const struct iovec *part, uint64_t *left, uint64_t *start, uint64_t *stop)
{
    uint64_t base = (uint64_t)part->iov_base, length = part->iov_len;

    if (!*left || length > INT64_MAX || base + length < base)
        return false;
    if (length > *left)
        length = *left;
    *left -= length;
    *start = base & ~((uint64_t)sp_gate.page_size - 1);
    *stop = length ? sp_gate_page_up(base + length) : *start;
    return *stop >= *start;
}

/* The parts of which pages lay in a pipe already. */
struct known {
    uint64_t part[MAX_PARTS / 64];
};

/* Notes all pages of the vector; true if any is merged, or the kernel's page of zeros (K15). Inside the gate. */
static bool note_pages(const struct iovec *vector, uint64_t parts, struct known *known)
{
    uint64_t left = MAX_BYTES, start, stop;
    bool merged = false;

    memset(known, 0, sizeof(*known));
    for (uint64_t i = 0; i < parts && sp_gate_next_part(&vector[i], &left, &start, &stop); i++) {
        if (sp_spliced_any(start, stop))
            known->part[i / 64] |= 1ull << (i % 64);
        sp_spliced_add(start, stop);
        merged |= sp_sitemap_any(start, stop) || sp_zeroed_any(start, stop);
    }
    return merged;
}

/* The agent gives plain memory back, also of what was written since it was merged, or another call
 * would have to take that page away later; unless a pipe may have it already. Where it cannot, the page is
 * made private in its mapping. */
static void make_own(struct sp_gate_pass *pass, uint64_t start, uint64_t stop, bool known)
{
    uint64_t a, b;

    /* First: the agent leaves those that the program may not write as they are, and forgets them. */
    for (uint64_t at = start; sp_zeroed_next(at, stop, &a, &b); at = b)
        sp_alone_own(a, b);
    sp_gate_own_zeros(pass, start, stop);
    if (sp_sitemap_any(start, stop))
        sp_merged_unmerge(pass, known ? SP_GATE_UNMERGE : SP_GATE_UNMERGE_WRITTEN, start, stop);
    for (; sp_sitemap_next(start, stop, &a, &b); start = b)
        sp_alone_own(a, b);
}

static void own_pages(const struct iovec *vector, uint64_t parts, const struct known *known)
{
    uint64_t left = MAX_BYTES, start, stop;
    struct sp_gate_pass pass;

    sp_gate_enter(&pass);
    for (uint64_t i = 0; i < parts && sp_gate_next_part(&vector[i], &left, &start, &stop); i++)
        make_own(&pass, start, stop, known->part[i / 64] >> (i % 64) & 1);
    sp_gate_leave(&pass);
}

/*
 * No handler of this thread runs from the first entering to the last leaving: libc's vmsplice() can be
 * cancelled, and a thread that is cancelled while it waits at the gate, or in it, would leave it closed
 * to the agent for good.
 */
void sp_gate_before_vmsplice(const long *a)
{
    const struct iovec *vector = (const struct iovec *)a[1];
    uint64_t all = ~(uint64_t)0, old = 0;
    struct sp_gate_pass pass;
    struct known known;
    bool merged;

    /* An agent that does not serve yet will: only a filter says that none ever comes, and forbids
     * to look at the vector. */
    if (__atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED ||
        !sp_gate_is_vector((uint64_t)vector, (uint64_t)a[2]))
        return;
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    sp_gate_enter(&pass);
    merged = note_pages(vector, (uint64_t)a[2], &known);
    sp_gate_leave(&pass);
    if (merged)
        own_pages(vector, (uint64_t)a[2], &known);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
}
