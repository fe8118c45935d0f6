/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: decides what merges with what. One engine is one domain.
 *
 * What exists. An **mm** is one address space. For each of its tracked pages there is one **rmap
 * item**: nothing known, candidate (its fingerprint stands in the table of candidates), site of a
 * frame, or refused (it was not merged, for a reason that is kept until it is reported again). A **stable node** is a frame with its fingerprint and its number of sites. The
 * **cursor** goes round the mms (K2).
 *
 * Two tables, one of which may be wrong. Stable nodes are found by a fingerprint of bytes that
 * cannot change (K11), so that table is always true. Candidates are found by a fingerprint of bytes
 * that the program may have changed since: that table holds hints (K5). Neither is trusted:
 * whatever the tables say, a merge compares all bytes while nobody can write (K6).
 *
 * Who owns what. The engine owns its items and nodes, and nothing outside: all it wants done goes
 * through struct sp_engine_ops. It has no thread, clock, file or lock: the caller calls it from one
 * thread at a time and decides when (sleep_millisecs is the caller's). Memory it cannot get makes
 * it forget or skip work, never fail harder.
 *
 * Where to look: the data, types.h; items and candidates, item.c; stable nodes, stable.c; what a
 * scan's answer leads to, planned in match.c (K4, K5) and done in merge.c (K6 to K8); which merges
 * are worth their mappings, policy.c; cursor and passes, engine.c; run and adoption, run.c.
 */
#ifndef SP_ENGINE_ENGINE_H
#define SP_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

struct sp_engine;
struct sp_mm;

struct sp_engine_config {
    const struct sp_engine_ops *ops;
    void *ctx;          /* first argument of every op */
    uint32_t page_size; /* bytes */
};

struct sp_engine_counters {
    uint64_t pages_shared;    /* frames with at least one site */
    uint64_t pages_sharing;   /* sites beyond the first of each frame: pages saved */
    uint64_t pages_unshared;  /* candidates that found no partner */
    uint64_t pages_volatile;  /* tracked - shared - sharing - unshared, not below 0 */
    uint64_t pages_scanned;   /* pages looked into since the engine began */
    uint64_t full_scans;      /* complete passes over all mms */
    uint64_t pages_tracked;
    uint64_t frames;          /* stable nodes, those without a site included */
    uint64_t quiet_passes;    /* whole passes in a row, up to now, that merged next to nothing */
    uint64_t merges, merge_changed, merge_pinned, merge_gone, merge_fork, merge_attributes,
        merge_mappings, merge_memory; /* answers by kind, since the engine began */
    uint64_t undone;          /* K7: first merges taken back */
    uint64_t memory_bytes;    /* all that the engine has allocated */
};

enum sp_engine_run { SP_RUN_STOP = 0, SP_RUN_MERGE = 1, SP_RUN_UNMERGE = 2 };

/* Returns a new engine, or NULL if memory is short. run is SP_RUN_MERGE, max_kernel_pages 0. */
struct sp_engine *sp_engine_new(const struct sp_engine_config *config);
/* Frees it with everything it knows; calls no op. All mms are freed with it. */
void sp_engine_free(struct sp_engine *engine);

/*
 * Adds an address space; ref is what the ops get. It goes in just behind the cursor (K2), or at the
 * end of the list while run is SP_RUN_UNMERGE (T3). Returns NULL if memory is short.
 */
struct sp_mm *sp_engine_mm_add(struct sp_engine *engine, void *ref);
/* Forgets an mm that died, execed or left: its sites and candidates are gone. Calls no op but
 * frame_forget. */
void sp_engine_mm_remove(struct sp_engine *engine, struct sp_mm *mm);

/*
 * Takes over sites that exist already: a forked child's (K8), or those of a domain whose daemon
 * died (D1). hash[i] is that of frame first + i, computed by the caller from the frame itself.
 * Pages already known as sites are not counted twice. 0; -ENOMEM; -EINVAL: no such pages or frames
 * can be.
 */
int sp_engine_adopt(struct sp_engine *engine, struct sp_mm *mm, uint64_t addr, sp_frame first,
                    unsigned n, const struct sp_hash *hash);
/* Returns true if a stable node for this frame exists, so that a caller adopting need not hash:
 * *hash gets what the node keeps of it, which is all that adopting asks for. */
bool sp_engine_frame_known(const struct sp_engine *engine, sp_frame frame, struct sp_hash *hash);

/*
 * Does one portion of work, for the mm under the cursor: a scan of at most budget pages and the
 * merges that follow from it. Returns the pages looked into; 0 with *pass_done set when the cursor
 * came round (or there is no mm), and never 0 without it while run is SP_RUN_MERGE. With run
 * SP_RUN_STOP it does nothing; with SP_RUN_UNMERGE use sp_engine_unmerge_step().
 */
uint64_t sp_engine_step(struct sp_engine *engine, uint32_t budget, bool *pass_done);

/* run (K13). Setting SP_RUN_UNMERGE only begins it: the caller then calls sp_engine_unmerge_step()
 * until it returns something else than 1. */
void sp_engine_set_run(struct sp_engine *engine, enum sp_engine_run run);
enum sp_engine_run sp_engine_run(const struct sp_engine *engine);
/* Un-merges one portion. 1: more to do; 0: everything is un-merged, and every stable node is gone
 * (T1); -ENOMEM: memory short, run is SP_RUN_STOP now (K13). An mm that cannot be asked is passed
 * over with its nodes kept, and -EBUSY is returned at the end. */
int sp_engine_unmerge_step(struct sp_engine *engine);
/* The same for one mm, whatever run is, in one call: 0, or a negative errno of the mm's own; -EBUSY
 * if its answers do not come to an end. */
int sp_engine_unmerge_mm(struct sp_engine *engine, struct sp_mm *mm);

/* K10. 0: no limit. Frames above a lowered limit stay. */
void sp_engine_set_max_kernel_pages(struct sp_engine *engine, uint64_t pages);

void sp_engine_counters(const struct sp_engine *engine, struct sp_engine_counters *out);

/* Why a page that was reported quiet is neither a site nor a candidate. */
enum sp_refusal {
    SP_REFUSED_CHANGED,    /* its bytes changed before the merge */
    SP_REFUSED_PINNED,     /* device or kernel I/O refers to it (K6) */
    SP_REFUSED_GONE,       /* could not be reached: gone, or its mapping is being changed */
    SP_REFUSED_FORK,       /* fork shares it, and replacing it would save nothing (K8) */
    SP_REFUSED_ATTRIBUTES, /* the mapping would lose some (K17) */
    SP_REFUSED_MAPPINGS,   /* the mm has no mapping left for it */
    SP_REFUSED_SHORT_RUN,  /* it has, but few, and keeps them for longer runs */
    SP_REFUSED_LIMIT,      /* max_kernel_pages (K10) */
    SP_REFUSED_MEMORY,     /* memory was short: the kernel's, the pool's or the engine's */
    SP_REFUSED_LIKE,       /* the page it equals could not be merged, and waits as a candidate */
    SP_REFUSALS
};

/* All are numbers of pages at present, not of events. */
struct sp_mm_counters {
    uint64_t tracked;
    uint64_t sites;      /* pages of this mm that map frames */
    uint64_t candidates; /* pages waiting for a partner */
    uint64_t met;        /* candidates that met an equal page, which could not be merged */
    uint64_t refused[SP_REFUSALS];
    uint32_t mappings, mappings_budget;
};
void sp_engine_mm_counters(const struct sp_mm *mm, struct sp_mm_counters *out);

#endif
