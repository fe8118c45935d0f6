/* SPDX-License-Identifier: Apache-2.0 */
#include "store_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_inside.h"

#define TRIES 1000u /* while the slot moves under our eyes: once is rare */
#define SURE  4u    /* times that the same place had wrong bytes */

struct sp_store_reader {
    int pieces, file;
    size_t page_size;
    char *index;
    const struct sp_piece *piece;
    const uint64_t *entry;
    const struct sp_store_head *head;
    struct sp_piece_tags *tags;
    struct sp_packer *packer;
    char *window; /* room for a slot and what is around it in the file */
};

int sp_store_reader_new(struct sp_store_reader **out, const int fd[SP_STORE_FDS], int file)
{
    struct sp_store_reader *r = calloc(1, sizeof(*r));
    struct stat st;

    if (!r)
        return -ENOMEM;
    r->pieces = fd[SP_STORE_FD_PIECES];
    r->file = file;
    r->page_size = (size_t)sysconf(_SC_PAGESIZE);
    r->index = MAP_FAILED;
    if (fstat(fd[SP_STORE_FD_INDEX], &st) || st.st_size != (off_t)SP_STORE_INDEX_BYTES) {
        sp_store_reader_free(r);
        return -EINVAL;
    }
    r->index = mmap(NULL, SP_STORE_INDEX_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                    fd[SP_STORE_FD_INDEX], 0);
    r->packer = sp_packer_new(SP_STORE_LZ4, r->page_size);
    r->window = aligned_alloc(SP_STORE_PAGE_SIZE_MAX, 3ul * SP_STORE_PAGE_SIZE_MAX);
    if (r->index == MAP_FAILED || !r->packer || !r->window) {
        sp_store_reader_free(r);
        return -ENOMEM;
    }
    madvise(r->index, SP_STORE_INDEX_BYTES, MADV_DONTDUMP);
    r->head = (const struct sp_store_head *)r->index;
    if (memcmp(r->head->magic, SP_STORE_MAGIC, sizeof(r->head->magic)) ||
        r->head->page_size != r->page_size) {
        sp_store_reader_free(r);
        return -EINVAL;
    }
    if (r->head->encrypts && sp_seal_begin()) {
        sp_store_reader_free(r);
        return -EIO;
    }
    r->piece = (const struct sp_piece *)(r->index + SP_STORE_PIECES_AT);
    r->entry = (const uint64_t *)(r->index + SP_STORE_ENTRIES_AT);
    r->tags = (struct sp_piece_tags *)(r->index + SP_STORE_TAGS_AT);
    *out = r;
    return 0;
}

void sp_store_reader_free(struct sp_store_reader *r)
{
    if (!r)
        return;
    if (r->index != MAP_FAILED)
        munmap(r->index, SP_STORE_INDEX_BYTES);
    sp_packer_free(r->packer);
    free(r->window);
    free(r);
}

struct sp_store_notes *sp_store_reader_notes(struct sp_store_reader *r)
{
    return &((struct sp_store_head *)r->index)->notes;
}

struct sp_store_marks *sp_store_reader_marks(struct sp_store_reader *r, uint32_t segment)
{
    return (struct sp_store_marks *)(r->index + SP_STORE_MARKS_AT) + segment;
}

/* Copies the slot of an entry that is at that place. 0; -EIO: it cannot be read; -EBADMSG: these
 * are other bytes. */
static int copy_slot(struct sp_store_reader *r, uint64_t entry, uint64_t where,
                     const struct sp_slot **slot)
{
    uint32_t offset = SP_ENTRY_OFFSET(entry), size = SP_ENTRY_SIZE(entry), first;
    uint32_t n = SP_ENTRY_PIECE(entry);
    struct sp_seal seal;

    if (size <= sizeof(struct sp_slot) || size > sp_slot_most(r->page_size) ||
        offset + size > SP_STORE_PIECE || n >= SP_STORE_PIECES)
        return -EIO;
    if (SP_PIECE_IS(where) == SP_PIECE_IN_MEMORY) {
        *slot = (const struct sp_slot *)r->window;
        return sp_store_read_file(r->pieces, r->window, size,
                                  (uint64_t)n * SP_STORE_PIECE + offset);
    }
    if (SP_PIECE_IS(where) != SP_PIECE_IN_FILE || r->file < 0)
        return -EIO;
    first = offset & ~(SP_STORE_FILE_BLOCK - 1);
    seal = (struct sp_seal){.key = r->head->encrypts ? r->head->key : NULL,
                            .number = r->piece[n].sealed,
                            .tag = r->tags[n].tag};
    *slot = (const struct sp_slot *)(r->window + (offset - first));
    return sp_store_read_piece(r->file, &seal, r->window, first,
                               sp_store_round_up(offset + size) - first,
                               (uint64_t)SP_PIECE_PLACE(where) * SP_STORE_PIECE);
}

static void count_error(struct sp_store_reader *r, bool was_read)
{
    struct sp_store_notes *notes = sp_store_reader_notes(r);

    __atomic_fetch_add(was_read ? &notes->checksum_errors : &notes->read_errors, 1,
                       __ATOMIC_RELAXED);
}

int sp_store_reader_get(struct sp_store_reader *r, uint32_t frame, void *page)
{
    uint32_t index = frame & 0xffff;
    uint64_t entry, where, entry_was = 0, where_was = 0;
    const struct sp_slot *slot = NULL;
    unsigned same = 0;
    int err = -EIO;

    if (index >= SP_POOL_SEGMENT_PAGES)
        return -ENOENT;
    for (unsigned i = 0; i < TRIES && same < SURE; i++) {
        entry = __atomic_load_n(&r->entry[(uint64_t)(frame >> 16) * SP_POOL_SEGMENT_PAGES + index],
                                __ATOMIC_ACQUIRE);
        if (!entry)
            return -ENOENT;
        where = __atomic_load_n(&r->piece[SP_ENTRY_PIECE(entry) % SP_STORE_PIECES].where,
                                __ATOMIC_ACQUIRE);
        err = copy_slot(r, entry, where, &slot);
        if (!err && sp_slot_unpack(r->packer, slot, SP_ENTRY_SIZE(entry), frame, page))
            err = -EBADMSG;
        if (!err)
            return 0;
        same = entry == entry_was && where == where_was ? same + 1 : 0;
        entry_was = entry;
        where_was = where;
    }
    count_error(r, err == -EBADMSG);
    return -EIO;
}
