/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The books of the agent: for each 512 pages what is known of them (track.c says what the words mean).
 * Only the agent's process touches them. Included by blocks.c, hot.c, kept.c, lasting.c,
 * quiet.c, track.c and track_explain.c only.
 */
#ifndef SP_AGENT_BLOCKS_H
#define SP_AGENT_BLOCKS_H

#include "agent.h"

#define BLOCK_PAGES 512u
#define BLOCK_WORDS 8u

struct sp_block {
    uint64_t key; /* address >> block shift, plus 1; 0: unused */
    uint64_t pass;
    uint64_t fresh[BLOCK_WORDS], pending[BLOCK_WORDS], hashed[BLOCK_WORDS], site[BLOCK_WORDS];
    uint64_t zero[BLOCK_WORDS]; /* given back to the kernel's page of zeros, as far as the daemon was told */
    uint64_t hot[BLOCK_WORDS];
    uint64_t kept[BLOCK_WORDS], again[BLOCK_WORDS], tagged[BLOCK_WORDS]; /* kept.c */
    uint64_t rank[2][BLOCK_WORDS], slow[BLOCK_WORDS];                    /* lasting.c */
    uint64_t era; /* in which something was merged here last */
    uint64_t hot_due;  /* pass in which the hot pages are tried again */
    uint64_t hot_wait; /* passes from one trial to the next */
    uint64_t calm; /* up to this pass a page may look written without having been, or long ago */
};

extern uint64_t sp_track_pass; /* number of the present pass */

/* The block that holds addr; NULL: there is none, or with make no room for more. */
struct sp_block *sp_block_find(uint64_t addr, bool make);
/* The block is looked at: what was fresh in an earlier pass is pending now. */
void sp_block_roll(struct sp_block *b);
/* What is fresh does not wait for the next pass. */
void sp_block_roll_now(struct sp_block *b);
/* The pages that went, as runs in no order, at most `most`; they are forgotten here. */
#define SP_GONE_MAX 65536u
uint32_t sp_block_take_gone(struct sp_run *run, uint32_t most);
/* How many runs are not told yet. */
uint32_t sp_block_gone(void);

/* track.c: one block's pages in memory that are the process' own (present, or swapped out too), and
 * those whose mapping is the pool's. [start, end) lies in one block. */
void sp_look_own(uint64_t start, uint64_t end, uint64_t *present, uint64_t *own);
void sp_look_pool(uint64_t start, uint64_t end, uint64_t *pool);

/* kept.c */
/* A page that mapped a frame was written: it is the program's own now, in a mapping of the pool. */
void sp_kept_add(struct sp_block *b, uint32_t i);
/* It is not any more. */
void sp_kept_remove(struct sp_block *b, uint32_t i);
/* One look at such a page, which is in memory: true if it is to be reported with this hash. */
bool sp_kept_is_quiet(struct sp_block *b, uint32_t i, uint64_t addr, struct sp_hash128 *hash,
                      bool *changed);
/* Can any of the block be to be looked at in this pass? */
bool sp_kept_any_due(const struct sp_block *b);

/* lasting.c */
void sp_lasting_init(void);
/* A pass begins: must it look, because pages wait whose time has come? */
bool sp_lasting_pass(void);
/* It is not left out. */
void sp_lasting_pass_looks(void);
/* CPU that was used for looking in it, us. */
void sp_lasting_cost(uint64_t us);
/* Is the page one of those that are merged only after a longer rest? */
bool sp_lasting_must_rest(const struct sp_block *b, uint32_t i);
/* Is a page that was written after its merge to be looked at in this pass? */
bool sp_lasting_kept_is_due(const struct sp_block *b, uint32_t i);
/* Can any be? */
bool sp_lasting_any_due(void);
/* What was fresh in an earlier pass is pending now, or rests. */
void sp_lasting_roll(struct sp_block *b, uint32_t word);
/* One page in plain memory: it is pending if it rested for long enough. Once in each pass. */
void sp_lasting_look(struct sp_block *b, uint32_t i);
/* Pages of one word were merged. */
void sp_lasting_merged(struct sp_block *b, uint32_t word, uint64_t pages);
/* Was the page merged before, since it is there? As far as is known. */
bool sp_lasting_was_merged(const struct sp_block *b, uint32_t i);
/* A page that was written after its merge does not come to rest. */
void sp_lasting_restless(struct sp_block *b, uint32_t i);
/* A page that was merged is written. */
void sp_lasting_written(struct sp_block *b, uint32_t i);

/* hot.c */
/* Pages of one word were written in this pass and in the last one that looked at them. Returns those
 * that are hot now. */
uint64_t sp_hot_again(struct sp_block *b, uint32_t word, uint64_t again);
/* The next stretch in [*at, end) that is to be looked at: [*at, returned). Both are end if there is
 * none. */
uint64_t sp_hot_skip(uint64_t *at, uint64_t end);
/* Are hot pages to be tried in this pass? */
bool sp_hot_is_due(void);
/* A pass that looks at everything begins: it finds anew when the next trial is. */
void sp_hot_pass(void);

static inline uint32_t sp_block_shift(void)
{
    return sp_agent.page_shift + 9;
}

static inline uint32_t sp_block_index(uint64_t addr)
{
    return (uint32_t)(addr >> sp_agent.page_shift) & (BLOCK_PAGES - 1);
}

static inline bool sp_bit(const uint64_t *map, uint32_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static inline void sp_bit_set(uint64_t *map, uint32_t i)
{
    map[i / 64] |= 1ull << (i % 64);
}

static inline void sp_bit_clear(uint64_t *map, uint32_t i)
{
    map[i / 64] &= ~(1ull << (i % 64));
}

static inline bool sp_bits_any(const uint64_t *map)
{
    uint64_t all = 0;

    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        all |= map[w];
    return all != 0;
}

/* Bits [from, to) of one word. */
static inline uint64_t sp_bits(uint32_t from, uint32_t to)
{
    return (to == 64 ? ~0ull : (1ull << to) - 1) & (~0ull << from);
}

#endif
