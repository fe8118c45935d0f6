/* SPDX-License-Identifier: Apache-2.0 */
/* What store.c, store_pieces.c and store_reader.c share. */
#ifndef SP_POOL_STORE_INSIDE_H
#define SP_POOL_STORE_INSIDE_H

#include "pool.h"
#include "store_file.h"
#include "store_slot.h"

#define SP_STORE_PIECES      65536u /* numbers; 0 is none: 64 GiB of packed bytes */
#define SP_STORE_MOST_WASTED 4u     /* dead bytes: one in so many */

/* Where a piece is: what in the top half, which place in the file below. One word, stored at once.
 */
enum sp_piece_is { SP_PIECE_FREE, SP_PIECE_IN_MEMORY, SP_PIECE_IN_FILE };
#define SP_PIECE(is, place)   ((uint64_t)(is) << 32 | (place))
#define SP_PIECE_IS(where)    ((enum sp_piece_is)((where) >> 32))
#define SP_PIECE_PLACE(where) ((uint32_t)(where))

/* In the index's memfd. */
struct sp_piece {
    uint64_t where;
    uint32_t used;   /* bytes: slots up to here are complete */
    uint32_t age;    /* grows with each new piece */
    uint64_t sealed; /* the number of its writing to the file, where that is encrypted */
};

struct sp_piece_tags {
    uint8_t tag[SP_STORE_PIECE / SP_STORE_FILE_BLOCK * SP_SEAL_TAG];
};

struct sp_store_head {
    char magic[8];
    uint32_t page_size;
    uint32_t encrypts; /* the file: for good */
    uint64_t sealed;   /* writings so far: no two have the same number */
    uint8_t key[SP_SEAL_KEY];
    struct sp_store_notes notes;
};

/* A frame's entry: the slot's piece, its offset, its size, both in units; 0: none. */
#define SP_ENTRY(piece, offset, size)                                                              \
    ((uint64_t)(piece) << 32 | (uint64_t)((offset) / SP_SLOT_UNIT) << 12 | (size) / SP_SLOT_UNIT)
#define SP_ENTRY_PIECE(entry)  ((uint32_t)((entry) >> 32))
#define SP_ENTRY_OFFSET(entry) ((uint32_t)((entry) >> 12 & 0xfffff) * SP_SLOT_UNIT)
#define SP_ENTRY_SIZE(entry)   ((uint32_t)((entry)&0xfff) * SP_SLOT_UNIT)

/* The index: the head, the pieces, the frames' entries, the segments' marks, the tags of
 * pieces that are encrypted. Sparse. */
#define SP_STORE_HEAD_BYTES  (1u << 21)
#define SP_STORE_PIECES_AT   SP_STORE_HEAD_BYTES
#define SP_STORE_ENTRIES     ((uint64_t)SP_STORE_SEGMENTS * SP_POOL_SEGMENT_PAGES)
#define SP_STORE_ENTRIES_AT  (SP_STORE_PIECES_AT + SP_STORE_PIECES * sizeof(struct sp_piece))
#define SP_STORE_MARKS_AT    (SP_STORE_ENTRIES_AT + SP_STORE_ENTRIES * sizeof(uint64_t))
#define SP_STORE_TAGS_AT     (SP_STORE_MARKS_AT + SP_STORE_SEGMENTS * sizeof(struct sp_store_marks))
#define SP_STORE_INDEX_BYTES (SP_STORE_TAGS_AT + SP_STORE_PIECES * sizeof(struct sp_piece_tags))

_Static_assert(sizeof(struct sp_store_head) <= SP_STORE_HEAD_BYTES, "the head has no room");

#define SP_STORE_MAGIC         "spstore5"

struct sp_store {
    int fd[SP_STORE_FDS];
    struct sp_store_config config;
    struct sp_packer *packer;
    size_t page_size;
    struct sp_store_head *head; /* the index: head, pieces, entries */
    struct sp_piece *piece;
    uint64_t *entry;
    struct sp_store_marks *marks;
    struct sp_piece_tags *tags;
    char *memory;  /* piece n, while it is there, at n * SP_STORE_PIECE */
    uint32_t open; /* the piece that grows; 0: none */
    uint32_t end;  /* no piece from this number on is in use */
    uint32_t age;
    uint32_t in_memory, in_file; /* pieces */
    uint32_t memory_most, file_most;
    uint64_t memory_used, file_used; /* bytes of slots, live or dead */
    uint64_t memory_live, file_live;
    uint64_t frames, read_errors, checksum_errors, write_errors, moved;
    uint64_t failed_at;   /* s: when the file could not be written */
    uint32_t *live;       /* bytes, of each piece */
    uint8_t *broken;      /* pieces of which not all slots can be found */
    uint8_t *place_taken; /* in the file */
    char *slot;           /* room for one slot, and for a window of the file around one */
    char *window;
    char *whole;  /* a piece that was read from the file; made when first needed */
    char *sealed; /* room for an encrypted one, where there are any */
};

/* The frame's entry; NULL: no store has such a frame. */
uint64_t *sp_store_entry(const struct sp_store *store, uint32_t frame);
/* Names a slot, which is complete, as the frame's; old is what the entry was, 0: nothing. */
void sp_store_name(struct sp_store *store, uint32_t frame, uint64_t old, uint64_t entry);

/* store_pieces.c: puts a slot into the open piece; *entry is for sp_store_name(). spare: in any
 * case, for what is moved gives back more. 0, -ENOSPC or -EIO. */
int sp_pieces_append(struct sp_store *store, const struct sp_slot *slot, bool spare,
                     uint64_t *entry);
/* The slot of that entry; size bytes of it can be read. 0, -EIO, or -EBADMSG: other bytes than were
 * written to the file. */
int sp_pieces_slot(struct sp_store *store, uint64_t entry, const struct sp_slot **slot,
                   size_t *size);
/* Bytes of it are live, or not any more: a piece without any is given back. */
void sp_pieces_live(struct sp_store *store, uint64_t entry, bool is);
/* After an attach, when it is known what lives: counts, and gives back what nobody names. */
void sp_pieces_settle(struct sp_store *store);

#endif
