/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the program keeps for a userfaultfd of its own (X): memory can be registered with one only.
 *
 * It asks before its call, so until the call is done nothing but the request says so. From then on the
 * kernel's flags do, read with the mappings: what is not registered any more, or was mapped anew, is
 * memory as any other. "uw" alone is the flag of our own tracking, too; in here it is the program's,
 * because we track nothing of what is kept. What else a userfaultfd can be told to do has a flag that K17
 * names.
 */
#include "agent.h"
#include "gate.h"
#include "maps.h"
#include "mem.h"

#define MOST 64u /* stretches: where there are more, what lies between two is kept, too */

struct kept {
    uint64_t start, end;
    bool called; /* the call that it was asked for is done */
};

static struct kept kept[MOST], next[MOST];
static uint32_t nkept, nnext;

/*
 * Adds to a list. In a full one the stretch that is nearest grows. Else one of which the call may be
 * coming stays by itself: of what it was put together with nobody would know when the call is done,
 * while the next one is asked for right behind it, and so on.
 */
static void add(struct kept *list, uint32_t *n, struct kept one)
{
    uint64_t nearest = ~0ull;
    uint32_t into = 0;
    bool joins;

    for (uint32_t i = 0; i < *n; i++) {
        uint64_t gap = list[i].end < one.start   ? one.start - list[i].end
                       : one.end < list[i].start ? list[i].start - one.end
                                                 : 0;

        if (gap < nearest) {
            nearest = gap;
            into = i;
        }
    }
    joins = !nearest && (list[into].called && one.called);
    for (uint32_t i = 0; i < *n && !joins; i++) {
        joins = list[i].start == one.start && list[i].end == one.end;
        into = joins ? i : into;
    }
    if (*n < MOST && !joins) {
        list[(*n)++] = one;
        return;
    }
    if (one.start < list[into].start)
        list[into].start = one.start;
    if (one.end > list[into].end)
        list[into].end = one.end;
    list[into].called &= one.called;
}

void sp_released_add(uint64_t start, uint64_t end)
{
    add(kept, &nkept, (struct kept){start, end, false});
}

bool sp_released_any(void)
{
    return nkept != 0;
}

void sp_released_calls_done(void)
{
    for (uint32_t i = 0; i < nkept; i++)
        kept[i].called |= !sp_gate_asked_for(kept[i].start, kept[i].end);
}

void sp_released_read_begin(void)
{
    nnext = 0;
}

void sp_released_cut(uint64_t start, uint64_t *end)
{
    for (uint32_t i = 0; i < nkept; i++) {
        if (kept[i].start > start && kept[i].start < *end)
            *end = kept[i].start;
        if (kept[i].end > start && kept[i].end < *end)
            *end = kept[i].end;
    }
}

bool sp_released_holds(const struct sp_mapping *m)
{
    bool held = false;

    for (uint32_t i = 0; i < nkept; i++) {
        uint64_t start = m->start > kept[i].start ? m->start : kept[i].start;
        uint64_t end = m->end < kept[i].end ? m->end : kept[i].end;

        if (start >= end || (kept[i].called && !m->tracked && !m->awaited))
            continue;
        held = true;
        if (kept[i].called)
            add(next, &nnext, (struct kept){start, end, true});
    }
    return held;
}

void sp_released_read_end(void)
{
    for (uint32_t i = 0; i < nkept; i++)
        if (!kept[i].called)
            add(next, &nnext, kept[i]);
    memcpy(kept, next, nnext * sizeof(kept[0]));
    nkept = nnext;
}
