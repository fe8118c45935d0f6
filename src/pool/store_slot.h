/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One slot: how a frame's bytes are packed, and how it is known that they are right.
 *
 * Zeros and other pages of one repeated word take a word; what does not shrink by a sixty-fourth
 * is kept as it is. The checksum is over the packed bytes, with the frame's number as its seed, so
 * a slot of another frame is as wrong as a broken one.
 */
#ifndef SP_POOL_STORE_SLOT_H
#define SP_POOL_STORE_SLOT_H

#include <stddef.h>
#include <stdint.h>

#include "store.h"

#define SP_SLOT_UNIT 16u /* slots begin at multiples of it */

struct sp_slot {
    uint32_t frame;
    uint16_t length; /* of the packed bytes that follow */
    uint8_t packing;
    uint8_t zero;
    uint64_t checksum;
};

struct sp_packer;

struct sp_packer *sp_packer_new(enum sp_store_codec codec, size_t page_size);
void sp_packer_free(struct sp_packer *packer);

/* The most that a slot of a page takes. */
size_t sp_slot_most(size_t page_size);
/* What a slot takes in its piece. */
size_t sp_slot_size(const struct sp_slot *slot);
/* Writes the slot of a page at to, which has room for sp_slot_most(). */
void sp_slot_pack(struct sp_packer *packer, struct sp_slot *to, uint32_t frame, const void *page);
/* The page of a slot of which size bytes are there. 0; -EIO: they are not what was packed. */
int sp_slot_unpack(struct sp_packer *packer, const struct sp_slot *slot, size_t size,
                   uint32_t frame, void *page);

#endif
