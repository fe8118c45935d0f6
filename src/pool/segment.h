/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One segment: a file of the pool's tmpfs, the daemon's view of it, and which of its frames are
 * handed out.
 *
 * Frames are handed out from the bottom: below bump a frame was handed out once, at and above it
 * never. Below bump a frame is one of three: used, returned (given back before any client mapped
 * it, so that it may be written again), or lingering (forgotten: its bytes stay, for somebody may
 * still map it). A bit a frame says used, another one says returned, neither says lingering.
 */
#ifndef SP_POOL_SEGMENT_H
#define SP_POOL_SEGMENT_H

#include "mount.h"

struct sp_pool_set;
struct sp_store_link;

struct sp_pool_segment {
    struct sp_pool_segment *next; /* in its set */
    struct sp_pool_set *set;
    uint32_t id, npages;
    int node;       /* that its memory is wanted from, -1: any (nodes.c) */
    uint32_t bump, used, returned;
    int fd;         /* the one descriptor for writing; the keeper's is a dup of it. -1: stored */
    struct sp_store_link *store; /* NULL: a file of the tmpfs, else one of the store (stored.c) */
    void *view;     /* NULL until a frame is asked for, and after a try to free */
    bool retiring;  /* nothing is used and nothing new is handed out */
    bool thin;      /* being thinned out (sp_pool_thinnest), */
    uint32_t thin_tries; /* ... and how often that came to nothing */
    bool importing; /* taken over: used frames are being claimed, nothing new is handed out */
    uint64_t *used_map, *returned_map;
    uint64_t *forgotten_map; /* of the store: which it was not told of yet, */
    uint32_t forgotten;      /* ... and how many these are */
    uint32_t got, ngot, got_seq; /* of the store: frames whose bytes were asked for last, and when (stored.c) */
};

/* Makes the file of npages pages, empty, with memory of that node (-1: any). 0 or a negative errno. */
int sp_pool_segment_create(struct sp_pool_segment **out, const struct sp_pool_mount *mount,
                           uint32_t id, uint32_t npages, int node);
/* Takes over fd, the descriptor that another process made: it is the segment's if 0 is returned.
 * Frames that hold memory count as handed out. -ENOENT: the file was being freed when its daemon
 * was killed. -EINVAL: not such a file. */
int sp_pool_segment_adopt(struct sp_pool_segment **out, const struct sp_pool_mount *mount,
                          uint32_t id, uint32_t npages, int fd);
/* The same in the store (stored.c). */
int sp_pool_segment_create_stored(struct sp_pool_segment **out, struct sp_store_link *store,
                                  uint32_t id, uint32_t npages);
/* One that another process made. -ENOENT: the store has none of that number. */
int sp_pool_segment_adopt_stored(struct sp_pool_segment **out, struct sp_store_link *store,
                                 uint32_t id, uint32_t npages);
/* Unmaps, closes, forgets; the file stays. */
void sp_pool_segment_close(struct sp_pool_segment *segment);

/* The longest run of frames, at most want, that could be handed out; 0 if none. */
unsigned sp_pool_segment_room(const struct sp_pool_segment *segment, unsigned want);
/* Hands that run out: *index is its first frame; returns its length. */
unsigned sp_pool_segment_take(struct sp_pool_segment *segment, unsigned want, uint32_t *index);
/* Takes used frames back, never mapped ones to be handed out again. What is not used is ignored. */
void sp_pool_segment_return(struct sp_pool_segment *segment, uint32_t index, unsigned n);
void sp_pool_segment_forget(struct sp_pool_segment *segment, uint32_t index);
void sp_pool_segment_forget_all(struct sp_pool_segment *segment);
/* -ENOENT: a frame that was never handed out. */
int sp_pool_segment_claim(struct sp_pool_segment *segment, uint32_t index);

/* Writes n pages into frames from index on, which were handed out; *written is where they can be
 * read until the next call. 0 or a negative errno. */
int sp_pool_segment_write(struct sp_pool_segment *segment, uint32_t index, unsigned n,
                          const void *bytes, const void **written);
/* The frame's bytes until the next call: in the daemon's view, mapped when first asked for. NULL:
 * no such frame, or no memory. */
const void *sp_pool_segment_at(struct sp_pool_segment *segment, uint32_t index);
/* resident.c, of segments of the tmpfs, n at most 128. Which frames that were handed out are not in memory: 0 or a negative errno; -ENOENT:
 * none was from there on. */
int sp_pool_segment_out(struct sp_pool_segment *segment, uint32_t index, unsigned n, bool *out);
/* The numbers of the physical pages of frames that were handed out, 0: not in memory; pagemap is open on /proc/self/pagemap. 0 or a
 * negative errno. */
int sp_pool_segment_numbers(struct sp_pool_segment *segment, int pagemap, uint32_t index, unsigned n,
                            uint64_t *number);
/* Reads one into memory. 0; -EIO: the machine's swap cannot give it back (S8); another negative errno. */
int sp_pool_segment_bring(struct sp_pool_segment *segment, uint32_t index);
/* Maps it. 0 or a negative errno. */
int sp_pool_segment_map(struct sp_pool_segment *segment);
/*
 * Frees the file's memory and name if no other open description and no mapping of it exists (K9);
 * the caller closes the segment then. The view is gone in any case. -EBUSY: something is left.
 */
int sp_pool_segment_destroy(struct sp_pool_segment *segment, const struct sp_pool_mount *mount);

/* stored.c: the same of segments in the store, for segment.c. */
int sp_pool_stored_write(struct sp_pool_segment *segment, uint32_t index, unsigned n,
                         const void *bytes, const void **written);
const void *sp_pool_stored_at(struct sp_pool_segment *segment, uint32_t index);
int sp_pool_stored_destroy(struct sp_pool_segment *segment);
int sp_pool_stored_out(struct sp_pool_segment *segment, uint32_t index, unsigned n, bool *out);
void sp_pool_stored_tell_forgotten(struct sp_pool_segment *segment);
/* A descriptor for reading. Negative errno. */
int sp_pool_stored_fd(const struct sp_pool_segment *segment);

/* nodes.c */
#define SP_POOL_NODES      64 /* numbers below it are nodes (N1) */
#define SP_POOL_NODES_MOST 128u
/* Has the kernel take the file's memory from segment->node for as long as that has some. 0, -ENOMEM, -EINVAL, or
 * -EPERM where mbind(2) is refused for whatever reason. */
int sp_pool_segment_prefer(struct sp_pool_segment *segment);
/* Where n frames, at most SP_POOL_NODES_MOST, lie as far as they are in the view: else -1. */
int sp_pool_segment_nodes(struct sp_pool_segment *segment, uint32_t index, unsigned n, int *node);
/* Gives back the memory of frames that no client ever mapped. */
void sp_pool_segment_empty(struct sp_pool_segment *segment, uint32_t index, unsigned n);

/* segment.c, for who makes one. NULL: no memory. */
struct sp_pool_segment *sp_pool_segment_alloc(uint32_t id, uint32_t npages);
/* The file's name in the tmpfs; name has room for 16. */
void sp_pool_segment_name(uint32_t id, char name[16]);
uint64_t sp_pool_segment_bytes(const struct sp_pool_segment *segment);

#endif
