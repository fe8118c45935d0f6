/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: decides what merges with what. One engine is one domain.
 *
 * What exists. An **mm** is one address space. For each of its tracked pages there is one **rmap
 * item**: nothing known, candidate (its fingerprint stands in the table of candidates), site of a
 * frame, or refused (it was not merged, for a reason that is kept until it is reported again). A
 * **stable node** is a frame with its fingerprint and its number of sites. The
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
 * are worth their mappings, policy.c; cursor and passes, engine.c; run and adoption, run.c; frames
 * of one content, chains.c (K14); zero pages, zero.c (K15); NUMA nodes, nodes.c (N); eviction,
 * swap.c (S); memory that goes away, drain.c (H); how many pages to scan, advisor.c (K16). The
 * table that pages are looked up in, table.c; its memory, buckets.c, pieces.c and memory.c.
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
    void *ctx;                /* first argument of every op */
    uint32_t page_size;       /* bytes */
    struct sp_hash zero_hash; /* of a page of zeros; asked for only with use_zero_pages (K15) */
    uint64_t blocks_from;     /* bytes of one kind that come without block_get; 0: 8 MiB */
};

struct sp_engine_counters {
    uint64_t pages_shared;   /* frames with at least one site */
    uint64_t pages_sharing;  /* sites beyond the first of each frame: pages saved */
    uint64_t pages_unshared; /* candidates that found no partner */
    uint64_t pages_volatile; /* tracked - shared - sharing - unshared, not below 0 */
    uint64_t pages_scanned;  /* pages looked into since the engine began */
    uint64_t full_scans;     /* complete passes over all mms: none was passed over */
    uint64_t pages_tracked;
    uint64_t frames;                               /* stable nodes, those without a site included */
    uint64_t stable_node_chains, stable_node_dups; /* contents with several frames; these (K14) */
    uint64_t ksm_zero_pages; /* pages given back to the kernel's zero page (K15) */
    uint64_t pages_skipped;  /* times that a pass left out a page that never merged (K16) */
    uint64_t frames_evicted; /* stable nodes that are in the store now (S1) */
    uint64_t evictions, second_chances, store_errors; /* since the engine began (S) */
    uint64_t frames_pruned; /* nodes whose frame vanished in a drain (H4) */
    uint64_t stale_mapped;  /* frames met that are mapped where no site is known (T2) */
    uint64_t quiet_passes;  /* whole passes in a row, up to now, that merged next to nothing */
    uint64_t merges, merge_changed, merge_pinned, merge_gone, merge_fork, merge_attributes,
        merge_mappings, merge_memory, merge_node; /* answers by kind, since the engine began */
    uint64_t undone;                              /* K7: first merges taken back */
    uint64_t memory_bytes;                        /* all that the engine has allocated */
    uint64_t bookkeeping_bytes;                   /* of that, what it would not need without pages */
};

enum sp_engine_run { SP_RUN_STOP = 0, SP_RUN_MERGE = 1, SP_RUN_UNMERGE = 2 };

/* Returns a new engine, or NULL if memory is short. run is SP_RUN_MERGE, max_kernel_pages 0. */
struct sp_engine *sp_engine_new(const struct sp_engine_config *config);
/* Frees it with everything it knows; calls no op but block_put. All mms are freed with it. */
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
 * (T1); -EAGAIN: a drain runs (H2). An mm that cannot be asked, or whose memory is short, is passed
 * over with its nodes kept, so that none holds up the others; a frame that something maps though no
 * site of it is known keeps its node (T2). What is returned at the end is then -EBUSY, or where
 * memory was short -ENOMEM, and run is SP_RUN_STOP (K13). */
int sp_engine_unmerge_step(struct sp_engine *engine);
/* The same for one mm, whatever run is, in one call: 0, or a negative errno of the mm's own; -EBUSY
 * if its answers do not come to an end; -EAGAIN: a drain runs. */
int sp_engine_unmerge_mm(struct sp_engine *engine, struct sp_mm *mm);

/* From now on the frames of a segment get no further sites by merging, so that it can become free; or
 * they do again. What is said holds until its last frame is forgotten. */
void sp_engine_avoid(struct sp_engine *engine, uint32_t segment, bool avoid);

/* K10. 0: no limit. Frames above a lowered limit stay. */
void sp_engine_set_max_kernel_pages(struct sp_engine *engine, uint64_t pages);

/* K14. The sites of one frame, by merging: forked children, which are adopted, may exceed it. 0: no
 * limit but the engine's own, 2^20, which is the default. -EBUSY while a frame has a site; -EINVAL:
 * 1, or above 2^20. */
int sp_engine_set_max_page_sharing(struct sp_engine *engine, uint32_t sites);

/* K15. -EOPNOTSUPP: the outside cannot. Off by default; pages given back stay when it is turned
 * off. */
int sp_engine_set_use_zero_pages(struct sp_engine *engine, bool use);
/* K8, D1: n pages of zeros from addr on were given back already. As sp_engine_adopt(). */
int sp_engine_adopt_zero(struct sp_engine *engine, struct sp_mm *mm, uint64_t addr, unsigned n);

/* K16. On by default: pages that did not merge are asked for again after 8 passes, and ever more
 * seldom while that leads to nothing. Off: in every pass. */
void sp_engine_set_smart_scan(struct sp_engine *engine, bool smart);

/* N1, N2. On by default. -EBUSY: a frame has a site, or something maps one that has none. */
int sp_engine_set_merge_across_nodes(struct sp_engine *engine, bool across);
/* N3: the kernel moved a frame to this node. Frames that are adopted count as node 0's till then.
 */
void sp_engine_frame_moved(struct sp_engine *engine, sp_frame frame, unsigned node);

/* What became of frames that a reclaim looked at. */
struct sp_reclaimed {
    uint32_t evicted;    /* in the store now */
    uint32_t referenced; /* were used: a second chance (S2) */
    uint32_t locked;     /* have a locked site (S4) */
    uint32_t again;      /* could not let go now (S3) */
    uint32_t cannot;     /* the store has no room */
    uint32_t later;      /* are tried when the engine has returned (SP_EVICTED_LATER) */
    bool whole;          /* the caller's: every frame was looked at */
};
/*
 * Evicts up to want frames, going once round all of them at most, from where the last reclaim
 * stopped (S1). group names the domain or cgroup whose references count (S5), 0: all. 0;
 * -EOPNOTSUPP: the outside cannot; -EAGAIN: a drain runs.
 */
int sp_engine_reclaim(struct sp_engine *engine, uint32_t want, uint32_t group,
                      struct sp_reclaimed *out);
/* Whether a frame whose site is touched may come back as a shared frame: otherwise the toucher gets
 * a copy of its own (S6, S11). */
bool sp_engine_frame_returns_shared(const struct sp_engine *engine, sp_frame frame);
/* What became of frames that were to leave later (SP_EVICTED_LATER): one left; so many stayed because they
 * were used (S2). */
void sp_engine_frame_left(struct sp_engine *engine, sp_frame frame);
void sp_engine_frames_spared(struct sp_engine *engine, uint32_t n);
/* Is it out, as far as the engine was told? It is in memory again, and on which node is not said. */
bool sp_engine_frame_is_out(const struct sp_engine *engine, sp_frame frame);
void sp_engine_frame_returned(struct sp_engine *engine, sp_frame frame);
/* What happened to a frame without the engine: it is in the store (of frames that are adopted),
 * came back to memory on a node, or the store cannot give its bytes back (S8). */
void sp_engine_frame_out(struct sp_engine *engine, sp_frame frame);
void sp_engine_frame_back(struct sp_engine *engine, sp_frame frame, unsigned node);
void sp_engine_frame_lost(struct sp_engine *engine, sp_frame frame);

enum sp_drain_kind { SP_DRAIN_NODE, SP_DRAIN_SEGMENT };
/*
 * A node or a segment of the pool goes away (H2). While a drain runs, sp_engine_step() does nothing
 * and un-merging and reclaiming answer -EAGAIN; the caller hands out no frame of what is drained.
 * begin: 0; -EBUSY: one runs; -EOPNOTSUPP: the outside cannot.
 * step: moves frames (H3). 1: more to do; 0: all are moved. Another errno: it could not be done
 * (-ENOMEM: no room), and the drain is over; what was moved is right where it is (H5).
 * end: gone says that the memory is gone, and nodes without a site whose frames were there are
 * pruned (H4); -EBUSY: sites came there meanwhile, and the drain goes on. Otherwise the drain is
 * cancelled.
 */
int sp_engine_drain_begin(struct sp_engine *engine, enum sp_drain_kind kind, uint32_t number);
int sp_engine_drain_step(struct sp_engine *engine);
int sp_engine_drain_end(struct sp_engine *engine, bool gone);

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
    uint64_t zero_pages; /* pages given back to the kernel's zero page */
    uint64_t candidates; /* pages waiting for a partner */
    uint64_t met;        /* candidates that met an equal page, which could not be merged */
    uint64_t refused[SP_REFUSALS];
    uint32_t mappings, mappings_budget;
};
void sp_engine_mm_counters(const struct sp_mm *mm, struct sp_mm_counters *out);

#endif
