/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The site map's table.
 *
 * A **group** is 64 blocks of 512 pages (128 MiB of 4 KiB pages). Its bits stand together, one bit
 * a page, in 4 KiB of their own; before them stands a mask with one bit for each block that is not
 * empty, so that unmerged blocks cost one look. Groups are found by their number through a table
 * with open addressing. Which groups were ever used at all stands in a flat bitmap over the whole
 * address space: a walk over everything skips empty terabytes by it.
 *
 * A group is never taken out of the table: programs use the same addresses again and again. Bits
 * are set by the agent under the closed gate (and by a filtered program's own mremap); several
 * threads inside the gate may clear at once, in one word too, hence the atomics.
 */
#include "sitemap.h"

#include <stddef.h>

#include <linux/mman.h>

#include "sys.h"

#define BLOCK_PAGES  512u
#define BLOCK_WORDS  (BLOCK_PAGES / 64u)
#define GROUP_BLOCKS 64u
#define GROUP_PAGES  (BLOCK_PAGES * GROUP_BLOCKS)
#define GROUP_WORDS  (GROUP_PAGES / 64u)
#define GROUPS       8192u /* of 128 MiB: 1 TiB of densely merged memory */
#define ADDRESS_BITS 48u

struct group {
    uint64_t key;    /* number of the group + 1; 0: free */
    uint64_t blocks; /* bit n: block n has a set bit */
};

struct table {
    uint64_t pages;
    uint32_t page_shift;
    uint32_t groups_used;
    struct group *group; /* GROUPS of them */
    uint64_t *word;      /* GROUP_WORDS for each group */
    uint64_t *used;      /* one bit for each group of the address space */
    uint64_t used_groups;
};

static struct table map;

static uint64_t group_number(uint64_t page)
{
    return page / GROUP_PAGES;
}

static uint32_t group_hash(uint64_t number)
{
    return (uint32_t)((number * 0x9e3779b97f4a7c15u) >> 51) % GROUPS;
}

/* Returns the index of the group in the table, or -1. */
static long find_group(uint64_t number)
{
    uint32_t at = group_hash(number);

    for (uint32_t n = 0; n < GROUPS; n++, at = (at + 1) % GROUPS) {
        uint64_t key = __atomic_load_n(&map.group[at].key, __ATOMIC_ACQUIRE);

        if (key == number + 1)
            return at;
        if (key == 0)
            return -1;
    }
    return -1;
}

static long make_group(uint64_t number)
{
    uint32_t at = group_hash(number);
    long found = find_group(number);

    if (found >= 0)
        return found;
    if (__atomic_fetch_add(&map.groups_used, 1, __ATOMIC_SEQ_CST) >= GROUPS - GROUPS / 8) {
        __atomic_fetch_sub(&map.groups_used, 1, __ATOMIC_SEQ_CST);
        return -1;
    }
    for (;; at = (at + 1) % GROUPS) {
        uint64_t key = 0;

        if (__atomic_compare_exchange_n(&map.group[at].key, &key, number + 1, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
            key == number + 1)
            break;
    }
    __atomic_fetch_or(&map.used[number / 64], (uint64_t)1 << (number % 64), __ATOMIC_SEQ_CST);
    return at;
}

int sp_sitemap_init(uint32_t page_size)
{
    uint64_t group_bytes = GROUPS * sizeof(struct group);
    uint64_t word_bytes = (uint64_t)GROUPS * GROUP_WORDS * sizeof(uint64_t);
    uint64_t used_groups, base;
    uint32_t shift = 0;
    long ret;

    if (map.group)
        return 0;
    while ((1u << shift) < page_size)
        shift++;
    used_groups = (((uint64_t)1 << ADDRESS_BITS) >> shift) / GROUP_PAGES;
    ret = sp_sys(__NR_mmap, 0, group_bytes + word_bytes + used_groups / 8, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sp_is_err(ret))
        return (int)ret;
    base = (uint64_t)ret;
    map.page_shift = shift;
    map.word = (uint64_t *)base;
    map.used = (uint64_t *)(base + word_bytes);
    map.used_groups = used_groups;
    map.group = (struct group *)(base + word_bytes + used_groups / 8);
    return 0;
}

/* Cuts [addr, end) to whole pages of the addresses that the table can know. */
static void to_pages(uint64_t addr, uint64_t end, uint64_t *first, uint64_t *last)
{
    uint64_t limit = map.used_groups * GROUP_PAGES;
    uint64_t size = (uint64_t)1 << map.page_shift;

    *first = addr >> map.page_shift;
    *last = (end >> map.page_shift) + ((end & (size - 1)) != 0);
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

int sp_sitemap_set(uint64_t addr, uint64_t end)
{
    uint64_t first, last;

    if (!map.group || end <= addr || end >> ADDRESS_BITS)
        return -1;
    to_pages(addr, end, &first, &last);
    for (uint64_t n = group_number(first); n <= group_number(last - 1); n++)
        if (make_group(n) < 0)
            return -1;
    for (uint64_t w = first / 64; w * 64 < last; w++) {
        long at = find_group(w / GROUP_WORDS);
        uint64_t mask = word_mask(w, first, last);
        uint64_t *word = &map.word[(uint64_t)at * GROUP_WORDS + w % GROUP_WORDS];
        uint64_t old = __atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);

        __atomic_fetch_or(&map.group[at].blocks, (uint64_t)1 << (w % GROUP_WORDS / BLOCK_WORDS),
                          __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&map.pages, count_bits(mask & ~old), __ATOMIC_SEQ_CST);
    }
    return 0;
}

static void drop_block_if_empty(struct group *group, const uint64_t *words, unsigned block)
{
    for (unsigned i = 0; i < BLOCK_WORDS; i++)
        if (__atomic_load_n(&words[block * BLOCK_WORDS + i], __ATOMIC_SEQ_CST))
            return;
    __atomic_fetch_and(&group->blocks, ~((uint64_t)1 << block), __ATOMIC_SEQ_CST);
}

static uint64_t used_near(uint64_t number)
{
    return __atomic_load_n(&map.used[number / 64], __ATOMIC_ACQUIRE);
}

/* Finds the first page at or after page, below last, whose bit is set (or, with set false, is not):
 * last if there is none. */
static uint64_t find_page(uint64_t page, uint64_t last, bool set)
{
    while (page < last) {
        uint64_t number = group_number(page);
        long at = -1;
        uint64_t word;

        if (used_near(number) == 0 && set) {
            page = (number / 64 + 1) * 64 * GROUP_PAGES;
            continue;
        }
        if (used_near(number) >> (number % 64) & 1)
            at = find_group(number);
        if (at < 0 || !__atomic_load_n(&map.group[at].blocks, __ATOMIC_ACQUIRE)) {
            if (!set)
                return page;
            page = (number + 1) * GROUP_PAGES;
            continue;
        }
        if (!(__atomic_load_n(&map.group[at].blocks, __ATOMIC_ACQUIRE) >>
                  (page / BLOCK_PAGES % GROUP_BLOCKS) &
              1)) {
            if (!set)
                return page;
            page = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
            continue;
        }
        word = __atomic_load_n(&map.word[(uint64_t)at * GROUP_WORDS + page / 64 % GROUP_WORDS],
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

void sp_sitemap_clear(uint64_t addr, uint64_t end)
{
    uint64_t first, last;

    if (!sp_sitemap_pages() || end <= addr)
        return;
    to_pages(addr, end, &first, &last);
    while ((first = find_page(first, last, true)) < last) {
        uint64_t w = first / 64;
        long at = find_group(w / GROUP_WORDS);
        uint64_t *words = &map.word[(uint64_t)at * GROUP_WORDS];
        uint64_t mask = word_mask(w, first, last);
        uint64_t old = __atomic_fetch_and(&words[w % GROUP_WORDS], ~mask, __ATOMIC_SEQ_CST);

        drop_block_if_empty(&map.group[at], words, w % GROUP_WORDS / BLOCK_WORDS);
        __atomic_fetch_sub(&map.pages, count_bits(old & mask), __ATOMIC_SEQ_CST);
        first = (w + 1) * 64;
    }
}

bool sp_sitemap_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    uint64_t first, last, page;

    if (!sp_sitemap_pages() || end <= addr)
        return false;
    to_pages(addr, end, &first, &last);
    page = find_page(first, last, true);
    if (page >= last)
        return false;
    *start = page << map.page_shift;
    *stop = find_page(page, last, false) << map.page_shift;
    return true;
}

bool sp_sitemap_any(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    return sp_sitemap_next(addr, end, &start, &stop);
}

uint64_t sp_sitemap_pages(void)
{
    return __atomic_load_n(&map.pages, __ATOMIC_RELAXED);
}

void sp_sitemap_area(uint64_t *start, uint64_t *end)
{
    *start = (uint64_t)map.word;
    *end = (uint64_t)map.group + GROUPS * sizeof(struct group);
}
