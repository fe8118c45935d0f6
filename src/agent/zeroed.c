/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that were given back to the kernel's own page of zeros (K15; lift.c gives them): un-merged again,
 * and told of to a daemon that does not know them (K8, D1). What the kernel has there is the truth; the
 * map of zeroed pages and the books are set by it.
 */
#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define GATE_SPIN_US 20000u
#define GATE_TRIES   10u
#define REGIONS      64u

static union {
    struct sp_zeroed head;
    uint8_t room[sizeof(struct sp_zeroed) + SP_SITES_RUNS * sizeof(struct sp_run)];
} out;

/* The first pages in [at, end) that are the kernel's page of zeros: false if there are none, or it cannot be
 * told. */
static bool next_zeros(uint64_t at, uint64_t end, uint64_t *start, uint64_t *stop)
{
    struct sp_page_region first;
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = at,
        .end = end,
        .vec = (uintptr_t)&first,
        .vec_len = 1,
        .category_mask = SP_PAGE_PFNZERO,
        .return_mask = SP_PAGE_PFNZERO,
    };

    if (sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg) != 1)
        return false;
    *start = first.start;
    *stop = first.end;
    return true;
}

/*
 * With the gate closed. The kernel gives a page of its own to who writes, and this writes nothing. What may
 * not be written stays as it is: it reads as zeros, and nobody can tell.
 */
static int own_pages(uint64_t start, uint64_t end, uint64_t *npages)
{
    uint64_t at = start, a, b;

    for (; next_zeros(at, end, &a, &b); at = b) {
        if (sp_sys(__NR_madvise, a, b - a, SP_MADV_POPULATE_WRITE) == -ENOMEM)
            return -ENOMEM;
        *npages += (b - a) >> sp_agent.page_shift;
        sp_count(SP_COUNT_UNMERGED, (b - a) >> sp_agent.page_shift);
    }
    sp_zeroed_clear(start, end);
    sp_track_pending(start, (end - start) >> sp_agent.page_shift);
    return 0;
}

static int unmerge_run(uint64_t start, uint64_t end, uint64_t *npages)
{
    int ret = -EAGAIN;

    for (unsigned tries = 0; tries < GATE_TRIES && ret == -EAGAIN; tries++) {
        if (!sp_gate_close(GATE_SPIN_US)) {
            sp_serve_gate();
            continue;
        }
        ret = own_pages(start, end, npages);
        if (sp_gate_open())
            sp_serve_gate();
    }
    return ret;
}

int sp_unmerge_zeros(uint64_t start, uint64_t end, uint64_t max_pages, uint64_t *next, uint64_t *npages)
{
    uint64_t most = (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift, looked = 0, a, b;
    int ret = 0;

    *next = *npages = 0;
    for (uint64_t at = start; !ret && at < end && sp_zeroed_next(at, end, &a, &b); at = b) {
        if (b - a > most)
            b = a + most;
        if (looked < max_pages)
            ret = unmerge_run(a, b, npages);
        if (ret || looked >= max_pages) {
            *next = a > start ? a : 0;
            break;
        }
        looked += (b - a) >> sp_agent.page_shift;
    }
    return ret;
}

static bool add(uint64_t start, uint64_t end)
{
    uint64_t npages = (end - start) >> sp_agent.page_shift;

    if (out.head.nruns == SP_SITES_RUNS) {
        out.head.next = start;
        return false;
    }
    out.head.run[out.head.nruns++] = (struct sp_run){start, npages};
    sp_track_zeroed(start, npages);
    return true;
}

void sp_zeroed_report(const struct sp_msg *msg, uint64_t from)
{
    uint64_t start, stop, a, b;

    memset(&out.head, 0, sizeof(out.head));
    for (; !out.head.next && sp_zeroed_next(from, ~0ull, &start, &stop); from = stop) {
        uint64_t at = start;

        for (; !out.head.next && next_zeros(at, stop, &a, &b); at = b) {
            sp_zeroed_clear(at, a);
            if (!add(a, b))
                b = a;
        }
        if (!out.head.next)
            sp_zeroed_clear(at, stop);
    }
    sp_link_answer(msg, SP_MSG_ZEROED, &out,
                   sizeof(out.head) + out.head.nruns * sizeof(out.head.run[0]));
}
