/* SPDX-License-Identifier: Apache-2.0 */
#include "store_slot.h"

#include <errno.h>
#include <lz4.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#ifndef static_assert
#define static_assert _Static_assert /* xxhash.h, all inline, means C11's <assert.h> */
#endif
#include <xxhash.h>

#define ZSTD_LEVEL (-1) /* level 1 packs better by a third, and unpacks half as fast */
#define LZ4_SPEED  1

enum packing { AS_IT_IS, ONE_WORD, BY_LZ4, BY_ZSTD };

_Static_assert(sizeof(struct sp_slot) == SP_SLOT_UNIT, "a header is one unit");

struct sp_packer {
    enum sp_store_codec codec;
    size_t page_size;
    void *lz4;
    ZSTD_CCtx *zstd;
    ZSTD_DCtx *unzstd; /* also where lz4 is used: the setting may have been another one */
};

struct sp_packer *sp_packer_new(enum sp_store_codec codec, size_t page_size)
{
    struct sp_packer *packer = calloc(1, sizeof(*packer));

    if (!packer)
        return NULL;
    packer->codec = codec;
    packer->page_size = page_size;
    packer->lz4 = malloc((size_t)LZ4_sizeofState());
    packer->zstd = ZSTD_createCCtx();
    packer->unzstd = ZSTD_createDCtx();
    if (packer->lz4 && packer->zstd && packer->unzstd)
        return packer;
    sp_packer_free(packer);
    return NULL;
}

void sp_packer_free(struct sp_packer *packer)
{
    if (!packer)
        return;
    free(packer->lz4);
    ZSTD_freeCCtx(packer->zstd);
    ZSTD_freeDCtx(packer->unzstd);
    free(packer);
}

size_t sp_slot_most(size_t page_size)
{
    return sizeof(struct sp_slot) + page_size;
}

size_t sp_slot_size(const struct sp_slot *slot)
{
    return sizeof(*slot) + ((slot->length + SP_SLOT_UNIT - 1u) & ~(size_t)(SP_SLOT_UNIT - 1));
}

static bool is_one_word(const void *page, size_t size)
{
    return !memcmp(page, (const char *)page + sizeof(uint64_t), size - sizeof(uint64_t));
}

/* The length of the packed page; 0: it does not fit into room. */
static size_t compress(struct sp_packer *packer, void *to, size_t room, const void *page)
{
    size_t n;
    int length;

    if (packer->codec == SP_STORE_ZSTD) {
        n = ZSTD_compressCCtx(packer->zstd, to, room, page, packer->page_size, ZSTD_LEVEL);
        return ZSTD_isError(n) ? 0 : n;
    }
    length = LZ4_compress_fast_extState(packer->lz4, page, to, (int)packer->page_size, (int)room,
                                        LZ4_SPEED);
    return length > 0 ? (size_t)length : 0;
}

static uint64_t checksum(const struct sp_slot *slot)
{
    uint64_t seed = (uint64_t)slot->packing << 48 | (uint64_t)slot->length << 32 | slot->frame;

    return XXH3_64bits_withSeed(slot + 1, slot->length, seed);
}

void sp_slot_pack(struct sp_packer *packer, struct sp_slot *to, uint32_t frame, const void *page)
{
    size_t size = packer->page_size, n;

    *to = (struct sp_slot){.frame = frame};
    if (is_one_word(page, size)) {
        to->packing = ONE_WORD;
        n = sizeof(uint64_t);
        memcpy(to + 1, page, n);
    } else {
        n = compress(packer, to + 1, size - size / 64, page);
        to->packing = !n ? AS_IT_IS : packer->codec == SP_STORE_ZSTD ? BY_ZSTD : BY_LZ4;
        if (!n) {
            n = size;
            memcpy(to + 1, page, n);
        }
    }
    to->length = (uint16_t)n;
    to->checksum = checksum(to);
    memset((char *)(to + 1) + n, 0, sp_slot_size(to) - sizeof(*to) - n);
}

static bool unpack(struct sp_packer *packer, const struct sp_slot *slot, void *page)
{
    size_t size = packer->page_size;

    switch ((enum packing)slot->packing) {
    case AS_IT_IS:
        if (slot->length != size)
            return false;
        memcpy(page, slot + 1, size);
        return true;
    case ONE_WORD:
        if (slot->length != sizeof(uint64_t))
            return false;
        for (size_t at = 0; at < size; at += sizeof(uint64_t))
            memcpy((char *)page + at, slot + 1, sizeof(uint64_t));
        return true;
    case BY_LZ4:
        return LZ4_decompress_safe((const char *)(slot + 1), page, slot->length, (int)size) ==
               (int)size;
    case BY_ZSTD:
        return ZSTD_decompressDCtx(packer->unzstd, page, size, slot + 1, slot->length) == size;
    }
    return false;
}

int sp_slot_unpack(struct sp_packer *packer, const struct sp_slot *slot, size_t size,
                   uint32_t frame, void *page)
{
    if (size < sizeof(*slot) || slot->length > size - sizeof(*slot) || slot->frame != frame ||
        slot->checksum != checksum(slot) || !unpack(packer, slot, page))
        return -EIO;
    return 0;
}
