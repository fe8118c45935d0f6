/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small world for the engine's tests: address spaces whose pages hold one number each, frames
 * that hold one number each, and the engine's ops on them. Faults are set page by page or mm by mm.
 *
 * The world asserts what must hold at every call: a page merges only into a frame that was filled
 * and holds its number (K6), a frame is never filled twice without having been given back unmapped
 * (K11), and no frame goes back or is forgotten while a page maps it (K9).
 */
#ifndef SP_TESTS_FAKE_WORLD_H
#define SP_TESTS_FAKE_WORLD_H

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "types.h"

#define FAKE_PAGE    4096u
#define FAKE_BASE    UINT64_C(0x7f0000000000)
#define FAKE_SEGMENT 4096u

struct fake_page {
    uint32_t content;
    sp_frame frame;   /* maps this frame; 0: private */
    uint8_t present;  /* tracked */
    uint8_t dirty;    /* written since the last look */
    uint8_t reported; /* as quiet, and not changed since */
    uint8_t kept;     /* reported as merged before */
    uint8_t left;     /* went away since the last look */
    uint8_t fault;    /* the result of a merge, if not 0; SP_SHARED_BY_FORK yields to break_fork */
};

struct fake_mm {
    struct fake_world *world;
    struct sp_mm *mm; /* the engine's, NULL: not added */
    struct fake_page *page;
    uint32_t npages;
    uint32_t mappings_budget;
    int scan_error, merge_error, unmerge_error, fill_error; /* negative errno, once set */
    bool lose_answer;      /* merge_error comes after the merge was done */
    uint32_t unmerge_part; /* pages an un-merge does in one go; 0: all */
    unsigned scans, restarts, merge_calls, merge_runs, first_from_zero;
};

enum fake_frame_state { FAKE_FREE = 0, FAKE_TAKEN, FAKE_FILLED, FAKE_FORGOTTEN };

struct fake_frame {
    uint32_t content;
    uint8_t state;
};

struct fake_world {
    struct sp_engine *engine;
    struct fake_frame *frame; /* place i: segment i / FAKE_SEGMENT + 1 */
    uint32_t nframes, next_frame;
    unsigned alloc_most; /* frames one allocation gives at most; 0: as wanted */
    bool alloc_fails;
    unsigned forgotten, freed_unused, fills;
    struct fake_mm *mm[16];
    unsigned nmms;
};

/* frames: how many the pool can ever give. */
struct fake_world *fake_world_new(uint32_t frames);
void fake_world_free(struct fake_world *world);
/* An mm of npages tracked pages, page i with content first + i; known to the engine. */
struct fake_mm *fake_mm_new(struct fake_world *world, uint32_t npages, uint32_t first);
void fake_mm_remove(struct fake_mm *mm);
void fake_write(struct fake_mm *mm, uint32_t page, uint32_t content);
/* Contents that differ in this bit only have hashes that differ in hi only. */
#define FAKE_LOOKALIKE (1u << 31)
struct sp_hash fake_hash(uint32_t content);
static inline uint64_t fake_addr(uint32_t page)
{
    return FAKE_BASE + (uint64_t)page * FAKE_PAGE;
}
/* Runs steps until n passes are done. */
void fake_passes(struct fake_world *world, unsigned n);
/* The engine's sums are those of a walk over its items and nodes; frames hold what is mapped. */
void fake_check(struct fake_world *world);
/* After a pass in which nothing moved: the engine knows exactly the sites that there are (K12). */
void fake_check_exact(struct fake_world *world);
struct sp_engine_counters fake_counters(struct fake_world *world);
/* Mappings that the merged pages of an mm take. */
uint32_t fake_mappings(const struct fake_mm *mm);

#endif
