/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pieces that the engine keeps its books in (src/engine/pieces.c), out of blocks that the
 * caller gives (src/common/block.c), or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block.h"
#include "types.h"

#define FROM (8u << 20) /* bytes of a kind before the first block */
#define MOST 6000u      /* pieces of a kind that a test has at a time */

static unsigned blocks, refused;
static bool refuse;

static void *block_get(void *ctx)
{
    void *block;

    assert_ptr_equal(ctx, &blocks);
    refused += refuse;
    if (refuse)
        return NULL;
    block = sp_block_get(ctx);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % SP_BLOCK_BYTES, 0);
    blocks++;
    return block;
}

static void block_put(void *ctx, void *block)
{
    assert_ptr_equal(ctx, &blocks);
    blocks--;
    sp_block_put(ctx, block);
}

static const struct sp_engine_ops with = {.block_get = block_get, .block_put = block_put};
static const struct sp_engine_ops without;

static const size_t size_of[SP_PIECE_KINDS] = {
    [SP_PIECE_ITEMS] = sizeof(struct sp_chunk),
    [SP_PIECE_NODES] = sizeof(struct sp_node_chunk),
    [SP_PIECE_BUCKETS] = SP_SEGMENT_BUCKETS * sizeof(struct sp_bucket),
};

static void begin(struct sp_engine *engine, const struct sp_engine_ops *ops)
{
    *engine = (struct sp_engine){.ops = ops, .ctx = &blocks, .blocks_from = FROM};
    refuse = false;
    refused = 0;
}

static void end(struct sp_engine *engine)
{
    sp_pieces_free(engine);
    assert_int_equal(engine->memory_used, 0);
    assert_int_equal(blocks, 0);
}

/* Its first and last bytes say whose it is. */
static void mark(void *piece, enum sp_piece_kind kind, uint32_t number)
{
    memcpy(piece, &number, sizeof(number));
    memcpy((char *)piece + size_of[kind] - sizeof(number), &number, sizeof(number));
}

static bool is_marked(const void *piece, enum sp_piece_kind kind, uint32_t number)
{
    return memcmp(piece, &number, sizeof(number)) == 0 &&
           memcmp((const char *)piece + size_of[kind] - sizeof(number), &number, sizeof(number)) ==
               0;
}

static void *take(struct sp_engine *engine, enum sp_piece_kind kind, uint32_t number)
{
    unsigned char *piece = sp_piece_get(engine, kind);

    assert_non_null(piece);
    assert_int_equal((uintptr_t)piece % (kind == SP_PIECE_BUCKETS ? SP_LINE : 16), 0);
    for (size_t i = 0; kind != SP_PIECE_BUCKETS && i < size_of[kind]; i++)
        if (piece[i])
            fail_msg("byte %zu of a new piece is %u", i, piece[i]);
    mark(piece, kind, number);
    return piece;
}

static void a_small_engine_has_no_block(void **state)
{
    struct sp_engine engine;
    static void *piece[SP_PIECE_KINDS][MOST];

    begin(&engine, &with);
    for (unsigned kind = 0; kind < SP_PIECE_KINDS; kind++)
        for (uint32_t i = 0; i < FROM / size_of[kind]; i++)
            piece[kind][i] = take(&engine, (enum sp_piece_kind)kind, i);
    assert_int_equal(blocks, 0);
    assert_in_range(engine.memory_used, FROM, 3 * FROM);
    for (unsigned kind = 0; kind < SP_PIECE_KINDS; kind++)
        for (uint32_t i = 0; i < FROM / size_of[kind]; i++)
            sp_piece_put(&engine, (enum sp_piece_kind)kind, piece[kind][i]);
    sp_piece_put(&engine, SP_PIECE_ITEMS, NULL);
    end(&engine);
}

/* Of pieces for buckets, which are large and come last, there are fewer. */
static unsigned kinds(uint32_t i)
{
    return i < 400 ? SP_PIECE_KINDS : SP_PIECE_BUCKETS;
}

/* Fills and empties, in an order of its own, n pieces of each kind; all differ at any time. */
static void fill_and_empty(struct sp_engine *engine, uint32_t n, uint32_t order)
{
    static void *piece[SP_PIECE_KINDS][MOST];

    for (uint32_t i = 0; i < n; i++)
        for (unsigned kind = 0; kind < kinds(i); kind++)
            piece[kind][i] = take(engine, (enum sp_piece_kind)kind, i);
    for (uint32_t k = 0; k < n; k++) { /* every second one goes, and comes again */
        uint32_t i = (uint32_t)((uint64_t)k * order % n);

        for (unsigned kind = 0; kind < kinds(i) && i % 2; kind++) {
            assert_true(is_marked(piece[kind][i], (enum sp_piece_kind)kind, i));
            sp_piece_put(engine, (enum sp_piece_kind)kind, piece[kind][i]);
            piece[kind][i] = NULL;
        }
    }
    for (uint32_t i = 1; i < n; i += 2)
        for (unsigned kind = 0; kind < kinds(i); kind++)
            piece[kind][i] = take(engine, (enum sp_piece_kind)kind, i);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (uint32_t)((uint64_t)k * order % n);

        for (unsigned kind = 0; kind < kinds(i); kind++) {
            assert_true(is_marked(piece[kind][i], (enum sp_piece_kind)kind, i));
            sp_piece_put(engine, (enum sp_piece_kind)kind, piece[kind][i]);
        }
    }
}

static void pieces_of_blocks_never_overlap(void **state)
{
    static const uint32_t orders[] = {1, 2999, 1009}; /* ascending, descending, scattered */
    struct sp_engine engine;

    begin(&engine, &with);
    for (unsigned i = 0; i < 3; i++) {
        fill_and_empty(&engine, 3000, orders[i]);
        assert_int_equal(blocks, 0);
        assert_int_equal(engine.nblocks, 0);
    }
    end(&engine);
}

/* Beyond the first 8 MiB a kind wastes less than one block, and all is counted. */
static void blocks_are_counted_and_full_but_one(void **state)
{
    struct sp_engine engine;
    static void *piece[MOST];
    uint64_t bytes = 0;

    begin(&engine, &with);
    for (uint32_t i = 0; i < MOST; i++) {
        piece[i] = take(&engine, SP_PIECE_ITEMS, i);
        bytes += size_of[SP_PIECE_ITEMS];
        assert_true(engine.memory_used <= bytes + bytes / 256 + SP_BLOCK_BYTES + 4096);
    }
    assert_in_range(blocks, (bytes - FROM) / SP_BLOCK_BYTES, (bytes - FROM) / SP_BLOCK_BYTES + 1);
    assert_true(engine.memory_used >= bytes);
    for (uint32_t i = 0; i < MOST; i++)
        sp_piece_put(&engine, SP_PIECE_ITEMS, piece[i]);
    end(&engine);
}

/* No block, no memory, no op: pieces are the C library's, or there are none. */
static void without_blocks_there_are_pieces_all_the_same(void **state)
{
    struct sp_engine engine;
    void *piece;

    begin(&engine, &without);
    fill_and_empty(&engine, 2500, 7);
    end(&engine);
    begin(&engine, &with);
    refuse = true;
    fill_and_empty(&engine, 2500, 7);
    assert_true(refused > 0);
    end(&engine);
    begin(&engine, &with);
    engine.pieces[SP_PIECE_ITEMS].used = MOST; /* as if it were large */
    for (unsigned i = 0; i < 4; i++) {
        static const uint64_t limits[] = {100, sizeof(struct sp_chunk), SP_BLOCK_BYTES,
                                          SP_BLOCK_BYTES + sizeof(struct sp_chunk)};

        engine.memory_limit = limits[i];
        piece = sp_piece_get(&engine, SP_PIECE_ITEMS);
        assert_int_equal(piece != NULL, i > 1); /* beside the list of blocks */
        assert_int_equal(blocks, i > 2);
        assert_true(engine.memory_used <= limits[i]);
        sp_piece_put(&engine, SP_PIECE_ITEMS, piece);
    }
    engine.pieces[SP_PIECE_ITEMS].used = 0;
    end(&engine);
}

/* What a look-up goes through lies in one large page, where the kernel gives them. */
static void a_block_is_aligned_zeroed_and_given_back(void **state)
{
    unsigned char *block[5], resident;

    for (unsigned i = 0; i < 5; i++) {
        block[i] = sp_block_get(NULL);
        assert_non_null(block[i]);
        assert_int_equal((uintptr_t)block[i] % SP_BLOCK_BYTES, 0);
        for (uint32_t k = 0; k < SP_BLOCK_BYTES; k += 512)
            assert_int_equal(block[i][k], 0);
        memset(block[i], 0xa5, SP_BLOCK_BYTES);
    }
    for (unsigned i = 0; i < 5; i++) {
        sp_block_put(NULL, block[i]);
        assert_int_equal(mincore(block[i], 4096, &resident), -1); /* nothing is there */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_engine_has_no_block),
        cmocka_unit_test(pieces_of_blocks_never_overlap),
        cmocka_unit_test(blocks_are_counted_and_full_but_one),
        cmocka_unit_test(without_blocks_there_are_pieces_all_the_same),
        cmocka_unit_test(a_block_is_aligned_zeroed_and_given_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
