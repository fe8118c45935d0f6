/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: the bytes of frames that left memory (S1), compressed, first in memory, then in a
 * file.
 *
 * What exists. A **slot** holds one frame: a header with the frame's number and a checksum, and its
 * bytes, compressed. Slots are written one behind the other into **pieces** of 1 MiB, and never
 * changed: a frame's bytes never do (K11). A piece is in memory, or, as a whole and with the same
 * contents, in the file: so the file sees nothing but large aligned writes. The **index** says for
 * each frame in which piece its slot is, and where there; who drops a frame (S10) empties its
 * entry. What no entry names is dead. A piece without a live slot is free at once; of one that is
 * mostly dead the live slots are moved into the open piece, the only one that grows: so what is
 * dead stays below a quarter of what is held, and the pieces that are being filled and emptied.
 *
 * The index and the pieces in memory are two memfds. Whoever has them (the keeper) can give them to
 * a new process when this one is killed, at any instruction (D1): a slot is complete before the
 * piece says so, and the piece says so before the entry names it; a piece is in the file before it
 * says so. Each of these is one store of a word. What was not named yet is lost, and was not
 * promised.
 *
 * A slot whose bytes cannot be read, or do not have their checksum, stays named: every later look
 * says the same (S8), until the frame is dropped.
 *
 * One thread at a time. Frames are numbered as in src/engine/ops.h: segment << 16 | page, with
 * pages below SP_POOL_SEGMENT_PAGES.
 */
#ifndef SP_POOL_STORE_H
#define SP_STORE_PAGE_SIZE_MAX 32768u /* a slot's length has 16 bits, its size 12 bits of units */
#define SP_POOL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool.h"

#define SP_STORE_PIECE      (1u << 20)
#define SP_STORE_MOST_BYTES (64ull << 30) /* packed, in memory or in the file */

struct sp_store;

enum sp_store_codec {
    SP_STORE_LZ4,  /* unpacks a page in 0.9 us, to 0.50 of JSON and 0.31 of a heap (issue 7) */
    SP_STORE_ZSTD, /* 2.4 us, to 0.42 and 0.20 */
};

struct sp_store_config {
    enum sp_store_codec codec;
    uint64_t memory_bytes; /* that pieces in memory may take, at least two pieces */
    int file;              /* of sp_store_place(), stays the caller's; -1: none */
    uint64_t file_bytes;   /* its size: nothing is written behind that */
    bool encrypt; /* of a new store: what is in the file is encrypted, with a key in the index */
};

enum sp_store_fd { SP_STORE_FD_INDEX, SP_STORE_FD_PIECES, SP_STORE_FDS };

/* 0 and *out, or a negative errno. */
int sp_store_new(struct sp_store **out, const struct sp_store_config *config);
/*
 * What another process left: its descriptors, of which this makes its own, and the same file. Also
 * with a smaller limit than what is there: then nothing is added until there is less. -EINVAL: they
 * are not a store's, or were that of another version.
 */
int sp_store_attach(struct sp_store **out, const int fd[SP_STORE_FDS],
                    const struct sp_store_config *config);
/*
 * What the process that serves the store (store_process.h) notes for the one after it. It lies in
 * the index, so it is there when a word of it was written; all zero in a new store.
 */
#define SP_STORE_SEGMENTS 65536u
#define SP_STORE_OPENINGS 65536u
#define SP_STORE_HELD     128u
struct sp_store_notes {
    uint64_t segment[SP_STORE_SEGMENTS / 64]; /* bits: which there are */
    struct {
        uint64_t request; /* by which it was opened */
        uint32_t segment; /* 0: free */
    } opening[SP_STORE_OPENINGS];
    uint32_t openings; /* none of a higher number was ever used */
    /* Frames that are held back; n last, 0: none. For whom: an agent, and when its process began,
     * as /proc/PID/stat has it; 0: the daemon. */
    uint32_t hold_segment, hold_n, hold_pid;
    uint32_t reading; /* servers' threads that may be answering */
    uint32_t waited;  /* touches that waited for frames that were held, ever */
    uint64_t hold_born;
    uint16_t hold_index[SP_STORE_HELD];
    uint64_t read_errors, checksum_errors; /* readers' (store_reader.h), added to the counters */
};
struct sp_store_notes *sp_store_notes(struct sp_store *store);
/* The same, bits for the frames of one segment (store_process.h). */
#define SP_STORE_WORDS (SP_POOL_SEGMENT_PAGES / 64)
struct sp_store_marks {
    uint64_t filled[SP_STORE_WORDS]; /* have bytes, or will at once */
    uint64_t kept[SP_STORE_WORDS];   /* only in memory, or lost */
    uint64_t held[SP_STORE_WORDS];   /* who touches one waits */
    uint64_t back[SP_STORE_WORDS];   /* came back, not told yet */
    uint64_t lost[SP_STORE_WORDS];   /* could not be had when somebody wanted it, not told yet */
    uint64_t told[SP_STORE_WORDS];   /* ... or told: each frame once in its life */
};
struct sp_store_marks *sp_store_marks(struct sp_store *store, uint32_t segment);

/* They stay the store's. */
void sp_store_fds(const struct sp_store *store, int fd[SP_STORE_FDS]);
void sp_store_free(struct sp_store *store);

/* Is what is in the file encrypted? A store's descriptors; 1, 0, or a negative errno. */
int sp_store_encrypts(const int fd[SP_STORE_FDS]);

/*
 * A new file of mode 0600 in a folder (store_place.h), all its room taken already, whose name is
 * removed at once. It bypasses the page cache where it can. Its descriptor, or a negative errno:
 * -EEXIST: there is one, which is not touched; -ENOSPC; -EOPNOTSUPP: the file system takes no room
 * beforehand.
 */
int sp_store_file_open(int folder, const char *name, uint64_t bytes);

/* Puts a page's bytes. 0, also if the frame is there already; -ENOSPC: the store is full; -EIO: the
 * file could not be written. Then the frame is not there, and all others are as they were (S3). */
int sp_store_put(struct sp_store *store, uint32_t frame, const void *page);
/* 0; -ENOENT: not there; -EIO: its bytes cannot be had (S8): page is undefined. */
int sp_store_get(struct sp_store *store, uint32_t frame, void *page);
bool sp_store_has(const struct sp_store *store, uint32_t frame);
/* Also of a frame that is not there. */
void sp_store_drop(struct sp_store *store, uint32_t frame);
/* Of all frames of a segment, and gives the memory of their entries back. */
void sp_store_drop_segment(struct sp_store *store, uint32_t segment);
/* The first frame that is there, from this number on; 0: none is. */
uint32_t sp_store_next(const struct sp_store *store, uint32_t from);

/* Writes the oldest piece of those in memory, but for the open one, into the file. 1; 0: there is
 * none; -ENOSPC: the file is full, or there is none; -EIO. */
int sp_store_demote(struct sp_store *store);
/* Moves the live slots of at most one piece together, if more than that quarter is dead. 1: did; 0:
 * nothing is to be done; a negative errno as of a put. */
int sp_store_tidy(struct sp_store *store);

struct sp_store_counters {
    uint64_t frames;          /* there are */
    uint64_t live_bytes;      /* of their slots */
    uint64_t memory_bytes;    /* of pieces in memory */
    uint64_t file_bytes;      /* of pieces in the file */
    uint64_t read_errors;     /* S8, each look at a slot that cannot be read */
    uint64_t checksum_errors; /* ... or has other bytes */
    uint64_t write_errors;    /* of the file */
    uint64_t moved;           /* slots, by tidying */
};
void sp_store_counters(const struct sp_store *store, struct sp_store_counters *out);

#endif
