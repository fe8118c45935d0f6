/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which sites are there already: asked of a forked child, which inherited them (K8), and of a
 * client whose daemon died (D1). The kernel's list of mappings is the truth; the site map and the
 * books are set by it. And which of them are locked (S4), of which the books learn nothing.
 */
#include <errno.h>

#include <linux/mman.h>

#include "agent.h"
#include "attributes.h"
#include "kernel.h"
#include "maps.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

static union {
    struct sp_sites head;
    uint8_t room[sizeof(struct sp_sites) + SP_SITES_RUNS * sizeof(struct sp_site_run)];
} out;

static bool locked_alone;

static bool full(void)
{
    return out.head.nruns == SP_SITES_RUNS;
}

static void add(uint64_t start, uint64_t stop, const struct sp_mapping *m, uint32_t segment)
{
    uint64_t offset = m->offset + (start - m->start);

    out.head.run[out.head.nruns++] =
        (struct sp_site_run){.addr = start,
                             .segment = segment,
                             .index = (uint32_t)(offset >> sp_agent.page_shift),
                             .npages = (uint32_t)((stop - start) >> sp_agent.page_shift)};
    if (!locked_alone)
        sp_track_merged(start, (stop - start) >> sp_agent.page_shift);
}

/* The pages of one mapping that the program did not write since: between its own ones. */
static void add_frames(const struct sp_mapping *m, uint64_t from, uint32_t segment)
{
    struct sp_page_region region[64];
    uint64_t at = from > m->start ? from : m->start;

    while (at < m->end) {
        struct sp_pm_scan_arg arg = {
            .size = sizeof(arg), .start = at, .end = m->end, .vec = (uintptr_t)region,
            .vec_len = 64, .category_inverted = SP_PAGE_FILE, .category_mask = SP_PAGE_FILE,
            .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
            .return_mask = SP_PAGE_PRESENT};
        long n = sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg);
        uint64_t walked = n < 0 || arg.walk_end <= at ? m->end : arg.walk_end;

        for (long r = 0; r <= (n < 0 ? 0 : n); r++) {
            uint64_t stop = r < n ? region[r].start : walked;

            if (full()) {
                out.head.next = at;
                return;
            }
            if (stop > at)
                add(at, stop, m, segment);
            at = r < n ? region[r].end : walked;
            if (r < n && !locked_alone)
                sp_track_kept(stop, at);
        }
    }
}

/* msync with MS_ASYNC does nothing but report holes. */
static bool is_mapped(uint64_t start, uint64_t stop)
{
    return sp_sys(__NR_msync, start, stop - start, MS_ASYNC) != -ENOMEM;
}

void sp_sites_drop_unmapped(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    while (sp_sitemap_next(addr, end, &start, &stop)) {
        addr = stop;
        if (is_mapped(start, stop))
            continue;
        for (; start < stop; start += sp_agent.page_size)
            if (!is_mapped(start, start + sp_agent.page_size))
                sp_sitemap_clear(start, start + sp_agent.page_size);
    }
}

static bool visit(void *arg, const struct sp_mapping *m)
{
    uint64_t from = *(uint64_t *)arg;
    uint32_t segment;

    if (m->shared || !m->inode || m->end <= from || (locked_alone && !(m->given & SP_RANGE_LOCKED)))
        return true;
    segment = sp_view_of_file(m->device, m->inode);
    if (!segment)
        return true;
    if (full()) {
        out.head.next = m->start;
        return false;
    }
    add_frames(m, from, segment);
    return !out.head.next;
}

void sp_sites_report(const struct sp_msg *msg, uint64_t from)
{
    locked_alone = msg->type == SP_MSG_LOCKED;
    memset(&out.head, 0, sizeof(out.head));
    sp_maps_read(visit, &from);
    sp_link_answer(msg, msg->type, &out,
                   sizeof(out.head) + out.head.nruns * sizeof(out.head.run[0]));
}
