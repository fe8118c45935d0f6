/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader of a store that another process writes (store.h), at the same time and without a lock:
 * neither waits for the other, and neither's death matters to the other.
 *
 * Why that is right. A frame's bytes never change (K11), a slot never changes, and a slot's
 * checksum, which has the frame's number in it, says whether the bytes that were copied are one of
 * that frame. While a slot is copied its piece may be written to the file, emptied, and filled
 * anew: then the copy's checksum is wrong, and the entry or the piece's place says something else
 * than before, and it is tried again. Only what is wrong several times while nothing moved is lost
 * (S8).
 *
 * Pieces in memory are read by pread(), not through a mapping: a touch of what was just punched out
 * would give the piece its memory back.
 */
#ifndef SP_POOL_STORE_READER_H
#define SP_POOL_STORE_READER_H

#include "store.h"

struct sp_store_reader;

/* Of the store's descriptors and its file (-1: none), which stay the caller's. 0, -ENOMEM, or
 * -EINVAL: they are no store's. */
int sp_store_reader_new(struct sp_store_reader **out, const int fd[SP_STORE_FDS], int file);
void sp_store_reader_free(struct sp_store_reader *reader);
/* As sp_store_get(). One thread at a time for each reader. */
int sp_store_reader_get(struct sp_store_reader *reader, uint32_t frame, void *page);
/* These n frames are asked for next, in order, by one request of the kernel's: those whose slots
 * lie near one another in the file are read together, with the first of them. Ends with the next
 * call. */
void sp_store_reader_expect(struct sp_store_reader *reader, uint32_t frame, uint32_t n);
/* What is noted in the index (store.h). */
struct sp_store_notes *sp_store_reader_notes(struct sp_store_reader *reader);
struct sp_store_marks *sp_store_reader_marks(struct sp_store_reader *reader, uint32_t segment);

#endif
