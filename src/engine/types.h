/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's data and what always holds for it. Only src/engine/ and its unit tests include this.
 *
 * Items stand in chunks of 512 neighbouring pages of one mm (8 bytes a page). An item's number is
 * its chunk's number times 512 plus its place: 32 bits. Chunks are freed at the end of a step,
 * never in the middle: item numbers stay good for as long as a step runs.
 *
 * Stable nodes stand where their frame's number says (H1): chunks of 512 frames below a directory
 * of segments (16 bytes a frame). A site's item names the frame, so no list of sites is needed.
 *
 * A table costs each of its entries 11 to 16 bytes. In all a tracked page costs 18 to 20 bytes
 * while it waits for its like, and 22 to 22.6 once it shares a frame with one other page, which is
 * the worst case (bookkeeping_is_at_most_24_bytes_a_page; where chunks are full).
 *
 * What is kept of a hash, and compared when a page is looked up: its lo; of a candidate, 61 bits of
 * that. More would buy nothing: chance makes no two contents agree in so much, and against clients,
 * who know the seed, the other half of a hash that is not cryptographic is no guard either. Such a
 * pair costs a merge that is answered SP_CHANGED, once for each report of the page, and never
 * shares a frame (K6); what a frame is filled with has the whole hash (ops.h, fill).
 *
 * Invariants:
 *  - one candidate for each fingerprint: rows stay short however much equal memory waits;
 *  - node.nsites is the number of items in state SITE with that frame;
 *  - chunk.used is the number of its items that are not UNKNOWN;
 *  - the sums in struct sp_engine and struct sp_mm are those of a walk over everything (K12).
 */
#ifndef SP_ENGINE_TYPES_H
#define SP_ENGINE_TYPES_H

#include "sp_assert.h"
#include "engine.h"

#define SP_CHUNK_SHIFT 9u
#define SP_CHUNK_PAGES (1u << SP_CHUNK_SHIFT)
#define SP_NONE        UINT32_MAX /* no item, no frame */
#define SP_LINE        64u        /* bytes of a line of the processor's caches */

#define SP_BATCH_PAGES 2048u /* pages a scan answers, and a merge names, at most */
#define SP_BATCH_RUNS  1024u /* runs a scan answers at most, of each kind */

/* Addresses at or above this are no program's: what names them is ignored. */
#define SP_ADDRESS_END (UINT64_C(1) << 62)

#define SP_MUST_CHECK __attribute__((warn_unused_result))

enum sp_item_state {
    SP_ITEM_UNKNOWN = 0,   /* nothing is known of the page */
    SP_ITEM_CANDIDATE = 1, /* key is the fingerprint; stands in the table of candidates */
    SP_ITEM_SITE = 2,      /* key is the frame */
    SP_ITEM_REFUSED = 3,   /* key is an enum sp_refusal */
};

/* The key, 61 bits, in two parts: one number of 64 bits would cost four bytes of padding. */
struct sp_item {
    uint32_t key_low;
    uint32_t key_high : 29;
    uint32_t met : 1; /* a candidate that met its like in vain: for explain, too */
    uint32_t state : 2;
};
#define SP_ITEM_KEY_MASK ((UINT64_C(1) << 61) - 1)

/* No item lies in two lines of the processor's caches; so in struct sp_node_chunk. */
struct sp_chunk {
    struct sp_mm *mm;
    uint64_t base; /* address of the first page */
    uint32_t id;
    uint32_t next_empty; /* in the list of chunks that may be empty at the end of the step */
    uint16_t used;
    bool listed; /* in that list */
    _Alignas(16) struct sp_item item[SP_CHUNK_PAGES];
};

struct sp_node {
    uint64_t fingerprint; /* lo of the hash */
    uint32_t link;        /* next linked frame with this fingerprint */
    uint32_t nsites : 21;
    uint32_t node : 6;    /* that the frame lies on (N3); it is part of the fingerprint (N1) */
    uint32_t idle : 1;    /* had no site when the last pass ended */
    uint32_t live : 1;    /* this place is a stable node */
    uint32_t linked : 1;  /* stands in the table: it has room for sites (K14) */
    uint32_t evicted : 1; /* is in the store, as far as the engine was told (S) */
    uint32_t lost : 1;    /* takes no further sites: the store lost its bytes (S8), or memory was
                             short when it moved to node, and its fingerprint is still the one of
                             the node before */
};
#define SP_SITES_MAX  ((1u << 21) - 1)
#define SP_SITES_FULL (1u << 20) /* by merging; beyond, by adoption only */

/* A content with several frames: made with the second, or when the first is full (K14). */
struct sp_chain {
    uint64_t fingerprint;
    uint32_t nframes;
    uint32_t link; /* the next free one, of those that are free */
};

struct sp_node_chunk {
    uint32_t used;  /* live nodes */
    uint32_t empty; /* live nodes without a site */
    _Alignas(16) struct sp_node node[SP_CHUNK_PAGES];
};

struct sp_node_segment {
    uint32_t used; /* chunks */
    bool avoided;  /* its frames get no further sites */
    struct sp_node_chunk *chunk[SP_SEGMENT_PAGES_MAX >> SP_CHUNK_SHIFT];
};

/* Numbers of entries, each with some bits of its key, in one line of the processor's caches. */
#define SP_BUCKET_PLACES 10u
struct sp_bucket {
    uint32_t number[SP_BUCKET_PLACES];
    uint16_t tag[SP_BUCKET_PLACES];
    uint32_t used : 4;  /* places, from the first on */
    uint32_t more : 28; /* the overflowing bucket that it goes on in, and one; 0: none */
};
#define SP_OVER_MAX ((1u << 28) - 1)

/* An array of buckets that grows and shrinks at its end; none moves but in a small one. */
#define SP_SEGMENT_BUCKETS 1024u
struct sp_buckets {
    struct sp_bucket **segment;
    uint32_t nsegments; /* that there are pointers for */
    uint32_t room, count;
};

struct sp_table {
    struct sp_buckets home, over; /* chosen by the key; where those go on that are full */
    uint32_t mask;
    uint32_t count; /* entries */
};

struct sp_mm {
    struct sp_mm *prev, *next; /* in the order of the cursor */
    struct sp_engine *engine;
    void *ref;
    uint64_t serial; /* in the order of their adding: what sorts by it is the same in every run */
    struct sp_chunk **chunk; /* by ascending base */
    uint32_t nchunks, chunk_room;
    uint64_t from; /* where the next scan goes on, 0: a new pass over this mm */
    uint64_t tracked, sites, candidates;
    uint64_t pass_reported;        /* pages that this pass reported as quiet */
    uint64_t zero_pages;           /* given back to the kernel's zero page (K15) */
    uint64_t met;                  /* candidates that are */
    uint64_t refused[SP_REFUSALS]; /* items in that state, by reason */
    uint32_t mappings, mappings_budget;
    uint32_t empty_answers; /* scans in a row that looked at nothing and did not finish */
    uint32_t retry_wait;    /* passes left until pages that were passed over are asked for again */
    uint32_t retry_after;   /* what retry_wait starts at: doubled when a retry merged nothing */
    bool scanned;           /* at least once */
    bool restart;           /* the next pass asks for every quiet page again */
    bool retry;             /* pages were passed over: restart when retry_wait is over */
    bool retrying;          /* this pass is such a retry */
    bool merged_in_retry;
    bool unmerge_failed;   /* un-merge: it could not be asked */
    uint64_t unmerge_from; /* un-merge: where it goes on */
    uint64_t
        unmerge_allowed; /* answers it may still take: a client that lies must not hold up all */
};

/* One page of a scan's answer and what is to become of it. */
enum sp_plan_kind {
    SP_PLAN_NOTHING = 0, /* is what it should be */
    SP_PLAN_NODE,        /* merges into the frame of a stable node (K4) */
    SP_PLAN_JOB,         /* merges into a frame that is made in this batch (K7) */
    SP_PLAN_SETTLE,      /* found nobody: becomes a candidate (K5) */
    SP_PLAN_ZERO,        /* is all zeros: the kernel's own zero page (K15) */
};

struct sp_plan {
    uint64_t addr;
    struct sp_hash hash; /* lo is made the node's own (nodes.c), here and in struct sp_job */
    uint32_t item;
    sp_frame frame; /* NODE */
    uint16_t job;   /* JOB */
    uint16_t run;   /* policy.c: length of the run that starts here and has no mapping yet */
    uint8_t kind;
    uint8_t node;
    uint8_t kept; /* as in struct sp_scan_page */
    uint8_t doubtful; /* a merge refused it for long */
    uint8_t result;   /* of the merge; SP_NOT_ASKED before */
};

#define SP_NOT_ASKED 0xffu /* no answer: not asked yet, or the mm could not be */

/* One new frame: the pages of the batch that become its sites, and the candidate that does. */
struct sp_job {
    struct sp_hash hash;
    uint32_t partner; /* item; SP_NONE: the batch's pages are equal among themselves */
    uint32_t site;    /* item of the last site it got */
    sp_frame frame;   /* 0: none, the job is off */
    uint16_t source;  /* the plan that the frame is filled from */
    uint16_t npages;  /* plans of this job */
    uint16_t ladder;  /* jobs of the ladder that starts here; 1: no ladder */
    uint16_t link;    /* chain in the batch's table of jobs */
    uint8_t partner_result;
    uint8_t node;
    bool mapped;       /* some site mapped it: it goes by frame_forget, not by frame_free_unused */
    bool maybe_mapped; /* an answer was lost: the frame stays until the sweep */
    bool no_frame;     /* the pool had none, or K10 left none */
    bool both_forked;  /* fork shares both, but not with one another: they lie at two addresses */
};

/* One page that a merge or an un-merge names. */
struct sp_target {
    struct sp_mm *mm;
    uint64_t addr;
    uint32_t item;
    sp_frame frame;
    uint16_t job;  /* SP_NO_JOB: none */
    uint16_t plan; /* SP_NO_PLAN: the partner of the job */
    uint8_t break_fork;
    uint8_t node;
    uint8_t result;
    bool lost; /* it was asked for, and no answer came: it may be merged */
};

#define SP_NO_JOB    UINT16_MAX
#define SP_NO_PLAN   UINT16_MAX
#define SP_JOB_HEADS 2048u

/* Pages of the batch that are to become sites of a frame that is there (K14). */
struct sp_reserve {
    sp_frame frame; /* 0: free */
    uint32_t npages;
};
#define SP_RESERVES 4096u

/* Everything one scan's answer needs; there only while passes find something to look into. */
struct sp_batch {
    struct sp_mm *mm; /* the one that was scanned */
    bool mm_failed;   /* it answered with an errno: nothing more is asked of it now */
    uint32_t nplans, njobs;
    struct sp_plan plan[SP_BATCH_PAGES];
    struct sp_job job[SP_BATCH_PAGES];
    uint16_t job_head[SP_JOB_HEADS];
    struct sp_reserve reserve[SP_RESERVES];
    struct sp_target target[SP_BATCH_PAGES * 2];
    struct sp_merge_page merge[SP_BATCH_PAGES];
    struct sp_fill_page fill[SP_FILL_PAGES_MAX];
    uint32_t fill_plan[SP_FILL_PAGES_MAX]; /* the plan that each is for */
    uint8_t fill_node[SP_FILL_PAGES_MAX];  /* that its frame lies on */
    uint32_t nfill;
    struct sp_scan_page page[SP_BATCH_PAGES];
    struct sp_scan_run changed[SP_BATCH_RUNS];
    struct sp_scan_run gone[SP_BATCH_RUNS];
};

/* What there is of one kind of pieces (pieces.c). */
enum sp_piece_kind { SP_PIECE_ITEMS, SP_PIECE_NODES, SP_PIECE_BUCKETS, SP_PIECE_KINDS };
struct sp_pieces {
    uint64_t used;
    uint32_t room;  /* pieces left in the blocks of this kind */
    uint32_t block; /* that had one left, when one was taken last */
};
struct sp_block;

/* A node or a segment that goes away (H2). */
struct sp_drain {
    bool on;
    bool by_node;
    uint32_t what; /* node or segment */
    uint32_t next; /* segment that the next step looks at */
};

struct sp_engine {
    const struct sp_engine_ops *ops;
    void *ctx;
    uint64_t page_size;
    unsigned page_shift;
    enum sp_engine_run run;
    uint64_t max_kernel_pages;
    uint64_t memory_limit; /* bytes the engine may allocate, 0: no limit; unit tests set it */
    uint64_t memory_used;
    struct sp_pieces pieces[SP_PIECE_KINDS];
    struct sp_block *block; /* by ascending address */
    uint32_t nblocks, block_room;
    uint64_t blocks_from; /* bytes of a kind */

    uint64_t serial;
    struct sp_mm *first, *last, *cursor; /* cursor NULL: the pass is at its end */
    struct sp_mm *unmerge_cursor;
    bool unmerge_busy;  /* an mm was passed over */
    bool unmerge_short; /* one of them because memory was short */

    struct sp_chunk **chunk; /* by number; NULL: free */
    uint32_t nchunks, chunk_room, free_chunk;
    uint32_t empty_chunks; /* list: chunks that may be empty */
    struct sp_table candidates;
    struct sp_node_segment **segment;
    uint32_t nsegments;
    struct sp_table nodes; /* those that are linked */
    uint64_t nnodes;
    struct sp_chain *chain; /* K14, by number */
    uint32_t chain_room, free_chain;
    struct sp_table chains;
    uint64_t nchains, ndups; /* of several frames; the frames in them */

    uint32_t max_page_sharing; /* 0: no limit of our own */
    bool merge_across_nodes;
    bool use_zero_pages, smart_scan;
    struct sp_hash zero_hash;
    struct sp_drain drain;
    sp_frame reclaim_hand; /* where the next reclaim goes on */

    uint64_t nshared, nsites; /* nodes with a site; sites */
    uint64_t nevicted, nlost, store_errors;
    uint64_t evictions, second_chances, pruned, stale_mapped, skipped;
    uint64_t full_scans, quiet_passes, scanned;
    uint64_t merges[SP_RESULTS]; /* by enum sp_result */
    uint64_t undone;

    uint64_t pass_merges, pass_waiting; /* since the pass began */
    bool pass_unsettled;                /* an mm was added or scanned for the first time */
    bool pass_hashed;                   /* a page was reported */
    bool pass_left_out;                 /* an mm could not be asked, or not to its end */

    struct sp_batch *batch; /* NULL between passes that find nothing */
};

/* engine.c: if no page is remembered, all memory goes that remembering takes. */
void sp_engine_trim(struct sp_engine *engine);

/* memory.c: malloc with the sum kept. NULL over memory_limit, too. Sizes are the caller's. */
void *sp_memory_get(struct sp_engine *engine, size_t size) SP_MUST_CHECK;
void sp_memory_put(struct sp_engine *engine, void *memory, size_t size);
/* The same, not zeroed, beginning with a line. */
void *sp_memory_get_lines(struct sp_engine *engine, size_t size) SP_MUST_CHECK;
/* As realloc: on NULL the old memory stays. */
void *sp_memory_resize(struct sp_engine *engine, void *memory, size_t old,
                       size_t size) SP_MUST_CHECK;
/* So many bytes more are within memory_limit. */
bool sp_memory_allowed(const struct sp_engine *engine, size_t more);

/* pieces.c */
/* One piece, zeroed unless it is for buckets, which begin with a line; NULL as above. */
void *sp_piece_get(struct sp_engine *engine, enum sp_piece_kind kind) SP_MUST_CHECK;
void sp_piece_put(struct sp_engine *engine, enum sp_piece_kind kind, void *piece);
/* All pieces went. */
void sp_pieces_free(struct sp_engine *engine);

/* buckets.c */
static inline struct sp_bucket *sp_bucket(const struct sp_buckets *buckets, uint32_t number)
{
    return &buckets->segment[number / SP_SEGMENT_BUCKETS][number % SP_SEGMENT_BUCKETS];
}
/* One more, which is empty; may move the others. -ENOMEM. */
int sp_buckets_push(struct sp_engine *engine, struct sp_buckets *buckets) SP_MUST_CHECK;
/* The last one goes; may move the others. */
void sp_buckets_pop(struct sp_engine *engine, struct sp_buckets *buckets);
void sp_buckets_free(struct sp_engine *engine, struct sp_buckets *buckets);

/* table.c: 32-bit numbers under 64-bit keys, each key once; key_of says which one a number's is. */
typedef uint64_t sp_table_key_of(const struct sp_engine *engine, uint32_t number);
/* Puts number in, whose key no other has. -ENOMEM; -ENOSPC: too many keys are like it. */
int sp_table_insert(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of,
                    uint32_t number) SP_MUST_CHECK;
/* Takes number out, which is there. */
void sp_table_remove(struct sp_engine *engine, struct sp_table *table, sp_table_key_of *key_of,
                     uint32_t number);
/* Has new stand for old, which is there under this key. */
void sp_table_replace(struct sp_table *table, uint64_t key, uint32_t old, uint32_t new);
/* The number with this key, or SP_NONE. */
uint32_t sp_table_find(const struct sp_engine *engine, const struct sp_table *table,
                       sp_table_key_of *key_of, uint64_t key);
/* The key is looked up soon: its bucket is asked for; then, from the bucket alone, the number that
 * is likely to be found, or SP_NONE. */
void sp_table_prefetch(const struct sp_table *table, uint64_t key);
uint32_t sp_table_guess(const struct sp_table *table, uint64_t key);
void sp_table_free(struct sp_engine *engine, struct sp_table *table);

/* item.c */
static inline struct sp_chunk *sp_item_chunk(const struct sp_engine *engine, uint32_t item)
{
    return engine->chunk[item >> SP_CHUNK_SHIFT];
}
static inline uint32_t sp_item_place(uint32_t item)
{
    return item & (SP_CHUNK_PAGES - 1);
}
static inline struct sp_item *sp_item(const struct sp_engine *engine, uint32_t item)
{
    return &sp_item_chunk(engine, item)->item[sp_item_place(item)];
}
static inline enum sp_item_state sp_item_state(const struct sp_engine *engine, uint32_t item)
{
    return (enum sp_item_state)sp_item(engine, item)->state;
}
static inline uint64_t sp_item_key(const struct sp_engine *engine, uint32_t item)
{
    const struct sp_item *at = sp_item(engine, item);

    return (uint64_t)at->key_high << 32 | at->key_low;
}
static inline struct sp_mm *sp_item_mm(const struct sp_engine *engine, uint32_t item)
{
    return sp_item_chunk(engine, item)->mm;
}
static inline uint64_t sp_item_addr(const struct sp_engine *engine, uint32_t item)
{
    return sp_item_chunk(engine, item)->base + sp_item_place(item) * engine->page_size;
}
/* The frame that it is a site of, 0: none. */
static inline sp_frame sp_item_site(const struct sp_engine *engine, uint32_t item)
{
    return sp_item_state(engine, item) == SP_ITEM_SITE ? (sp_frame)sp_item_key(engine, item) : 0;
}
/* The item of a page, or SP_NONE. */
uint32_t sp_item_find(const struct sp_mm *mm, uint64_t addr);
/* The same, making its chunk if need be; good until the step ends. SP_NONE: memory is short, or,
 * unless it must be, the mm's items would lie so thin that they cost more than a merge saves. */
uint32_t sp_item_get(struct sp_mm *mm, uint64_t addr, bool must);
/* The same, if it stands in the chunk of this item of the mm; otherwise SP_NONE. */
uint32_t sp_item_beside(const struct sp_engine *engine, uint32_t item, uint64_t addr);
/* The frame that the page is a site of, 0: none. */
sp_frame sp_item_frame(const struct sp_mm *mm, uint64_t addr);
/* Makes the page unknown, whatever it was. */
void sp_item_forget(struct sp_engine *engine, uint32_t item);
/* The same for all pages in [start, end) that are in state only; SP_ITEM_UNKNOWN: in any. */
void sp_item_forget_range(struct sp_mm *mm, uint64_t start, uint64_t end, enum sp_item_state only);
/* Makes the page one of the kernel's zero page (K15): a site of frame 0. */
void sp_item_set_zero(struct sp_engine *engine, uint32_t item);
/* Every site of a frame of this segment that moved is one of moved[index] now; 0: it did not. */
void sp_item_renumber(struct sp_engine *engine, uint32_t segment, const sp_frame *moved);
/* Makes the page a site of a live node (K11, K12). */
void sp_item_set_site(struct sp_engine *engine, uint32_t item, sp_frame frame);
/* Makes the page a candidate (K5). False if one with this fingerprint exists, or there is no room:
 * the page is unknown then. Of fingerprints, here and below, the low 61 bits count. */
bool sp_item_set_candidate(struct sp_engine *engine, uint32_t item, uint64_t fingerprint);
/* The same, where it was just looked up that there is none with this fingerprint. */
bool sp_item_new_candidate(struct sp_engine *engine, uint32_t item, uint64_t fingerprint);
/* Notes of a candidate that it met an equal page and both could not be merged. Of others: nothing.
 */
void sp_item_set_met(struct sp_engine *engine, uint32_t item);
/* Makes the page a refused one: not merged for this reason. A candidate is none any more. */
void sp_item_refuse(struct sp_engine *engine, uint32_t item, enum sp_refusal why);
/* The page is a candidate with another fingerprint. */
bool sp_item_is_other_candidate(const struct sp_engine *engine, uint32_t item,
                                uint64_t fingerprint);
/* The candidate with this fingerprint, or SP_NONE. */
uint32_t sp_item_candidate(const struct sp_engine *engine, uint64_t fingerprint);
/* Frees the chunks that hold nothing any more. Ends the life of item numbers. */
void sp_item_reclaim(struct sp_engine *engine);
/* Frees all chunks of an mm whose items are unknown. */
void sp_item_free_mm(struct sp_mm *mm);

/* The item is looked at soon. */
void sp_item_prefetch(const struct sp_engine *engine, uint32_t item);

/* stable.c */
/* The node of this frame, which is live, is looked at soon. */
void sp_stable_prefetch(const struct sp_engine *engine, sp_frame frame);
/* The first linked frame with this fingerprint, or SP_NONE; the others are its node's links. */
uint32_t sp_stable_first(const struct sp_engine *engine, uint64_t fingerprint);
/* The node of a frame, or NULL. */
struct sp_node *sp_stable_node(const struct sp_engine *engine, sp_frame frame);
/* There is a node of this frame, with this fingerprint. */
bool sp_stable_holds(const struct sp_engine *engine, sp_frame frame, uint64_t fingerprint);
/* Makes the node of a frame that has none. -ENOMEM; -EINVAL: no such frame can be. */
int sp_stable_add(struct sp_engine *engine, sp_frame frame, uint64_t fingerprint,
                  unsigned node) SP_MUST_CHECK;
/* The node takes no further sites; those that it has stay. */
void sp_stable_set_lost(struct sp_engine *engine, sp_frame frame);
void sp_stable_set_evicted(struct sp_engine *engine, sp_frame frame, bool evicted);
/* Files a frame under another node (N3). If memory is short it is found no more. */
void sp_stable_refile(struct sp_engine *engine, sp_frame frame, unsigned node);
/* Puts from's sites and state to the node of frame to, which has none, and removes from's (H3). */
void sp_stable_transfer(struct sp_engine *engine, sp_frame from, sp_frame to);
/* The node may get n more sites by merging (K14). */
bool sp_stable_has_room(const struct sp_engine *engine, sp_frame frame, uint32_t n);
/* Sites that a frame may get by merging (K14). */
uint32_t sp_stable_limit(const struct sp_engine *engine);
/* Calls fn for every live node; of one segment, unless segment is SP_NONE. fn may remove the node.
 * Stops when fn returns other than 0, and returns that. */
int sp_stable_each(struct sp_engine *engine, uint32_t segment,
                   int (*fn)(struct sp_engine *engine, sp_frame frame, void *arg), void *arg);
/* Removes a node without sites. Says nothing to the pool. */
void sp_stable_remove(struct sp_engine *engine, sp_frame frame);
/* One more, one fewer site. */
void sp_stable_site_added(struct sp_engine *engine, sp_frame frame);
void sp_stable_site_removed(struct sp_engine *engine, sp_frame frame);
/*
 * The frame with this fingerprint that suits best: wanted itself, if it has it; else the first
 * frame of the longest row of neighbours with it, whose length *row gets. 0: there is none.
 */
sp_frame sp_stable_find(const struct sp_engine *engine, uint64_t fingerprint, sp_frame wanted,
                        unsigned *row);
/* K9: removes nodes that have had no site for a whole pass; all without a site, if at_once. */
void sp_stable_sweep(struct sp_engine *engine, bool at_once);
/* Something maps the frame, though the engine has no site of it: its node stays (T2). */
bool sp_stable_is_mapped(struct sp_engine *engine, sp_frame frame);
void sp_stable_free(struct sp_engine *engine);

/* chains.c: K14. */
/* One more frame with this content, others among which are found in the table of nodes. -ENOMEM. */
int sp_chain_frame_added(struct sp_engine *engine, uint64_t fingerprint) SP_MUST_CHECK;
void sp_chain_frame_removed(struct sp_engine *engine, uint64_t fingerprint);
/* The content has a chain, so that a frame of it may leave the table of nodes; makes it. */
bool sp_chain_make(struct sp_engine *engine, uint64_t fingerprint);
void sp_chains_free(struct sp_engine *engine);
/* Pages of the batch that are to merge into a frame that is there: one more; how many. */
void sp_reserve_page(struct sp_batch *batch, sp_frame frame);
uint32_t sp_reserved(const struct sp_batch *batch, sp_frame frame);

/* nodes.c: N. A fingerprint as it is filed for a node; applied twice it is the hash's own again. */
uint64_t sp_node_key(const struct sp_engine *engine, uint64_t fingerprint, unsigned node);

/* swap.c: S9. A merge into this frame is at hand: it comes back if it is in the store. 0, -ENOMEM,
 * or -EIO. */
int sp_swap_in(struct sp_engine *engine, sp_frame frame);

/* zero.c: K15. The page is to go back to the kernel's zero page. */
bool sp_zero_is(const struct sp_engine *engine, const struct sp_hash *hash);
/* Plans made for such pages are carried out. */
void sp_zero_batch(struct sp_engine *engine);

/* run.c */
/* mm was added while everything is being un-merged: the un-merging reaches it, too (T3). */
void sp_run_mm_added(struct sp_engine *engine, struct sp_mm *mm);

/* match.c: what a scan's answer leads to, planned (K4, K5, K7); merge.c: done (K6 to K8). */
void sp_match_batch(struct sp_engine *engine, struct sp_mm *mm, const struct sp_scan *scan);
void sp_merge_batch(struct sp_engine *engine);
/* Counts the pages of each job again, and chooses its source, after plans were taken out. */
void sp_match_recount(struct sp_batch *batch);
/* The page was not merged, for a reason of its own. */
void sp_merge_reject(struct sp_engine *engine, uint32_t item, uint8_t result);

/* policy.c: which merges are worth their mappings now. */
/* The shortest run of pages that is merged in this mm now; UINT32_MAX: nothing at all. */
uint32_t sp_policy_shortest_run(const struct sp_mm *mm);
/* Takes out of the batch what is too short, on the scanned side and on the partners'. */
void sp_policy_apply(struct sp_engine *engine);
/* Pages of this mm were passed over: they are asked for again in some passes. */
void sp_policy_retry_later(struct sp_mm *mm);
/* The mm could not be asked to merge: that says nothing of what asking for every quiet page again leads to. */
void sp_policy_not_asked(struct sp_mm *mm);
/* Says whether the pass that begins over this mm asks for every quiet page again. */
bool sp_policy_restart(const struct sp_mm *mm);
/* The mm answered that question. */
void sp_policy_pass_begun(struct sp_mm *mm, bool restart);
/* A pass over this mm is complete. */
void sp_policy_pass_done(struct sp_mm *mm);

#endif
