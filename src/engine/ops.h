/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything the engine asks of the outside, in one place.
 *
 * Assumptions common to all: pointers are never NULL; addresses are multiples of the page size;
 * mm is the reference that was given to sp_engine_mm_add() and the mm is not removed while a call
 * runs; a call may take long but returns (the caller behind it has time limits of its own); a call
 * never calls back into the engine, but to read counters, which add up then as well. An operation that returns an int returns 0, or a negative
 * errno, which means that the mm could not be asked at all (dead, stalled): the engine then leaves
 * everything of that mm as it was and goes on with the next.
 *
 * The daemon implements this table by messages to agents (src/common/wire.h), the simulator by a
 * simulated machine. The engine knows neither.
 */
#ifndef SP_ENGINE_OPS_H
#define SP_ENGINE_OPS_H

#include <stdbool.h>
#include <stdint.h>

/* A frame by number (H1): segment << 16 | page of the segment. 0 is no frame: segment ids start
 * at 1. */
typedef uint32_t sp_frame;
#define SP_FRAME(segment, index) ((sp_frame)(((uint32_t)(segment) << 16) | (index)))
#define SP_FRAME_SEGMENT(f)      ((f) >> 16)
#define SP_FRAME_INDEX(f)        ((f)&0xffffu)
#define SP_SEGMENT_PAGES_MAX     65536u
#define SP_FILL_PAGES_MAX        128u
#define SP_BLOCK_BYTES           (2u << 20)

/* NUMA nodes, by number. */
#define SP_NODES_MAX 64u
#define SP_NODE_ANY  0xffu

struct sp_hash {
    uint64_t lo, hi;
};

/* What became of one page that was to be merged. Everything but SP_MERGED means: the page is as it
 * was before the call. */
enum sp_result {
    SP_MERGED = 0,  /* maps the frame now; the bytes were compared while nobody could write */
    SP_CHANGED = 1, /* its bytes are not the frame's: try again when it is reported again */
    SP_PINNED = 2,  /* device or kernel I/O refers to it (K6): leave alone for some passes */
    SP_GONE = 3,    /* not mapped, not private anonymous, not registered any more */
    SP_SHARED_BY_FORK = 4, /* fork still shares it (K8); asked again with break_fork it may merge */
    SP_ATTRIBUTES = 5,     /* the mapping has attributes that a merge would lose (K17) */
    SP_OUT_OF_MAPPINGS = 6, /* the process' budget of mappings is used up */
    SP_OUT_OF_MEMORY = 7,   /* the kernel had none */
    SP_OTHER_NODE = 8,      /* the page lies on another node than the frame must (N1) */
};
#define SP_RESULTS 9u

struct sp_scan_page {
    uint64_t addr;
    struct sp_hash hash;
    uint8_t node; /* that the page lies on (N1), below SP_NODES_MAX; 0 where that is not asked */
    uint8_t kept; /* it was merged before: a mapping of frames holds it yet, or was given back */
};

struct sp_scan_run {
    uint64_t addr;
    uint64_t npages;
};

/* What scan() found. The arrays are the engine's, with room for max_* entries. */
struct sp_scan {
    /* asked */
    uint64_t from;    /* 0: a new pass over this mm */
    uint32_t budget;  /* pages to look into at most */
    uint32_t restart; /* 1: report every quiet page again, also those reported before */
    /* answered */
    uint64_t next; /* where to go on; 0: the pass over this mm is complete */
    uint64_t tracked, looked, passed, waiting; /* as in struct sp_report */
    uint32_t mappings, mappings_budget;
    uint32_t npages, nchanged, ngone;
    uint32_t max_pages, max_runs;
    struct sp_scan_page *page;   /* quiet since the last look and hashed now, ascending */
    struct sp_scan_run *changed; /* written since the last look; sites that got their own page */
    struct sp_scan_run *gone;    /* not tracked any more: unmapped, or no longer eligible */
};

struct sp_merge_page {
    uint64_t addr;
    sp_frame frame;
    uint8_t break_fork; /* copy first if fork shares it */
    uint8_t node;       /* that the page must lie on, or SP_NODE_ANY */
    uint8_t result;     /* out: enum sp_result */
};

struct sp_fill_page {
    uint64_t addr;
    sp_frame frame;
    struct sp_hash want;
    uint8_t ok; /* out */
};

/* Whether a frame may leave memory, as far as its use tells (S2). */
enum sp_use {
    SP_USE_NONE = 0, /* nobody used it, or its second chance is over */
    SP_USE_SINCE = 1, /* it was used since this was last asked: a second chance */
    SP_USE_LATER = 2, /* others are to leave before it; nothing was asked */
};

/* What became of a frame that was to leave memory (S3). */
enum sp_evicted {
    SP_EVICTED_DONE = 0, /* no site maps it in memory any more; its bytes are in the store */
    SP_EVICTED_AGAIN =
        1, /* a site could not let go now, or the store is at it: the frame is whole */
    SP_EVICTED_CANNOT = 2, /* the store has no room or failed: the frame is whole */
    SP_EVICTED_LATER = 3,  /* will be tried with others: sp_engine_frame_left() says if it went */
};

struct sp_engine_ops {
    /*
     * Looks at the mm's registered memory from scan->from on, until scan->budget pages were looked
     * into or the mm's end is reached. A page is reported as quiet once (until it changes): it did
     * not change between two looks (K3). The hash is that of the bytes at one moment: they may
     * have changed since. What happened to a page before it was merged is not reported after that:
     * the engine would take it for a write to the site.
     */
    int (*scan)(void *ctx, void *mm, struct sp_scan *scan);

    /*
     * Fills each page's frame with the bytes of the mm's page at addr; n at most SP_FILL_PAGES_MAX,
     * addresses ascending, frames from frame_alloc() that were never filled. ok is set to 1 if the
     * frame now holds bytes whose hash, computed by the callee from its own copy, is want; else to
     * 0, and the frame's contents are undefined: it must go back with frame_free_unused().
     */
    int (*fill)(void *ctx, void *mm, struct sp_fill_page *page, unsigned n);

    /*
     * Merges n pages (at most 2048, addresses ascending) into their frames: each is compared with
     * its frame byte for byte while nobody can write it (K6). Neighbouring pages with neighbouring
     * frames cost one mapping. Sets every result. A negative errno: all pages are to be taken as
     * not merged; should some be merged after all (the answer was lost), the mm is removed and
     * added again by the caller. -EHOSTDOWN: the mm was not asked, so none is, and frames that were
     * made for them are given back as unused.
     */
    int (*merge)(void *ctx, void *mm, struct sp_merge_page *page, unsigned n);

    /*
     * Gives every site in [start, end) a private page with the same bytes. Sets *next to where it
     * stopped (0: done) so that long ranges come in parts, *npages to how many were un-merged.
     * -ENOMEM: memory was short; what was un-merged stays so, nothing is lost.
     */
    int (*unmerge)(void *ctx, void *mm, uint64_t start, uint64_t end, uint64_t *next,
                   uint64_t *npages);

    /*
     * Allocates a run of up to want neighbouring frames on one node for new contents. *node is that
     * which they must lie on (N1), or SP_NODE_ANY; who knows sets it to where they lie. Returns the
     * first and sets *got (1 to want), or 0 when the pool has none (memory short, K10 is the
     * engine's own matter).
     */
    sp_frame (*frame_alloc)(void *ctx, unsigned *node, unsigned want, unsigned *got);

    /* Gives back frames that no site ever mapped: they may be filled again at once. */
    void (*frame_free_unused)(void *ctx, sp_frame frame, unsigned n);

    /* Says that the engine has no site of this frame left and forgot it (K9). The pool frees its
     * memory when it is proven that nothing maps it, not before. */
    void (*frame_forget)(void *ctx, sp_frame frame);

    /*
     * What follows is optional: NULL says that the outside cannot. The engine then refuses what
     * would need it, or leaves it out. Who gives frame_evict gives frame_referenced, frame_locked
     * and frame_bring_back, too.
     */

    /* Says whether anything maps the frame, although the engine has no site of it (T2). */
    bool (*frame_mapped)(void *ctx, sp_frame frame);

    /* Gives n pages of zeros (at most 2048, addresses ascending, frame 0) back to the kernel's own
     * zero page (K15): compared, and answered, as by merge(). */
    int (*zero)(void *ctx, void *mm, struct sp_merge_page *page, unsigned n);

    /* Moves the memory of a frame to another node, which *node gets (H3): its number, contents and
     * sites stay. -ENOMEM: the other nodes have no room; -EBUSY: it cannot be moved now. */
    int (*frame_migrate)(void *ctx, sp_frame frame, unsigned *node);

    /* Moves a frame with all its sites to another number, to, which was allocated and never filled
     * (H3), and frees from; also one that is in the store. An errno: both are as they were. */
    int (*frame_move)(void *ctx, sp_frame from, sp_frame to);

    /* Says whether any site of the frame, or with group, any of that domain or cgroup, was used
     * since this was last asked, and begins anew (S2, S5); or that its turn is not now. */
    enum sp_use (*frame_referenced)(void *ctx, sp_frame frame, uint32_t group);

    /* Says whether any site of the frame is locked in memory (S4). */
    bool (*frame_locked)(void *ctx, sp_frame frame);

    /* Takes the frame from all its sites at once and puts it into the store (S1, S3). */
    enum sp_evicted (*frame_evict)(void *ctx, sp_frame frame);

    /* Brings an evicted frame back into memory, on the node that *node gets; also one that came
     * back by itself. -ENOMEM: memory is short, or it is to be tried later; -EIO: the store cannot give its bytes back (S8). */
    int (*frame_bring_back)(void *ctx, sp_frame frame, unsigned *node);

    /* Memory for the engine's own bookkeeping, once that is large: SP_BLOCK_BYTES at an address
     * that is a multiple of 64; best one large page, for look-ups go anywhere in it. NULL: none.
     * Who gives block_get gives block_put, which takes it back. */
    void *(*block_get)(void *ctx);
    void (*block_put)(void *ctx, void *block);
};

#endif
