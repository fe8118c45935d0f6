/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages whose merges do not last (K3; docs/decisions/0014-written-again.md).
 *
 * A page that is written soon after each merge costs a merge, a frame that lingers and a fault each
 * time, and saves nothing. So each page has a rank: up by one when a merge of it lasted less than 8
 * seconds or so, or when it does not come to rest at all; down by one when a merge lasted longer. Before
 * it is merged again a page must **rest**: it must not change from the beginning of an age to that of
 * the next. An age is of 2 seconds, a long one of 8.
 *
 * A program that wrote much that was merged since the last age is likely to go on: then ages double, up
 * to eightfold, and are halved by each in which it wrote little.
 *
 * A page that lies in a mapping of the pool since it was written (kept.c) rests for an age, in the upper
 * two ranks for a long one: so of a program that writes all the time nothing is merged again. One in plain
 * memory is watched by the kernel, which costs less: it is merged as soon as it is quiet in the two lower
 * ranks, and rests for an age in rank 2, for a long one in rank 3.
 *
 * In the books: rank, in two bitmaps; slow, of a page that maps a frame, or is the kernel's page of zeros: it was merged in this era; of
 * any other in plain memory: it rests, and is tagged when an age began meanwhile. Tagged, a page that
 * does not rest was a site until it was un-merged: it has a mapping to its credit.
 */
#include "blocks.h"

#define AGE_SHIFT  21u /* of microseconds: 2 s */
#define LONG_SHIFT 23u /* 8 s */
#define HASTY_SHIFT 6u /* in tests: all that so much sooner */
#define ERA_SHIFT  24u /* 17 s: what was merged in the present one is young, 8 s on the average */
#define STORM_PART 16u /* of the tracked pages, merged, then written in two seconds: that is much */
#define STORM_LEAST 64u
#define STORM_MAX 3u
#define COST_SHARE 200u /* so many times as long as it took to look is an age at least */

static uint64_t aged_us, long_aged_us; /* when the last one began in which was looked */
static uint64_t cost_us;               /* of looking in this age */
static uint64_t came;                  /* merged pages that were written since */
static unsigned storm;                 /* ages last so many times twice as long */
static bool age, long_age; /* one began, and this pass looks */
static uint64_t era;
static bool some_rest, some_rest_long;

static unsigned shift_of(unsigned shift)
{
    return shift - (sp_agent.test_hasty ? HASTY_SHIFT : 0);
}

static bool began(uint64_t now, uint64_t last, unsigned shift)
{
    shift = shift_of(shift) + storm;
    return now >> shift != last >> shift;
}

void sp_lasting_init(void)
{
    aged_us = long_aged_us = cost_us = came = 0;
    storm = 0;
    some_rest = some_rest_long = false;
}

bool sp_lasting_pass(void)
{
    uint64_t now = sp_now_us();

    age = began(now, aged_us, AGE_SHIFT) && now - aged_us >= cost_us * COST_SHARE;
    long_age = age && began(now, long_aged_us, LONG_SHIFT);
    era = now >> shift_of(ERA_SHIFT);
    return (age && some_rest) || (long_age && some_rest_long);
}

/* Was much written, for the time? Not for the age: a longer one would seem to have more, and never end. */
static bool much_came(uint64_t now)
{
    uint64_t usual = 1ull << shift_of(AGE_SHIFT), took = now - aged_us;

    return came * usual > (STORM_LEAST + sp_agent.tracked / STORM_PART) * (took > usual ? took : usual);
}

void sp_lasting_pass_looks(void)
{
    uint64_t now = sp_now_us();

    if (!age)
        return;
    if (much_came(now))
        storm += storm < STORM_MAX;
    else
        storm -= storm > 0;
    came = 0;
    aged_us = now;
    cost_us = 0;
    some_rest = false;
    if (!long_age)
        return;
    long_aged_us = aged_us;
    some_rest_long = false;
}

void sp_lasting_cost(uint64_t us)
{
    cost_us += age ? us : 0;
}

bool sp_lasting_must_rest(const struct sp_block *b, uint32_t i)
{
    return sp_bit(b->rank[1], i);
}

/* Have the pages rested that rest for so long? Notes that there are such. */
static bool is_due(bool is_long)
{
    some_rest |= !is_long;
    some_rest_long |= is_long;
    return is_long ? long_age : age;
}

bool sp_lasting_kept_is_due(const struct sp_block *b, uint32_t i)
{
    return is_due(sp_lasting_must_rest(b, i) || sp_bit(b->hashed, i));
}

bool sp_lasting_any_due(void)
{
    return age;
}

void sp_lasting_roll(struct sp_block *b, uint32_t word)
{
    uint64_t rest = b->fresh[word] & b->rank[1][word];

    b->pending[word] |= b->fresh[word] & ~rest;
    b->slow[word] |= rest;
    b->tagged[word] &= ~rest;
    b->fresh[word] = 0;
    some_rest |= (rest & ~b->rank[0][word]) != 0;
    some_rest_long |= (rest & b->rank[0][word]) != 0;
}

void sp_lasting_look(struct sp_block *b, uint32_t i)
{
    if (!sp_bit(b->slow, i) || sp_bit(b->site, i) || sp_bit(b->zero, i) || !is_due(sp_bit(b->rank[0], i)))
        return;
    if (!sp_bit(b->tagged, i)) {
        sp_bit_set(b->tagged, i);
        return;
    }
    sp_bit_clear(b->tagged, i);
    sp_bit_clear(b->slow, i);
    sp_bit_set(b->pending, i);
}

void sp_lasting_merged(struct sp_block *b, uint32_t word, uint64_t pages)
{
    for (unsigned w = 0; b->era != era && w < BLOCK_WORDS; w++)
        b->slow[w] &= ~(b->site[w] | b->zero[w]);
    b->era = era;
    b->slow[word] |= pages;
    b->tagged[word] &= ~pages;
}

bool sp_lasting_was_merged(const struct sp_block *b, uint32_t i)
{
    return sp_bit(b->tagged, i) || sp_bit(b->rank[0], i) || sp_bit(b->rank[1], i);
}

static void change_rank(struct sp_block *b, uint32_t i, bool up)
{
    unsigned rank = sp_bit(b->rank[0], i) + 2u * sp_bit(b->rank[1], i);

    if (up && rank < 3)
        rank++;
    else if (!up && rank)
        rank--;
    sp_bit_clear(b->rank[0], i);
    sp_bit_clear(b->rank[1], i);
    if (rank & 1)
        sp_bit_set(b->rank[0], i);
    if (rank & 2)
        sp_bit_set(b->rank[1], i);
}

void sp_lasting_restless(struct sp_block *b, uint32_t i)
{
    change_rank(b, i, true);
}

void sp_lasting_written(struct sp_block *b, uint32_t i)
{
    bool young = sp_bit(b->slow, i) && b->era == era;

    came++;
    sp_bit_clear(b->slow, i);
    change_rank(b, i, young);
}
