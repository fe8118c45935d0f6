/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that were written after their merge (K11): private, but in mappings of the pool.
 *
 * The kernel does not track writes to such a page for us (the mapping is not registered: that would
 * cost the program a fault for each page of it that it reads). So a page is looked at by its hash, of
 * which 32 bits are kept in a table, when an age begins (lasting.c): found the same in two looks, it is
 * quiet, and is reported as any other page is (K3). One that is not found the same rises in rank. What was
 * reported is looked at less often (lasting.c): who finds no partner would be hashed for ever.
 *
 * In the books: kept, it is such a page; again, it was not found at rest yet, nor restless; tagged, the
 * table has its hash; hashed, it was reported.
 */
#include "blocks.h"

#include "sys.h"

#define TAGS (1u << 18) /* pages of one GiB do not get in each other's way */

#define TIME_SHIFT 24u /* of us: 17 s */
#define TIME_BITS  13u
#define TIME_OUT   8u

/* Of pages that do, one has the place until it was looked at a second time, or much too long ago: so each gets
 * its turn. */
struct tag {
    uint32_t hash;
    uint32_t gib : 18; /* the page's, plus 1; 0: the place is free */
    uint32_t time : TIME_BITS;
    uint32_t twice : 1;
};

static struct tag tag[TAGS]; /* only what is used is ever in memory */
static uint64_t total;
static bool moved; /* since the mappings were read */

uint64_t sp_kept_pages(void)
{
    return total;
}

void sp_kept_init(void)
{
    total = 0;
    moved = false;
}

bool sp_kept_moved(void)
{
    return moved;
}

void sp_kept_read(void)
{
    moved = false;
}

void sp_kept_stir(void)
{
    moved = true;
}

static void look_again(struct sp_block *b, uint32_t i)
{
    if (!sp_lasting_must_rest(b, i))
        sp_bit_set(b->again, i);
    sp_lasting_kept_is_due(b, i); /* notes that one rests */
}

void sp_kept_add(struct sp_block *b, uint32_t i)
{
    if (!sp_bit(b->kept, i))
        total++;
    moved |= sp_lasting_must_rest(b, i);
    sp_bit_set(b->kept, i);
    sp_bit_clear(b->tagged, i);
    sp_bit_clear(b->hashed, i);
    look_again(b, i);
}

void sp_kept_remove(struct sp_block *b, uint32_t i)
{
    if (sp_bit(b->kept, i))
        total--;
    sp_bit_clear(b->kept, i);
    sp_bit_clear(b->again, i);
    sp_bit_clear(b->tagged, i);
}

bool sp_kept_any_due(const struct sp_block *b)
{
    return sp_lasting_any_due() && sp_bits_any(b->kept);
}

enum found { FIRST, SAME, OTHER, NO_PLACE };

static bool is_free(const struct tag *t, uint32_t time)
{
    return !t->gib || t->twice || ((time - t->time) & ((1u << TIME_BITS) - 1)) > TIME_OUT;
}

/* Notes the hash of the page, and compares it with the one that was noted. */
static enum found note_hash(uint64_t addr, const struct sp_hash128 *hash)
{
    uint64_t number = addr >> sp_agent.page_shift;
    uint32_t gib = ((uint32_t)(number / TAGS) & ((1u << 17) - 1)) + 1;
    uint32_t now = (uint32_t)(hash->lo ^ hash->hi >> 32);
    uint32_t time = (uint32_t)(sp_now_us() >> TIME_SHIFT);
    struct tag *t = &tag[number % TAGS];
    enum found found = FIRST;

    if (t->gib == gib)
        found = t->hash == now ? SAME : OTHER;
    else if (!is_free(t, time))
        return NO_PLACE;
    t->twice = found != FIRST;
    t->gib = gib & ((1u << 18) - 1);
    t->time = time & ((1u << TIME_BITS) - 1);
    t->hash = now;
    return found;
}

bool sp_kept_is_quiet(struct sp_block *b, uint32_t i, uint64_t addr, struct sp_hash128 *hash,
                      bool *changed)
{
    bool tagged = sp_bit(b->tagged, i), waited = sp_bit(b->again, i);
    enum found found;

    *changed = false;
    if (!sp_peek_hash(addr, hash))
        return false;
    found = note_hash(addr, hash);
    if (found == SAME && tagged) {
        sp_bit_clear(b->again, i);
        moved |= waited;
        if (sp_bit(b->hashed, i))
            return false;
        sp_bit_set(b->hashed, i);
        return true;
    }
    *changed = sp_bit(b->hashed, i);
    sp_bit_clear(b->hashed, i);
    sp_bit_clear(b->tagged, i);
    if (found == NO_PLACE) {
        sp_lasting_kept_is_due(b, i); /* notes that it rests */
        return false;
    }
    sp_bit_clear(b->again, i);
    sp_bit_set(b->tagged, i);
    if (found == OTHER && tagged && waited) {
        sp_lasting_restless(b, i);
        moved = true;
    } else {
        look_again(b, i);
    }
    return false;
}

void sp_track_kept(uint64_t addr, uint64_t end)
{
    for (; addr < end; addr += sp_agent.page_size) {
        struct sp_block *b = sp_block_find(addr, true);

        if (b)
            sp_kept_add(b, sp_block_index(addr));
    }
}

void sp_kept_report_again(uint64_t addr, uint64_t end)
{
    for (; addr < end; addr += sp_agent.page_size) {
        struct sp_block *b = sp_block_find(addr, false);
        uint32_t i = sp_block_index(addr);

        if (!b || !sp_bit(b->kept, i))
            continue;
        sp_bit_clear(b->hashed, i);
        sp_lasting_kept_is_due(b, i); /* notes that it rests */
    }
}

bool sp_kept_all(uint64_t addr, uint64_t end)
{
    while (addr < end) {
        const struct sp_block *b = sp_block_find(addr, false);
        uint64_t size = 1ull << sp_block_shift(), stop = (addr & ~(size - 1)) + size;

        for (; addr < end && addr < stop; addr += sp_agent.page_size) {
            uint32_t i = sp_block_index(addr);

            if (!b || !sp_bit(b->kept, i) || sp_bit(b->again, i))
                return false;
        }
    }
    return true;
}
