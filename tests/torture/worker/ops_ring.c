/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: io_uring with registered buffers. From its registration on the ring reads and writes the pages
 * themselves, by their number: should another page take the place of one of them, what the ring
 * reads into it is lost to the program.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "worker.h"

#define ENTRIES 8u
#define MOST    32u /* pages registered */

struct ring {
    int fd;
    char *rings;
    size_t rings_size;
    struct io_uring_sqe *sqe;
    struct io_uring_params params;
    struct block *b; /* NULL: no buffer is registered */
    uint32_t first, n;
    char *address; /* of the first page when it was registered: the ring names them so for good */
};

static bool ring_open(struct ring *r)
{
    size_t sq, cq;

    memset(r, 0, sizeof(*r));
    r->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &r->params);
    if (r->fd < 0)
        return false;
    sq = r->params.sq_off.array + r->params.sq_entries * sizeof(uint32_t);
    cq = r->params.cq_off.cqes + r->params.cq_entries * sizeof(struct io_uring_cqe);
    r->rings_size = sq > cq ? sq : cq;
    r->rings = mmap(NULL, r->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
                    IORING_OFF_SQ_RING);
    r->sqe = mmap(NULL, r->params.sq_entries * sizeof(*r->sqe), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
    if (r->rings != MAP_FAILED && r->sqe != MAP_FAILED &&
        (r->params.features & IORING_FEAT_SINGLE_MMAP))
        return true;
    close(r->fd);
    return false;
}

static struct ring *ring_of(struct actor *a)
{
    static struct ring ring[MAX_THREADS];
    struct ring *r = &ring[a->index];

    if (!a->ring && ring_open(r))
        a->ring = r;
    return a->ring;
}

/* One transfer of one page of the buffer, waited for. Bytes, or a negative errno. */
static int transfer(struct ring *r, int op, int fd, void *at, uint64_t offset)
{
    uint32_t *tail = (uint32_t *)(r->rings + r->params.sq_off.tail);
    uint32_t *head = (uint32_t *)(r->rings + r->params.cq_off.head), slot;
    uint32_t mask = *(uint32_t *)(r->rings + r->params.sq_off.ring_mask);
    struct io_uring_cqe *cqe = (struct io_uring_cqe *)(r->rings + r->params.cq_off.cqes);
    int result;

    slot = *tail & mask;
    r->sqe[slot] = (struct io_uring_sqe){.opcode = (uint8_t)op,
                                         .fd = fd,
                                         .off = offset,
                                         .addr = (uintptr_t)at,
                                         .len = PAGE,
                                         .buf_index = 0};
    ((uint32_t *)(r->rings + r->params.sq_off.array))[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    while (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        if (errno != EINTR && errno != EAGAIN && errno != EBUSY)
            return -errno;
    while (__atomic_load_n((uint32_t *)(r->rings + r->params.cq_off.tail), __ATOMIC_ACQUIRE) ==
           *head)
        syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    result = cqe[*head & *(uint32_t *)(r->rings + r->params.cq_off.ring_mask)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

OP(op_ring_register)
{
    struct ring *r = ring_of(a);
    struct iovec part;

    if (!r)
        return NOT_HERE;
    if (r->b)
        return NOT_NOW;
    block_stretch(b, state, MOST, &r->first, &r->n);
    part = (struct iovec){page_at(b, r->first), (size_t)r->n * PAGE};
    if (syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &part, 1))
        return lacking("ring-register")
                   ? false
                   : (wrong("buffers cannot be registered", "ring-register"), 0);
    r->address = part.iov_base;
    r->b = b;
    b->pins++;
    block_check(b, r->first, r->n, "ring-register");
    return true;
}

static struct ring *ring_hold(struct actor *a)
{
    if (!a->ring || !a->ring->b)
        return NULL;
    pthread_rwlock_wrlock(&a->ring->b->lock);
    return a->ring;
}

/* The ring fills a page: the program must find the file's bytes in it. */
OP(op_ring_read)
{
    struct ring *r = ring_hold(a);
    struct page page;
    uint32_t i;
    int got;

    if (!r)
        return false;
    b = r->b;
    i = (uint32_t)(chance(state) % r->n);
    page = page_chosen(b, r->first + i, state);
    page_fill(a->buffer, &page);
    if (pwrite(a->file, a->buffer, PAGE, 0) != PAGE)
        wrong("pwrite failed", "ring-read");
    got = transfer(r, IORING_OP_READ_FIXED, a->file, r->address + (size_t)i * PAGE, 0);
    if (got != PAGE && got != -ENOMEM)
        wrong("a fixed read failed", "ring-read");
    if (got == PAGE)
        b->page[r->first + i] = page;
    block_check(b, r->first, r->n, "ring-read");
    pthread_rwlock_unlock(&b->lock);
    return got == PAGE;
}

/* The ring reads a page: it must find what the program wrote last. */
OP(op_ring_write)
{
    struct ring *r = ring_hold(a);
    uint32_t i;
    int got;

    if (!r)
        return false;
    b = r->b;
    i = (uint32_t)(chance(state) % r->n);
    if (chance(state) % 2)
        block_rewrite(b, r->first + i, page_chosen(b, r->first + i, state));
    got = transfer(r, IORING_OP_WRITE_FIXED, a->file, r->address + (size_t)i * PAGE, 0);
    if (got != PAGE && got != -ENOMEM)
        wrong("a fixed write failed", "ring-write");
    if (got == PAGE && pread(a->file, a->buffer, PAGE, 0) != PAGE)
        wrong("pread failed", "ring-write");
    if (got == PAGE)
        page_check(a->buffer, &b->page[r->first + i], true, "ring-write");
    pthread_rwlock_unlock(&b->lock);
    return got == PAGE;
}

OP(op_ring_release)
{
    struct ring *r = ring_hold(a);

    if (!r)
        return false;
    b = r->b;
    if (syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_BUFFERS, NULL, 0))
        wrong("the buffer cannot be released", "ring-release");
    block_check(b, r->first, r->n, "ring-release");
    b->pins--;
    r->b = NULL;
    pthread_rwlock_unlock(&b->lock);
    return true;
}
