/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs whose calls do not all go through the gate, found while they run.
 *
 * Code that was loaded since the gate was put in (dlopen) cannot be patched any more: whoever calls it
 * may be in the middle of it. So it is looked at before the next lift, and if it makes system calls that
 * may change mappings, nothing is merged any more, and what is merged becomes the program's own again.
 * The mappings are read anyway when something changed; that there is new code is a count of the gate's,
 * which a lift compares with what was looked at.
 *
 * Code in anonymous memory (of just-in-time compilers) is not looked at: it changes all the time, and
 * hardly any makes system calls. What it did shows: memory that was looked after is gone, and no call
 * that the gate saw touched it.
 */
#include "agent.h"
#include "code_known.h"
#include "gate.h"
#include "maps.h"
#include "wire.h"

#define UNSEEN 64u /* mappings that are looked at after one reading; more: after the next */

static struct {
    uint64_t start, end, inode;
} unseen[UNSEEN];
static uint32_t nunseen;
static uint32_t code; /* sp_gate.code when the reading began */
static uint32_t asks; /* sp_gate.asks then */
static bool asked;    /* and it was another one when the reading before that began */
static bool all_seen;

void sp_code_look_begin(void)
{
    uint32_t now = __atomic_load_n(&sp_gate.asks, __ATOMIC_SEQ_CST);

    asked = now != asks;
    asks = now;
    code = __atomic_load_n(&sp_gate.code, __ATOMIC_SEQ_CST);
    nunseen = 0;
    all_seen = true;
}

bool sp_code_is_known(void)
{
    return __atomic_load_n(&sp_gate.code, __ATOMIC_SEQ_CST) == sp_agent.code_known;
}

void sp_code_seen(const struct sp_mapping *m)
{
    /* Before main() there is no gate yet, and then it looks itself at all there is. */
    if (!sp_agent.running || sp_code_has(m->start, m->end, m->inode))
        return;
    if (nunseen == UNSEEN) {
        all_seen = false;
        return;
    }
    unseen[nunseen].start = m->start;
    unseen[nunseen].end = m->end;
    unseen[nunseen++].inode = m->inode;
}

/* A mapping that is gone meanwhile, or cannot be read, is looked at when it is met again. */
static void look_at_code(void)
{
    for (uint32_t i = 0; i < nunseen && !sp_agent.raw_calls; i++) {
        uint64_t found;

        if (!sp_peek_raw_call(unseen[i].start, unseen[i].end, &found))
            continue;
        if (found)
            sp_agent.raw_calls |= SP_EXPLAINED_RAW_CODE;
        else
            sp_code_add(unseen[i].start, unseen[i].end, unseen[i].inode);
    }
    if (all_seen)
        sp_agent.code_known = code;
}

struct hole {
    uint64_t at, end;
    bool found;
};

static bool find_hole(void *arg, const struct sp_mapping *m)
{
    struct hole *hole = arg;

    if (m->end <= hole->at)
        return true;
    if (m->start > hole->at)
        hole->found = true;
    hole->at = m->end;
    return !hole->found && hole->at < hole->end;
}

/* Is part of [start, end) not mapped, and did no gated call since the epoch touch it? In this order: a
 * call that comes meanwhile is marked before it is done. */
static bool went_unseen(uint32_t epoch, uint64_t start, uint64_t end)
{
    struct hole hole = {.at = start, .end = end};

    if (sp_maps_read(find_hole, &hole) < 0)
        return false;
    return (hole.found || hole.at < end) && !sp_gate_changed_from(epoch, start, end);
}

/*
 * Ranges of which nothing is left: a part alone may be too small now to be looked after. Not if a call
 * asked the agent for something since the reading before this began: it may have said what it changes
 * before that, and have done it afterwards.
 */
static void look_for_gone(uint32_t epoch, const struct sp_range *old, uint32_t nold)
{
    for (uint32_t i = 0; i < nold && !sp_agent.raw_calls && !asked; i++)
        if (!sp_range_of(old[i].start, old[i].end) &&
            !sp_gate_changed_from(epoch, old[i].start, old[i].end) &&
            went_unseen(epoch, old[i].start, old[i].end))
            sp_agent.raw_calls |= SP_EXPLAINED_RAW_CHANGE;
}

void sp_code_look_end(uint32_t epoch, const struct sp_range *old, uint32_t nold)
{
    if (!sp_agent.running)
        return;
    look_at_code();
    look_for_gone(epoch, old, nold);
}
