/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's file: pieces are written to it as a whole, and read again by blocks.
 *
 * Where the store encrypts (store.h), each block of a piece is encrypted and has a tag, 16 bytes
 * that no other block, place or time has: a block that was changed, exchanged, or brought back from
 * earlier is as wrong as a broken one. ChaCha20-Poly1305 (RFC 8439); the nonce is a number that
 * each writing of a piece has for itself, also that of the next process after a kill, and the
 * block's number in the piece. Numbers, tags and key are in the store's index, which is memory: the
 * file has nothing but what it encrypted.
 */
#ifndef SP_POOL_STORE_FILE_H
#define SP_POOL_STORE_FILE_H

#include <stddef.h>
#include <stdint.h>

#define SP_STORE_FILE_BLOCK 4096u /* what direct I/O is aligned to */
#define SP_SEAL_KEY         32u   /* bytes */
#define SP_SEAL_TAG         16u

static inline uint32_t sp_store_round_up(uint32_t size)
{
    return (size + SP_STORE_FILE_BLOCK - 1) & ~(SP_STORE_FILE_BLOCK - 1);
}

/* How a piece's blocks are encrypted; key NULL: they are not. */
struct sp_seal {
    const uint8_t *key; /* SP_SEAL_KEY bytes */
    uint64_t number;    /* of the writing */
    uint8_t *tag;       /* SP_SEAL_TAG bytes of each block of the piece */
};

/* Before the first seal of a process. 0 or -EIO. */
int sp_seal_begin(void);
/* A new key. 0 or a negative errno. */
int sp_seal_new_key(uint8_t key[SP_SEAL_KEY]);
/* Blocks from number first on: into to, which may not overlap them, and their tags. */
void sp_seal_blocks(const struct sp_seal *seal, const void *plain, void *to, uint32_t first,
                    uint32_t n);
/* Where they lie. 0; -EBADMSG: one is not what was sealed. */
int sp_seal_open_blocks(const struct sp_seal *seal, void *blocks, uint32_t first, uint32_t n);

/* All of size bytes of a file, from there on. 0 or -EIO. */
int sp_store_read_file(int file, void *to, size_t size, uint64_t at);
/* Bytes [offset, offset + size) of a piece, both in whole blocks, that begins there in the file. 0,
 * -EIO, or -EBADMSG: other bytes than were written. */
int sp_store_read_piece(int file, const struct sp_seal *seal, void *to, uint32_t offset,
                        uint32_t size, uint64_t at);
/* size bytes, whole blocks, of a piece, which is to begin there in the file. room: as many, where
 * it is encrypted. 0 or -EIO. */
int sp_store_write_piece(int file, const struct sp_seal *seal, const void *from, void *room,
                         uint32_t size, uint64_t at);

#endif
