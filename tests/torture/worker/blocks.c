/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's memory: blocks of many sizes, each a mapping of its own. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "worker.h"

#define BULK_PAGES   2048u
#define SAME_NUMBERS 16u
#define ASIDE        5u /* pages that the like of one in the other block of a pair is moved by */
#define GENERATIONS  3u /* versions that an equal page may have: few, so that workers meet */

struct block block[MAX_BLOCKS];
uint32_t nblocks, nbulk;

bool lacking(const char *what)
{
    if (errno != ENOMEM)
        return false;
    __atomic_add_fetch(&stats->enomem, 1, __ATOMIC_RELAXED);
    if (!options.enomem_ok)
        wrong("no memory or no mapping is left, and nothing made them short", what);
    return true;
}

void *pages_map(void *at, uint32_t npages, int flags)
{
    void *map = mmap(at, (size_t)npages * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

    if (map != MAP_FAILED)
        madvise(map, (size_t)npages * PAGE, MADV_NOHUGEPAGE);
    if (map != MAP_FAILED && options.advise)
        madvise(map, (size_t)npages * PAGE, MADV_MERGEABLE);
    return map;
}

struct page page_chosen(const struct block *b, uint32_t i, uint64_t *state)
{
    uint64_t c = chance(state);
    struct page page = {
        .kind = KIND_EQUAL, .number = b->number + i, .version = (uint32_t)(c >> 8) % GENERATIONS};

    switch (c % 16) {
    case 0:
        page.kind = KIND_ZERO;
        break;
    case 1:
    case 2:
        page.kind = KIND_NEAR;
        break;
    case 3:
    case 4:
        page.kind = KIND_OWN;
        page.version = (uint32_t)(c >> 8);
        break;
    case 5:
        page.number = (uint32_t)(c >> 40) % SAME_NUMBERS; /* many equal ones here, too */
    }
    return page;
}

void block_rewrite(struct block *b, uint32_t i, struct page page)
{
    b->page[i] = page;
    page_fill(page_at(b, i), &page);
}

void block_refill(struct block *b, uint32_t first, uint32_t n, uint64_t *state)
{
    uint32_t longest = n > 256 ? 8 : 4;

    while (n) {
        struct page page = page_chosen(b, first, state);

        for (uint32_t alike = 1u << chance(state) % longest; alike && n; alike--, n--) {
            block_rewrite(b, first++, page);
            page.number += page.number >= SAME_NUMBERS;
        }
    }
}

void block_zeroed(struct block *b, uint32_t first, uint32_t n, const char *when)
{
    for (uint32_t i = first; i < first + n; i++) {
        page_check_zero(page_at(b, i), when);
        b->page[i] = (struct page){.kind = KIND_ZERO};
    }
}

void block_check(struct block *b, uint32_t first, uint32_t n, const char *when)
{
    for (uint32_t i = first; i < first + n; i++)
        page_check(page_at(b, i), &b->page[i], true, when);
}

void block_check_some(struct block *b, uint64_t *state, const char *when)
{
    if (b->npages <= 64) {
        block_check(b, 0, b->npages, when);
        return;
    }
    for (unsigned k = 0; k < 64; k++)
        block_check(b, (uint32_t)(chance(state) % b->npages), 1, when);
}

void block_stretch(const struct block *b, uint64_t *state, uint32_t most, uint32_t *first,
                   uint32_t *n)
{
    *first = (uint32_t)(chance(state) % b->npages);
    *n = b->npages - *first < most ? b->npages - *first : most;
    *n = 1 + (uint32_t)(chance(state) % *n);
}

static bool make_one(uint32_t npages, uint32_t max_pages)
{
    struct block *b = &block[nblocks];
    pthread_rwlockattr_t kind;

    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&b->lock, &kind);
    b->npages = npages;
    b->max_pages = max_pages;
    b->number = (nblocks / 2 + 1) << 16 | nblocks % 2 * ASIDE;
    b->base = pages_map(NULL, npages, 0);
    /* Shared: never merged, so what is wrong is the page and not the record. */
    b->page = mmap(NULL, max_pages * sizeof(*b->page), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b->base == MAP_FAILED || b->page == MAP_FAILED)
        return false;
    for (uint32_t i = 0; i < npages; i++)
        block_rewrite(b, i, (struct page){.kind = KIND_EQUAL, .number = b->number + i});
    nblocks++;
    return true;
}

/* Half of the memory in bulk, where merging has much to do; a quarter in blocks of a few hundred
 * pages; the rest small ones, which neighbours and their borders make interesting. */
void blocks_make(void)
{
    uint32_t left = options.mib * (1024 * 1024 / PAGE), bulk = left / 2, middle = left / 4;

    while (left && nblocks < MAX_BLOCKS) {
        uint32_t n = 16 + (uint32_t)(mix(nblocks) % 112), most = 4 * n;

        if (bulk >= BULK_PAGES)
            n = most = BULK_PAGES, nbulk++;
        else if (middle >= 256)
            n = 256 + (uint32_t)(mix(nblocks) % 256), most = 2 * n;
        if (bulk >= BULK_PAGES)
            bulk -= n;
        else if (middle >= 256)
            middle -= n < middle ? n : middle;
        if (!make_one(n, most))
            fatal("no memory for the blocks");
        left -= n < left ? n : left;
    }
}
