/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything the engine asks of the outside, in one place.
 *
 * Assumptions common to all: pointers are never NULL; addresses are multiples of the page size;
 * mm is the reference that was given to sp_engine_mm_add() and the mm is not removed while a call
 * runs; a call may take long but returns (the caller behind it has time limits of its own); a call
 * never calls back into the engine. An operation that returns an int returns 0, or a negative
 * errno, which means that the mm could not be asked at all (dead, stalled): the engine then leaves
 * everything of that mm as it was and goes on with the next.
 *
 * The daemon implements this table by messages to agents (src/common/wire.h), the simulator by a
 * simulated machine. The engine knows neither.
 */
#ifndef SP_ENGINE_OPS_H
#define SP_ENGINE_OPS_H

#include <stdint.h>

/* A frame by number (H1): segment << 16 | page of the segment. 0 is no frame: segment ids start
 * at 1. */
typedef uint32_t sp_frame;
#define SP_FRAME(segment, index) ((sp_frame)(((uint32_t)(segment) << 16) | (index)))
#define SP_FRAME_SEGMENT(f) ((f) >> 16)
#define SP_FRAME_INDEX(f) ((f)&0xffffu)
#define SP_SEGMENT_PAGES_MAX 65536u
#define SP_FILL_PAGES_MAX 128u

struct sp_hash {
    uint64_t lo, hi;
};

/* What became of one page that was to be merged. Everything but SP_MERGED means: the page is as it
 * was before the call. */
enum sp_result {
    SP_MERGED = 0,         /* maps the frame now; the bytes were compared while nobody could write */
    SP_CHANGED = 1,        /* its bytes are not the frame's: try again when it is reported again */
    SP_PINNED = 2,         /* device or kernel I/O refers to it (K6): leave alone for some passes */
    SP_GONE = 3,           /* not mapped, not private anonymous, not registered any more */
    SP_SHARED_BY_FORK = 4, /* fork still shares it (K8); asked again with break_fork it may merge */
    SP_ATTRIBUTES = 5,     /* the mapping has attributes that a merge would lose (K17) */
    SP_OUT_OF_MAPPINGS = 6, /* the process' budget of mappings is used up */
    SP_OUT_OF_MEMORY = 7,   /* the kernel had none */
};

struct sp_scan_page {
    uint64_t addr;
    struct sp_hash hash;
};

struct sp_scan_run {
    uint64_t addr;
    uint64_t npages;
};

/* What scan() found. The arrays are the engine's, with room for max_* entries. */
struct sp_scan {
    /* asked */
    uint64_t from;   /* 0: a new pass over this mm */
    uint32_t budget; /* pages to look into at most */
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
    uint8_t result;     /* out: enum sp_result */
};

struct sp_fill_page {
    uint64_t addr;
    sp_frame frame;
    struct sp_hash want;
    uint8_t ok; /* out */
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
     * frame now holds bytes whose hash, computed by the callee from its own copy, is want; else to 0,
     * and the frame's contents are undefined: it must go back with frame_free_unused().
     */
    int (*fill)(void *ctx, void *mm, struct sp_fill_page *page, unsigned n);

    /*
     * Merges n pages (at most 2048, addresses ascending) into their frames: each is compared with
     * its frame byte for byte while nobody can write it (K6). Neighbouring pages with neighbouring
     * frames cost one mapping. Sets every result. A negative errno: all pages are to be taken as
     * not merged; should some be merged after all (the answer was lost), the mm is removed and
     * added again by the caller.
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
     * Allocates a run of up to want neighbouring frames for new contents. Returns the first and
     * sets *got (1 to want), or 0 when the pool has none (memory short, K10 is the engine's own
     * matter).
     */
    sp_frame (*frame_alloc)(void *ctx, unsigned want, unsigned *got);

    /* Gives back frames that no site ever mapped: they may be filled again at once. */
    void (*frame_free_unused)(void *ctx, sp_frame frame, unsigned n);

    /* Says that the engine has no site of this frame left and forgot it (K9). The pool frees its
     * memory when it is proven that nothing maps it, not before. */
    void (*frame_forget)(void *ctx, sp_frame frame);
};

#endif
