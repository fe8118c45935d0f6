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
int sp_frames_hold(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result);
/* Is the segment open nowhere but here? */
bool sp_frames_ours_alone(const struct sp_store_worker *w, uint32_t segment);
uint32_t sp_frames_filled(const struct sp_store_worker *w, uint32_t segment);
int sp_frames_release(struct sp_store_worker *w);
void sp_frames_tell(struct sp_store_worker *w, struct sp_store_answer *to);

#endif
