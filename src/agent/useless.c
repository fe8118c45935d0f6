/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which mappings of the pool are to be given back (again.c): those in which every page was written and is
 * at rest, those of a thin segment, whatever they hold, and those of a segment that nobody knows any
 * more. Also noted here: which are not as a merge makes them. Both when all mappings are read (ranges.c). In
 * between what became useless is looked for bit by bit: to read 8,000 mappings takes a tenth of a second, on
 * a busy machine a whole one, and an agent that is so slow has to rest.
 */
#include "agent.h"
#include "maps.h"
#include "mem.h"

#define USELESS_MAX 4096u
#define ODD_MAX 1024u
#define LOOK_US 8000000u /* between looks for what became useless, at least, */
#define LOOK_SHARE 400u  /* and for at most so small a part of the time */
#define COUNT_SHARE 40u  /* the same, where they are to be counted */
#define THIN_US 4000000u /* the same, where some is for sure, */
#define SOON_US 500000u  /* and where more of it is: in step with others; */
#define THIN_SHARE 20u   /* but for at most so small a part of the time */
#define LOOK_BYTES (512u << 10) /* of text in one pass */

/* Mappings of the pool that save nothing any more. */
static struct sp_range useless[USELESS_MAX];
static uint32_t nuseless;
static uint64_t useless_pages;
static struct sp_thin_part thin[SP_THIN_SEGMENTS];
static uint32_t nthin;
static bool thin_moved; /* since the last look began */
static uint64_t looked_us; /* when that was */
static bool looking;       /* it is not at its end */
static uint32_t met, used; /* mappings that merging uses, as far as it is: so many; and used before it began */
static uint64_t met_end;   /* of the last one */
static uint64_t cost_us;   /* CPU that it took */
/* Mappings of the pool that the program gave a protection, a lock or advice: nothing is mapped there in
 * their place. More than fit: all are such. */
static struct sp_range odd[ODD_MAX];
static uint32_t nodd;

static bool is_due(uint64_t now)
{
    uint64_t since = now - looked_us;

    if (nthin && since > (thin_moved ? SOON_US : THIN_US) &&
        since > sp_agent.ranges_cost_us * THIN_SHARE)
        return true;
    if (sp_mappings_are_stale() && since > sp_agent.ranges_cost_us * COUNT_SHARE)
        return true;
    return sp_kept_moved() && since > LOOK_US && since > sp_agent.ranges_cost_us * LOOK_SHARE;
}

static void begin(void)
{
    nuseless = 0;
    useless_pages = 0;
    thin_moved = false;
    looked_us = sp_now_us();
    sp_kept_read();
}

void sp_useless_read_begin(void)
{
    begin();
    nodd = 0;
    looking = false;
}

void sp_useless_forget(void)
{
    sp_useless_read_begin();
    nthin = 0;
}

void sp_ranges_thin(const struct sp_thin_part *part, uint32_t n)
{
    nthin = n < SP_THIN_SEGMENTS ? n : SP_THIN_SEGMENTS;
    for (uint32_t i = 0; i < nthin; i++)
        thin_moved |= thin[i].segment != part[i].segment || thin[i].end != part[i].end;
    memcpy(thin, part, nthin * sizeof(*part));
}

/* Of frames that are to become free, or of a segment that nobody knows any more: its view was dropped, as
 * all its frames are forgotten, but what the program wrote there holds it. */
static bool is_thin(const struct sp_mapping *m)
{
    uint32_t segment = sp_view_of_file(m->device, m->inode);

    for (uint32_t i = 0; i < nthin; i++)
        if (thin[i].segment == segment)
            return m->offset >> sp_agent.page_shift < thin[i].end;
    return !segment && sp_view_is_dropped(m->device, m->inode);
}

static bool is_odd(const struct sp_mapping *m)
{
    return !m->readable || !m->writable || m->executable || !m->merge_keeps;
}

static void note_useless(const struct sp_mapping *m)
{
    if (nuseless == USELESS_MAX || (!is_thin(m) && !sp_kept_all(m->start, m->end)))
        return;
    useless[nuseless++] = (struct sp_range){m->start, m->end, 0};
    useless_pages += (m->end - m->start) >> sp_agent.page_shift;
}

void sp_useless_note(const struct sp_mapping *m)
{
    if (!is_odd(m)) {
        note_useless(m);
        return;
    }
    if (nodd < ODD_MAX)
        odd[nodd] = (struct sp_range){m->start, m->end, 0};
    nodd += nodd <= ODD_MAX;
}

static bool visit(void *arg, const struct sp_mapping *m)
{
    (void)arg;
    if (m->shared || !sp_view_is_pool(m))
        return true;
    met += 1 + (m->start != met_end);
    met_end = m->end;
    if (!is_odd(m))
        note_useless(m);
    return true;
}

/* What was merged meanwhile is counted on top, at most twice. */
static void count_met(void)
{
    sp_agent.ranges_cost_us = cost_us;
    if (sp_agent.mappings < used)
        return;
    sp_agent.mappings = sp_agent.mappings_read = met + (sp_agent.mappings - used);
}

void sp_useless_look(void)
{
    uint64_t cpu = sp_cpu_us();
    bool first = !looking;
    int ret;

    if (first && !is_due(sp_now_us()))
        return;
    if (first) {
        begin();
        met = 0;
        met_end = cost_us = 0;
        used = sp_agent.mappings;
    }
    ret = sp_maps_read_part(visit, NULL, LOOK_BYTES, first);
    cost_us += sp_cpu_us() - cpu;
    looking = ret == 1;
    if (!ret)
        count_met();
}

bool sp_range_odd(uint64_t addr, uint64_t end)
{
    for (uint32_t i = 0; i < nodd && i < ODD_MAX; i++)
        if (odd[i].start < end && odd[i].end > addr)
            return true;
    return nodd > ODD_MAX;
}

uint64_t sp_ranges_useless(void)
{
    return useless_pages;
}

bool sp_range_useless(uint64_t *start, uint64_t *end)
{
    if (!nuseless)
        return false;
    nuseless--;
    *start = useless[nuseless].start;
    *end = useless[nuseless].end;
    useless_pages -= (*end - *start) >> sp_agent.page_shift;
    return true;
}
