/* SPDX-License-Identifier: Apache-2.0 */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mount.h"
#include "segment.h"
#include "store_link.h"

#define SP_POOL_IDS                 65536u /* segment ids; 0 is none */
#define SP_POOL_SEGMENT_PAGES_LIMIT 65536u /* a frame's number has 16 bits for the page (H1) */

enum { SP_POOL_KIND_RW = 1, SP_POOL_KIND_RO = 2, SP_POOL_KIND_SEGMENT = 3 };

struct sp_pool_set {
    struct sp_pool_set *next;
    struct sp_pool *pool;
    struct sp_pool_segment *segments;
    uint32_t id;
};

struct sp_pool {
    struct sp_pool_mount mount;
    struct sp_pool_set *sets;
    struct sp_pool_segment *segment[SP_POOL_IDS];
    uint32_t live;    /* segments */
    uint32_t next_id; /* ids go round, so that a stale frame number meets no new frame for long */
    uint64_t pages;   /* of the segments in the tmpfs: what its size limit follows */
    struct sp_store_link *store; /* where new segments are made; NULL: in the tmpfs */
    uint64_t orphans; /* bytes that files without a segment may still hold, see import */
    sp_pool_export_fn on_change;
    void *on_change_arg;
};

/* Lets the tmpfs hold what the segments need, and extra pages. */
static int set_limit(const struct sp_pool *pool, uint64_t extra)
{
    uint64_t pages = pool->pages + extra;

    return sp_pool_mount_limit(&pool->mount,
                               pages * (uint64_t)sysconf(_SC_PAGESIZE) + pool->orphans);
}

static struct sp_pool *pool_alloc(void)
{
    struct sp_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return NULL;
    pool->mount.rw = pool->mount.ro = -1;
    pool->next_id = 1;
    return pool;
}

int sp_pool_new(struct sp_pool **out, char *why, size_t why_size)
{
    struct sp_pool *pool = pool_alloc();
    int err;

    if (!pool) {
        snprintf(why, why_size, "no memory for the pool");
        return -ENOMEM;
    }
    err = sp_pool_mount_open(&pool->mount, why, why_size);
    if (err) {
        free(pool);
        return err;
    }
    *out = pool;
    return 0;
}

static void free_set(struct sp_pool_set *set)
{
    while (set->segments) {
        struct sp_pool_segment *segment = set->segments;

        set->segments = segment->next;
        sp_pool_segment_close(segment);
    }
    free(set);
}

void sp_pool_free(struct sp_pool *pool)
{
    if (!pool)
        return;
    while (pool->sets) {
        struct sp_pool_set *set = pool->sets;

        pool->sets = set->next;
        free_set(set);
    }
    sp_pool_mount_close(&pool->mount);
    free(pool);
}

struct sp_pool_set *sp_pool_set_find(struct sp_pool *pool, uint32_t id)
{
    struct sp_pool_set *set = pool->sets;

    while (set && set->id != id)
        set = set->next;
    return set;
}

struct sp_pool_set *sp_pool_set_new(struct sp_pool *pool, uint32_t id)
{
    struct sp_pool_set *set = sp_pool_set_find(pool, id);

    if (set)
        return set;
    set = calloc(1, sizeof(*set));
    if (!set)
        return NULL;
    set->id = id;
    set->pool = pool;
    set->next = pool->sets;
    pool->sets = set;
    return set;
}

void sp_pool_set_retire(struct sp_pool_set *set)
{
    for (struct sp_pool_segment *s = set->segments; s; s = s->next)
        sp_pool_segment_forget_all(s);
}

/* The set's live segment of that id, or NULL: ids come from clients' words too. */
static struct sp_pool_segment *find_segment(const struct sp_pool_set *set, uint32_t id)
{
    struct sp_pool_segment *segment = id < SP_POOL_IDS ? set->pool->segment[id] : NULL;

    return segment && segment->set == set ? segment : NULL;
}

static struct sp_pool_record record_of(const struct sp_pool_segment *segment)
{
    return (struct sp_pool_record){
        .kind = SP_POOL_KIND_SEGMENT,
        .set = segment->set->id,
        .segment = segment->id,
        .npages = segment->npages,
        .node = (uint64_t)(segment->node + 1),
        .stored = segment->store != NULL,
    };
}

static void tell_change(struct sp_pool *pool, const struct sp_pool_segment *segment, int fd)
{
    struct sp_pool_record record = record_of(segment);

    if (pool->on_change)
        pool->on_change(pool->on_change_arg, &record, fd);
}

/* A record has a descriptor. One that is the store's needs none of its own. */
static int keeper_fd(const struct sp_pool *pool, const struct sp_pool_segment *segment)
{
    return segment->store ? pool->mount.ro : segment->fd;
}

static void add_segment(struct sp_pool_set *set, struct sp_pool_segment *segment)
{
    struct sp_pool *pool = set->pool;

    segment->set = set;
    segment->next = set->segments;
    set->segments = segment;
    pool->segment[segment->id] = segment;
    pool->live++;
    pool->pages += segment->store ? 0 : segment->npages;
}

static void remove_segment(struct sp_pool_segment *segment)
{
    struct sp_pool *pool = segment->set->pool;
    struct sp_pool_segment **at = &segment->set->segments;

    while (*at != segment)
        at = &(*at)->next;
    *at = segment->next;
    pool->segment[segment->id] = NULL;
    pool->live--;
    pool->pages -= segment->store ? 0 : segment->npages;
}

static uint32_t pick_id(struct sp_pool *pool)
{
    if (pool->live >= SP_POOL_IDS - 1)
        return 0;
    while (!pool->next_id || pool->segment[pool->next_id])
        pool->next_id = (pool->next_id + 1) % SP_POOL_IDS;
    uint32_t id = pool->next_id;
    pool->next_id = (id + 1) % SP_POOL_IDS;
    return id;
}

/* Room first, then the file: whatever fails, the limit is again what the segments need. */
static int make_segment(struct sp_pool *pool, uint32_t id, int node, struct sp_pool_segment **out)
{
    int err = set_limit(pool, SP_POOL_SEGMENT_PAGES);

    if (err)
        return err;
    err = sp_pool_segment_create(out, &pool->mount, id, SP_POOL_SEGMENT_PAGES, node);
    if (err)
        set_limit(pool, 0);
    return err;
}

static int open_segment(struct sp_pool_set *set, int node, struct sp_pool_segment **out)
{
    struct sp_pool *pool = set->pool;
    int err = -EEXIST;

    /* In the store there may be segments of a pool that was not taken over, which programs map. */
    for (uint32_t i = 0; i < SP_POOL_IDS && err == -EEXIST; i++) {
        uint32_t id = pick_id(pool);

        if (!id)
            return -ENOSPC;
        if (pool->store && node < 0)
            err = sp_pool_segment_create_stored(out, pool->store, id, SP_POOL_SEGMENT_PAGES);
        else
            err = make_segment(pool, id, node, out);
    }
    if (err)
        return err == -ENOMEM || err == -EPERM ? err : -ENOSPC;
    add_segment(set, *out);
    tell_change(pool, *out, keeper_fd(pool, *out));
    return 0;
}

/* Of the node's segments with the most room, up to want, the one that is fullest, so that others become
 * free. NULL: none has room. */
static struct sp_pool_segment *best_segment(struct sp_pool_set *set, int node, unsigned want,
                                            unsigned *room)
{
    struct sp_pool_segment *best = NULL;

    *room = 0;
    for (struct sp_pool_segment *s = set->segments; s; s = s->next) {
        unsigned r = s->node == node ? sp_pool_segment_room(s, want) : 0;

        if (r > *room || (r && r == *room && s->used > best->used)) {
            best = s;
            *room = r;
        }
    }
    return best;
}

int sp_pool_alloc(struct sp_pool_set *set, unsigned want, uint32_t *segment, uint32_t *index,
                  unsigned *got)
{
    return sp_pool_alloc_on(set, -1, want, segment, index, got);
}

int sp_pool_alloc_on(struct sp_pool_set *set, int node, unsigned want, uint32_t *segment,
                     uint32_t *index, unsigned *got)
{
    struct sp_pool_segment *best, *fresh;
    unsigned room;

    if (!want)
        return -EINVAL;
    if (want > SP_POOL_SEGMENT_PAGES)
        want = SP_POOL_SEGMENT_PAGES;
    best = best_segment(set, node, want, &room);
    if (room < want) {
        int err = open_segment(set, node, &fresh);

        if (!err)
            best = fresh;
        else if (!best)
            return err;
    }
    *got = sp_pool_segment_take(best, want, index);
    *segment = best->id;
    return 0;
}

int sp_pool_segment_node(struct sp_pool_set *set, uint32_t segment)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? s->node : -1;
}

int sp_pool_segment_file(struct sp_pool_set *set, uint32_t segment, struct stat *file)
{
    const struct sp_pool_segment *s = find_segment(set, segment);

    if (!s || s->store)
        return s ? -EINVAL : -ENOENT;
    return fstat(s->fd, file) ? -errno : 0;
}

int sp_pool_nodes(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n, int *node)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? sp_pool_segment_nodes(s, index, n, node) : -ENOENT;
}

void sp_pool_empty(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (s)
        sp_pool_segment_empty(s, index, n);
}

void sp_pool_unalloc(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (s)
        sp_pool_segment_return(s, index, n);
}

void sp_pool_forget(struct sp_pool_set *set, uint32_t segment, uint32_t index)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (s)
        sp_pool_segment_forget(s, index);
}

int sp_pool_claim(struct sp_pool_set *set, uint32_t segment, uint32_t index)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? sp_pool_segment_claim(s, index) : -ENOENT;
}

const void *sp_pool_frame(struct sp_pool_set *set, uint32_t segment, uint32_t index)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? sp_pool_segment_at(s, index) : NULL;
}

int sp_pool_write(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n,
                  const void *bytes, const void **written)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? sp_pool_segment_write(s, index, n, bytes, written) : -ENOENT;
}

void sp_pool_use_store(struct sp_pool *pool, struct sp_store_link *link)
{
    pool->store = link;
}

struct sp_pool_set *sp_pool_set_of(const struct sp_pool *pool, uint32_t segment)
{
    return segment < SP_POOL_IDS && pool->segment[segment] ? pool->segment[segment]->set : NULL;
}

uint32_t sp_pool_set_id(const struct sp_pool_set *set)
{
    return set->id;
}

int sp_pool_out(struct sp_pool_set *set, uint32_t segment, uint32_t index, unsigned n, bool *out)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    memset(out, 0, n * sizeof(*out));
    if (!s)
        return -ENOENT;
    return s->store ? sp_pool_stored_out(s, index, n, out) : sp_pool_segment_out(s, index, n, out);
}

int sp_pool_numbers(struct sp_pool_set *set, int pagemap, uint32_t segment, uint32_t index, unsigned n,
                    uint64_t *number)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (!s)
        return -ENOENT;
    return s->store ? -EINVAL : sp_pool_segment_numbers(s, pagemap, index, n, number);
}

int sp_pool_bring(struct sp_pool_set *set, uint32_t segment, uint32_t index)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (!s)
        return -ENOENT;
    return s->store ? -EINVAL : sp_pool_segment_bring(s, index);
}

void sp_pool_tell_forgotten(struct sp_pool *pool)
{
    for (struct sp_pool_set *set = pool->sets; set; set = set->next)
        for (struct sp_pool_segment *s = set->segments; s; s = s->next)
            if (s->forgotten && !s->retiring) /* what retires goes as a whole */
                sp_pool_stored_tell_forgotten(s);
}

bool sp_pool_is_stored(struct sp_pool_set *set, uint32_t segment)
{
    const struct sp_pool_segment *s = find_segment(set, segment);

    return s && s->store;
}

static uint64_t lingering_in(const struct sp_pool_segment *s)
{
    return s->bump - s->used - s->returned;
}

#define SP_POOL_THIN_PART  2u
#define SP_POOL_THIN_LEAST 1024u

uint32_t sp_pool_thinnest(const struct sp_pool_set *set)
{
    const struct sp_pool_segment *best = NULL;
    uint64_t used = 0, lingering = 0;

    for (const struct sp_pool_segment *s = set->segments; s; s = s->next) {
        used += s->used;
        lingering += s->retiring ? 0 : lingering_in(s);
        if (s->thin || s->importing || !s->used || s->bump < s->npages ||
            s->used > s->npages / SP_POOL_THIN_PART)
            continue;
        if (!best || s->thin_tries < best->thin_tries ||
            (s->thin_tries == best->thin_tries && s->used < best->used))
            best = s;
    }
    return best && lingering > SP_POOL_THIN_LEAST && lingering > used / 3 ? best->id : 0;
}

void sp_pool_mark_thin(struct sp_pool_set *set, uint32_t segment, bool is)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    if (!s)
        return;
    s->thin_tries += s->thin && !is;
    s->thin = is;
}

int sp_pool_segment_fd(struct sp_pool_set *set, uint32_t segment)
{
    const struct sp_pool_segment *s = find_segment(set, segment);
    char name[16];
    int fd;

    if (!s)
        return -ENOENT;
    if (s->store)
        return sp_pool_stored_fd(s);
    sp_pool_segment_name(segment, name);
    fd = openat(set->pool->mount.ro, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

uint32_t sp_pool_segment_pages(struct sp_pool_set *set, uint32_t segment)
{
    struct sp_pool_segment *s = find_segment(set, segment);

    return s ? s->npages : 0;
}

void sp_pool_segments(struct sp_pool_set *set,
                      void (*fn)(void *arg, uint32_t segment, uint32_t npages, bool retiring),
                      void *arg)
{
    struct sp_pool_segment *s = set->segments;

    while (s) {
        /* fn may free this one. */
        struct sp_pool_segment *next = s->next;

        fn(arg, s->id, s->npages, s->retiring);
        s = next;
    }
}

int sp_pool_segment_try_free(struct sp_pool_set *set, uint32_t segment)
{
    struct sp_pool_segment *s = find_segment(set, segment);
    struct sp_pool *pool = set->pool;
    int err;

    if (!s)
        return -ENOENT;
    if (!s->retiring)
        return -EBUSY;
    err = sp_pool_segment_destroy(s, &pool->mount);
    if (err)
        return err;
    remove_segment(s);
    tell_change(pool, s, -1);
    sp_pool_segment_close(s);
    set_limit(pool, 0);
    return 0;
}

static void count_set(const struct sp_pool_set *set, struct sp_pool_counters *out, bool bytes)
{
    for (const struct sp_pool_segment *s = set->segments; s; s = s->next) {
        out->segments++;
        out->retiring += s->retiring;
        out->frames_used += s->used;
        out->frames_lingering += lingering_in(s);
        out->frames_leaving += s->retiring ? lingering_in(s) : 0;
        if (bytes || s->store)
            out->bytes += sp_pool_segment_bytes(s);
    }
}

void sp_pool_counters(const struct sp_pool *pool, struct sp_pool_counters *out)
{
    int64_t bytes = sp_pool_mount_bytes(&pool->mount);

    *out = (struct sp_pool_counters){.bytes = bytes < 0 ? 0 : (uint64_t)bytes};
    for (const struct sp_pool_set *set = pool->sets; set; set = set->next)
        count_set(set, out, bytes < 0);
}

void sp_pool_set_counters(const struct sp_pool_set *set, struct sp_pool_counters *out)
{
    *out = (struct sp_pool_counters){0};
    count_set(set, out, true);
}

void sp_pool_export(struct sp_pool *pool, sp_pool_export_fn fn, void *arg)
{
    struct sp_pool_record record = {.kind = SP_POOL_KIND_RW};

    fn(arg, &record, pool->mount.rw);
    record.kind = SP_POOL_KIND_RO;
    fn(arg, &record, pool->mount.ro);
    for (struct sp_pool_set *set = pool->sets; set; set = set->next)
        for (struct sp_pool_segment *s = set->segments; s; s = s->next) {
            record = record_of(s);
            fn(arg, &record, keeper_fd(pool, s));
        }
}

void sp_pool_on_change(struct sp_pool *pool, sp_pool_export_fn fn, void *arg)
{
    pool->on_change = fn;
    pool->on_change_arg = arg;
}

static int import_mounts(struct sp_pool *pool, const struct sp_pool_record *record, const int *fd,
                         size_t n)
{
    int rw = -1, ro = -1;

    for (size_t i = 0; i < n; i++) {
        if (record[i].kind == SP_POOL_KIND_RW)
            rw = fd[i];
        if (record[i].kind == SP_POOL_KIND_RO)
            ro = fd[i];
    }
    if (rw < 0 || ro < 0)
        return -EINVAL;
    return sp_pool_mount_adopt(&pool->mount, rw, ro);
}

static int import_segment(struct sp_pool *pool, const struct sp_pool_record *record, int fd)
{
    struct sp_pool_segment *segment;
    struct sp_pool_set *set;
    int err;

    if (!record->segment || record->segment >= SP_POOL_IDS || !record->npages ||
        record->npages > SP_POOL_SEGMENT_PAGES_LIMIT || record->node > SP_POOL_NODES ||
        record->stored > 1 || pool->segment[record->segment])
        return -EINVAL;
    set = sp_pool_set_new(pool, record->set);
    if (!set)
        return -ENOMEM;
    if (record->stored && !pool->store)
        return -ENOENT; /* with the store its frames are gone */
    if (record->stored)
        err = sp_pool_segment_adopt_stored(&segment, pool->store, record->segment, record->npages);
    else
        err = sp_pool_segment_adopt(&segment, &pool->mount, record->segment, record->npages, fd);
    if (err)
        return err;
    if (record->stored)
        segment->fd = fd;
    segment->node = (int)record->node - 1;
    add_segment(set, segment);
    if (record->segment >= pool->next_id)
        pool->next_id = (record->segment + 1) % SP_POOL_IDS;
    return 0;
}

/* Gives every descriptor back to whoever called import, and frees the rest. */
static void abandon_import(struct sp_pool *pool)
{
    for (struct sp_pool_set *set = pool->sets; set; set = set->next)
        for (struct sp_pool_segment *s = set->segments; s; s = s->next)
            s->fd = -1;
    pool->mount.rw = pool->mount.ro = -1;
    sp_pool_free(pool);
}

/* Records of segments that their daemon was freeing when it was killed. */
static void close_freed(struct sp_pool *pool, const struct sp_pool_record *record, const int *fd,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (record[i].kind == SP_POOL_KIND_SEGMENT && !pool->segment[record[i].segment])
            close(fd[i]);
}

static bool is_live(void *arg, uint32_t id)
{
    const struct sp_pool *pool = arg;

    return id < SP_POOL_IDS && pool->segment[id];
}

int sp_pool_import(struct sp_pool **out, const struct sp_pool_record *record, const int *fd,
                   size_t n, struct sp_store_link *store, char *why, size_t why_size)
{
    struct sp_pool *pool = pool_alloc();
    int err;

    if (!pool) {
        snprintf(why, why_size, "no memory for the pool");
        return -ENOMEM;
    }
    pool->store = store;
    err = import_mounts(pool, record, fd, n);
    if (err)
        snprintf(why, why_size, "the pool's mounts that were kept cannot be used: %s",
                 strerror(-err));
    for (size_t i = 0; i < n && !err; i++) {
        if (record[i].kind != SP_POOL_KIND_SEGMENT)
            continue;
        err = import_segment(pool, &record[i], fd[i]);
        if (err == -ENOENT)
            err = 0;
        if (err)
            snprintf(why, why_size, "segment %u of the pool that was kept cannot be used: %s",
                     record[i].segment, strerror(-err));
    }
    if (err) {
        abandon_import(pool);
        return err;
    }
    close_freed(pool, record, fd, n);
    pool->orphans = sp_pool_mount_sweep(&pool->mount, is_live, pool);
    *out = pool;
    return 0;
}

void sp_pool_import_end(struct sp_pool *pool)
{
    for (struct sp_pool_set *set = pool->sets; set; set = set->next)
        for (struct sp_pool_segment *s = set->segments; s; s = s->next) {
            if (!s->importing)
                continue;
            s->importing = false;
            s->retiring = s->used == 0;
        }
}
