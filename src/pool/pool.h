/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool: frames, that is pages of files in a tmpfs of the daemon's own.
 *
 * What exists. A pool has one detached tmpfs (huge=never: punching one page of a huge folio frees
 * nothing and reads zeros) and a read-only clone of that mount. Each **segment** is one file in it.
 * The daemon maps segments for writing; clients get descriptors opened through the read-only mount,
 * which nobody can reopen for writing, root included (EROFS). One set of segments for each domain:
 * the pool hands out a struct sp_pool_set for each. Segment ids are unique in the pool and start
 * at 1, at most 65535 live ones.
 *
 * The life of a frame. Allocated in runs (neighbours for neighbours), filled once by the daemon,
 * then never written again (K11). When the engine forgets a frame its memory is not touched: a
 * hole is poison (DESIGN.md, Frames). When every frame of a segment is forgotten or unused, the
 * segment is **retiring**: nothing new is allocated in it, the daemon asks its clients to drop
 * descriptor and views, unmaps its own view, and asks sp_pool_segment_try_free(), which succeeds
 * only when a write lease proves that no descriptor and no mapping of the file is left anywhere
 * (K9). Until then it is asked again later.
 *
 * The tmpfs' size limit follows the segments (grown before a segment is added, lowered after one is
 * freed), so that a stray touch beyond gets SIGBUS instead of zeros.
 *
 * Frames that leave memory (S1). Where there is a store (store_process.h) new segments are files of
 * it, and not of the tmpfs: whoever maps them sees no difference, and their frames can be evicted.
 *
 * Survival (D1). The descriptors (rw files, and the read-only mount) can be handed to another
 * process and taken over by a new daemon: sp_pool_export(), sp_pool_import().
 *
 * One thread at a time.
 */
#ifndef SP_POOL_POOL_H
#define SP_POOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_POOL_SEGMENT_PAGES 4096u /* 16 MiB of 4 KiB pages: docs/decisions/0002-*.md */

struct stat;
struct sp_pool;
struct sp_pool_set;
struct sp_store_link;

/*
 * Makes the tmpfs. Needs the right to mount: root, or (as an unprivileged user) a user and mount
 * namespace that a child process of ours may enter. Returns 0 and *out, or a negative errno with a
 * sentence for the log in why.
 */
int sp_pool_new(struct sp_pool **out, char *why, size_t why_size);
/* Unmaps and closes everything. The memory itself lives as long as clients map it. */
void sp_pool_free(struct sp_pool *pool);

/* A set of segments: one domain. id is the caller's, kept across export; the set that has it
 * already is returned, if one has. NULL: memory. */
struct sp_pool_set *sp_pool_set_new(struct sp_pool *pool, uint32_t id);
struct sp_pool_set *sp_pool_set_find(struct sp_pool *pool, uint32_t id);
/* Forgets all frames of the set: its segments are retiring from now on. */
void sp_pool_set_retire(struct sp_pool_set *set);

/*
 * Allocates up to want neighbouring frames that were never filled, opening a new segment if needed.
 * Returns 0 and sets *segment, *index, *got (1 to want), the segment perhaps one that clients must
 * be told of; or a negative errno (-ENOMEM, -ENOSPC).
 */
int sp_pool_alloc(struct sp_pool_set *set, unsigned want, uint32_t *segment, uint32_t *index,
                  unsigned *got);
/* The same, in segments whose memory is taken from that node as long as it has some (N1); -1: any. -EPERM, too:
 * the kernel does not let us choose the node. */
int sp_pool_alloc_on(struct sp_pool_set *set, int node, unsigned want, uint32_t *segment,
                     uint32_t *index, unsigned *got);
/* The node that a segment's memory is wanted from, -1: any, or no such segment. */
int sp_pool_segment_node(struct sp_pool_set *set, uint32_t segment);
/*
 * On which node each of n neighbouring frames lies (N3), as far as this process has looked at it; -1
 * where that is not known. n at most 128. 0, or a negative errno.
 */
int sp_pool_nodes(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n, int *node);
/* Gives the memory of frames back that no client ever mapped; they may be written again. */
void sp_pool_empty(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n);
/* Gives back frames that no client ever mapped. */
void sp_pool_unalloc(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n);
/* The frame has no site left that the engine knows. Its bytes stay. */
void sp_pool_forget(struct sp_pool_set *set, uint32_t segment, uint32_t index);
/* Marks a frame as in use again, or for the first time after an import. -ENOENT: no such frame. */
int sp_pool_claim(struct sp_pool_set *set, uint32_t segment, uint32_t index);

/* The bytes of a frame, until the pool is called again: page_size of them, NULL if there is no such
 * frame. */
const void *sp_pool_frame(struct sp_pool_set *set, uint32_t segment, uint32_t index);

/*
 * Writes n pages of bytes into neighbouring frames that were never filled (n as sp_pool_alloc() gave
 * them). By a write, not through the view: the kernel then neither clears the new pages nor takes a
 * fault for each (docs/decisions/0008-cpu-of-a-merge.md). *written is where what the frames hold now
 * can be read, until the pool is called again. 0, or a negative errno.
 */
int sp_pool_write(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n,
                  const void *bytes, const void **written);

/*
 * From now on new segments are the store's; NULL: the tmpfs' again, where those that are the store's
 * stay. The link stays the caller's, and outlives the pool. Segments of which a node is wanted are
 * always the tmpfs'.
 */
void sp_pool_use_store(struct sp_pool *pool, struct sp_store_link *link);
/* The set that a segment belongs to; NULL: there is no such segment. */
struct sp_pool_set *sp_pool_set_of(const struct sp_pool *pool, uint32_t segment);
uint32_t sp_pool_set_id(const struct sp_pool_set *set);
/* Can frames of the segment leave memory? */
bool sp_pool_is_stored(struct sp_pool_set *set, uint32_t segment);
/* Which of n frames, at most 128, are out of memory: in the store alone, or, of the tmpfs, in the machine's own
 * swap: out[i]. 0 or a negative errno; -ENOENT: no frame was handed out from there on. */
int sp_pool_out(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n, bool *out);
/*
 * The numbers of the physical pages of n frames of the tmpfs, at most 128; 0: it is not in
 * memory. pagemap is open on /proc/self/pagemap. Those in memory are read into this process' page table for it.
 * 0 or a negative errno; -EINVAL: the segment is the store's; -EACCES: we may not know.
 */
int sp_pool_numbers(struct sp_pool_set *set, int pagemap, uint32_t segment, uint32_t index, unsigned n,
                    uint64_t *number);
/* Has a frame of the tmpfs in memory, and in this process' page table. 0; -EIO: the machine's swap cannot give
 * it back (S8); another negative errno. */
int sp_pool_bring(struct sp_pool_set *set, uint32_t segment, uint32_t index);
/* Tells the store which frames were forgotten since the last time (S10): now and then. */
void sp_pool_tell_forgotten(struct sp_pool *pool);

/*
 * The full segment of which the smallest part is in use, at most a half, if the set's frames that
 * linger in segments that do not retire are more than a third of those in use (and more than 1024); of those
 * that were marked least often. 0: there is none. What is left in it keeps the memory of all.
 */
uint32_t sp_pool_thinnest(const struct sp_pool_set *set);
/* It is being thinned out: it is not to be the answer again, and no frame of it is allocated; or that came
 * to nothing, and it is used as any other. */
void sp_pool_mark_thin(struct sp_pool_set *set, uint32_t segment, bool is);

/* A read-only descriptor of the segment for a client; the caller closes it. Negative errno. */
int sp_pool_segment_fd(struct sp_pool_set *set, uint32_t segment);
uint32_t sp_pool_segment_pages(struct sp_pool_set *set, uint32_t segment);
/* The file that a segment of the tmpfs is, as the maps of who maps it name it. 0 or a negative errno; -EINVAL: the segment
 * is the store's. */
int sp_pool_segment_file(struct sp_pool_set *set, uint32_t segment, struct stat *file);
/* Calls fn for every segment of the set; retiring says that no frame in it is in use. */
void sp_pool_segments(struct sp_pool_set *set,
                      void (*fn)(void *arg, uint32_t segment, uint32_t npages, bool retiring),
                      void *arg);
/* Frees a retiring segment if nothing maps it anywhere (K9). 0: freed; -EBUSY: not yet. */
int sp_pool_segment_try_free(struct sp_pool_set *set, uint32_t segment);

struct sp_pool_counters {
    uint64_t segments, retiring;
    uint64_t frames_used;      /* allocated and not forgotten */
    uint64_t frames_lingering; /* forgotten, their memory not freed yet */
    uint64_t frames_leaving;   /* of these: in segments that retire, so only programs hold them */
    uint64_t bytes;            /* memory that the tmpfs holds now, and of the store's all frames in use, out or not */
};
void sp_pool_counters(const struct sp_pool *pool, struct sp_pool_counters *out);
void sp_pool_set_counters(const struct sp_pool_set *set, struct sp_pool_counters *out);

/*
 * Survival. export calls fn for each descriptor with a record that import understands (at most 64
 * bytes); the descriptors stay the pool's. fn may be called again later for segments that are new:
 * register it once with sp_pool_on_change(), which is told of each added and freed segment.
 * import builds a pool from such records; every frame that is not claimed afterwards, before
 * sp_pool_import_end(), counts as forgotten. The descriptors are the pool's if import returns 0,
 * and stay the caller's if it fails. store: as of sp_pool_use_store(); without it segments that were
 * the store's are lost with it.
 */
struct sp_pool_record {
    uint32_t kind; /* 1: rw mount, 2: ro mount, 3: segment */
    uint32_t set, segment, npages;
    uint64_t node;   /* of a segment: that it is wanted from, and one; 0: any */
    uint64_t stored; /* of a segment: 1: it is the store's, and the descriptor is of no matter */
    uint64_t reserved[4];
};
typedef void (*sp_pool_export_fn)(void *arg, const struct sp_pool_record *record, int fd);
void sp_pool_export(struct sp_pool *pool, sp_pool_export_fn fn, void *arg);
/* fd is -1 when a segment was freed. */
void sp_pool_on_change(struct sp_pool *pool, sp_pool_export_fn fn, void *arg);
int sp_pool_import(struct sp_pool **out, const struct sp_pool_record *record, const int *fd,
                   size_t n, struct sp_store_link *store, char *why, size_t why_size);
void sp_pool_import_end(struct sp_pool *pool);

#endif
