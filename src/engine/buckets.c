/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of a table's buckets: an array that grows and shrinks at its end, in segments, so that
 * no bucket is ever copied but those of the first segment while that is small.
 */
#include "types.h"

#include <errno.h>
#include <string.h>

#define SP_BUCKETS_LEAST 4u

static size_t sp_buckets_bytes(uint32_t n)
{
    return n * sizeof(struct sp_bucket);
}

/* The first segment has room for so many now. */
static int sp_buckets_resize_first(struct sp_engine *engine, struct sp_buckets *buckets,
                                   uint32_t room)
{
    struct sp_bucket *first = sp_memory_get_lines(engine, sp_buckets_bytes(room));

    if (!first)
        return -ENOMEM;
    if (buckets->count)
        memcpy(first, buckets->segment[0], sp_buckets_bytes(buckets->count));
    sp_memory_put(engine, buckets->segment[0], sp_buckets_bytes(buckets->room));
    buckets->segment[0] = first;
    buckets->room = room;
    return 0;
}

static int sp_buckets_start(struct sp_engine *engine, struct sp_buckets *buckets)
{
    buckets->segment = sp_memory_get(engine, sizeof(*buckets->segment));
    if (!buckets->segment)
        return -ENOMEM;
    buckets->nsegments = 1;
    if (sp_buckets_resize_first(engine, buckets, SP_BUCKETS_LEAST) == 0)
        return 0;
    sp_buckets_free(engine, buckets);
    return -ENOMEM;
}

static int sp_buckets_add_segment(struct sp_engine *engine, struct sp_buckets *buckets)
{
    uint32_t number = buckets->room / SP_SEGMENT_BUCKETS, more = number + number / 2 + 8;
    struct sp_bucket **grown;

    if (number == buckets->nsegments) {
        grown = sp_memory_resize(engine, buckets->segment, number * sizeof(*grown),
                                 more * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        buckets->segment = grown;
        buckets->nsegments = more;
    }
    buckets->segment[number] = sp_piece_get(engine, SP_PIECE_BUCKETS);
    if (!buckets->segment[number])
        return -ENOMEM;
    buckets->room += SP_SEGMENT_BUCKETS;
    return 0;
}

static int sp_buckets_make_room(struct sp_engine *engine, struct sp_buckets *buckets)
{
    if (buckets->count < buckets->room)
        return 0;
    if (buckets->room == 0)
        return sp_buckets_start(engine, buckets);
    if (buckets->room < SP_SEGMENT_BUCKETS)
        return sp_buckets_resize_first(engine, buckets, buckets->room * 4);
    return sp_buckets_add_segment(engine, buckets);
}

int sp_buckets_push(struct sp_engine *engine, struct sp_buckets *buckets)
{
    if (sp_buckets_make_room(engine, buckets) != 0)
        return -ENOMEM;
    *sp_bucket(buckets, buckets->count++) = (struct sp_bucket){0};
    return 0;
}

void sp_buckets_pop(struct sp_engine *engine, struct sp_buckets *buckets)
{
    uint32_t room = buckets->room;

    sp_assert(buckets->count);
    buckets->count--;
    if (room > SP_SEGMENT_BUCKETS && buckets->count + SP_SEGMENT_BUCKETS / 2 * 3 <= room) {
        buckets->room -= SP_SEGMENT_BUCKETS;
        sp_piece_put(engine, SP_PIECE_BUCKETS,
                     buckets->segment[buckets->room / SP_SEGMENT_BUCKETS]);
    } else if (room > SP_BUCKETS_LEAST && room <= SP_SEGMENT_BUCKETS && buckets->count < room / 8) {
        (void)sp_buckets_resize_first(engine, buckets, room / 4); /* else it stays as large */
    }
}

void sp_buckets_free(struct sp_engine *engine, struct sp_buckets *buckets)
{
    for (uint32_t i = 1; i * SP_SEGMENT_BUCKETS < buckets->room; i++)
        sp_piece_put(engine, SP_PIECE_BUCKETS, buckets->segment[i]);
    if (buckets->room)
        sp_memory_put(engine, buckets->segment[0],
                      sp_buckets_bytes(buckets->room < SP_SEGMENT_BUCKETS ? buckets->room
                                                                          : SP_SEGMENT_BUCKETS));
    sp_memory_put(engine, buckets->segment, buckets->nsegments * sizeof(*buckets->segment));
    *buckets = (struct sp_buckets){0};
}
