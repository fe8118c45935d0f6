/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's table of numbers under keys, beside an array that says what must be in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "types.h"

#define ENTRIES 40000u

static uint64_t keys[ENTRIES];
static bool there[ENTRIES];

static uint64_t key_of(const struct sp_engine *engine, uint32_t number)
{
    return keys[number];
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t drawn;

static uint64_t draw(uint64_t below)
{
    return mix(++drawn * UINT64_C(0x9e3779b97f4a7c15)) % below;
}

static void begin(struct sp_engine *engine, struct sp_table *table)
{
    *engine = (struct sp_engine){.blocks_from = UINT64_MAX};
    *table = (struct sp_table){0};
    memset(there, 0, sizeof(there));
    for (uint32_t i = 0; i < ENTRIES; i++)
        keys[i] = mix(i + 1);
}

static void check_all(const struct sp_engine *engine, const struct sp_table *table)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < ENTRIES; i++) {
        assert_int_equal(sp_table_find(engine, table, key_of, keys[i]), there[i] ? i : SP_NONE);
        count += there[i];
    }
    assert_int_equal(table->count, count);
}

/* Every row: full but for its last bucket, and each overflowing bucket in one row exactly. */
static void check_rows(const struct sp_table *table)
{
    uint32_t over = 0, count = 0;

    for (uint32_t i = 0; i < table->home.count; i++) {
        const struct sp_bucket *bucket = sp_bucket(&table->home, i);

        count += bucket->used;
        while (bucket->more) {
            assert_int_equal(bucket->used, SP_BUCKET_PLACES);
            assert_in_range(bucket->more, 1, table->over.count);
            bucket = sp_bucket(&table->over, bucket->more - 1);
            assert_in_range(bucket->used, 1, SP_BUCKET_PLACES);
            count += bucket->used;
            over++;
        }
    }
    assert_int_equal(over, table->over.count);
    assert_int_equal(count, table->count);
}

static void end(struct sp_engine *engine, struct sp_table *table)
{
    sp_table_free(engine, table);
    assert_int_equal(engine->memory_used, 0);
}

static void put(struct sp_engine *engine, struct sp_table *table, uint32_t i)
{
    if (there[i])
        return;
    assert_int_equal(sp_table_insert(engine, table, key_of, i), 0);
    there[i] = true;
}

static void take(struct sp_engine *engine, struct sp_table *table, uint32_t i)
{
    if (!there[i])
        return;
    sp_table_remove(engine, table, key_of, i);
    there[i] = false;
}

static void what_is_put_in_is_found_and_nothing_else(void **state)
{
    struct sp_engine engine;
    struct sp_table table;

    begin(&engine, &table);
    check_all(&engine, &table);
    for (unsigned round = 0; round < 6; round++) {
        uint32_t puts = round % 2 ? 1 : 3; /* of four: it grows, and shrinks */

        for (uint32_t n = 0; n < 4 * ENTRIES; n++) {
            uint32_t i = (uint32_t)draw(ENTRIES);

            if (draw(4) < puts)
                put(&engine, &table, i);
            else
                take(&engine, &table, i);
        }
        check_all(&engine, &table);
        check_rows(&table);
    }
    for (uint32_t i = 0; i < ENTRIES; i++)
        take(&engine, &table, i);
    check_rows(&table);
    assert_true(engine.memory_used < 4096);
    end(&engine, &table);
}

/* From the first entry on, and with the last, at every size: no step leaves it wrong. */
static void it_is_right_at_every_size(void **state)
{
    struct sp_engine engine;
    struct sp_table table;

    begin(&engine, &table);
    for (uint32_t i = 0; i < 2000; i++) {
        put(&engine, &table, i);
        check_rows(&table);
        assert_int_equal(sp_table_find(&engine, &table, key_of, keys[draw(i + 1)]) == SP_NONE, 0);
    }
    check_all(&engine, &table);
    for (uint32_t i = 0; i < 2000; i++) {
        take(&engine, &table, i);
        check_rows(&table);
        assert_int_equal(sp_table_find(&engine, &table, key_of, keys[i]), SP_NONE);
    }
    check_all(&engine, &table);
    end(&engine, &table);
}

/* Rows as full as tables are on average stay within a small multiple of the entries. */
static void memory_follows_the_entries(void **state)
{
    struct sp_engine engine;
    struct sp_table table;

    begin(&engine, &table);
    for (uint32_t i = 0; i < ENTRIES; i++)
        put(&engine, &table, i);
    assert_true(engine.memory_used < 15 * ENTRIES);
    for (uint32_t i = 1000; i < ENTRIES; i++)
        take(&engine, &table, i);
    check_all(&engine, &table);
    assert_true(engine.memory_used < 300 * 1000);
    end(&engine, &table);
}

/* A client makes all its hashes choose one bucket: what finds no place is refused, the others are
 * found, and nearly all of other clients get in. */
static void keys_that_are_alike_have_an_end(void **state)
{
    struct sp_engine engine;
    struct sp_table table;
    uint32_t in = 0, others = 0;

    begin(&engine, &table);
    for (uint32_t i = 0; i < 1000; i++) {
        keys[i] = (uint64_t)(i + 1) << 32;
        switch (sp_table_insert(&engine, &table, key_of, i)) {
        case 0:
            there[i] = true;
            in++;
            break;
        case -ENOSPC:
            break;
        default:
            fail();
        }
    }
    assert_in_range(in, 64, 100);
    check_rows(&table);
    for (uint32_t i = 1000; i < 20000; i++) {
        there[i] = sp_table_insert(&engine, &table, key_of, i) == 0;
        others += there[i];
    }
    assert_true(others > 18900);
    check_all(&engine, &table);
    /* Its row never gets longer by the others' going, either. */
    for (uint32_t i = 1000; i < 20000; i++)
        take(&engine, &table, i);
    check_rows(&table);
    check_all(&engine, &table);
    for (uint32_t i = 0; i < 1000; i++)
        take(&engine, &table, i);
    check_all(&engine, &table);
    end(&engine, &table);
}

/* Whatever cannot be had: an entry is in, and found, or it is not, and nothing else changed. */
static void memory_short_loses_nothing(void **state)
{
    struct sp_engine engine;
    struct sp_table table;

    for (uint64_t limit = 1; limit < 120000; limit += limit / 3 + 1) {
        begin(&engine, &table);
        engine.memory_limit = limit;
        for (uint32_t n = 0; n < 30000; n++) {
            uint32_t i = (uint32_t)draw(ENTRIES);

            if (draw(3) && !there[i])
                there[i] = sp_table_insert(&engine, &table, key_of, i) == 0;
            else
                take(&engine, &table, i);
        }
        assert_true(engine.memory_used <= limit);
        check_rows(&table);
        check_all(&engine, &table);
        engine.memory_limit = 0;
        put(&engine, &table, (uint32_t)draw(ENTRIES));
        check_all(&engine, &table);
        end(&engine, &table);
    }
}

/* The first segment of buckets is full and there is no memory for a second: rows get longer. */
static void without_a_second_segment_all_is_found(void **state)
{
    struct sp_engine engine;
    struct sp_table table;
    uint32_t i = 0;

    begin(&engine, &table);
    for (; table.home.count < SP_SEGMENT_BUCKETS; i++)
        put(&engine, &table, i);
    engine.memory_limit = engine.memory_used; /* not even for a list of two */
    for (uint32_t last = i + 500; i < last; i++)
        there[i] = sp_table_insert(&engine, &table, key_of, i) == 0;
    assert_int_equal(table.home.count, SP_SEGMENT_BUCKETS);
    check_all(&engine, &table);
    engine.memory_limit = 0;
    put(&engine, &table, i);
    assert_true(table.home.count > SP_SEGMENT_BUCKETS);
    check_all(&engine, &table);
    end(&engine, &table);
}

static void a_number_stands_for_another(void **state)
{
    struct sp_engine engine;
    struct sp_table table;

    begin(&engine, &table);
    for (uint32_t i = 0; i < 1000; i++)
        put(&engine, &table, i);
    keys[ENTRIES - 1] = keys[7];
    sp_table_replace(&table, keys[7], 7, ENTRIES - 1);
    assert_int_equal(sp_table_find(&engine, &table, key_of, keys[7]), ENTRIES - 1);
    sp_table_replace(&table, keys[7], ENTRIES - 1, 7);
    keys[ENTRIES - 1] = mix(ENTRIES);
    check_all(&engine, &table);
    end(&engine, &table);
}

/* A guess reads the bucket only; it names the entry if there is one, in the first bucket of a row.
 */
static void a_guess_is_mostly_right(void **state)
{
    struct sp_engine engine;
    struct sp_table table;
    uint32_t right = 0, wrong = 0;

    begin(&engine, &table);
    assert_int_equal(sp_table_guess(&table, 1), SP_NONE);
    for (uint32_t i = 0; i < ENTRIES; i += 2)
        put(&engine, &table, i);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint32_t guess = sp_table_guess(&table, keys[i]);

        right += there[i] && guess == i;
        wrong += !there[i] && guess != SP_NONE;
    }
    assert_true(right > ENTRIES / 2 * 3 / 4);
    assert_true(wrong < ENTRIES / 2 / 100);
    end(&engine, &table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_in_is_found_and_nothing_else),
        cmocka_unit_test(it_is_right_at_every_size),
        cmocka_unit_test(memory_follows_the_entries),
        cmocka_unit_test(keys_that_are_alike_have_an_end),
        cmocka_unit_test(memory_short_loses_nothing),
        cmocka_unit_test(without_a_second_segment_all_is_found),
        cmocka_unit_test(a_number_stands_for_another),
        cmocka_unit_test(a_guess_is_mostly_right),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
