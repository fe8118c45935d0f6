/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains under a growing array of heads, for candidates and for stable nodes alike. The hash's own
 * low bits choose the head, so that doubling splits each chain in two and halving joins two: both
 * in place, without a second array.
 */
#include "types.h"

#include <errno.h>

#define SP_TABLE_LEAST 64u
#define SP_TABLE_AHEAD 16u /* heads: what they lead to lies anywhere in memory */
#define SP_TABLE_LOAD  2u  /* entries for each head at most: two to four bytes of heads an entry */

static size_t sp_table_bytes(uint32_t size)
{
    return (size_t)size * sizeof(uint32_t);
}

uint32_t sp_table_first(const struct sp_table *table, uint64_t key)
{
    return table->size ? table->head[key & (table->size - 1)] : SP_NONE;
}

void sp_table_prefetch(const struct sp_table *table, uint64_t key)
{
    if (table->size)
        __builtin_prefetch(&table->head[key & (table->size - 1)]);
}

static int sp_table_start(struct sp_engine *engine, struct sp_table *table)
{
    table->head = sp_memory_get(engine, sp_table_bytes(SP_TABLE_LEAST));
    if (!table->head)
        return -ENOMEM;
    table->size = SP_TABLE_LEAST;
    for (uint32_t i = 0; i < table->size; i++)
        table->head[i] = SP_NONE;
    return 0;
}

/* Doubles the heads. Without memory nothing changes: chains get longer, that is all. */
static void sp_table_grow(struct sp_engine *engine, struct sp_table *table,
                          const struct sp_table_kind *kind)
{
    uint32_t size = table->size;
    uint32_t *head;

    if (size >= (1u << 31))
        return;
    head = sp_memory_resize(engine, table->head, sp_table_bytes(size), sp_table_bytes(size * 2));
    if (!head)
        return;
    table->head = head;
    table->size = size * 2;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t number = head[i], next;

        if (i + SP_TABLE_AHEAD < size && head[i + SP_TABLE_AHEAD] != SP_NONE)
            __builtin_prefetch(kind->link(engine, head[i + SP_TABLE_AHEAD]));
        head[i] = SP_NONE;
        head[i + size] = SP_NONE;
        for (; number != SP_NONE; number = next) {
            uint32_t *link = kind->link(engine, number);
            uint32_t *to = &head[kind->key(engine, number) & (table->size - 1)];

            next = *link;
            *link = *to;
            *to = number;
        }
    }
}

static void sp_table_shrink(struct sp_engine *engine, struct sp_table *table,
                            const struct sp_table_kind *kind)
{
    uint32_t size = table->size / 2;
    uint32_t *head = table->head;

    for (uint32_t i = 0; i < size; i++) {
        uint32_t *end = &head[i];

        while (*end != SP_NONE)
            end = kind->link(engine, *end);
        *end = head[i + size];
    }
    table->size = size;
    head = sp_memory_resize(engine, head, sp_table_bytes(size * 2), sp_table_bytes(size));
    if (head)
        table->head = head;
    else
        engine->memory_used -= sp_table_bytes(size); /* what realloc keeps is not ours any more */
}

int sp_table_insert(struct sp_engine *engine, struct sp_table *table,
                    const struct sp_table_kind *kind, uint32_t number)
{
    uint64_t key = kind->key(engine, number);
    uint32_t length = 0;
    uint32_t *head;

    if (!table->size && sp_table_start(engine, table) != 0)
        return -ENOMEM;
    if (table->count / SP_TABLE_LOAD >= table->size)
        sp_table_grow(engine, table, kind);
    head = &table->head[key & (table->size - 1)];
    for (uint32_t at = *head; at != SP_NONE; at = *kind->link(engine, at))
        if (++length >= kind->longest)
            return -ENOSPC;
    *kind->link(engine, number) = *head;
    *head = number;
    table->count++;
    return 0;
}

void sp_table_remove(struct sp_engine *engine, struct sp_table *table,
                     const struct sp_table_kind *kind, uint32_t number)
{
    uint64_t key = kind->key(engine, number);
    uint32_t *at;

    sp_assert(table->size && table->count);
    at = &table->head[key & (table->size - 1)];
    while (*at != number) {
        sp_assert(*at != SP_NONE);
        at = kind->link(engine, *at);
    }
    *at = *kind->link(engine, number);
    table->count--;
    if (table->size > SP_TABLE_LEAST && table->count < table->size / 2)
        sp_table_shrink(engine, table, kind);
}

void sp_table_free(struct sp_engine *engine, struct sp_table *table)
{
    sp_memory_put(engine, table->head, sp_table_bytes(table->size));
    *table = (struct sp_table){0};
}
