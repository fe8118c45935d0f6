/* SPDX-License-Identifier: Apache-2.0 */
/* X: read, write, atomic operations, from any thread. And what makes the memory worth merging. */
#include <sys/mman.h>

#include "worker.h"

/* Shared with threads that add: the counting word is theirs. */
OP(op_check)
{
    for (unsigned k = 0; k < 64; k++) {
        uint32_t i = (uint32_t)(chance(state) % b->npages);

        page_check(page_at(b, i), &b->page[i], false, "check");
    }
    return true;
}

OP(op_add)
{
    for (unsigned k = 0; k < 32; k++) {
        uint32_t i = (uint32_t)(chance(state) % b->npages);

        page_add(page_at(b, i), &b->page[i]);
    }
    return true;
}

OP(op_write)
{
    for (unsigned k = 0; k < 24; k++) {
        uint32_t i = (uint32_t)(chance(state) % b->npages);

        block_check(b, i, 1, "before write");
        block_rewrite(b, i, page_chosen(b, i, state));
        block_check(b, i, 1, "write");
    }
    return true;
}

OP(op_write_hot)
{
    uint32_t i = (uint32_t)(chance(state) % b->npages);

    for (unsigned k = 0; k < 100; k++) {
        block_rewrite(b, i, page_chosen(b, i, state));
        for (unsigned n = 0; n < 8; n++)
            page_add(page_at(b, i), &b->page[i]);
        block_check(b, i, 1, "write-hot");
    }
    return true;
}

/* As every other worker has it, in one version for the whole of it. */
OP(op_fill_equal)
{
    uint32_t version = (uint32_t)chance(state) % 2;

    block_check_some(b, state, "before fill-equal");
    for (uint32_t i = 0; i < b->npages; i++)
        block_rewrite(
            b, i, (struct page){.kind = KIND_EQUAL, .number = b->number + i, .version = version});
    return true;
}

static void fill_part(struct block *b, uint64_t *state, enum kind kind, const char *when)
{
    uint32_t first, n;
    uint64_t c = chance(state);

    block_stretch(b, state, 512, &first, &n);
    block_check(b, first, n, when);
    for (uint32_t i = first; i < first + n; i++) {
        struct page page = {.kind = kind, .number = b->number + i};

        if (kind == KIND_OWN)
            page.version = (uint32_t)c;
        block_rewrite(b, i, page);
    }
    block_check(b, first, n, when);
}

OP(op_fill_near)
{
    fill_part(b, state, KIND_NEAR, "fill-near");
    return true;
}

OP(op_fill_zero)
{
    fill_part(b, state, KIND_ZERO, "fill-zero");
    return true;
}

OP(op_fill_own)
{
    fill_part(b, state, KIND_OWN, "fill-own");
    return true;
}

/* One content on a whole stretch. */
OP(op_fill_same)
{
    uint32_t first, n, number = (uint32_t)chance(state) % 16;

    block_stretch(b, state, 512, &first, &n);
    for (uint32_t i = first; i < first + n; i++)
        block_rewrite(b, i, (struct page){.kind = KIND_EQUAL, .number = number});
    block_check(b, first, n, "fill-same");
    return true;
}

/* All new: mapped anew, which also gives back what un-merging cut into pieces. */
OP(op_remake)
{
    void *map;

    block_check_some(b, state, "before remake");
    map = pages_map(b->base, b->npages, MAP_FIXED);
    if (map == MAP_FAILED)
        return lacking("remake") ? false : (wrong("mmap failed", "remake"), false);
    for (uint32_t i = 0; i < b->npages; i++)
        block_rewrite(b, i, (struct page){.kind = KIND_EQUAL, .number = b->number + i});
    block_check_some(b, state, "remake");
    return true;
}
