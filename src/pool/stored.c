/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments whose frames can leave memory (S1): files of the store (store_process.h). The daemon
 * maps none of them: it would wait for a server that perhaps it must start itself. It asks the
 * store's worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "segment.h"
#include "store_link.h"

#define AT_ONCE 32u /* frames: 0.1 ms of unpacking */

int sp_pool_segment_create_stored(struct sp_pool_segment **out, struct sp_store_link *store,
                                  uint32_t id, uint32_t npages)
{
    struct sp_pool_segment *segment;
    int err;

    if (npages != SP_POOL_SEGMENT_PAGES)
        return -EINVAL;
    segment = sp_pool_segment_alloc(id, npages);
    if (!segment)
        return -ENOMEM;
    segment->store = store;
    err = sp_store_ask(store, SP_STORE_ADD, id, 0, 0, NULL);
    if (err) {
        sp_pool_segment_close(segment);
        return err;
    }
    *out = segment;
    return 0;
}

int sp_pool_segment_adopt_stored(struct sp_pool_segment **out, struct sp_store_link *store,
                                 uint32_t id, uint32_t npages)
{
    const struct sp_store_answer *said;
    struct sp_pool_segment *segment;
    int err;

    if (npages != SP_POOL_SEGMENT_PAGES)
        return -EINVAL;
    err = sp_store_ask(store, SP_STORE_FILLED, id, 0, 0, &said);
    if (err)
        return err;
    if (said->n > npages)
        return -EINVAL;
    segment = sp_pool_segment_alloc(id, npages);
    if (!segment)
        return -ENOMEM;
    segment->store = store;
    segment->bump = said->n;
    segment->importing = true;
    *out = segment;
    return 0;
}

int sp_pool_stored_write(struct sp_pool_segment *segment, uint32_t index, unsigned n,
                         const void *bytes, const void **written)
{
    void *shared = sp_store_link_pages(segment->store);

    if (n > SP_STORE_PAGES)
        return -EINVAL;
    /* The copy: whoever offers the bytes may be changing them. */
    memcpy(shared, bytes, n * (size_t)sysconf(_SC_PAGESIZE));
    *written = shared;
    return sp_store_ask(segment->store, SP_STORE_FILL, segment->id, index, n, NULL);
}

/* Is the frame among those that were got last? Whatever was asked since may have changed the pages, or the frames. */
static const void *got(const struct sp_pool_segment *segment, uint32_t index)
{
    const char *pages = sp_store_link_pages(segment->store);

    if (segment->got_seq != sp_store_link_seq(segment->store) || index < segment->got ||
        index - segment->got >= segment->ngot)
        return NULL;
    return pages + (index - segment->got) * (size_t)sysconf(_SC_PAGESIZE);
}

/* While a daemon takes over, frames are looked at one behind the other: then some at a time. */
const void *sp_pool_stored_at(struct sp_pool_segment *segment, uint32_t index)
{
    uint32_t n = segment->importing ? AT_ONCE : 1;
    const struct sp_store_answer *said;
    const void *page = got(segment, index);

    if (page)
        return page;
    if (n > segment->npages - index)
        n = segment->npages - index;
    segment->ngot = 0;
    if (sp_store_ask(segment->store, SP_STORE_GET, segment->id, index, n, &said))
        return NULL;
    while (segment->ngot < n && said->result[segment->ngot] == SP_STORE_DONE)
        segment->ngot++;
    segment->got = index;
    segment->got_seq = sp_store_link_seq(segment->store);
    return got(segment, index);
}

int sp_pool_stored_out(struct sp_pool_segment *segment, uint32_t index, unsigned n, bool *out)
{
    const struct sp_store_answer *said;
    int err = sp_store_ask(segment->store, SP_STORE_WHERE, segment->id, index, n, &said);

    for (unsigned i = 0; i < n && !err; i++)
        out[i] = said->result[i] == SP_STORE_AGAIN;
    return err;
}

static bool is_forgotten(const struct sp_pool_segment *segment, uint32_t i)
{
    return segment->forgotten_map[i / 64] >> (i % 64) & 1;
}

void sp_pool_stored_tell_forgotten(struct sp_pool_segment *segment)
{
    for (uint32_t i = 0, n; i < segment->bump && segment->forgotten; i += n ? n : 1) {
        for (n = 0; i + n < segment->bump && n < SP_STORE_PAGES && is_forgotten(segment, i + n);)
            n++;
        if (!n)
            continue;
        if (sp_store_ask(segment->store, SP_STORE_FORGET, segment->id, i, n, NULL))
            return;
        for (uint32_t k = i; k < i + n; k++)
            segment->forgotten_map[k / 64] &= ~(UINT64_C(1) << (k % 64));
        segment->forgotten -= n;
    }
}

int sp_pool_stored_fd(const struct sp_pool_segment *segment)
{
    int fd = sp_store_ask(segment->store, SP_STORE_FD, segment->id, 0, 0, NULL);

    return fd ? fd : -EBADF;
}

int sp_pool_stored_destroy(struct sp_pool_segment *segment)
{
    int err = sp_store_ask(segment->store, SP_STORE_REMOVE, segment->id, 0, 0, NULL);

    return err == -ENOENT ? 0 : err; /* a worker that was killed meanwhile had done it */
}
