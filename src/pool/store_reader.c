/* SPDX-License-Identifier: Apache-2.0 */
#include "store_reader.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_inside.h"

#define TRIES        1000u /* while the slot moves under our eyes: once is rare */
#define SURE         4u    /* times that the same place had wrong bytes */
#define WINDOW_BYTES (3u * SP_STORE_PAGE_SIZE_MAX)
#define AHEAD_BYTES  65536u /* of the file at once, at most */

_Static_assert(AHEAD_BYTES <= WINDOW_BYTES, "what is read ahead has room");

/* Of which piece, as it was when it was that old and lay there, the window has bytes [first, end);
 * end 0: it has none that another frame can be taken from. */
struct window_of {
    uint64_t where;
    uint32_t piece, age, first, end;
};

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
    struct window_of has;
    uint32_t expected, expected_end; /* frames */
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
    r->window = aligned_alloc(SP_STORE_PAGE_SIZE_MAX, WINDOW_BYTES);
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

void sp_store_reader_expect(struct sp_store_reader *r, uint32_t frame, uint32_t n)
{
    r->expected = frame;
    r->expected_end = frame + n;
    r->has.end = 0;
}

static uint64_t entry_of(const struct sp_store_reader *r, uint32_t frame)
{
    return __atomic_load_n(
        &r->entry[(uint64_t)(frame >> 16) * SP_POOL_SEGMENT_PAGES + (frame & 0xffff)],
        __ATOMIC_ACQUIRE);
}

static uint64_t where_is(const struct sp_store_reader *r, uint32_t piece)
{
    return __atomic_load_n(&r->piece[piece % SP_STORE_PIECES].where, __ATOMIC_ACQUIRE);
}

static bool is_slot(const struct sp_store_reader *r, uint64_t entry)
{
    uint32_t offset = SP_ENTRY_OFFSET(entry), size = SP_ENTRY_SIZE(entry);

    return size > sizeof(struct sp_slot) && size <= sp_slot_most(r->page_size) &&
           offset + size <= SP_STORE_PIECE && SP_ENTRY_PIECE(entry) < SP_STORE_PIECES;
}

/* Widens [*first, *end) so that slots of the frames expected after this one are in it. */
static void widen(const struct sp_store_reader *r, uint32_t frame, uint32_t piece, uint32_t *first,
                  uint32_t *end)
{
    if (frame < r->expected || frame >= r->expected_end)
        return;
    for (frame++; frame < r->expected_end && (frame & 0xffff) < SP_POOL_SEGMENT_PAGES; frame++) {
        uint64_t entry = entry_of(r, frame);
        uint32_t from = SP_ENTRY_OFFSET(entry) & ~(SP_STORE_FILE_BLOCK - 1);
        uint32_t to = sp_store_round_up(SP_ENTRY_OFFSET(entry) + SP_ENTRY_SIZE(entry));

        if (!is_slot(r, entry) || SP_ENTRY_PIECE(entry) != piece)
            continue;
        from = from < *first ? from : *first;
        to = to > *end ? to : *end;
        if (to - from > AHEAD_BYTES)
            return;
        *first = from;
        *end = to;
    }
}

static int read_window(struct sp_store_reader *r, uint32_t piece, uint64_t where, uint32_t first,
                       uint32_t end)
{
    const struct sp_seal seal = {.key = r->head->encrypts ? r->head->key : NULL,
                                 .number = r->piece[piece].sealed,
                                 .tag = r->tags[piece].tag};

    return sp_store_read_piece(r->file, &seal, r->window, first, end - first,
                               (uint64_t)SP_PIECE_PLACE(where) * SP_STORE_PIECE);
}

/*
 * Has bytes [first, end) of a piece in the window, and what is expected next. A piece that is as
 * old as it was before, and lies where it did then, was so all the time: so what was read between
 * is of it.
 */
static int fill_window(struct sp_store_reader *r, uint32_t frame, uint32_t piece, uint64_t where,
                       uint32_t first, uint32_t end)
{
    struct window_of has = {where, piece, __atomic_load_n(&r->piece[piece].age, __ATOMIC_ACQUIRE),
                            first, end};

    widen(r, frame, piece, &has.first, &has.end);
    r->has.end = 0;
    if (has.end - has.first > end - first && where_is(r, piece) == where &&
        !read_window(r, piece, where, has.first, has.end)) {
        r->has = has;
        return 0;
    }
    r->has.first = first;
    return read_window(r, piece, where, first, end);
}

static bool is_in_window(const struct sp_store_reader *r, uint32_t piece, uint64_t where,
                         uint32_t first, uint32_t end)
{
    const struct window_of *has = &r->has;

    return has->end >= end && has->first <= first && has->piece == piece && has->where == where &&
           has->age == __atomic_load_n(&r->piece[piece].age, __ATOMIC_ACQUIRE);
}

/* Has the slot of a frame, with that entry, at that place, in the window. 0; -EIO: it cannot be
 * read; -EBADMSG: these are other bytes. */
static int copy_slot(struct sp_store_reader *r, uint32_t frame, uint64_t entry, uint64_t where,
                     const struct sp_slot **slot)
{
    uint32_t offset = SP_ENTRY_OFFSET(entry), size = SP_ENTRY_SIZE(entry);
    uint32_t piece = SP_ENTRY_PIECE(entry), first = offset & ~(SP_STORE_FILE_BLOCK - 1);
    int err = 0;

    if (!is_slot(r, entry))
        return -EIO;
    if (SP_PIECE_IS(where) == SP_PIECE_IN_MEMORY) {
        r->has.end = 0;
        *slot = (const struct sp_slot *)r->window;
        return sp_store_read_file(r->pieces, r->window, size,
                                  (uint64_t)piece * SP_STORE_PIECE + offset);
    }
    if (SP_PIECE_IS(where) != SP_PIECE_IN_FILE || r->file < 0)
        return -EIO;
    if (!is_in_window(r, piece, where, first, sp_store_round_up(offset + size)))
        err = fill_window(r, frame, piece, where, first, sp_store_round_up(offset + size));
    *slot = (const struct sp_slot *)(r->window + (offset - r->has.first));
    return err;
}

static void count_error(struct sp_store_reader *r, bool was_read)
{
    struct sp_store_notes *notes = sp_store_reader_notes(r);

    __atomic_fetch_add(was_read ? &notes->checksum_errors : &notes->read_errors, 1,
                       __ATOMIC_RELAXED);
}

int sp_store_reader_get(struct sp_store_reader *r, uint32_t frame, void *page)
{
    uint64_t entry, where, entry_was = 0, where_was = 0;
    const struct sp_slot *slot = NULL;
    unsigned same = 0;
    int err = -EIO;

    if ((frame & 0xffff) >= SP_POOL_SEGMENT_PAGES)
        return -ENOENT;
    for (unsigned i = 0; i < TRIES && same < SURE; i++) {
        entry = entry_of(r, frame);
        if (!entry)
            return -ENOENT;
        where = where_is(r, SP_ENTRY_PIECE(entry));
        err = copy_slot(r, frame, entry, where, &slot);
        if (!err && sp_slot_unpack(r->packer, slot, SP_ENTRY_SIZE(entry), frame, page))
            err = -EBADMSG;
        if (!err)
            return 0;
        r->has.end = 0;
        same = entry == entry_was && where == where_was ? same + 1 : 0;
        entry_was = entry;
        where_was = where;
    }
    count_error(r, err == -EBADMSG);
    return -EIO;
}
