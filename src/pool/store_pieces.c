/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of the store: how they are filled, written to the file, and emptied (store.h). */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store_inside.h"

#define ROOM_TRIES 16u
/* Where room is needed, a piece is emptied even if that frees no more than this. */
#define LEAST_FREED (SP_STORE_PIECE / 8)
#define WRITE_REST  2u /* s: a file that could not be written is not tried again for */

static uint64_t where(const struct sp_store *store, uint32_t n)
{
    return store->piece[n].where;
}

static void set_where(struct sp_store *store, uint32_t n, uint64_t to)
{
    __atomic_store_n(&store->piece[n].where, to, __ATOMIC_RELEASE);
}

static bool is_in_memory(const struct sp_store *store, uint32_t n)
{
    return SP_PIECE_IS(where(store, n)) == SP_PIECE_IN_MEMORY;
}

static char *memory_of(const struct sp_store *store, uint32_t n)
{
    return store->memory + (uint64_t)n * SP_STORE_PIECE;
}

static void punch(const struct sp_store *store, uint32_t n)
{
    (void)fallocate(store->fd[SP_STORE_FD_PIECES], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)n * SP_STORE_PIECE, SP_STORE_PIECE);
}

static void punch_tags(const struct sp_store *store, uint32_t n)
{
    if (store->head->encrypts)
        (void)fallocate(store->fd[SP_STORE_FD_INDEX], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        (off_t)(SP_STORE_TAGS_AT + n * sizeof(struct sp_piece_tags)),
                        sizeof(struct sp_piece_tags));
}

/* In the sums; sign is 1 or -1. */
static void count_piece(struct sp_store *store, uint32_t n, int sign)
{
    uint64_t used = store->piece[n].used, live = store->live[n];

    if (is_in_memory(store, n)) {
        store->in_memory += (uint32_t)sign;
        store->memory_used += (uint64_t)sign * used;
        store->memory_live += (uint64_t)sign * live;
    } else {
        store->in_file += (uint32_t)sign;
        store->file_used += (uint64_t)sign * used;
        store->file_live += (uint64_t)sign * live;
    }
}

static void give_back(struct sp_store *store, uint32_t n)
{
    uint64_t was = where(store, n);

    count_piece(store, n, -1);
    set_where(store, n, SP_PIECE(SP_PIECE_FREE, 0));
    store->broken[n] = 0;
    if (SP_PIECE_IS(was) == SP_PIECE_IN_MEMORY) {
        punch(store, n);
        return;
    }
    store->place_taken[SP_PIECE_PLACE(was)] = 0;
    punch_tags(store, n);
}

void sp_pieces_live(struct sp_store *store, uint64_t entry, bool is)
{
    uint32_t n = SP_ENTRY_PIECE(entry), size = SP_ENTRY_SIZE(entry);
    uint64_t *sum = is_in_memory(store, n) ? &store->memory_live : &store->file_live;

    if (is) {
        store->live[n] += size;
        *sum += size;
        return;
    }
    store->live[n] -= size;
    *sum -= size;
    if (!store->live[n] && n != store->open)
        give_back(store, n);
}

static void close_open(struct sp_store *store)
{
    uint32_t n = store->open;

    store->open = 0;
    if (n && !store->live[n])
        give_back(store, n);
}

static int open_piece(struct sp_store *store)
{
    uint32_t n = 1;

    while (n < SP_STORE_PIECES && SP_PIECE_IS(where(store, n)) != SP_PIECE_FREE)
        n++;
    if (n == SP_STORE_PIECES)
        return -ENOSPC;
    if (n >= store->end)
        store->end = n + 1;
    store->piece[n].used = 0;
    store->piece[n].age = ++store->age;
    store->live[n] = 0;
    set_where(store, n, SP_PIECE(SP_PIECE_IN_MEMORY, 0));
    count_piece(store, n, 1);
    store->open = n;
    return 0;
}

static bool has_room(const struct sp_store *store, size_t size)
{
    return store->open && store->piece[store->open].used + size <= SP_STORE_PIECE;
}

static int make_room(struct sp_store *store);

int sp_pieces_append(struct sp_store *store, const struct sp_slot *slot, bool spare,
                     uint64_t *entry)
{
    size_t size = sp_slot_size(slot);
    uint32_t offset;
    int err;

    if (!has_room(store, size)) {
        close_open(store);
        /* Tidying takes one piece more than may be, and frees at least one for it. */
        err = spare ? 0 : make_room(store);
        if (!err && !has_room(store, size))
            err = open_piece(store);
        if (err)
            return err;
    }
    offset = store->piece[store->open].used;
    memcpy(memory_of(store, store->open) + offset, slot, size);
    __atomic_store_n(&store->piece[store->open].used, offset + (uint32_t)size, __ATOMIC_RELEASE);
    store->memory_used += size;
    *entry = SP_ENTRY(store->open, offset, size);
    return 0;
}

static struct sp_seal seal_of(const struct sp_store *store, uint32_t n)
{
    return (struct sp_seal){.key = store->head->encrypts ? store->head->key : NULL,
                            .number = store->piece[n].sealed,
                            .tag = store->tags[n].tag};
}

static uint64_t place_in_file(const struct sp_store *store, uint32_t n)
{
    return (uint64_t)SP_PIECE_PLACE(where(store, n)) * SP_STORE_PIECE;
}

/* Of piece n, which is in the file. */
static int read_file(struct sp_store *store, void *to, uint32_t n, uint32_t offset, uint32_t size)
{
    struct sp_seal seal = seal_of(store, n);

    return sp_store_read_piece(store->config.file, &seal, to, offset, size,
                               place_in_file(store, n));
}

int sp_pieces_slot(struct sp_store *store, uint64_t entry, const struct sp_slot **slot,
                   size_t *size)
{
    uint32_t n = SP_ENTRY_PIECE(entry), offset = SP_ENTRY_OFFSET(entry), first;
    int err;

    *size = SP_ENTRY_SIZE(entry);
    if (is_in_memory(store, n)) {
        *slot = (const struct sp_slot *)(memory_of(store, n) + offset);
        return 0;
    }
    first = offset & ~(SP_STORE_FILE_BLOCK - 1);
    err = read_file(store, store->window, n, first,
                    sp_store_round_up(offset + (uint32_t)*size) - first);
    *slot = (const struct sp_slot *)(store->window + (offset - first));
    return err;
}

/* A number that no other writing has, also if this process is killed in it: a piece that is written
 * again may have grown (sp_pieces_settle()). */
static void number_writing(struct sp_store *store, uint32_t n)
{
    store->piece[n].sealed = __atomic_add_fetch(&store->head->sealed, 1, __ATOMIC_ACQ_REL);
}

static uint64_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec + 1;
}

static int write_file(struct sp_store *store, uint32_t n, uint32_t place)
{
    struct sp_seal seal;
    int err;

    if (store->head->encrypts)
        number_writing(store, n);
    seal = seal_of(store, n);
    err = sp_store_write_piece(store->config.file, &seal, memory_of(store, n), store->sealed,
                               sp_store_round_up(store->piece[n].used),
                               (uint64_t)place * SP_STORE_PIECE);
    if (err) {
        store->write_errors++;
        store->failed_at = seconds();
    }
    return err;
}

/* Else each frame that is to leave would have the file tried again, with a whole piece. */
static bool rests(const struct sp_store *store)
{
    return store->failed_at && seconds() - store->failed_at < WRITE_REST;
}

static uint32_t oldest(const struct sp_store *store)
{
    uint32_t best = 0;

    for (uint32_t n = 1; n < store->end; n++)
        if (n != store->open && is_in_memory(store, n) &&
            (!best || store->piece[n].age < store->piece[best].age))
            best = n;
    return best;
}

int sp_store_demote(struct sp_store *store)
{
    uint32_t n = oldest(store), place = 0;
    int err;

    if (!n)
        return 0;
    while (place < store->file_most && store->place_taken[place])
        place++;
    if (place == store->file_most)
        return -ENOSPC;
    if (rests(store))
        return -EIO;
    err = write_file(store, n, place);
    if (err)
        return err;
    count_piece(store, n, -1);
    set_where(store, n, SP_PIECE(SP_PIECE_IN_FILE, place));
    store->place_taken[place] = 1;
    count_piece(store, n, 1);
    punch(store, n);
    return 1;
}

/* Of the pieces in memory, or of those in the file, that with the most dead. 0: none has any. */
static uint32_t most_dead(const struct sp_store *store, bool in_memory)
{
    uint32_t best = 0, most = 0;

    for (uint32_t n = 1; n < store->end; n++) {
        uint32_t dead = store->piece[n].used - store->live[n];

        if (n == store->open || store->broken[n] || SP_PIECE_IS(where(store, n)) == SP_PIECE_FREE ||
            is_in_memory(store, n) != in_memory || dead <= most)
            continue;
        best = n;
        most = dead;
    }
    return best;
}

static uint32_t to_tidy(const struct sp_store *store)
{
    uint64_t memory_dead = store->memory_used - store->memory_live;
    uint64_t file_dead = store->file_used - store->file_live;
    uint32_t n = 0;

    if (memory_dead > store->memory_used / SP_STORE_MOST_WASTED)
        n = most_dead(store, true);
    if (!n && file_dead > store->file_used / SP_STORE_MOST_WASTED)
        n = most_dead(store, false);
    return n;
}

static const char *bytes_of(struct sp_store *store, uint32_t n)
{
    if (is_in_memory(store, n))
        return memory_of(store, n);
    if (!store->whole)
        store->whole = aligned_alloc(SP_STORE_FILE_BLOCK, SP_STORE_PIECE);
    if (!store->whole ||
        read_file(store, store->whole, n, 0, sp_store_round_up(store->piece[n].used)))
        return NULL;
    return store->whole;
}

/* Moves the live slots that it finds. What is broken is found, or not: the caller looks whether all
 * were. */
static int move_live(struct sp_store *store, uint32_t n, const char *bytes)
{
    uint32_t used = store->piece[n].used, at = 0;

    while (store->live[n] && at + sizeof(struct sp_slot) <= used) {
        const struct sp_slot *slot = (const struct sp_slot *)(bytes + at);
        uint32_t size = (uint32_t)sp_slot_size(slot), frame = slot->frame;
        const uint64_t *entry = sp_store_entry(store, frame);
        uint64_t old = SP_ENTRY(n, at, size), moved;

        if (size > used - at)
            break;
        if (entry && *entry == old) {
            int err = sp_pieces_append(store, slot, true, &moved);

            if (err)
                return err;
            store->moved++;
            /* The last one gives the piece back. */
            sp_store_name(store, frame, old, moved);
        }
        at += size;
    }
    return 0;
}

/* The piece that gives most, best one in memory. 0: none gives enough. */
static uint32_t to_empty(const struct sp_store *store)
{
    uint32_t a = most_dead(store, true), b = most_dead(store, false);
    uint32_t dead_a = store->piece[a].used - store->live[a];
    uint32_t dead_b = store->piece[b].used - store->live[b];

    if (dead_a >= LEAST_FREED)
        return a;
    return dead_b >= LEAST_FREED ? b : 0;
}

/* Empties piece n. 1; 0: there is none; -ENOSPC. */
static int tidy(struct sp_store *store, uint32_t n)
{
    uint32_t age = store->piece[n].age;
    const char *bytes;
    int err;

    if (!n)
        return 0;
    bytes = bytes_of(store, n);
    err = bytes ? move_live(store, n, bytes) : -EIO;
    if (err == -ENOSPC)
        return err;
    if (SP_PIECE_IS(where(store, n)) != SP_PIECE_FREE && store->piece[n].age == age)
        store->broken[n] = 1; /* what is left of it stays where it is, and is not tried again */
    return 1;
}

int sp_store_tidy(struct sp_store *store)
{
    return tidy(store, to_tidy(store));
}

/* The last piece of memory is for tidying. */
static bool may_put(const struct sp_store *store)
{
    return store->in_memory + 1 < store->memory_most ||
           (store->in_memory < store->memory_most &&
            has_room(store, sp_slot_most(store->page_size)));
}

/* Room for one more slot, whatever that takes. 0, -ENOSPC or -EIO. */
static int make_room(struct sp_store *store)
{
    for (unsigned i = 0; i < ROOM_TRIES; i++) {
        int err;

        if (may_put(store))
            return 0;
        err = sp_store_demote(store);
        if (err != 1 && tidy(store, to_empty(store)) != 1)
            return err ? err : -ENOSPC;
    }
    return may_put(store) ? 0 : -ENOSPC;
}

/* What was the open piece may go on growing: what is behind its last complete slot nobody names. */
static uint32_t newest(const struct sp_store *store)
{
    uint32_t best = 0;

    for (uint32_t n = 1; n < store->end; n++)
        if (is_in_memory(store, n) && (!best || store->piece[n].age > store->piece[best].age))
            best = n;
    return best;
}

static void settle_place(struct sp_store *store, uint32_t n)
{
    uint32_t place = SP_PIECE_PLACE(where(store, n));

    if (SP_PIECE_IS(where(store, n)) == SP_PIECE_IN_FILE && place < store->file_most)
        store->place_taken[place] = 1;
}

void sp_pieces_settle(struct sp_store *store)
{
    for (uint32_t n = 1; n < SP_STORE_PIECES; n++) {
        enum sp_piece_is is = SP_PIECE_IS(where(store, n));

        if (store->piece[n].age > store->age)
            store->age = store->piece[n].age;
        if (is != SP_PIECE_FREE) {
            store->end = n + 1;
            settle_place(store, n);
            count_piece(store, n, 1);
        }
        if (is != SP_PIECE_IN_MEMORY && store->piece[n].age)
            punch(store, n); /* it was being given back, or had just been written to the file */
        if (is != SP_PIECE_FREE && !store->live[n])
            give_back(store, n);
    }
    store->open = newest(store);
}
