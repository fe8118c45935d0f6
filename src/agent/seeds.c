/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeds: how un-merging gives mappings back (docs/decisions/0014-written-again.md).
 *
 * Memory that was written elsewhere and then moved over a merged page by mremap keeps the page offset
 * of where it was written, and the kernel joins neighbours only if their offsets go on, and if they
 * have the same anon_vma. So it is written in a piece of the program's own memory: while the pages of
 * a place are in the air the mapping there is empty, and mremap copies two pages of it, offset, flags,
 * anon_vma and all, to a slot of ours: a seed. From a seed a copy is made and grown, which reaches up
 * to the offset of any place above it; what is written there and moved into place is joined with what
 * lies around it.
 *
 * A seed is no more than a hint: with a wrong one (the program mapped something else there since) the
 * kernel joins nothing. But its flags must be those of the memory: they are kept, and compared.
 */
#include <linux/mman.h>

#include "agent.h"
#include "sys.h"

#define SEEDS      512u
#define SEED_PAGES 2u /* one that is copied, one that keeps the anon_vma */
#define REACH      (32ull << 20) /* above its place; a copy of so many bytes counts as memory for a moment */
#define MOVE_TO       3 /* MREMAP_MAYMOVE | FIXED */
#define COPY_ANYWHERE 5 /* MREMAP_MAYMOVE | DONTUNMAP */

struct seed {
    uint64_t from; /* its place; 0: none */
    uint64_t flags;
};

static struct seed seed[SEEDS];
static uint32_t nseeds;
static bool no_more; /* also in forked children: a slot may be another's */

uint64_t sp_seed_bytes(void)
{
    return (uint64_t)SEEDS * SEED_PAGES << sp_agent.page_shift;
}

void sp_seeds_forget(void)
{
    nseeds = 0;
}

static uint64_t slot_of(const struct seed *s)
{
    return sp_agent.seed_area + ((uint64_t)(s - seed) * SEED_PAGES << sp_agent.page_shift);
}

/* The nearest seed from which addr can be reached, of the same range and flags. */
static const struct seed *find(uint64_t addr, const struct sp_range *range)
{
    const struct seed *best = NULL;

    for (uint32_t i = 0; i < nseeds; i++)
        if (seed[i].from <= addr && addr - seed[i].from < REACH && seed[i].from >= range->start &&
            seed[i].flags == range->flags && (!best || seed[i].from > best->from))
            best = &seed[i];
    return best;
}

/*
 * Copied to the slot in two steps. In one the kernel would unmap the slot, and then might not have the
 * memory that the copy counts as: a hole in our slots, where others map something that the next seed would
 * destroy. To move what is there already takes nothing; should it fail all the same, no more seeds are taken.
 */
static bool copy_to_slot(uint64_t addr, uint64_t length, uint64_t slot)
{
    long copy = sp_sys(__NR_mremap, addr, length, length, COPY_ANYWHERE);

    if (sp_is_err(copy))
        return false;
    if (!sp_is_err(sp_sys(__NR_mremap, copy, length, length, MOVE_TO, slot)))
        return true;
    no_more = true;
    sp_sys(__NR_munmap, copy, length);
    return false;
}

void sp_seed_take(uint64_t addr, uint64_t end)
{
    uint64_t length = (uint64_t)SEED_PAGES << sp_agent.page_shift;
    const struct sp_range *range = sp_range_of(addr, end);

    /* One that fork does not copy would leave a hole in the child's slots, for anybody's mapping. */
    if (end - addr < length || nseeds == SEEDS || no_more || !range ||
        (range->flags & (SP_RANGE_DONTFORK | SP_RANGE_LOCKED)) ||
        find(addr, range))
        return;
    if (copy_to_slot(addr, length, slot_of(&seed[nseeds])))
        seed[nseeds++] = (struct seed){addr, range->flags};
}

/* What lies below the place itself is only needed to reach it: it is unmapped at once, for it would count as
 * the program's memory, go into the children of a fork, and be given large pages. */
uint64_t sp_seed_grow(uint64_t addr, uint64_t length)
{
    const struct sp_range *range = sp_range_of(addr, addr + length);
    const struct seed *s = range ? find(addr, range) : NULL;
    uint64_t page = sp_agent.page_size, below;
    long copy, grown;

    if (!s)
        return 0;
    below = addr - s->from;
    copy = sp_sys(__NR_mremap, slot_of(s), page, page, COPY_ANYWHERE);
    if (sp_is_err(copy))
        return 0;
    grown = below + length > page
                ? sp_sys(__NR_mremap, copy, page, below + length, 1 /* MREMAP_MAYMOVE */)
                : copy;
    if (sp_is_err(grown)) {
        sp_sys(__NR_munmap, copy, page);
        return 0;
    }
    if (!below)
        return (uint64_t)grown;
    if (sp_is_err(sp_sys(__NR_munmap, grown, below))) {
        sp_sys(__NR_munmap, grown, below + length);
        return 0;
    }
    return (uint64_t)grown + below;
}
