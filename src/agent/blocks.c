/* SPDX-License-Identifier: Apache-2.0 */
#include "blocks.h"

#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define BLOCKS (1u << 17) /* of 2 MiB: 256 GiB of tracked memory */

static struct sp_block *table;
static uint32_t used;
static struct sp_run gone[SP_GONE_MAX]; /* only what is used is ever in memory */
static uint32_t ngone;

uint64_t sp_track_pass;

uint64_t sp_track_bytes(void)
{
    return BLOCKS * sizeof(struct sp_block);
}

void sp_track_init(void)
{
    table = (struct sp_block *)sp_agent.track_area;
    sp_sys(__NR_madvise, table, sp_track_bytes(), 4 /* MADV_DONTNEED: all zero again */);
    used = 0;
    ngone = 0;
    sp_track_pass = 1;
    sp_kept_init();
    sp_lasting_init();
    sp_quiet_disturb(); /* in a forked child the parent's state is no word about this process */
}

struct sp_block *sp_block_find(uint64_t addr, bool make)
{
    uint64_t key = (addr >> sp_block_shift()) + 1;
    uint32_t i = (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 47);

    for (;; i = (i + 1) & (BLOCKS - 1)) {
        if (table[i].key == key)
            return &table[i];
        if (!table[i].key)
            break;
    }
    if (!make || used >= BLOCKS / 4 * 3)
        return NULL; /* more memory than we keep books for: not looked at */
    used++;
    table[i].key = key;
    table[i].pass = sp_track_pass;
    return &table[i];
}

void sp_block_roll(struct sp_block *b)
{
    if (b->pass == sp_track_pass)
        return;
    if (sp_track_pass - b->pass > 1)
        b->calm = sp_track_pass; /* what it knows is of another time, perhaps of other memory */
    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        sp_lasting_roll(b, w);
    b->pass = sp_track_pass;
}

void sp_block_roll_now(struct sp_block *b)
{
    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        sp_lasting_roll(b, w);
}

void sp_track_restart(void)
{
    sp_quiet_disturb();
    for (uint32_t i = 0; i < BLOCKS && used; i++) {
        struct sp_block *b = &table[i];

        for (unsigned w = 0; b->key && w < BLOCK_WORDS; w++) {
            b->pending[w] |= b->hashed[w] & ~b->site[w] & ~b->zero[w] & ~b->kept[w];
            b->again[w] |= b->kept[w] & ~b->rank[1][w];
            b->hashed[w] &= b->site[w] | b->zero[w];
        }
    }
}

/* For the next report: the daemon is to forget what it knows of these pages. */
static void note_gone(uint64_t addr, uint64_t end)
{
    struct sp_run *last = ngone ? &gone[ngone - 1] : NULL;
    uint64_t last_end = last ? last->addr + (last->npages << sp_agent.page_shift) : 0;

    if (last && last_end == addr) {
        last->npages += (end - addr) >> sp_agent.page_shift;
        return;
    }
    if (ngone < SP_GONE_MAX) {
        gone[ngone++] = (struct sp_run){addr, (end - addr) >> sp_agent.page_shift};
        return;
    }
    /* No room to say it exactly: the last entry grows over the gap. Pages in it that are still there
     * are reported again when they are looked at. */
    if (addr < last->addr)
        last->addr = addr;
    if (end > last_end)
        last_end = end;
    last->npages = (last_end - last->addr) >> sp_agent.page_shift;
}

void sp_track_pending(uint64_t addr, uint64_t npages)
{
    sp_quiet_disturb();
    for (; npages; npages--, addr += sp_agent.page_size) {
        struct sp_block *b = sp_block_find(addr, true);
        uint32_t i = sp_block_index(addr);
        bool told = sp_agent.daemon_unmerges, had_mapping;

        if (!b)
            return;
        if ((sp_bit(b->site, i) || sp_bit(b->zero, i)) && !told)
            note_gone(addr, addr + sp_agent.page_size);
        had_mapping = !told && (sp_bit(b->site, i) || sp_bit(b->kept, i));
        b->calm = sp_track_pass + 1; /* it is not protected any more, which looks like a write */
        sp_bit_clear(b->hot, i);
        sp_bit_clear(b->hashed, i);
        sp_bit_clear(b->site, i);
        sp_bit_clear(b->zero, i);
        sp_bit_clear(b->slow, i);
        sp_kept_remove(b, i);
        sp_bit_set(b->fresh, i);
        if (had_mapping)
            sp_bit_set(b->tagged, i);
    }
}

/* Pages that merge now are no more among those that went: what was noted of their past is void. */
static void not_gone(uint64_t addr, uint64_t end)
{
    for (uint32_t i = 0; i < ngone; i++) {
        uint64_t from = gone[i].addr, to = from + (gone[i].npages << sp_agent.page_shift);

        if (end <= from || addr >= to)
            continue;
        if (end < to && from < addr && ngone < SP_GONE_MAX)
            gone[ngone++] = (struct sp_run){end, (to - end) >> sp_agent.page_shift};
        if (from < addr)
            gone[i].npages = (addr - from) >> sp_agent.page_shift;
        else if (end < to)
            gone[i] = (struct sp_run){end, (to - end) >> sp_agent.page_shift};
        else
            gone[i--] = gone[--ngone];
    }
}

static void note_merged(uint64_t addr, uint64_t npages, bool zeros)
{
    uint64_t end = addr + (npages << sp_agent.page_shift);

    sp_quiet_disturb();
    not_gone(addr, end);
    while (npages) {
        struct sp_block *b = sp_block_find(addr, true);
        uint32_t from = sp_block_index(addr), to = from + npages < BLOCK_PAGES ? from + npages
                                                                         : BLOCK_PAGES;

        for (uint32_t w = from / 64; b && w * 64 < to; w++) {
            uint64_t all = sp_bits(w * 64 < from ? from % 64 : 0, to < w * 64 + 64 ? to - w * 64 : 64);

            b->fresh[w] &= ~all;
            b->pending[w] &= ~all;
            b->hot[w] &= ~all;
            for (uint64_t kept = b->kept[w] & all; kept; kept &= kept - 1)
                sp_kept_remove(b, w * 64 + (uint32_t)__builtin_ctzll(kept));
            sp_lasting_merged(b, w, all);
            b->hashed[w] |= all;
            b->site[w] = zeros ? b->site[w] & ~all : b->site[w] | all;
            b->zero[w] = zeros ? b->zero[w] | all : b->zero[w] & ~all;
        }
        npages -= to - from;
        addr += (uint64_t)(to - from) << sp_agent.page_shift;
    }
}

void sp_track_merged(uint64_t addr, uint64_t npages)
{
    note_merged(addr, npages, false);
}

void sp_track_zeroed(uint64_t addr, uint64_t npages)
{
    note_merged(addr, npages, true);
}

/* Should it come back (it was only read-only, say), the kernel still has it protected, and nothing but
 * this bit says that it is to be looked at. */
static void gone_page(struct sp_block *b, uint32_t i)
{
    if (sp_bit(b->pending, i) || sp_bit(b->hot, i) || sp_bit(b->hashed, i) || sp_bit(b->site, i) ||
        sp_bit(b->kept, i) || sp_bit(b->slow, i))
        sp_bit_set(b->fresh, i); /* what is zero is hashed, too */
    sp_bit_clear(b->pending, i);
    sp_bit_clear(b->hot, i);
    sp_bit_clear(b->hashed, i);
    sp_bit_clear(b->site, i);
    sp_bit_clear(b->zero, i);
    sp_bit_clear(b->slow, i);
    sp_bit_clear(b->tagged, i);
    sp_bit_clear(b->rank[0], i);
    sp_bit_clear(b->rank[1], i);
    sp_kept_remove(b, i);
}

void sp_track_gone(uint64_t addr, uint64_t end)
{
    uint64_t size = 1ull << sp_block_shift();

    sp_quiet_disturb();
    for (uint64_t at = addr; at < end;) {
        uint64_t stop = (at & ~(size - 1)) + size;
        struct sp_block *b = sp_block_find(at, false);

        if (stop > end)
            stop = end;
        for (uint64_t p = at; b && p < stop; p += sp_agent.page_size)
            gone_page(b, sp_block_index(p));
        at = stop;
    }
    sp_zeroed_clear(addr, end);
    note_gone(addr, end);
}

uint32_t sp_block_take_gone(struct sp_run *run, uint32_t most)
{
    uint32_t n = ngone < most ? ngone : most;

    ngone -= n;
    memcpy(run, &gone[ngone], n * sizeof(*gone));
    return n;
}

uint32_t sp_block_gone(void)
{
    return ngone;
}
