/* SPDX-License-Identifier: Apache-2.0 */
/* What each tracked page is at present, for "samepage explain". */
#include "blocks.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define EXPLAIN_BLOCKS 512u /* of one part: 1 GiB */

static enum sp_now kind_of(const struct sp_block *b, uint32_t i, const uint64_t *present,
                                 const uint64_t *own, const uint64_t *pool)
{
    if (sp_bit(pool, i))
        return sp_bit(own, i) ? SP_NOW_PRIVATE : SP_NOW_MERGED;
    if (!sp_bit(own, i))
        return SP_NOW_ABSENT;
    if (!sp_bit(present, i))
        return SP_NOW_SWAPPED;
    if (!b)
        return SP_NOW_NEW;
    if (sp_bit(b->fresh, i) || sp_bit(b->hot, i))
        return SP_NOW_CHANGED;
    if (sp_bit(b->pending, i) || sp_bit(b->slow, i))
        return SP_NOW_SETTLING;
    return sp_bit(b->hashed, i) ? SP_NOW_REPORTED : SP_NOW_NEW;
}

/* The pages of [at, end), all of one block. */
static void explain_block(uint64_t at, uint64_t end, struct sp_explained *out)
{
    uint64_t present[BLOCK_WORDS], own[BLOCK_WORDS], pool[BLOCK_WORDS];
    const struct sp_block *b = sp_block_find(at, false);

    sp_look_own(at, end, present, own);
    sp_look_pool(at, end, pool);
    for (; at < end; at += sp_agent.page_size)
        out->page[kind_of(b, sp_block_index(at), present, own, pool)]++;
}

/* Where the first block from at on begins that holds a page of the process' own or of the pool; end
 * if there is none. What is only reserved may be very large. */
static uint64_t skip_absent(uint64_t at, uint64_t end)
{
    struct sp_page_region first;
    struct sp_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = at,
        .end = end,
        .vec = (uintptr_t)&first,
        .vec_len = 1,
        .max_pages = 1,
        .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
        .return_mask = SP_PAGE_PRESENT,
    };
    uint64_t found = end, pool, pool_end, base;

    if (sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg) != 0)
        found = arg.walk_end > at ? first.start : at;
    if (sp_sitemap_next(at, end, &pool, &pool_end) && pool < found)
        found = pool;
    base = found & ~((1ull << sp_block_shift()) - 1);
    return found == end ? end : base > at ? base : at;
}

void sp_track_explain(uint64_t from, struct sp_explained *out)
{
    uint64_t size = 1ull << sp_block_shift();
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < sp_agent.nranges; i++) {
        const struct sp_range *r = &sp_agent.range[i];
        uint64_t at = r->start > from ? r->start : from, stop;

        for (; at < r->end; at = stop) {
            stop = skip_absent(at, r->end);
            out->page[SP_NOW_ABSENT] += (stop - at) >> sp_agent.page_shift;
            at = stop;
            if (at == r->end)
                break;
            if (blocks++ == EXPLAIN_BLOCKS) {
                out->next = at;
                return;
            }
            stop = (at & ~(size - 1)) + size;
            if (stop > r->end)
                stop = r->end;
            explain_block(at, stop, out);
        }
    }
}
