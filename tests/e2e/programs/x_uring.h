/* SPDX-License-Identifier: Apache-2.0 */
/* A small io_uring by plain system calls: one job at a time. */
#ifndef SP_E2E_X_URING_H
#define SP_E2E_X_URING_H

#include <linux/io_uring.h>

static struct {
    int fd;
    struct io_uring_params params;
    char *rings;
    struct io_uring_sqe *sqes;
} uring = {.fd = -1};

static inline void *uring_map(size_t size, off_t offset)
{
    void *at =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring.fd, offset);

    x_must(at != MAP_FAILED, "the ring cannot be mapped");
    return at;
}

static inline void uring_open(void)
{
    size_t sq, cq;

    if (uring.fd >= 0)
        return;
    uring.fd = (int)syscall(SYS_io_uring_setup, 4, &uring.params);
    if (uring.fd < 0 || !(uring.params.features & IORING_FEAT_SINGLE_MMAP))
        x_skip("io_uring is not allowed here");
    sq = uring.params.sq_off.array + uring.params.sq_entries * sizeof(uint32_t);
    cq = uring.params.cq_off.cqes + uring.params.cq_entries * sizeof(struct io_uring_cqe);
    uring.rings = uring_map(sq > cq ? sq : cq, IORING_OFF_SQ_RING);
    uring.sqes = uring_map(uring.params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
}

static inline uint32_t *uring_word(uint32_t offset)
{
    return (uint32_t *)(uring.rings + offset);
}

/* Does one job and returns its result. */
static inline long uring_submit(const struct io_uring_sqe *job)
{
    const struct io_sqring_offsets *sq = &uring.params.sq_off;
    const struct io_cqring_offsets *cq = &uring.params.cq_off;
    uint32_t tail = *uring_word(sq->tail), head = *uring_word(cq->head);
    uint32_t slot = tail & *uring_word(sq->ring_mask);
    const struct io_uring_cqe *cqe;

    uring.sqes[slot] = *job;
    uring_word(sq->array)[slot] = slot;
    __atomic_store_n(uring_word(sq->tail), tail + 1, __ATOMIC_RELEASE);
    x_must(syscall(SYS_io_uring_enter, uring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1,
           "io_uring_enter");
    x_must(__atomic_load_n(uring_word(cq->tail), __ATOMIC_ACQUIRE) != head, "no completion");
    cqe =
        (const struct io_uring_cqe *)(uring.rings + cq->cqes) + (head & *uring_word(cq->ring_mask));
    __atomic_store_n(uring_word(cq->head), head + 1, __ATOMIC_RELEASE);
    return cqe->res;
}

/* From the start of the file. */
static inline long uring_do(uint8_t opcode, int fd, char *at, uint32_t length)
{
    return uring_submit(
        &(struct io_uring_sqe){.opcode = opcode, .fd = fd, .addr = (uintptr_t)at, .len = length});
}

static inline long uring_advise(char *at, uint32_t length, uint32_t advice)
{
    return uring_submit(&(struct io_uring_sqe){.opcode = IORING_OP_MADVISE,
                                               .addr = (uintptr_t)at,
                                               .len = length,
                                               .fadvise_advice = advice});
}

#ifdef URING_INLINE
/* As liburing does it: by an instruction of its own, with something else between the number and the call. */
static inline long uring_register(unsigned what, const void *arg, unsigned n)
{
    register long fourth __asm__("r10") = n;
    char room[32];
    long ret;

    __asm__ volatile("mov $427, %%eax\n\t"
                     "movl $0, 16(%[room])\n\t"
                     "syscall"
                     : "=a"(ret)
                     : [room] "b"(room), "D"(uring.fd), "S"(what), "d"(arg), "r"(fourth)
                     : "rcx", "r11", "memory", "cc");
    errno = ret < 0 ? (int)-ret : errno;
    return ret < 0 ? -1 : ret;
}
#else
static inline long uring_register(unsigned what, const void *arg, unsigned n)
{
    return syscall(SYS_io_uring_register, uring.fd, what, arg, n);
}
#endif

#endif
