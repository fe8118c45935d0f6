/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pieces: what the engine has most of comes in three sizes (chunks of items, chunks of nodes,
 * segments of buckets). Look-ups go anywhere in it, so in pages of 4 KiB each would cost the
 * processor a search for the page's address, too. So beyond the first 8 MiB of a kind, pieces come
 * out of **blocks** of 2 MiB, which the caller may give in large pages (ops.h, block_get). A small
 * engine has no block, and one that has some has at most one of each kind that is not full, unless
 * pieces went. Without blocks, or where none can be had, pieces are the C library's.
 *
 * A block goes back when its last piece does.
 */
#include "types.h"

#include <string.h>

/* A piece that was given back holds the address of the next such one of its block. */
struct sp_block {
    char *memory;
    void *free;
    uint32_t fresh; /* pieces that were never taken stand from here on */
    uint16_t used;
    uint8_t kind;
};

static size_t sp_piece_size(enum sp_piece_kind kind)
{
    static const size_t size[SP_PIECE_KINDS] = {
        [SP_PIECE_ITEMS] = sizeof(struct sp_chunk),
        [SP_PIECE_NODES] = sizeof(struct sp_node_chunk),
        [SP_PIECE_BUCKETS] = SP_SEGMENT_BUCKETS * sizeof(struct sp_bucket),
    };

    return size[kind];
}

static uint32_t sp_block_pieces(enum sp_piece_kind kind)
{
    return (uint32_t)(SP_BLOCK_BYTES / sp_piece_size(kind));
}

/* The place, in the blocks' order, of the one that this lies in, or of the first one beyond it. */
static uint32_t sp_block_search(const struct sp_engine *engine, const void *memory)
{
    uintptr_t at = (uintptr_t)memory;
    uint32_t low = 0, high = engine->nblocks;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if ((uintptr_t)engine->block[middle].memory + SP_BLOCK_BYTES <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The block that this lies in, or NULL: in none. */
static struct sp_block *sp_block_of(const struct sp_engine *engine, const void *memory)
{
    uint32_t i = sp_block_search(engine, memory);

    if (i == engine->nblocks || (uintptr_t)engine->block[i].memory > (uintptr_t)memory)
        return NULL;
    return &engine->block[i];
}

static bool sp_blocks_make_room(struct sp_engine *engine)
{
    uint32_t room = engine->block_room, more = room + room / 2 + 8;
    struct sp_block *grown;

    if (engine->nblocks < room)
        return true;
    grown = sp_memory_resize(engine, engine->block, room * sizeof(*grown), more * sizeof(*grown));
    if (!grown)
        return false;
    engine->block = grown;
    engine->block_room = more;
    return true;
}

/* One block more, if the kind is worth it and one can be had. */
static struct sp_block *sp_block_add(struct sp_engine *engine, enum sp_piece_kind kind)
{
    struct sp_pieces *pieces = &engine->pieces[kind];
    struct sp_block *block;
    void *memory;
    uint32_t at;

    if (pieces->used * sp_piece_size(kind) < engine->blocks_from || !engine->ops->block_get ||
        !sp_blocks_make_room(engine) || !sp_memory_allowed(engine, SP_BLOCK_BYTES))
        return NULL;
    memory = engine->ops->block_get(engine->ctx);
    if (!memory)
        return NULL;
    at = sp_block_search(engine, memory);
    block = &engine->block[at];
    memmove(block + 1, block, (engine->nblocks - at) * sizeof(*block));
    *block = (struct sp_block){.memory = memory, .kind = (uint8_t)kind};
    engine->nblocks++;
    engine->memory_used += SP_BLOCK_BYTES;
    pieces->room += sp_block_pieces(kind);
    pieces->block = at;
    return block;
}

/* A block of this kind with a piece left, the last one that had some first. */
static struct sp_block *sp_block_with_room(struct sp_engine *engine, enum sp_piece_kind kind)
{
    struct sp_pieces *pieces = &engine->pieces[kind];

    if (pieces->room == 0)
        return NULL;
    for (uint32_t i = 0;; i++) {
        uint32_t at = (pieces->block + i) % engine->nblocks;
        struct sp_block *block = &engine->block[at];

        sp_assert(i < engine->nblocks);
        if (block->kind == kind && block->used < sp_block_pieces(kind)) {
            pieces->block = at;
            return block;
        }
    }
}

static void *sp_block_take(struct sp_engine *engine, struct sp_block *block)
{
    enum sp_piece_kind kind = (enum sp_piece_kind)block->kind;
    void *piece = block->free;

    if (piece)
        memcpy(&block->free, piece, sizeof(block->free));
    else
        piece = block->memory + block->fresh++ * sp_piece_size(kind);
    block->used++;
    engine->pieces[kind].room--;
    if (kind != SP_PIECE_BUCKETS) /* these are emptied one by one, when they come into use */
        memset(piece, 0, sp_piece_size(kind));
    return piece;
}

void *sp_piece_get(struct sp_engine *engine, enum sp_piece_kind kind)
{
    struct sp_block *block = sp_block_with_room(engine, kind);
    void *piece;

    if (!block)
        block = sp_block_add(engine, kind);
    if (block)
        piece = sp_block_take(engine, block);
    else if (kind == SP_PIECE_BUCKETS)
        piece = sp_memory_get_lines(engine, sp_piece_size(kind));
    else
        piece = sp_memory_get(engine, sp_piece_size(kind));
    engine->pieces[kind].used += piece != NULL;
    return piece;
}

static void sp_block_remove(struct sp_engine *engine, struct sp_block *block)
{
    void *memory = block->memory;

    engine->pieces[block->kind].room -= sp_block_pieces((enum sp_piece_kind)block->kind);
    engine->memory_used -= SP_BLOCK_BYTES;
    engine->nblocks--;
    memmove(block, block + 1, (size_t)(&engine->block[engine->nblocks] - block) * sizeof(*block));
    engine->ops->block_put(engine->ctx, memory);
}

void sp_piece_put(struct sp_engine *engine, enum sp_piece_kind kind, void *piece)
{
    struct sp_block *block;

    if (!piece)
        return;
    sp_assert(engine->pieces[kind].used);
    engine->pieces[kind].used--;
    block = sp_block_of(engine, piece);
    if (!block) {
        sp_memory_put(engine, piece, sp_piece_size(kind));
        return;
    }
    sp_assert(block->kind == kind && block->used);
    memcpy(piece, &block->free, sizeof(block->free));
    block->free = piece;
    block->used--;
    engine->pieces[kind].room++;
    if (block->used == 0)
        sp_block_remove(engine, block);
}

void sp_pieces_free(struct sp_engine *engine)
{
    sp_assert(engine->nblocks == 0);
    sp_memory_put(engine, engine->block, engine->block_room * sizeof(*engine->block));
    engine->block = NULL;
    engine->block_room = 0;
}
