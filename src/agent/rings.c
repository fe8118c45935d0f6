/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that give advice by an io_uring (IORING_OP_MADVISE, decision 0013).
 *
 * The kernel does it in a thread of its own, without any call that the gate could see:
 * MADV_DONTNEED of a merged page would show its frame. But what is asked of a ring stands in memory
 * that the program shares with the kernel, and stays there until the slot is used again. So the
 * agent looks there, before it merges and five times a second: who ever asked for such advice is
 * not merged, and gets back what was.
 *
 * Not seen is what the program asks for until the next look, nor then if its slot was used again, as it soon is in a
 * small ring that is busy; a ring in memory of
 * the program's own (IORING_SETUP_NO_MMAP), and more rings than MOST.
 */
#include "rings.h"

#include <linux/io_uring.h>
#include <linux/mman.h>

#include "agent.h"
#include "maps.h"

#define MOST       64u
#define SQE_WORDS  8u /* 64 bytes; of larger ones (IORING_SETUP_SQE128) each half is looked at */
#define OPCODE     0xffu
#define ADVICE_BIT 32u /* of the word with the length */
#define LENGTH_AT  3u  /* that word */

static struct sp_range ring[MOST];
static uint32_t nrings;

void sp_rings_read_begin(void)
{
    nrings = 0;
}

void sp_rings_note(const struct sp_mapping *m)
{
    if (m->ring && m->readable && nrings < MOST)
        ring[nrings++] = (struct sp_range){.start = m->start, .end = m->end};
}

/* On a mapping of the pool it does what it does on anonymous memory. */
static bool is_harmless(uint32_t advice)
{
    switch (advice) {
    case MADV_NORMAL:
    case MADV_WILLNEED:
    case MADV_MERGEABLE:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return true;
    default:
        return false;
    }
}

bool sp_ring_advises(const uint64_t *sqe, const uint64_t *end)
{
    for (; sqe + SQE_WORDS <= end; sqe += SQE_WORDS) {
        uint64_t head = __atomic_load_n(sqe, __ATOMIC_RELAXED);

        if ((head & OPCODE) == IORING_OP_MADVISE &&
            !is_harmless(
                (uint32_t)(__atomic_load_n(sqe + LENGTH_AT, __ATOMIC_RELAXED) >> ADVICE_BIT)))
            return true;
    }
    return false;
}

void sp_rings_look(void)
{
    bool found = false;

    if (sp_agent.raw_calls)
        return;
    /* One that is gone meanwhile is none. */
    for (uint32_t i = 0; i < nrings && !found; i++)
        found = sp_peek_ring(ring[i].start, ring[i].end, &found) && found;
    if (found)
        sp_agent.raw_calls |= SP_EXPLAINED_RING_ADVICE;
}
