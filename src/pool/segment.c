/* SPDX-License-Identifier: Apache-2.0 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static bool bit(const uint64_t *map, uint32_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *map, uint32_t i)
{
    map[i / 64] |= UINT64_C(1) << (i % 64);
}

static void bit_clear(uint64_t *map, uint32_t i)
{
    map[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

void sp_pool_segment_name(uint32_t id, char name[16])
{
    snprintf(name, 16, "%u", id);
}

struct sp_pool_segment *sp_pool_segment_alloc(uint32_t id, uint32_t npages)
{
    size_t words = (npages + 63u) / 64u;
    struct sp_pool_segment *segment = calloc(1, sizeof(*segment) + 3 * words * sizeof(uint64_t));

    if (!segment)
        return NULL;
    segment->id = id;
    segment->npages = npages;
    segment->fd = -1;
    segment->node = -1;
    segment->used_map = (uint64_t *)(segment + 1);
    segment->returned_map = segment->used_map + words;
    segment->forgotten_map = segment->returned_map + words;
    return segment;
}

int sp_pool_segment_create(struct sp_pool_segment **out, const struct sp_pool_mount *mount,
                           uint32_t id, uint32_t npages, int node)
{
    struct sp_pool_segment *segment = sp_pool_segment_alloc(id, npages);
    char name[16];
    int err;

    if (!segment)
        return -ENOMEM;
    sp_pool_segment_name(id, name);
    segment->fd = openat(mount->rw, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (segment->fd < 0) {
        err = -errno;
        goto fail;
    }
    if (ftruncate(segment->fd, (off_t)(npages * page_size()))) {
        err = -errno;
        goto unlink;
    }
    segment->node = node;
    err = node < 0 ? 0 : sp_pool_segment_prefer(segment);
    if (err)
        goto unlink;
    *out = segment;
    return 0;
unlink:
    unlinkat(mount->rw, name, 0);
fail:
    sp_pool_segment_close(segment);
    return err;
}

/* Frames up to the last one that holds memory may have been handed out; what lies beyond was never
 * touched by anybody, or it would hold memory (a look through a mapping fills a page, too). */
static int find_bump(int fd, uint32_t npages, uint32_t *bump)
{
    off_t data, hole = 0, page = (off_t)page_size();

    while ((data = lseek(fd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data)
            return hole < 0 ? -errno : -EINVAL;
    }
    if (errno != ENXIO)
        return -errno;
    *bump = (uint32_t)((hole + page - 1) / page);
    return *bump <= npages ? 0 : -EINVAL;
}

int sp_pool_segment_adopt(struct sp_pool_segment **out, const struct sp_pool_mount *mount,
                          uint32_t id, uint32_t npages, int fd)
{
    struct sp_pool_segment *segment;
    struct stat file, named;
    char name[16];
    int flags, err;

    sp_pool_segment_name(id, name);
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &file) || fstatat(mount->rw, name, &named, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (file.st_size == 0)
        return -ENOENT;
    if ((flags & O_ACCMODE) != O_RDWR || !S_ISREG(file.st_mode) || file.st_dev != named.st_dev ||
        file.st_ino != named.st_ino || file.st_size != (off_t)(npages * page_size()))
        return -EINVAL;
    segment = sp_pool_segment_alloc(id, npages);
    if (!segment)
        return -ENOMEM;
    err = find_bump(fd, npages, &segment->bump);
    if (err) {
        sp_pool_segment_close(segment);
        return err;
    }
    segment->fd = fd;
    segment->importing = true;
    *out = segment;
    return 0;
}

static void unmap_view(struct sp_pool_segment *segment)
{
    if (segment->view)
        munmap(segment->view, segment->npages * page_size());
    segment->view = NULL;
}

void sp_pool_segment_close(struct sp_pool_segment *segment)
{
    unmap_view(segment);
    if (segment->fd >= 0)
        close(segment->fd);
    free(segment);
}

/* The first run of at least want returned frames, else the longest one. 0: none. */
static unsigned find_returned(const struct sp_pool_segment *segment, unsigned want, uint32_t *index)
{
    unsigned best = 0, run = 0;

    if (!segment->returned)
        return 0;
    for (uint32_t i = 0; i < segment->bump && best < want; i++) {
        run = bit(segment->returned_map, i) ? run + 1 : 0;
        if (run > best) {
            best = run;
            *index = i + 1 - run;
        }
    }
    return best;
}

/* The run to hand out: a returned one only if it is as long as what was never handed out, up to
 * want, so that runs stay neighbours and holes are used first. */
static unsigned find_run(const struct sp_pool_segment *segment, unsigned want, uint32_t *index)
{
    unsigned rest = segment->npages - segment->bump;
    unsigned tail = rest < want ? rest : want;
    unsigned run;

    if (segment->retiring || segment->importing || segment->thin)
        return 0;
    run = find_returned(segment, want, index);
    if (run && run >= tail)
        return run;
    *index = segment->bump;
    return tail;
}

unsigned sp_pool_segment_room(const struct sp_pool_segment *segment, unsigned want)
{
    uint32_t index;

    return find_run(segment, want, &index);
}

unsigned sp_pool_segment_take(struct sp_pool_segment *segment, unsigned want, uint32_t *index)
{
    unsigned n = find_run(segment, want, index);

    if (n && *index == segment->bump)
        segment->bump += n;
    else
        segment->returned -= n;
    for (unsigned i = 0; i < n; i++) {
        bit_clear(segment->returned_map, *index + i);
        bit_set(segment->used_map, *index + i);
    }
    segment->used += n;
    return n;
}

static void retire_if_unused(struct sp_pool_segment *segment)
{
    if (!segment->used && !segment->importing)
        segment->retiring = true;
}

void sp_pool_segment_return(struct sp_pool_segment *segment, uint32_t index, unsigned n)
{
    for (unsigned i = 0; i < n && index < segment->bump; i++, index++) {
        if (!bit(segment->used_map, index))
            continue;
        bit_clear(segment->used_map, index);
        bit_set(segment->returned_map, index);
        segment->used--;
        segment->returned++;
    }
    while (segment->bump && bit(segment->returned_map, segment->bump - 1)) {
        bit_clear(segment->returned_map, --segment->bump);
        segment->returned--;
    }
    retire_if_unused(segment);
}

void sp_pool_segment_forget(struct sp_pool_segment *segment, uint32_t index)
{
    if (index >= segment->bump || !bit(segment->used_map, index))
        return;
    bit_clear(segment->used_map, index);
    segment->used--;
    if (segment->store) {
        bit_set(segment->forgotten_map, index);
        segment->forgotten++;
    }
    retire_if_unused(segment);
}

void sp_pool_segment_forget_all(struct sp_pool_segment *segment)
{
    for (uint32_t i = 0; i < (segment->npages + 63u) / 64u; i++)
        segment->used_map[i] = 0;
    segment->used = 0;
    segment->importing = false;
    segment->retiring = true;
}

int sp_pool_segment_claim(struct sp_pool_segment *segment, uint32_t index)
{
    if (index >= segment->bump)
        return -ENOENT;
    if (bit(segment->used_map, index))
        return 0;
    if (bit(segment->returned_map, index)) {
        bit_clear(segment->returned_map, index);
        segment->returned--;
    }
    if (bit(segment->forgotten_map, index)) {
        bit_clear(segment->forgotten_map, index);
        segment->forgotten--;
    }
    bit_set(segment->used_map, index);
    segment->used++;
    segment->retiring = false;
    return 0;
}

int sp_pool_segment_map(struct sp_pool_segment *segment)
{
    size_t size = segment->npages * page_size();
    void *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);

    if (view == MAP_FAILED)
        return -errno;
    /* Frames are single pages even where the machine forces huge ones on; a child of the daemon
     * must not keep the segment mapped; frames are other programs' memory and no core dump's. */
    madvise(view, size, MADV_NOHUGEPAGE);
    madvise(view, size, MADV_DONTFORK);
    madvise(view, size, MADV_DONTDUMP);
    segment->view = view;
    return 0;
}

int sp_pool_segment_write(struct sp_pool_segment *segment, uint32_t index, unsigned n,
                          const void *bytes, const void **written)
{
    const char *from = bytes;
    size_t left = n * page_size();
    off_t at = (off_t)(index * page_size());

    if (index >= segment->bump || n > segment->bump - index)
        return -ENOENT;
    if (segment->store)
        return sp_pool_stored_write(segment, index, n, bytes, written);
    *written = sp_pool_segment_at(segment, index);
    if (!*written)
        return -ENOMEM;
    while (left) {
        ssize_t done = pwrite(segment->fd, from, left, at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        from += done;
        at += done;
        left -= (size_t)done;
    }
    return 0;
}

const void *sp_pool_segment_at(struct sp_pool_segment *segment, uint32_t index)
{
    if (index >= segment->bump)
        return NULL;
    if (segment->store)
        return sp_pool_stored_at(segment, index);
    if (!segment->view && sp_pool_segment_map(segment))
        return NULL;
    return (char *)segment->view + index * page_size();
}

int sp_pool_segment_destroy(struct sp_pool_segment *segment, const struct sp_pool_mount *mount)
{
    char name[16];

    if (segment->store)
        return sp_pool_stored_destroy(segment);
    unmap_view(segment);
    /* Whoever opens the file while the lease stands makes the kernel signal us: nobody can, for
     * that takes a descriptor, but the default SIGIO would kill, and SIGURG does nothing. */
    fcntl(segment->fd, F_SETSIG, SIGURG);
    if (fcntl(segment->fd, F_SETLEASE, F_WRLCK))
        return errno == EAGAIN ? -EBUSY : -errno;
    /* Truncate: the keeper's dup may live a little longer, the memory need not. */
    int err = ftruncate(segment->fd, 0) ? -errno : 0;
    if (!err) {
        sp_pool_segment_name(segment->id, name);
        unlinkat(mount->rw, name, 0);
    }
    fcntl(segment->fd, F_SETLEASE, F_UNLCK);
    return err;
}

uint64_t sp_pool_segment_bytes(const struct sp_pool_segment *segment)
{
    struct stat st;

    if (segment->store)
        return segment->used * (uint64_t)sysconf(_SC_PAGESIZE);
    return fstat(segment->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512u;
}
