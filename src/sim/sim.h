/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated machine: address spaces, pages, frames, and a daemon that runs the real engine on
 * them. Everything that happens is a step from a list, and a list is made from a seed: a failure
 * is replayed exactly, and made short (shrink.c).
 *
 * What exists. A **page** of an address space holds one number, its contents. It is unmapped;
 * anonymous, and then perhaps shared by fork with others (struct sim_anon); the kernel's zero page;
 * or a **site**: it maps a frame. A frame is a number too. All that the kernel would do is done
 * here: copy on write, fork, exit, exec, pins, mlock. Physical memory lies on four nodes, is
 * counted, and runs out; nodes and segments of the pool go away and come back (nodes.c). Frames
 * leave memory for a swap device with few slots, which takes time to write, fails, and lies
 * (store.c).
 *
 * What the engine sees is its ops table (ops.c) and nothing else. While an op runs, programs go on:
 * a step that calls the engine carries a number of its own from which the op draws what the
 * programs do before, in the middle of and after each page that the op handles. So an exit in the
 * middle of a merge, a fork between a scan and the merge that follows it, and a write to a page
 * just hashed all happen.
 *
 * What must hold (check.c) after every step: each process reads at each address what a second,
 * simple bookkeeping says (the **model**: only the program's own steps write there); a frame that
 * was filled never changes and is never freed while mapped; the engine's sums are those of a walk
 * over its items. At the end, when programs rest: counters are exact (K12), equal pages are merged,
 * and when all have gone nothing is left.
 */
#ifndef SP_SIM_SIM_H
#define SP_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "types.h" /* the walk in check.c looks at the engine's own data, as its unit tests do */

#define SIM_PAGE      4096u
#define SIM_BASE      UINT64_C(0x7f0000000000)
#define SIM_MMS       12u
#define SIM_PAGES     96u /* of an address space */
#define SIM_SEGMENT   64u /* frames of a segment */
#define SIM_SEGMENTS  24u
#define SIM_FRAMES    (SIM_SEGMENT * SIM_SEGMENTS)
#define SIM_MEMORY    900u /* physical pages */
#define SIM_NODES     4u
#define SIM_NODE      500u /* pages of a node */
#define SIM_SLOTS     48u  /* of the swap device */
#define SIM_GROUPS    2u   /* cgroups: process i is in group i % SIM_GROUPS + 1 */
#define SIM_STEPS_MAX 4096u
#define SIM_BLOCKS    4u

/* Contents with this bit have the same lo of the hash as those without, and another hi; with the
 * other, the same hash altogether: what only a comparison of the bytes tells apart (K6). */
#define SIM_LOOKALIKE (1u << 30)
#define SIM_TWIN      (1u << 31)
#define SIM_TWINS     8192u

struct sim_anon {
    uint32_t content;
    uint32_t users; /* pages that fork shares it among */
    uint32_t pins;
    uint8_t node;
};

struct sim_page {
    struct sim_anon *anon; /* NULL, no frame and not zero: unmapped */
    sp_frame frame;        /* a site of it */
    uint8_t zero;          /* the kernel's zero page (K15) */
    uint8_t stray;    /* un-merged while its frame was in the store: comes back as a copy (S11) */
    uint8_t used;     /* since somebody asked (S2) */
    uint8_t locked;   /* mlock (S4) */
    uint32_t model;   /* what the program must read here */
    uint8_t pins;     /* of this page's anon that this process holds */
    uint8_t kept;     /* written as a site: private in the frame's mapping, not tracked */
    uint8_t special;  /* its mapping has an attribute that a merge would lose (K17) */
    uint8_t dirty;    /* written since the last look */
    uint8_t reported; /* as quiet, and not changed since */
    uint8_t left;     /* untracked since the last look */
    uint8_t tracked;  /* in the look before */
};

enum sim_agent {
    SIM_AGENT_NONE, /* not known to the daemon: just forked or execed */
    SIM_AGENT_WELL,
    SIM_AGENT_STALLED, /* does not answer for some time */
    SIM_AGENT_DEAD,    /* for ever: merged pages stay as they are */
};

struct sim_mm {
    struct sim *sim;
    bool alive;
    enum sim_agent agent;
    struct sp_mm *mm; /* the engine's; NULL: none */
    bool held;        /* un-merged by name: it is not merged until run is 1 (list.c) */
    bool leave;       /* the daemon removes it from the engine when no call runs */
    bool lose_answer; /* the next merge is done, and its answer lost */
    uint32_t mappings_budget;
    struct sim_page page[SIM_PAGES];
};

enum sim_frame_state { SIM_FREE = 0, SIM_TAKEN, SIM_FILLED, SIM_FORGOTTEN };

struct sim_frame {
    uint32_t content;
    uint32_t maps; /* sites of living address spaces, the engine's or not */
    uint8_t state;
    uint8_t node;
    uint8_t out;  /* in the store, not in memory (S1) */
    uint8_t slot; /* of the store, plus 1; 0: none. In memory with a slot: the swap cache */
    uint8_t back, lost, moved; /* the engine has yet to hear that it came back, is lost, moved */
};

enum sim_slot_state { SIM_SLOT_FREE = 0, SIM_SLOT_WRITING, SIM_SLOT_STORED };

struct sim_slot {
    uint8_t state;
    uint8_t broken;  /* cannot be read: an I/O error, which may pass */
    uint8_t corrupt; /* gives other bytes, which a checksum shows */
    uint32_t ready;  /* when it is written, by sim->clock */
};

/* One thing that happens. What a, b and c mean stands in steps.c; each is taken modulo what there
 * is, so that every list of steps can be run. */
struct sim_step {
    uint8_t kind;
    uint8_t pad[3];
    uint32_t a, b, c;
};

struct sim {
    struct sp_engine *engine;
    struct sim_mm mm[SIM_MMS];
    struct sim_frame frame[SIM_FRAMES];
    uint32_t next_frame;
    uint32_t memory_used; /* physical pages: anonymous and frames */
    uint32_t memory_limit;
    uint64_t draw;       /* state of what the running step draws from */
    uint32_t chance;     /* of 1024: that programs do something at each point of an op */
    unsigned depth;      /* of calls into the engine: programs' steps in there remove no mm */
    unsigned pool_fails; /* allocations of frames that fail from now on */
    unsigned forgotten;  /* frames in that state */
    unsigned news;       /* frames that the engine has to hear something of */
    uint32_t clock;      /* steps */
    struct sim_slot slot[SIM_SLOTS];
    uint32_t slots;   /* that may be used */
    bool store_fails; /* writes to it do */
    uint32_t node_used[SIM_NODES], node_room[SIM_NODES];
    bool node_off[SIM_NODES], segment_off[SIM_SEGMENTS + 1];
    int drain_node, drain_segment; /* on its way off; -1: none */
    uint32_t asked_group;          /* whose references were asked last */
    bool block_used[SIM_BLOCKS];
    bool real;            /* only what can be done on real memory, too (list.c) */
    bool stepped;         /* the engine did something since it was checked */
    unsigned asked;       /* times that the engine asked for something */
    uint64_t *count;      /* how often each path was taken, by enum sim_path */
    bool twin[SIM_TWINS]; /* a content that is this but for those bits was written */
    char error[256];      /* the first thing that did not hold */
};

/* What a run must have met: none of these may be zero over many seeds. */
enum sim_path {
    SIM_P_MERGED,
    SIM_P_CHANGED,
    SIM_P_PINNED,
    SIM_P_GONE,
    SIM_P_SHARED_BY_FORK,
    SIM_P_ATTRIBUTES,
    SIM_P_OUT_OF_MAPPINGS,
    SIM_P_OUT_OF_MEMORY, /* in the order of enum sp_result */
    SIM_P_K3_VOLATILE,
    SIM_P_K6_TWIN,
    SIM_P_K7_UNDONE,
    SIM_P_K8_ADOPTED,
    SIM_P_K8_BROKEN,
    SIM_P_K9_FORGOTTEN,
    SIM_P_K9_LINGERED,
    SIM_P_K10_LIMITED,
    SIM_P_K11_COPIED,
    SIM_P_K13_DONE,
    SIM_P_K13_NOMEM,
    SIM_P_K13_BUSY,
    SIM_P_D1_RESTARTED,
    SIM_P_D2_DEAD,
    SIM_P_D4_EXITED,
    SIM_P_D4_EXITED_IN_CALL,
    SIM_P_FORKED_IN_CALL,
    SIM_P_STALLED,
    SIM_P_ANSWER_LOST,
    SIM_P_FILL_REFUSED,
    SIM_P_FILL_ERROR,
    SIM_P_POOL_FULL,
    SIM_P_ENGINE_MEMORY,
    SIM_P_T3_ADDED,
    SIM_P_FREED_UNUSED,
    SIM_P_RESTART_ASKED,
    SIM_P_KEPT_PRIVATE,
    SIM_P_K14_CHAIN,
    SIM_P_K14_FULL,
    SIM_P_K14_BUSY,
    SIM_P_K15_ZERO,
    SIM_P_K15_REFUSED,
    SIM_P_K16_SKIPPED,
    SIM_P_K16_ADVISED,
    SIM_P_N1_APART,
    SIM_P_N1_OTHER_NODE,
    SIM_P_N2_BUSY,
    SIM_P_N2_CHANGED,
    SIM_P_N3_MOVED,
    SIM_P_N4_BALANCED,
    SIM_P_H2_WAITED,
    SIM_P_H2_DONE,
    SIM_P_H2_CANCELLED,
    SIM_P_H3_MIGRATED,
    SIM_P_H3_RENUMBERED,
    SIM_P_H4_PRUNED,
    SIM_P_H5_NO_ROOM,
    SIM_P_S1_EVICTED,
    SIM_P_S2_CHANCE,
    SIM_P_S3_AGAIN,
    SIM_P_S3_CANNOT,
    SIM_P_S4_LOCKED,
    SIM_P_S5_OTHERS,
    SIM_P_S6_SHARED,
    SIM_P_S6_COPY,
    SIM_P_S7_WRITTEN,
    SIM_P_S8_ERROR,
    SIM_P_S8_CORRUPT,
    SIM_P_S9_MERGED,
    SIM_P_S10_FREED,
    SIM_P_S11_COPY,
    SIM_P_S11_STRAY,
    SIM_P_SWAP_CACHE,
    SIM_P_T1_LINGERED,
    SIM_P_T2_MAPPED,
    SIM_P_T4_OTHER,
    SIM_PATHS
};

static inline void sim_took(struct sim *sim, enum sim_path path)
{
    sim->count[path]++;
}

static inline uint64_t sim_addr(uint32_t page)
{
    return SIM_BASE + (uint64_t)page * SIM_PAGE;
}

/* random.c: a small generator whose numbers are the same everywhere. */
uint64_t sim_random(uint64_t *state);
static inline uint32_t sim_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(sim_random(state) % n);
}

/* Notes the first thing that does not hold. */
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* machine.c: what programs and the kernel do. Each does nothing where it cannot be done. */
struct sim_mm *sim_mm_new(struct sim *sim);
void sim_mm_exit(struct sim_mm *mm);
void sim_mm_exec(struct sim_mm *mm);
struct sim_mm *sim_mm_fork(struct sim_mm *parent);
void sim_map(struct sim_mm *mm, uint32_t page, uint32_t content);
void sim_unmap(struct sim_mm *mm, uint32_t page);
void sim_write(struct sim_mm *mm, uint32_t page, uint32_t content);
void sim_zero(struct sim_mm *mm, uint32_t page); /* MADV_DONTNEED */
void sim_set_special(struct sim_mm *mm, uint32_t page, bool special);
void sim_pin(struct sim_mm *mm, uint32_t page);
void sim_unpin(struct sim_mm *mm, uint32_t page);
/* A private page in a frame's mapping becomes plain anonymous memory again. */
void sim_restore(struct sim_mm *mm, uint32_t page);
/* A private copy of what the page holds, in the place of its site; false: memory is short. */
bool sim_page_copy(struct sim_mm *mm, uint32_t page);
/* The page is the kernel's zero page now (K15). */
void sim_page_zero(struct sim_mm *mm, uint32_t page);
void sim_lock(struct sim_mm *mm, uint32_t page);
void sim_unlock(struct sim_mm *mm, uint32_t page);
/* NUMA balancing moves a page, never a frame (N4). */
void sim_balance(struct sim_mm *mm, uint32_t page, uint32_t node);
/* Every page that shares this memory is reported anew: it lies elsewhere. */
void sim_anon_move(struct sim *sim, struct sim_anon *anon, unsigned node);
/* The program uses the page. On real memory that is known only of what came back, after which one
 * more reclaim takes it: there all are asked for until none is left (list.c). */
static inline void sim_used(struct sim_mm *mm, uint32_t page)
{
    mm->page[page].used = !mm->sim->real;
}
/* The page maps the frame now. */
void sim_page_site(struct sim_mm *mm, uint32_t page, sp_frame frame);
static inline bool sim_is_mapped(const struct sim_page *page)
{
    return page->anon || page->frame || page->zero;
}
static inline bool sim_is_site(const struct sim_page *page)
{
    return page->frame != 0 && !page->stray;
}
static inline bool sim_is_tracked(const struct sim_page *page)
{
    return sim_is_mapped(page) && !page->special && !page->kept && !page->stray;
}
uint32_t sim_read(const struct sim_mm *mm, uint32_t page);
uint32_t sim_mappings(const struct sim_mm *mm);

/* frames.c: the pool. */
struct sp_hash sim_hash(uint32_t content);
struct sim_frame *sim_frame(struct sim *sim, sp_frame frame);
sp_frame sim_frame_alloc(struct sim *sim, unsigned *node, unsigned want, unsigned *got);
sp_frame sim_frame_number(const struct sim *sim, const struct sim_frame *frame);
void sim_frame_set(struct sim *sim, struct sim_frame *frame, enum sim_frame_state state);
void sim_frame_free(struct sim *sim, sp_frame frame);
/* Frees what was forgotten and is mapped by nobody (K9). */
void sim_frames_sweep(struct sim *sim);

/* nodes.c: memory by node, and its going away. */
/* Takes a page of memory, on the node wanted if that has room and strict says so; -1: none. */
int sim_memory_take(struct sim *sim, unsigned node, bool strict);
void sim_memory_give(struct sim *sim, unsigned node);
void sim_frame_migrate(struct sim *sim, struct sim_frame *frame, unsigned node);
void sim_drain_begin(struct sim *sim, uint32_t kind, uint32_t number);
void sim_drain_step(struct sim *sim);
void sim_drain_finish(struct sim *sim, bool gone);
void sim_online(struct sim *sim);
int op_frame_migrate(void *ctx, sp_frame frame, unsigned *node);
int op_frame_move(void *ctx, sp_frame from, sp_frame to);

/* store.c: the swap device, and what a touch of a site in it does. */
/* Makes the page readable. False: SIGBUS, or memory is short. */
bool sim_touch(struct sim_mm *mm, uint32_t page);
/* The store can give the frame's bytes back; else the engine hears of it (S8). */
bool sim_store_reads(struct sim *sim, struct sim_frame *frame);
void sim_slot_free(struct sim *sim, struct sim_frame *frame);
void sim_tell(struct sim *sim); /* the engine, of what happened to frames */
enum sp_use op_frame_referenced(void *ctx, sp_frame frame, uint32_t group);
bool op_frame_locked(void *ctx, sp_frame frame);
enum sp_evicted op_frame_evict(void *ctx, sp_frame frame);
int op_frame_bring_back(void *ctx, sp_frame frame, unsigned *node);

/* ops.c */
/* Programs go on while an op runs. */
void sim_go_on(struct sim *sim);
extern const struct sp_engine_ops sim_ops;

/* daemon.c: what samepaged does around the engine. */
void sim_daemon_start(struct sim *sim); /* D1: with all that lives */
/* Its two halves: between them it has its settings, and knows of nothing. */
void sim_daemon_begin(struct sim *sim);
void sim_daemon_take_over(struct sim *sim);
void sim_daemon_kill(struct sim *sim);
void sim_daemon_join(struct sim_mm *mm); /* an agent says HELLO */
void sim_daemon_settle(struct sim *sim); /* removes what died, sweeps */
void sim_daemon_step(struct sim *sim, uint32_t budget);
/* 1: there is more to do; or as sp_engine_unmerge_step(). */
int sim_daemon_run2(struct sim *sim, unsigned portions);

/* check.c */
void sim_check(struct sim *sim);
/* When the engine asks for something: its counters add up then, too (ops.h). Looks each eighth
 * time. */
void sim_check_sums(struct sim *sim);
/* With all programs at rest: counters are exact, and equal pages merged. */
void sim_check_rest(struct sim *sim);
/* With all programs gone and nothing left. */
void sim_check_end(struct sim *sim);

/* steps.c */
struct sim_list {
    uint32_t n;
    struct sim_step step[SIM_STEPS_MAX];
};
void sim_list_make(struct sim_list *list, uint64_t seed, uint32_t n);
const char *sim_step_name(unsigned kind);
int sim_step_kind(const char *name); /* -1: there is none */
void sim_step_run(struct sim *sim, const struct sim_step *step);
/* Something that programs do, drawn from sim->draw. */
void sim_programs(struct sim *sim);
extern const unsigned sim_step_kinds;

/* advise.c: one of the steps. */
void sim_advise(struct sim *sim, const struct sim_step *step);

/* What numbers of a step name. */
struct sim_part {
    struct sim_mm *mm;     /* NULL: none lives */
    uint32_t page, n;      /* from which page on, how many */
    uint32_t content, add; /* of the first page, and how much more of each further */
};
struct sim_part sim_step_part(struct sim *sim, const struct sim_step *step);
struct sim_mm *sim_step_mm(struct sim *sim, const struct sim_step *step);
/* Draws a step of what programs do. */
struct sim_step sim_step_draw(uint64_t *state);

/* list.c: the list in plain numbers, for real memory, with what must be so there, as lines of JSON
 * on stdout. Returns NULL, or what failed here (in error, 256 bytes). */
const char *sim_list_write(const struct sim_list *list, char *error);

/* run.c: runs a list from an empty machine. Returns NULL, or what failed (in error, 256 bytes) and
 * *at, the step; *at is n for what fails at the end. */
const char *sim_run(const struct sim_list *list, uint64_t count[SIM_PATHS], char *error,
                    uint32_t *at);

/* shrink.c: makes a failing list short. failed() runs a list and says whether it fails. */
void sim_shrink(struct sim_list *list, bool (*failed)(const struct sim_list *list));

#endif
