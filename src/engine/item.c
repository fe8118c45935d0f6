/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Items: what is remembered of each tracked page, and the table of candidates (K5).
 */
#include "types.h"

#include <errno.h>
#include <string.h>

/* An mm may have so many chunks however thin its pages lie; beyond, a new chunk is made only while
 * they hold this many items on average. 6.2 KB for one page would cost more than a merge saves. */
#define SP_CHUNKS_FREE 64u
#define SP_CHUNK_FILL  16u

#define SP_CHUNKS_MAX ((1u << (32 - SP_CHUNK_SHIFT)) - 1) /* so that no item is SP_NONE */

static uint64_t sp_item_key_of(const struct sp_engine *engine, uint32_t item)
{
    return sp_item_key(engine, item);
}

static uint64_t sp_chunk_base(const struct sp_engine *engine, uint64_t addr)
{
    return addr & ~(engine->page_size * SP_CHUNK_PAGES - 1);
}

/* The place in mm->chunk of the first chunk whose base is not below base. */
static uint32_t sp_chunk_search(const struct sp_mm *mm, uint64_t base)
{
    uint32_t low = 0, high = mm->nchunks;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (mm->chunk[middle]->base < base)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint32_t sp_item_number(const struct sp_engine *engine, const struct sp_chunk *chunk,
                               uint64_t addr)
{
    return (chunk->id << SP_CHUNK_SHIFT) | (uint32_t)((addr - chunk->base) >> engine->page_shift);
}

/* Makes room for one more pointer in an array that grows by half. */
static int sp_chunk_array_grow(struct sp_engine *engine, struct sp_chunk ***array, uint32_t used,
                               uint32_t *room)
{
    uint32_t more = *room + *room / 2 + 8;
    struct sp_chunk **grown;

    if (used < *room)
        return 0;
    grown = sp_memory_resize(engine, *array, *room * sizeof(**array), more * sizeof(**array));
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *room = more;
    return 0;
}

/* A chunk that is empty now is freed by sp_item_reclaim(), unless it is used by then. */
static void sp_chunk_list_empty(struct sp_engine *engine, struct sp_chunk *chunk)
{
    if (chunk->listed)
        return;
    chunk->listed = true;
    chunk->next_empty = engine->empty_chunks;
    engine->empty_chunks = chunk->id;
}

/* Finds a free chunk number in constant time on average: they are given out upwards. */
static uint32_t sp_chunk_number(struct sp_engine *engine)
{
    while (engine->free_chunk < engine->nchunks) {
        if (!engine->chunk[engine->free_chunk])
            return engine->free_chunk;
        engine->free_chunk++;
    }
    if (engine->nchunks >= SP_CHUNKS_MAX ||
        sp_chunk_array_grow(engine, &engine->chunk, engine->nchunks, &engine->chunk_room) != 0)
        return SP_NONE;
    engine->chunk[engine->nchunks] = NULL;
    return engine->nchunks++;
}

static bool sp_chunk_worth(const struct sp_mm *mm)
{
    uint64_t items = mm->sites + mm->candidates + mm->zero_pages;

    for (unsigned i = 0; i < SP_REFUSALS; i++)
        items += mm->refused[i];
    return mm->nchunks < SP_CHUNKS_FREE ||
           items >= (uint64_t)(mm->nchunks - SP_CHUNKS_FREE) * SP_CHUNK_FILL;
}

static struct sp_chunk *sp_chunk_add(struct sp_mm *mm, uint32_t at, uint64_t base, bool must)
{
    struct sp_engine *engine = mm->engine;
    struct sp_chunk *chunk;
    uint32_t id;

    if ((!must && !sp_chunk_worth(mm)) ||
        sp_chunk_array_grow(engine, &mm->chunk, mm->nchunks, &mm->chunk_room) != 0)
        return NULL;
    id = sp_chunk_number(engine);
    if (id == SP_NONE)
        return NULL;
    chunk = sp_piece_get(engine, SP_PIECE_ITEMS);
    if (!chunk)
        return NULL;
    chunk->mm = mm;
    chunk->base = base;
    chunk->id = id;
    engine->chunk[id] = chunk;
    memmove(&mm->chunk[at + 1], &mm->chunk[at], (mm->nchunks - at) * sizeof(mm->chunk[0]));
    mm->chunk[at] = chunk;
    mm->nchunks++;
    sp_chunk_list_empty(engine, chunk);
    return chunk;
}

static void sp_chunk_free(struct sp_engine *engine, struct sp_chunk *chunk)
{
    engine->chunk[chunk->id] = NULL;
    if (chunk->id < engine->free_chunk)
        engine->free_chunk = chunk->id;
    sp_piece_put(engine, SP_PIECE_ITEMS, chunk);
}

uint32_t sp_item_find(const struct sp_mm *mm, uint64_t addr)
{
    uint64_t base = sp_chunk_base(mm->engine, addr);
    uint32_t at = sp_chunk_search(mm, base);

    if (at == mm->nchunks || mm->chunk[at]->base != base)
        return SP_NONE;
    return sp_item_number(mm->engine, mm->chunk[at], addr);
}

uint32_t sp_item_get(struct sp_mm *mm, uint64_t addr, bool must)
{
    uint64_t base = sp_chunk_base(mm->engine, addr);
    uint32_t at = sp_chunk_search(mm, base);
    struct sp_chunk *chunk;

    if (at < mm->nchunks && mm->chunk[at]->base == base)
        chunk = mm->chunk[at];
    else
        chunk = sp_chunk_add(mm, at, base, must);
    return chunk ? sp_item_number(mm->engine, chunk, addr) : SP_NONE;
}

uint32_t sp_item_beside(const struct sp_engine *engine, uint32_t item, uint64_t addr)
{
    const struct sp_chunk *chunk = item == SP_NONE ? NULL : sp_item_chunk(engine, item);

    if (!chunk || sp_chunk_base(engine, addr) != chunk->base)
        return SP_NONE;
    return sp_item_number(engine, chunk, addr);
}

sp_frame sp_item_frame(const struct sp_mm *mm, uint64_t addr)
{
    uint32_t item = sp_item_find(mm, addr);

    return item == SP_NONE ? 0 : sp_item_site(mm->engine, item);
}

void sp_item_forget(struct sp_engine *engine, uint32_t item)
{
    struct sp_chunk *chunk = sp_item_chunk(engine, item);

    switch (sp_item_state(engine, item)) {
    case SP_ITEM_UNKNOWN:
        return;
    case SP_ITEM_CANDIDATE:
        sp_table_remove(engine, &engine->candidates, sp_item_key_of, item);
        chunk->mm->candidates--;
        chunk->mm->met -= sp_item(engine, item)->met;
        break;
    case SP_ITEM_SITE:
        if (sp_item_key(engine, item) == 0) {
            chunk->mm->zero_pages--;
            break;
        }
        sp_stable_site_removed(engine, (sp_frame)sp_item_key(engine, item));
        chunk->mm->sites--;
        break;
    case SP_ITEM_REFUSED:
        chunk->mm->refused[sp_item_key(engine, item)]--;
        break;
    }
    sp_item(engine, item)->state = SP_ITEM_UNKNOWN;
    sp_assert(chunk->used > 0);
    if (--chunk->used == 0)
        sp_chunk_list_empty(engine, chunk);
}

void sp_item_forget_range(struct sp_mm *mm, uint64_t start, uint64_t end, enum sp_item_state only)
{
    struct sp_engine *engine = mm->engine;
    uint64_t size = engine->page_size;

    for (uint32_t at = sp_chunk_search(mm, sp_chunk_base(engine, start)); at < mm->nchunks; at++) {
        struct sp_chunk *chunk = mm->chunk[at];
        uint64_t from = start > chunk->base ? (start - chunk->base) >> engine->page_shift : 0;

        if (chunk->base >= end)
            return;
        for (uint64_t i = from; i < SP_CHUNK_PAGES && chunk->base + i * size < end; i++)
            if (only == SP_ITEM_UNKNOWN || chunk->item[i].state == only)
                sp_item_forget(engine, (chunk->id << SP_CHUNK_SHIFT) | (uint32_t)i);
    }
}

static void sp_item_set(struct sp_engine *engine, uint32_t item, enum sp_item_state state,
                        uint64_t key)
{
    struct sp_item *at = sp_item(engine, item);

    at->state = state & 3;
    at->met = 0;
    at->key_low = (uint32_t)key;
    at->key_high = key >> 32 & (SP_ITEM_KEY_MASK >> 32);
}

void sp_item_set_site(struct sp_engine *engine, uint32_t item, sp_frame frame)
{
    struct sp_chunk *chunk = sp_item_chunk(engine, item);

    sp_item_forget(engine, item);
    sp_stable_site_added(engine, frame);
    sp_item_set(engine, item, SP_ITEM_SITE, frame);
    chunk->used++;
    chunk->mm->sites++;
}

void sp_item_set_zero(struct sp_engine *engine, uint32_t item)
{
    struct sp_chunk *chunk = sp_item_chunk(engine, item);

    sp_item_forget(engine, item);
    sp_item_set(engine, item, SP_ITEM_SITE, 0);
    chunk->used++;
    chunk->mm->zero_pages++;
}

void sp_item_renumber(struct sp_engine *engine, uint32_t segment, const sp_frame *moved)
{
    for (uint32_t c = 0; c < engine->nchunks; c++)
        for (uint32_t i = 0; engine->chunk[c] && i < SP_CHUNK_PAGES; i++) {
            struct sp_item *at = &engine->chunk[c]->item[i];

            if (at->state == SP_ITEM_SITE && SP_FRAME_SEGMENT(at->key_low) == segment &&
                moved[SP_FRAME_INDEX(at->key_low)])
                at->key_low = moved[SP_FRAME_INDEX(at->key_low)];
        }
}

bool sp_item_set_candidate(struct sp_engine *engine, uint32_t item, uint64_t fingerprint)
{
    uint32_t known = sp_item_candidate(engine, fingerprint);

    if (known == item)
        return true;
    if (known == SP_NONE)
        return sp_item_new_candidate(engine, item, fingerprint);
    sp_item_forget(engine, item);
    return false;
}

bool sp_item_new_candidate(struct sp_engine *engine, uint32_t item, uint64_t fingerprint)
{
    struct sp_chunk *chunk = sp_item_chunk(engine, item);

    sp_item_forget(engine, item);
    sp_item_set(engine, item, SP_ITEM_CANDIDATE, fingerprint);
    if (sp_table_insert(engine, &engine->candidates, sp_item_key_of, item) != 0) {
        sp_item(engine, item)->state = SP_ITEM_UNKNOWN;
        return false;
    }
    chunk->used++;
    chunk->mm->candidates++;
    return true;
}

void sp_item_set_met(struct sp_engine *engine, uint32_t item)
{
    struct sp_item *at = sp_item(engine, item);

    if (at->state != SP_ITEM_CANDIDATE || at->met)
        return;
    at->met = 1;
    sp_item_mm(engine, item)->met++;
}

void sp_item_refuse(struct sp_engine *engine, uint32_t item, enum sp_refusal why)
{
    struct sp_chunk *chunk = sp_item_chunk(engine, item);

    sp_item_forget(engine, item);
    sp_item_set(engine, item, SP_ITEM_REFUSED, why);
    chunk->used++;
    chunk->mm->refused[why]++;
}

bool sp_item_is_other_candidate(const struct sp_engine *engine, uint32_t item, uint64_t fingerprint)
{
    return sp_item_state(engine, item) == SP_ITEM_CANDIDATE &&
           sp_item_key(engine, item) != (fingerprint & SP_ITEM_KEY_MASK);
}

uint32_t sp_item_candidate(const struct sp_engine *engine, uint64_t fingerprint)
{
    return sp_table_find(engine, &engine->candidates, sp_item_key_of,
                         fingerprint & SP_ITEM_KEY_MASK);
}

void sp_item_prefetch(const struct sp_engine *engine, uint32_t item)
{
    __builtin_prefetch(sp_item(engine, item));
    __builtin_prefetch(sp_item_chunk(engine, item));
}

void sp_item_reclaim(struct sp_engine *engine)
{
    while (engine->empty_chunks != SP_NONE) {
        struct sp_chunk *chunk = engine->chunk[engine->empty_chunks];
        struct sp_mm *mm = chunk->mm;
        uint32_t at;

        engine->empty_chunks = chunk->next_empty;
        chunk->listed = false;
        if (chunk->used)
            continue;
        at = sp_chunk_search(mm, chunk->base);
        mm->nchunks--;
        memmove(&mm->chunk[at], &mm->chunk[at + 1], (mm->nchunks - at) * sizeof(mm->chunk[0]));
        sp_chunk_free(engine, chunk);
    }
}

void sp_item_free_mm(struct sp_mm *mm)
{
    sp_item_reclaim(mm->engine);
    sp_assert(mm->nchunks == 0);
    sp_memory_put(mm->engine, mm->chunk, mm->chunk_room * sizeof(mm->chunk[0]));
    mm->chunk = NULL;
    mm->chunk_room = 0;
}
