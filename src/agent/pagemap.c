/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of a page map.
 *
 * A **group** is 64 blocks of 512 pages (128 MiB of 4 KiB pages). Its bits stand together, one bit
 * a page, in 4 KiB of their own; before them stands a mask with one bit for each block that is not
 * empty, so that unmerged blocks cost one look. Groups are found by their number through a table
 * with open addressing. Which groups were ever used at all stands in a flat bitmap over the whole
 * address space: a walk over everything skips empty terabytes by it.
 *
 * A group is never taken out of the table: programs use the same addresses again and again. Several
 * threads inside the gate may set and clear at once, in one word too, hence the atomics.
 */
#include "pagemap.h"

#include <stddef.h>

#include <linux/mman.h>

#include "sys.h"

#define BLOCK_PAGES  512u
#define BLOCK_WORDS  (BLOCK_PAGES / 64u)
#define GROUP_BLOCKS 64u
#define GROUP_PAGES  (BLOCK_PAGES * GROUP_BLOCKS)
#define GROUP_WORDS  (GROUP_PAGES / 64u)
#define ADDRESS_BITS SP_PAGEMAP_ADDRESS_BITS

static uint64_t group_number(uint64_t page)
{
    return page / GROUP_PAGES;
}

static uint32_t group_hash(const struct sp_pagemap *map, uint64_t number)
{
    return (uint32_t)((number * 0x9e3779b97f4a7c15u) >> 51) % map->groups;
}

/* Returns the index of the group in the table, or -1. */
static long find_group(const struct sp_pagemap *map, uint64_t number)
{
    uint32_t at = group_hash(map, number);

    for (uint32_t n = 0; n < map->groups; n++, at = (at + 1) % map->groups) {
        uint64_t key = __atomic_load_n(&map->group[at].key, __ATOMIC_ACQUIRE);

        if (key == number + 1)
            return at;
        if (key == 0)
            return -1;
    }
    return -1;
}

static long make_group(struct sp_pagemap *map, uint64_t number)
{
    uint32_t at = group_hash(map, number);
    long found = find_group(map, number);

    if (found >= 0)
        return found;
    if (__atomic_fetch_add(&map->groups_used, 1, __ATOMIC_SEQ_CST) >=
        map->groups - map->groups / 8) {
        __atomic_fetch_sub(&map->groups_used, 1, __ATOMIC_SEQ_CST);
        return -1;
    }
    for (;; at = (at + 1) % map->groups) {
        uint64_t key = 0;

        if (__atomic_compare_exchange_n(&map->group[at].key, &key, number + 1, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
            key == number + 1)
            break;
    }
    __atomic_fetch_or(&map->used[number / 64], (uint64_t)1 << (number % 64), __ATOMIC_SEQ_CST);
    return at;
}

static uint64_t groups_in_space(uint32_t page_shift)
{
    return (((uint64_t)1 << ADDRESS_BITS) >> page_shift) / GROUP_PAGES;
}

static uint32_t shift_of(uint32_t page_size)
{
    uint32_t shift = 0;

    while ((1u << shift) < page_size)
        shift++;
    return shift;
}

uint64_t sp_pagemap_bytes(uint32_t groups, uint32_t page_size)
{
    return (uint64_t)groups * (sizeof(struct sp_pagemap_group) + GROUP_WORDS * sizeof(uint64_t)) +
           groups_in_space(shift_of(page_size)) / 8;
}

void sp_pagemap_init(struct sp_pagemap *map, uint32_t groups, uint32_t page_size, uint64_t base)
{
    map->page_shift = shift_of(page_size);
    map->groups = groups;
    map->used_groups = groups_in_space(map->page_shift);
    map->word = (uint64_t *)base;
    base += (uint64_t)groups * GROUP_WORDS * sizeof(uint64_t);
    map->used = (uint64_t *)base;
    map->group = (struct sp_pagemap_group *)(base + map->used_groups / 8);
}

/* Cuts [addr, end) to whole pages of the addresses that the table can know. */
static void to_pages(const struct sp_pagemap *map, uint64_t addr, uint64_t end, uint64_t *first,
                     uint64_t *last)
{
    uint64_t limit = map->used_groups * GROUP_PAGES;
    uint64_t size = (uint64_t)1 << map->page_shift;

    *first = addr >> map->page_shift;
    *last = (end >> map->page_shift) + ((end & (size - 1)) != 0);
    if (*last > limit)
        *last = limit;
}

static unsigned count_bits(uint64_t word)
{
    unsigned n = 0;

    for (; word; word &= word - 1)
        n++;
    return n;
}

/* The bits of word number w that lie in pages [first, last). */
static uint64_t word_mask(uint64_t w, uint64_t first, uint64_t last)
{
    uint64_t mask = ~(uint64_t)0;

    if (w * 64 < first)
        mask &= ~(uint64_t)0 << (first - w * 64);
    if (w * 64 + 64 > last)
        mask &= ~(uint64_t)0 >> (w * 64 + 64 - last);
    return mask;
}

int sp_pagemap_set(struct sp_pagemap *map, uint64_t addr, uint64_t end)
{
    uint64_t first, last;

    if (!map->group || end <= addr || end >> ADDRESS_BITS)
        return -1;
    to_pages(map, addr, end, &first, &last);
    for (uint64_t n = group_number(first); n <= group_number(last - 1); n++)
        if (make_group(map, n) < 0)
            return -1;
    for (uint64_t w = first / 64; w * 64 < last; w++) {
        long at = find_group(map, w / GROUP_WORDS);
        uint64_t mask = word_mask(w, first, last);
        uint64_t *word = &map->word[(uint64_t)at * GROUP_WORDS + w % GROUP_WORDS];
        uint64_t old;

        if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) == mask)
            continue;
        old = __atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
        __atomic_fetch_or(&map->group[at].blocks, (uint64_t)1 << (w % GROUP_WORDS / BLOCK_WORDS),
                          __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&map->pages, count_bits(mask & ~old), __ATOMIC_SEQ_CST);
    }
    return 0;
}

static bool is_empty(const uint64_t *words, unsigned block)
{
    for (unsigned i = 0; i < BLOCK_WORDS; i++)
        if (__atomic_load_n(&words[block * BLOCK_WORDS + i], __ATOMIC_SEQ_CST))
            return false;
    return true;
}

/* A thread that sets a bit meanwhile marks the block before or after we unmark it: in the first
 * case the second look sees its bit. */
static void drop_block_if_empty(struct sp_pagemap_group *group, const uint64_t *words,
                                unsigned block)
{
    uint64_t bit = (uint64_t)1 << block;

    if (!is_empty(words, block))
        return;
    __atomic_fetch_and(&group->blocks, ~bit, __ATOMIC_SEQ_CST);
    if (!is_empty(words, block))
        __atomic_fetch_or(&group->blocks, bit, __ATOMIC_SEQ_CST);
}

static uint64_t used_near(const struct sp_pagemap *map, uint64_t number)
{
    return __atomic_load_n(&map->used[number / 64], __ATOMIC_ACQUIRE);
}

/* Finds the first page at or after page, below last, whose bit is set (or, with set false, is not):
 * last if there is none. */
static uint64_t find_page(const struct sp_pagemap *map, uint64_t page, uint64_t last, bool set)
{
    while (page < last) {
        uint64_t number = group_number(page);
        long at = -1;
        uint64_t word;

        if (used_near(map, number) == 0 && set) {
            page = (number / 64 + 1) * 64 * GROUP_PAGES;
            continue;
        }
        if (used_near(map, number) >> (number % 64) & 1)
            at = find_group(map, number);
        if (at < 0 || !__atomic_load_n(&map->group[at].blocks, __ATOMIC_ACQUIRE)) {
            if (!set)
                return page;
            page = (number + 1) * GROUP_PAGES;
            continue;
        }
        if (!(__atomic_load_n(&map->group[at].blocks, __ATOMIC_ACQUIRE) >>
                  (page / BLOCK_PAGES % GROUP_BLOCKS) &
              1)) {
            if (!set)
                return page;
            page = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
            continue;
        }
        word = __atomic_load_n(&map->word[(uint64_t)at * GROUP_WORDS + page / 64 % GROUP_WORDS],
                               __ATOMIC_ACQUIRE);
        word = (set ? word : ~word) >> (page % 64);
        if (word) {
            page += (uint64_t)__builtin_ctzll(word);
            return page < last ? page : last;
        }
        page = (page / 64 + 1) * 64;
    }
    return last;
}

void sp_pagemap_clear(struct sp_pagemap *map, uint64_t addr, uint64_t end)
{
    uint64_t first, last;

    if (!sp_pagemap_pages(map) || end <= addr)
        return;
    to_pages(map, addr, end, &first, &last);
    while ((first = find_page(map, first, last, true)) < last) {
        uint64_t w = first / 64;
        long at = find_group(map, w / GROUP_WORDS);
        uint64_t *words = &map->word[(uint64_t)at * GROUP_WORDS];
        uint64_t mask = word_mask(w, first, last);
        uint64_t old = __atomic_fetch_and(&words[w % GROUP_WORDS], ~mask, __ATOMIC_SEQ_CST);

        drop_block_if_empty(&map->group[at], words, w % GROUP_WORDS / BLOCK_WORDS);
        __atomic_fetch_sub(&map->pages, count_bits(old & mask), __ATOMIC_SEQ_CST);
        first = (w + 1) * 64;
    }
}

bool sp_pagemap_next(const struct sp_pagemap *map, uint64_t addr, uint64_t end, uint64_t *start,
                     uint64_t *stop)
{
    uint64_t first, last, page;

    if (!sp_pagemap_pages(map) || end <= addr)
        return false;
    to_pages(map, addr, end, &first, &last);
    page = find_page(map, first, last, true);
    if (page >= last)
        return false;
    *start = page << map->page_shift;
    *stop = find_page(map, page, last, false) << map->page_shift;
    return true;
}
