/* SPDX-License-Identifier: Apache-2.0 */
/* What store_worker.c and store_frames.c share. */
#ifndef SP_POOL_STORE_WORKER_INSIDE_H
#define SP_POOL_STORE_WORKER_INSIDE_H

#include "store_fuse.h"
#include "store_process.h"

struct sp_store_segment {
    int fd; /* ours */
    char *view;
    bool locks; /* what is in the view is locked */
    struct sp_store_marks *marks;
};

struct sp_store_worker {
    struct sp_store_worker_run run;
    size_t page_size;
    char *pages, *page;
    struct sp_store_notes *notes;
    struct sp_store_segment *segment[SP_STORE_SEGMENTS];
    struct sp_store_stalls *stalls;
};

static inline uint32_t sp_store_frame(uint32_t segment, uint32_t index)
{
    return segment << 16 | index;
}

/* store_frames.c: what a question asks of frames. Where it has results, one for each page. */
void sp_frames_mark(uint64_t *map, uint32_t index, uint32_t n, bool is);
int sp_frames_fill(struct sp_store_worker *w, const struct sp_store_ask *ask);
void sp_frames_evict(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
void sp_frames_bring(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
void sp_frames_forget(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
void sp_frames_get(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
int sp_frames_where(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
/* Holds n frames, at most SP_STORE_HELD, ascending, for that agent (0: for the daemon). 0, or a
 * negative errno, and none is. */
int sp_frames_hold(struct sp_store_worker *w, uint32_t segment, const uint16_t *index, uint32_t n,
                   uint32_t pid, uint64_t born);
/* What the process before held. */
void sp_frames_hold_again(struct sp_store_worker *w);
/* It may have ended before their pages were dropped: 0, or a negative errno, and some may be in
 * memory. */
int sp_frames_drop_again(struct sp_store_worker *w);
/* Is one of those frames held? */
bool sp_frames_is_held(const struct sp_store_worker *w, uint32_t segment, uint32_t index,
                       uint32_t n);
/* Is the segment open nowhere but here? */
bool sp_frames_ours_alone(const struct sp_store_worker *w, uint32_t segment);
uint32_t sp_frames_filled(const struct sp_store_worker *w, uint32_t segment);
int sp_frames_release(struct sp_store_worker *w);
void sp_frames_tell(struct sp_store_worker *w, struct sp_store_answer *to);

/*
 * store_stalls.c: agents that have frames held while they un-merge them (stall.h).
 */
struct pollfd;
/* 0 or -ENOMEM. What the worker before held for an agent is held on, until that one says so or is
 * dead. */
int sp_stalls_begin(struct sp_store_worker *w);
/* SP_STORE_AGENT and _ALLOW: 0 or a negative errno. fd: connection and pidfd, which stay the
 * caller's. */
int sp_stalls_add(struct sp_store_worker *w, uint32_t key, uint32_t pid,
                  const int fd[SP_STORE_AGENT_FDS]);
int sp_stalls_allow(struct sp_store_worker *w, uint32_t key, uint32_t segment);
/* The segment is gone: its number may be another one's, for others. */
void sp_stalls_removed(struct sp_store_worker *w, uint32_t segment);
/* Are frames held for an agent? Nothing else is done meanwhile. */
bool sp_stalls_hold(const struct sp_store_worker *w);
/* Waits until the worker's own socket, or an agent, has something, or time is up, and serves the
 * agents. True: the socket has. */
bool sp_stalls_wait(struct sp_store_worker *w);

#endif
