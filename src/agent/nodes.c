/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On which node of the machine's memory pages lie (N1). Asked only by a daemon whose machine has
 * several, where merge_across_nodes is 0. The kernel is asked by move_pages without a place to move
 * to, many pages in one call (docs/decisions/0020-nodes-of-pages.md); confine.c allows no other
 * form of it.
 *
 * In test builds SAMEPAGE_TEST_NODES_AT=ADDRESS (decimal) has pages lie where a table of the
 * program's says, a byte for each of 4096 pages that follow one another: machines with one node can
 * be tested with many.
 */
#include "agent.h"
#include "mem.h"
#include "sys.h"

#define TABLE_PAGES 4096u

_Static_assert(SP_REPORT_PAGES >= SP_MERGE_PAGES, "there is room for a question's pages");

static uint64_t place[SP_REPORT_PAGES];
static int32_t node[SP_REPORT_PAGES]; /* or a negative errno */

#ifdef SP_FAULT_POINTS
static void pretend(uint32_t n)
{
    for (uint32_t i = 0; sp_agent.test_nodes && i < n; i++) {
        uint64_t at = (place[i] >> sp_agent.page_shift) % TABLE_PAGES, word;

        if (node[i] >= 0 && sp_peek_word(sp_agent.test_nodes + (at & ~7ull), &word))
            node[i] = (int32_t)(word >> (at % 8 * 8) & 0xff);
    }
}
#else
static void pretend(uint32_t n)
{
    (void)n;
}
#endif

/* Where the kernel does not answer, as in containers that forbid the call, nothing is known. */
static void look(uint32_t n)
{
    long ret;

    for (uint32_t i = 0; i < n; i++)
        node[i] = -1;
    ret = sp_sys(__NR_move_pages, 0, n, place, 0, node, 0);
    for (uint32_t i = 0; ret && i < n; i++)
        node[i] = -1;
    pretend(n);
    for (uint32_t i = 0; i < n; i++)
        if (node[i] >= (int32_t)SP_WIRE_NODES)
            node[i] = -1;
}

void sp_nodes_tell(struct sp_page_hash *page, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        place[i] = page[i].addr & ~(uint64_t)(sp_agent.page_size - 1);
    look(n);
    for (uint32_t i = 0; i < n; i++)
        page[i].addr |= (uint64_t)(uint32_t)(node[i] + 1) << SP_PAGE_NODE_SHIFT;
}

void sp_nodes_look(const struct sp_merge_run *run)
{
    if (!(run->flags & SP_MERGE_NODE))
        return;
    for (uint32_t k = 0; k < run->npages; k++)
        place[k] = run->addr + ((uint64_t)k << sp_agent.page_shift);
    look(run->npages);
}

bool sp_nodes_differ(const struct sp_merge_run *run, uint32_t k)
{
    uint32_t want = (run->flags & SP_MERGE_NODE) >> SP_MERGE_NODE_SHIFT;

    return want && (uint32_t)(node[k] + 1) != want;
}
