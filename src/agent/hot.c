/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that are written all the time are looked at ever more seldom (K3). */
#include "blocks.h"

#define HOT_WAIT_MIN 2u /* passes */
#define HOT_WAIT_MAX 16u
#define HOT_STRETCHES 32u /* between hot pages: where a block has more, none of it is looked at */

static uint64_t next_trial = ~0ull; /* the first pass in which hot pages are to be tried, as far as known */

static void note_trial(const struct sp_block *b)
{
    if (b->hot_due < next_trial)
        next_trial = b->hot_due;
}

bool sp_hot_is_due(void)
{
    return sp_track_pass >= next_trial;
}

void sp_hot_pass(void)
{
    next_trial = ~0ull;
}

uint64_t sp_hot_again(struct sp_block *b, uint32_t word, uint64_t again)
{
    if (!again || sp_track_pass <= b->calm)
        return 0;
    if (!sp_bits_any(b->hot)) {
        if (!b->hot_wait || sp_track_pass > b->hot_due + 2 * HOT_WAIT_MIN)
            b->hot_wait = HOT_WAIT_MIN; /* none was for some time */
        /* In step with all other blocks, so that passes in between find nothing (quiet.c). */
        b->hot_due = (sp_track_pass / b->hot_wait + 1) * b->hot_wait;
    }
    note_trial(b);
    b->hot[word] |= again;
    b->fresh[word] &= ~again;
    b->pending[word] &= ~again;
    return again;
}

/* Hot pages are looked at again, as if they had been written just now: whether they were, in all the
 * passes since, says nothing of them yet. */
static void try_hot(struct sp_block *b)
{
    if (!sp_bits_any(b->hot))
        return;
    if (sp_track_pass < b->hot_due) {
        note_trial(b);
        return;
    }
    sp_quiet_disturb(); /* the next pass tells */
    sp_block_roll(b);
    for (unsigned w = 0; w < BLOCK_WORDS; w++) {
        b->fresh[w] |= b->hot[w];
        b->hot[w] = 0;
    }
    b->calm = sp_track_pass;
    b->hot_wait = b->hot_wait * 2 < HOT_WAIT_MAX ? b->hot_wait * 2 : HOT_WAIT_MAX;
}

static bool is_crowded(const struct sp_block *b)
{
    unsigned stretches = 0;

    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        for (uint64_t first = b->hot[w] & ~(b->hot[w] << 1); first; first &= first - 1)
            stretches++;
    return stretches > HOT_STRETCHES;
}

/* The end of the stretch of pages from `from` on, at most to `to`, that are all hot or all not. */
static uint32_t same_heat(const struct sp_block *b, uint32_t from, uint32_t to)
{
    uint32_t i = from + 1;

    while (i < to && sp_bit(b->hot, i) == sp_bit(b->hot, from))
        i++;
    return i;
}

uint64_t sp_hot_skip(uint64_t *at, uint64_t end)
{
    uint64_t size = 1ull << sp_block_shift(), start = end, p = *at;

    while (p < end) {
        uint64_t base = p & ~(size - 1), next = base + size < end ? base + size : end;
        struct sp_block *b = sp_block_find(p, false);
        bool hot = false;

        if (b)
            try_hot(b);
        if (b && sp_bits_any(b->hot)) {
            uint32_t to = sp_block_index(p) + (uint32_t)((next - p) >> sp_agent.page_shift);

            hot = is_crowded(b) || sp_bit(b->hot, sp_block_index(p));
            if (!is_crowded(b))
                next = base + ((uint64_t)same_heat(b, sp_block_index(p), to) << sp_agent.page_shift);
        }
        if (hot && start != end)
            break;
        if (!hot && start == end)
            start = p;
        p = next;
    }
    *at = start;
    return start == end ? end : p;
}
