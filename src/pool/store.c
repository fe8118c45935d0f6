/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pool.h"
#include "store_inside.h"

#define MEMORY_BYTES ((uint64_t)SP_STORE_PIECES * SP_STORE_PIECE)

_Static_assert(MEMORY_BYTES == SP_STORE_MOST_BYTES, "pieces have all numbers");

static const uint64_t size_of[SP_STORE_FDS] = {SP_STORE_INDEX_BYTES, MEMORY_BYTES};

uint64_t *sp_store_entry(const struct sp_store *store, uint32_t frame)
{
    uint32_t index = frame & 0xffff;

    return index < SP_POOL_SEGMENT_PAGES
               ? &store->entry[(uint64_t)(frame >> 16) * SP_POOL_SEGMENT_PAGES + index]
               : NULL;
}

static uint32_t frame_of(uint64_t entry_number)
{
    return (uint32_t)(entry_number / SP_POOL_SEGMENT_PAGES) << 16 |
           (uint32_t)(entry_number % SP_POOL_SEGMENT_PAGES);
}

void sp_store_name(struct sp_store *store, uint32_t frame, uint64_t old, uint64_t entry)
{
    if (entry)
        sp_pieces_live(store, entry, true);
    __atomic_store_n(sp_store_entry(store, frame), entry, __ATOMIC_RELEASE);
    if (old)
        sp_pieces_live(store, old, false);
}

static void *map(int fd, uint64_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTDUMP); /* other programs' memory */
    madvise(at, size, MADV_DONTFORK);
    return at;
}

/* Everything but the descriptors. -ENOMEM or -EIO. */
static int prepare(struct sp_store *store, const struct sp_store_config *config)
{
    char *index;

    store->config = *config;
    store->memory_most = (uint32_t)(config->memory_bytes / SP_STORE_PIECE < SP_STORE_PIECES
                                        ? config->memory_bytes / SP_STORE_PIECE
                                        : SP_STORE_PIECES);
    if (config->file >= 0)
        store->file_most = (uint32_t)(config->file_bytes / SP_STORE_PIECE < SP_STORE_PIECES
                                          ? config->file_bytes / SP_STORE_PIECE
                                          : SP_STORE_PIECES);
    index = map(store->fd[SP_STORE_FD_INDEX], SP_STORE_INDEX_BYTES);
    store->memory = map(store->fd[SP_STORE_FD_PIECES], MEMORY_BYTES);
    store->packer = sp_packer_new(config->codec, store->page_size);
    store->live = calloc(SP_STORE_PIECES, sizeof(*store->live));
    store->broken = calloc(SP_STORE_PIECES, 1);
    store->place_taken = calloc(SP_STORE_PIECES, 1);
    store->slot = malloc(sp_slot_most(store->page_size) + SP_SLOT_UNIT);
    store->window = aligned_alloc(SP_STORE_PAGE_SIZE_MAX, 3ul * SP_STORE_PAGE_SIZE_MAX);
    store->head = (struct sp_store_head *)index;
    if (index && (config->encrypt || store->head->encrypts))
        store->sealed = aligned_alloc(SP_STORE_FILE_BLOCK, SP_STORE_PIECE);
    if (!index || !store->memory || !store->packer || !store->live || !store->broken ||
        !store->place_taken || !store->slot || !store->window ||
        ((config->encrypt || store->head->encrypts) && !store->sealed))
        return -ENOMEM;
    store->piece = (struct sp_piece *)(index + SP_STORE_PIECES_AT);
    store->entry = (uint64_t *)(index + SP_STORE_ENTRIES_AT);
    store->marks = (struct sp_store_marks *)(index + SP_STORE_MARKS_AT);
    store->tags = (struct sp_piece_tags *)(index + SP_STORE_TAGS_AT);
    if (!store->sealed)
        return 0;
    (void)mlock(store->head->key, sizeof(store->head->key)); /* or the kernel's swap gets it */
    return sp_seal_begin();
}

static int store_alloc(struct sp_store **out, const struct sp_store_config *config)
{
    long page_size = sysconf(_SC_PAGESIZE);
    struct sp_store *store;

    if (page_size > (long)SP_STORE_PAGE_SIZE_MAX ||
        config->memory_bytes < 2 * (uint64_t)SP_STORE_PIECE)
        return -EINVAL;
    store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    store->page_size = (size_t)page_size;
    for (int i = 0; i < SP_STORE_FDS; i++)
        store->fd[i] = -1;
    *out = store;
    return 0;
}

void sp_store_free(struct sp_store *store)
{
    if (!store)
        return;
    if (store->head)
        munmap(store->head, SP_STORE_INDEX_BYTES);
    if (store->memory)
        munmap(store->memory, MEMORY_BYTES);
    for (int i = 0; i < SP_STORE_FDS; i++)
        if (store->fd[i] >= 0)
            close(store->fd[i]);
    sp_packer_free(store->packer);
    free(store->live);
    free(store->broken);
    free(store->place_taken);
    free(store->slot);
    free(store->window);
    free(store->whole);
    free(store->sealed);
    free(store);
}

int sp_store_new(struct sp_store **out, const struct sp_store_config *config)
{
    struct sp_store *store;
    int err = store_alloc(&store, config);

    if (err)
        return err;
    for (int i = 0; i < SP_STORE_FDS && !err; i++) {
        store->fd[i] = memfd_create("samepage-store", MFD_CLOEXEC);
        if (store->fd[i] < 0 || ftruncate(store->fd[i], (off_t)size_of[i]))
            err = -errno;
    }
    if (!err)
        err = prepare(store, config);
    if (!err && config->encrypt) {
        store->head->encrypts = 1;
        err = sp_seal_new_key(store->head->key);
    }
    if (err) {
        sp_store_free(store);
        return err;
    }
    memcpy(store->head->magic, SP_STORE_MAGIC, sizeof(store->head->magic));
    store->head->page_size = (uint32_t)store->page_size;
    *out = store;
    return 0;
}

/* Does an entry name what can be a slot? Nobody but a store wrote it, but then nobody looks twice.
 */
static bool is_sound(const struct sp_store *store, uint64_t entry)
{
    uint32_t n = SP_ENTRY_PIECE(entry), size = SP_ENTRY_SIZE(entry);
    const struct sp_piece *piece;

    if (!n || n >= SP_STORE_PIECES || size <= sizeof(struct sp_slot) ||
        size > sp_slot_most(store->page_size))
        return false;
    piece = &store->piece[n];
    return SP_PIECE_IS(piece->where) != SP_PIECE_FREE && piece->used <= SP_STORE_PIECE &&
           SP_ENTRY_OFFSET(entry) + size <= piece->used;
}

/* Where the index has memory, entry numbers [*from, *to); false: no more from *from on. */
static bool next_entries(const struct sp_store *store, uint64_t *from, uint64_t *to)
{
    const uint64_t base = SP_STORE_ENTRIES_AT;
    int fd = store->fd[SP_STORE_FD_INDEX];
    off_t data = lseek(fd, (off_t)(base + *from * sizeof(uint64_t)), SEEK_DATA), hole;

    if (data < 0)
        return false;
    hole = lseek(fd, data, SEEK_HOLE);
    *from = ((uint64_t)data - base) / sizeof(uint64_t);
    *to = ((uint64_t)hole - base) / sizeof(uint64_t);
    if (*to > SP_STORE_ENTRIES)
        *to = SP_STORE_ENTRIES;
    return hole > data && *from < *to;
}

static void take_entries(struct sp_store *store)
{
    for (uint64_t i = 0, end; i < SP_STORE_ENTRIES && next_entries(store, &i, &end);)
        for (; i < end; i++) {
            uint64_t entry = store->entry[i];

            if (!entry)
                continue;
            if (!is_sound(store, entry)) {
                store->entry[i] = 0;
                continue;
            }
            store->live[SP_ENTRY_PIECE(entry)] += SP_ENTRY_SIZE(entry);
            store->frames++;
        }
    sp_pieces_settle(store);
}

int sp_store_attach(struct sp_store **out, const int fd[SP_STORE_FDS],
                    const struct sp_store_config *config)
{
    struct sp_store *store;
    int err = store_alloc(&store, config);

    if (err)
        return err;
    for (int i = 0; i < SP_STORE_FDS && !err; i++) {
        struct stat st;

        store->fd[i] = fcntl(fd[i], F_DUPFD_CLOEXEC, 0);
        if (store->fd[i] < 0 || fstat(store->fd[i], &st))
            err = -errno;
        else if (st.st_size != (off_t)size_of[i])
            err = -EINVAL;
    }
    if (!err)
        err = prepare(store, config);
    if (!err && (memcmp(store->head->magic, SP_STORE_MAGIC, sizeof(store->head->magic)) ||
                 store->head->page_size != store->page_size))
        err = -EINVAL;
    if (err) {
        sp_store_free(store);
        return err;
    }
    take_entries(store);
    *out = store;
    return 0;
}

int sp_store_encrypts(const int fd[SP_STORE_FDS])
{
    uint32_t encrypts;
    ssize_t n = pread(fd[SP_STORE_FD_INDEX], &encrypts, sizeof(encrypts),
                      offsetof(struct sp_store_head, encrypts));

    return n == (ssize_t)sizeof(encrypts) ? encrypts != 0 : n < 0 ? -errno : -EIO;
}

void sp_store_fds(const struct sp_store *store, int fd[SP_STORE_FDS])
{
    memcpy(fd, store->fd, sizeof(store->fd));
}

int sp_store_put(struct sp_store *store, uint32_t frame, const void *page)
{
    const uint64_t *at = sp_store_entry(store, frame);
    struct sp_slot *slot = (struct sp_slot *)store->slot;
    uint64_t entry;
    int err;

    if (!at)
        return -EINVAL;
    if (*at)
        return 0;
    sp_slot_pack(store->packer, slot, frame, page);
    err = sp_pieces_append(store, slot, false, &entry);
    if (err)
        return err;
    sp_store_name(store, frame, 0, entry);
    store->frames++;
    return 0;
}

int sp_store_get(struct sp_store *store, uint32_t frame, void *page)
{
    const uint64_t *at = sp_store_entry(store, frame);
    const struct sp_slot *slot;
    size_t size;
    int err;

    if (!at || !*at)
        return -ENOENT;
    err = sp_pieces_slot(store, *at, &slot, &size);
    if (!err && sp_slot_unpack(store->packer, slot, size, frame, page))
        err = -EBADMSG;
    if (!err)
        return 0;
    if (err == -EBADMSG)
        store->checksum_errors++;
    else
        store->read_errors++;
    return -EIO;
}

bool sp_store_has(const struct sp_store *store, uint32_t frame)
{
    const uint64_t *at = sp_store_entry(store, frame);

    return at && *at;
}

void sp_store_drop(struct sp_store *store, uint32_t frame)
{
    const uint64_t *at = sp_store_entry(store, frame);

    if (!at || !*at)
        return;
    sp_store_name(store, frame, *at, 0);
    store->frames--;
}

struct sp_store_notes *sp_store_notes(struct sp_store *store)
{
    return &store->head->notes;
}

struct sp_store_marks *sp_store_marks(struct sp_store *store, uint32_t segment)
{
    return &store->marks[segment];
}

void sp_store_drop_segment(struct sp_store *store, uint32_t segment)
{
    uint64_t size = SP_POOL_SEGMENT_PAGES * sizeof(uint64_t);

    if (segment >= SP_STORE_SEGMENTS)
        return;
    for (uint32_t i = 0; i < SP_POOL_SEGMENT_PAGES; i++)
        sp_store_drop(store, segment << 16 | i);
    (void)fallocate(store->fd[SP_STORE_FD_INDEX], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)(SP_STORE_ENTRIES_AT + segment * size), (off_t)size);
    memset(&store->marks[segment], 0, sizeof(store->marks[segment]));
}

uint32_t sp_store_next(const struct sp_store *store, uint32_t from)
{
    uint64_t i = (uint64_t)(from >> 16) * SP_POOL_SEGMENT_PAGES, end;

    i += (from & 0xffff) < SP_POOL_SEGMENT_PAGES ? from & 0xffff : SP_POOL_SEGMENT_PAGES;
    while (i < SP_STORE_ENTRIES && next_entries(store, &i, &end))
        for (; i < end; i++)
            if (store->entry[i])
                return frame_of(i);
    return 0;
}

void sp_store_counters(const struct sp_store *store, struct sp_store_counters *out)
{
    *out = (struct sp_store_counters){
        .frames = store->frames,
        .live_bytes = store->memory_live + store->file_live,
        .memory_bytes = store->memory_used,
        .file_bytes = (uint64_t)store->in_file * SP_STORE_PIECE,
        .read_errors = store->read_errors + store->head->notes.read_errors,
        .checksum_errors = store->checksum_errors + store->head->notes.checksum_errors,
        .write_errors = store->write_errors,
        .moved = store->moved,
    };
}
