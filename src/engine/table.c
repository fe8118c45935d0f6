/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of 32-bit numbers under 64-bit keys, each key once, for candidates, stable nodes and
 * chains alike. What takes time in such a table is memory that no cache has, so a look-up that
 * finds nothing costs one line of it: a **bucket** is one line, and holds the numbers of up to ten
 * entries, each with 16 bits of its key as a **tag**. Only where the tag is the same is the entry
 * itself looked at, whose owner keeps the key.
 *
 * The key's own low bits choose the bucket (it is a hash). The table grows and shrinks by one
 * bucket at a time: there is no moment when it is copied, and none when it is half empty. The new
 * last bucket takes over its share from the one that served for both, which the tags tell as soon
 * as the table is large. A bucket that is full goes on in another, of those that overflow: all in a
 * row are full but the last.
 *
 * A client may send hashes that all choose one bucket: a row has an end, and what finds no place is
 * refused.
 */
#include "types.h"

#include <errno.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define SP_TABLE_FULL  6u /* entries for each bucket on average; more, and it grows */
#define SP_TABLE_THIN  4u /* fewer, and it shrinks */
#define SP_TABLE_LEAST 4u /* buckets */
#define SP_ROW_BUCKETS 9u /* that one goes on in, itself included */
#define SP_ROW_ENTRIES (SP_ROW_BUCKETS * SP_BUCKET_PLACES)
#define SP_TAG_SHIFT   16u
#define SP_TAG_BITS    16u

/* What is in a row of buckets, taken out of it. */
struct sp_row {
    uint32_t n, nover, taken;
    uint32_t number[SP_ROW_ENTRIES];
    uint16_t tag[SP_ROW_ENTRIES];
    uint32_t
        over[SP_ROW_BUCKETS]; /* its buckets beyond the first; the first taken are in use again */
};

static uint16_t sp_tag(uint64_t key)
{
    return (uint16_t)(key >> SP_TAG_SHIFT);
}

/* All bits that can choose a bucket; of the highest only some have one. */
static uint32_t sp_table_mask(uint32_t buckets)
{
    return buckets < 2 ? 0 : UINT32_MAX >> __builtin_clz(buckets - 1);
}

static uint32_t sp_table_home(const struct sp_table *table, uint64_t key)
{
    uint32_t at = (uint32_t)key & table->mask;

    return at < table->home.count ? at : at & table->mask >> 1;
}

static struct sp_bucket *sp_table_next(const struct sp_table *table, const struct sp_bucket *bucket)
{
    return bucket->more ? sp_bucket(&table->over, bucket->more - 1) : NULL;
}

static struct sp_bucket *sp_table_bucket(const struct sp_table *table, uint64_t key)
{
    return table->home.count ? sp_bucket(&table->home, sp_table_home(table, key)) : NULL;
}

/*
 * The places in use that have this tag, one bit each. Without a branch for each: which one it is is
 * not to be foreseen.
 */
#ifdef __SSE2__
static uint32_t sp_bucket_matches(const struct sp_bucket *bucket, uint16_t tag)
{
    const unsigned rest = SP_BUCKET_PLACES - 8; /* the second eight begin here */
    __m128i want = _mm_set1_epi16((short)tag), first, last;
    uint32_t found;

    memcpy(&first, &bucket->tag[0], sizeof(first));
    memcpy(&last, &bucket->tag[rest], sizeof(last));
    first = _mm_cmpeq_epi16(first, want);
    last = _mm_cmpeq_epi16(last, want);
    found = (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(first, last));
    return ((found & 0xff) | found >> 8 << rest) & ((1u << bucket->used) - 1);
}
#else
static uint32_t sp_bucket_matches(const struct sp_bucket *bucket, uint16_t tag)
{
    uint32_t found = 0;

    for (unsigned i = 0; i < SP_BUCKET_PLACES; i++)
        found |= (uint32_t)(bucket->tag[i] == tag) << i;
    return found & ((1u << bucket->used) - 1);
}
#endif

uint32_t sp_table_find(const struct sp_engine *engine, const struct sp_table *table,
                       sp_table_key_of *key_of, uint64_t key)
{
    const struct sp_bucket *bucket = sp_table_bucket(table, key);

    for (; bucket; bucket = sp_table_next(table, bucket))
        for (uint32_t m = sp_bucket_matches(bucket, sp_tag(key)); m; m &= m - 1) {
            uint32_t number = bucket->number[__builtin_ctz(m)];

            if (key_of(engine, number) == key)
                return number;
        }
    return SP_NONE;
}

void sp_table_prefetch(const struct sp_table *table, uint64_t key)
{
    const struct sp_bucket *bucket = sp_table_bucket(table, key);

    if (bucket)
        __builtin_prefetch(bucket);
}

uint32_t sp_table_guess(const struct sp_table *table, uint64_t key)
{
    const struct sp_bucket *bucket = sp_table_bucket(table, key);
    uint32_t matches;

    if (!bucket)
        return SP_NONE;
    if (bucket->more)
        __builtin_prefetch(sp_bucket(&table->over, bucket->more - 1));
    matches = sp_bucket_matches(bucket, sp_tag(key));
    return matches ? bucket->number[__builtin_ctz(matches)] : SP_NONE;
}

static unsigned sp_row_length(const struct sp_table *table, const struct sp_bucket *bucket)
{
    unsigned length = 0;

    for (; bucket; bucket = sp_table_next(table, bucket))
        length += bucket->used;
    return length;
}

static struct sp_bucket *sp_row_last(const struct sp_table *table, struct sp_bucket *bucket)
{
    while (bucket->more)
        bucket = sp_bucket(&table->over, bucket->more - 1);
    return bucket;
}

/* The bucket that goes on in the overflowing one: in the row of the entries that this holds. */
static struct sp_bucket *sp_over_before(struct sp_engine *engine, const struct sp_table *table,
                                        sp_table_key_of *key_of, uint32_t over)
{
    uint32_t entry = sp_bucket(&table->over, over)->number[0];
    struct sp_bucket *bucket = sp_table_bucket(table, key_of(engine, entry));

    while (bucket->more != over + 1)
        bucket = sp_table_next(table, bucket);
    return bucket;
}

/* Gives up an overflowing bucket that no row names any more: the last one moves to its place. */
static void sp_over_free(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of,
                         uint32_t over)
{
    uint32_t last = table->over.count - 1;

    if (over != last) {
        sp_over_before(engine, table, key_of, last)->more = (over + 1) & SP_OVER_MAX;
        *sp_bucket(&table->over, over) = *sp_bucket(&table->over, last);
    }
    sp_buckets_pop(engine, &table->over);
}

/* Takes everything out of the row that begins with this bucket. */
static void sp_row_take(struct sp_table *table, struct sp_bucket *first, struct sp_row *row)
{
    const struct sp_bucket *bucket = first;

    while (bucket) {
        for (unsigned i = 0; i < bucket->used; i++) {
            sp_assert(row->n < SP_ROW_ENTRIES);
            row->number[row->n] = bucket->number[i];
            row->tag[row->n++] = bucket->tag[i];
        }
        if (bucket->more)
            row->over[row->nover++] = bucket->more - 1;
        bucket = sp_table_next(table, bucket);
    }
    first->used = first->more = 0;
}

static void sp_bucket_add(struct sp_bucket *bucket, uint32_t number, uint16_t tag)
{
    bucket->number[bucket->used] = number;
    bucket->tag[bucket->used] = tag;
    bucket->used = (bucket->used + 1u) & 15;
}

/* Puts one back into a row; one of the buckets that were taken out serves where it overflows. */
static void sp_row_put(struct sp_table *table, struct sp_row *row, struct sp_bucket *bucket,
                       uint32_t i)
{
    bucket = sp_row_last(table, bucket);
    if (bucket->used == SP_BUCKET_PLACES) {
        sp_assert(row->taken < row->nover);
        bucket->more = (row->over[row->taken++] + 1) & SP_OVER_MAX;
        bucket = sp_table_next(table, bucket);
        bucket->used = bucket->more = 0;
    }
    sp_bucket_add(bucket, row->number[i], row->tag[i]);
}

/* Gives up the buckets that were taken out and are not in use again: the highest number first, so
 * that the one that moves is always in use. */
static void sp_row_free_rest(struct sp_engine *engine, struct sp_table *table,
                             sp_table_key_of *key_of, struct sp_row *row)
{
    while (row->nover > row->taken) {
        uint32_t highest = row->taken;

        for (uint32_t i = row->taken; i < row->nover; i++)
            if (row->over[i] > row->over[highest])
                highest = i;
        sp_over_free(engine, table, key_of, row->over[highest]);
        row->over[highest] = row->over[--row->nover];
    }
}

/* The bit of an entry's key that says which of two buckets it belongs to. */
static bool sp_table_bit(struct sp_engine *engine, sp_table_key_of *key_of, uint32_t number,
                         uint16_t tag, unsigned bit)
{
    if (bit >= SP_TAG_SHIFT && bit < SP_TAG_SHIFT + SP_TAG_BITS)
        return tag >> (bit - SP_TAG_SHIFT) & 1;
    return key_of(engine, number) >> bit & 1;
}

/* Of a row of one bucket: what belongs to the new one goes there. */
static void sp_bucket_split(struct sp_engine *engine, sp_table_key_of *key_of,
                            struct sp_bucket *old, struct sp_bucket *new, unsigned bit)
{
    unsigned used = old->used;

    old->used = 0;
    for (unsigned i = 0; i < used; i++) {
        uint32_t number = old->number[i];
        uint16_t tag = old->tag[i];

        sp_bucket_add(sp_table_bit(engine, key_of, number, tag, bit) ? new : old, number, tag);
    }
}

/* One bucket more. Without memory nothing changes: rows get longer, that is all. */
static void sp_table_grow(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of)
{
    struct sp_row row; /* large, and seldom needed */
    struct sp_bucket *old, *new;
    uint32_t number = table->home.count;
    unsigned bit;

    if (number >= 1u << 31 || sp_buckets_push(engine, &table->home) != 0)
        return;
    table->mask = sp_table_mask(number + 1);
    bit = (unsigned)__builtin_popcount(table->mask) - 1;
    old = sp_bucket(&table->home, number & table->mask >> 1);
    new = sp_bucket(&table->home, number);
    if (!old->more) {
        sp_bucket_split(engine, key_of, old, new, bit);
        return;
    }
    row.n = row.nover = row.taken = 0;
    sp_row_take(table, old, &row);
    for (uint32_t i = 0; i < row.n; i++)
        sp_row_put(table, &row,
                   sp_table_bit(engine, key_of, row.number[i], row.tag[i], bit) ? new : old, i);
    sp_row_free_rest(engine, table, key_of, &row);
}

/* One bucket fewer, unless the row that takes its entries would be too long, or memory is short. */
static void sp_table_shrink(struct sp_engine *engine, struct sp_table *table,
                            sp_table_key_of *key_of)
{
    uint32_t number = table->home.count - 1;
    struct sp_bucket *old = sp_bucket(&table->home, number);
    struct sp_bucket *into = sp_bucket(&table->home, number & table->mask >> 1);
    struct sp_row row;

    if (sp_row_length(table, old) + sp_row_length(table, into) > SP_ROW_ENTRIES ||
        table->over.count == SP_OVER_MAX || sp_buckets_push(engine, &table->over) != 0)
        return;
    row.n = row.nover = row.taken = 0;
    sp_row_take(table, into, &row);
    sp_row_take(table, old, &row);
    row.over[row.nover++] = table->over.count - 1; /* in case that all others are full */
    sp_buckets_pop(engine, &table->home);
    table->mask = sp_table_mask(number);
    into = sp_bucket(&table->home, sp_table_mask(number + 1) >> 1 & number);
    for (uint32_t i = 0; i < row.n; i++)
        sp_row_put(table, &row, into, i);
    sp_row_free_rest(engine, table, key_of, &row);
}

static int sp_table_start(struct sp_engine *engine, struct sp_table *table)
{
    for (uint32_t i = 0; i < SP_TABLE_LEAST; i++)
        if (sp_buckets_push(engine, &table->home) != 0) {
            sp_buckets_free(engine, &table->home);
            return -ENOMEM;
        }
    table->mask = sp_table_mask(SP_TABLE_LEAST);
    return 0;
}

/* Makes room for one more in the row of this key, at the end of its last bucket. */
static int sp_row_make_room(struct sp_engine *engine, struct sp_table *table, uint64_t key)
{
    struct sp_bucket *bucket = sp_table_bucket(table, key);
    unsigned length = 1;

    for (; bucket->more; length++)
        bucket = sp_table_next(table, bucket);
    if (bucket->used < SP_BUCKET_PLACES)
        return 0;
    if (length == SP_ROW_BUCKETS || table->over.count == SP_OVER_MAX)
        return -ENOSPC;
    if (sp_buckets_push(engine, &table->over) != 0)
        return -ENOMEM;
    sp_row_last(table, sp_table_bucket(table, key))->more = table->over.count & SP_OVER_MAX;
    return 0;
}

int sp_table_insert(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of,
                    uint32_t number)
{
    uint64_t key = key_of(engine, number);
    int err;

    if (!table->home.count && sp_table_start(engine, table) != 0)
        return -ENOMEM;
    if (table->count / SP_TABLE_FULL >= table->home.count)
        sp_table_grow(engine, table, key_of);
    err = sp_row_make_room(engine, table, key);
    if (err)
        return err;
    sp_bucket_add(sp_row_last(table, sp_table_bucket(table, key)), number, sp_tag(key));
    table->count++;
    return 0;
}

/* Where the entry stands that is there under this key. */
static uint32_t *sp_table_place(struct sp_table *table, uint64_t key, uint32_t number,
                                uint16_t **tag)
{
    struct sp_bucket *bucket = sp_table_bucket(table, key);

    for (;; bucket = sp_table_next(table, bucket)) {
        sp_assert(bucket);
        for (unsigned i = 0; i < bucket->used; i++)
            if (bucket->number[i] == number) {
                *tag = &bucket->tag[i];
                return &bucket->number[i];
            }
    }
}

void sp_table_replace(struct sp_table *table, uint64_t key, uint32_t old, uint32_t new)
{
    uint16_t *tag;

    *sp_table_place(table, key, old, &tag) = new;
}

void sp_table_remove(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of,
                     uint32_t number)
{
    uint64_t key = key_of(engine, number);
    struct sp_bucket *last = sp_table_bucket(table, key), *before = NULL;
    uint16_t *tag;
    uint32_t *place;

    sp_assert(table->count);
    place = sp_table_place(table, key, number, &tag);
    for (; last->more; last = sp_table_next(table, last))
        before = last;
    last->used = (last->used - 1u) & 15;
    *place = last->number[last->used];
    *tag = last->tag[last->used];
    table->count--;
    if (before && last->used == 0) {
        uint32_t over = before->more - 1;

        before->more = 0;
        sp_over_free(engine, table, key_of, over);
    }
    if (table->home.count > SP_TABLE_LEAST && table->count / SP_TABLE_THIN < table->home.count)
        sp_table_shrink(engine, table, key_of);
}

void sp_table_free(struct sp_engine *engine, struct sp_table *table)
{
    sp_buckets_free(engine, &table->home);
    sp_buckets_free(engine, &table->over);
    *table = (struct sp_table){0};
}
