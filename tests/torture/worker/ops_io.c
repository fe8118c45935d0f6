/* SPDX-License-Identifier: Apache-2.0 */
/* X: a system call that reads or writes the memory sees and leaves the same as on anonymous memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

#define MOST 16u /* pages: a pipe holds them all */

/* Two stretches of equal length that do not overlap. */
static bool two_stretches(const struct block *b, uint64_t *state, uint32_t *from, uint32_t *to,
                          uint32_t *n)
{
    uint32_t half = b->npages / 2;

    if (half < 1)
        return false;
    *n = 1 + (uint32_t)(chance(state) % (half < MOST ? half : MOST));
    *from = (uint32_t)(chance(state) % (half - *n + 1));
    *to = half + (uint32_t)(chance(state) % (half - *n + 1));
    return true;
}

/* The bytes went from one stretch to the other: so does the record. */
static void copied(struct block *b, uint32_t from, uint32_t to, uint32_t n, const char *what)
{
    memcpy(&b->page[to], &b->page[from], n * sizeof(b->page[0]));
    block_check(b, to, n, what);
    block_check(b, from, n, what);
}

static void must(long got, uint32_t npages, const char *what)
{
    if (got != (long)npages * PAGE)
        wrong("a read or write was short, or failed", what);
}

static void must_all(int fd, char *at, size_t bytes, bool out, const char *what)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = out ? write(fd, at + done, bytes - done) : read(fd, at + done, bytes - done);

        if (n <= 0 && errno != EINTR)
            wrong("a read or write was short, or failed", what);
        done += n > 0 ? (size_t)n : 0;
    }
}

OP(op_pipe)
{
    uint32_t from, to, n;

    if (!two_stretches(b, state, &from, &to, &n))
        return false;
    must_all(a->pipe[1], page_at(b, from), (size_t)n * PAGE, true, "read-write");
    if (chance(state) % 4 == 0)
        pause_ms(1);
    must_all(a->pipe[0], page_at(b, to), (size_t)n * PAGE, false, "read-write");
    copied(b, from, to, n, "read-write");
    return true;
}

OP(op_socket)
{
    uint32_t from, to, n;
    struct iovec part[2];

    if (!two_stretches(b, state, &from, &to, &n))
        return false;
    part[0] = (struct iovec){page_at(b, from), (size_t)n * PAGE / 2};
    part[1] = (struct iovec){page_at(b, from) + (size_t)n * PAGE / 2, (size_t)n * PAGE / 2};
    must(writev(a->socket[0], part, 2), n, "socket");
    must_all(a->socket[1], page_at(b, to), (size_t)n * PAGE, false, "socket");
    copied(b, from, to, n, "socket");
    return true;
}

OP(op_file)
{
    uint32_t from, to, n;

    if (!two_stretches(b, state, &from, &to, &n))
        return false;
    must(pwrite(a->file, page_at(b, from), (size_t)n * PAGE, 0), n, "file");
    if (chance(state) % 2) {
        must(pread(a->file, page_at(b, to), (size_t)n * PAGE, 0), n, "file");
    } else {
        struct iovec part = {page_at(b, to), (size_t)n * PAGE};

        must(preadv(a->file, &part, 1, 0), n, "file");
    }
    copied(b, from, to, n, "file");
    return true;
}

OP(op_direct)
{
    uint32_t from, to, n;

    if (a->direct < 0)
        return NOT_HERE;
    if (!two_stretches(b, state, &from, &to, &n))
        return false;
    must(pwrite(a->direct, page_at(b, from), (size_t)n * PAGE, 0), n, "direct-io");
    must(pread(a->direct, page_at(b, to), (size_t)n * PAGE, 0), n, "direct-io");
    copied(b, from, to, n, "direct-io");
    return true;
}

OP(op_vm_self)
{
    uint32_t from, to, n;
    struct iovec local, remote;

    if (!two_stretches(b, state, &from, &to, &n))
        return false;
    local = (struct iovec){page_at(b, from), (size_t)n * PAGE};
    remote = (struct iovec){page_at(b, to), (size_t)n * PAGE};
    if (chance(state) % 2)
        must(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), n, "process-vm-self");
    else
        must(process_vm_readv(getpid(), &remote, 1, &local, 1, 0), n, "process-vm-self");
    copied(b, from, to, n, "process-vm-self");
    return true;
}

#define TRIES    1000u  /* a page in the air gets EIO, for some microseconds, */
#define TRIES_MS 60000u /* ... or until an agent has a processor again: known */

/* Through /proc/self/mem. */
static void mem_page(int fd, struct block *b, uint32_t i, void *buffer, bool out)
{
    for (unsigned tries = 0; tries < TRIES + TRIES_MS; tries++) {
        long n = out ? pwrite(fd, buffer, PAGE, (off_t)(uintptr_t)page_at(b, i))
                     : pread(fd, buffer, PAGE, (off_t)(uintptr_t)page_at(b, i));

        if (n == PAGE)
            return;
        if (n >= 0 || errno != EIO)
            break;
        if (tries >= TRIES)
            pause_ms(1);
    }
    wrong("a page can not be had", "proc-mem");
}

OP(op_mem_self)
{
    uint32_t from, to, n;
    int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

    if (fd < 0 || !two_stretches(b, state, &from, &to, &n)) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        mem_page(fd, b, from + i, a->buffer, false);
        page_check(a->buffer, &b->page[from + i], true, "proc-mem");
        mem_page(fd, b, to + i, a->buffer, true);
    }
    close(fd);
    copied(b, from, to, n, "proc-mem");
    return true;
}

/* A thread sleeps on a word of the page; another changes the word and wakes it. */
struct sleeper {
    uint32_t *word;
    uint32_t value;
    int op;
};

static void *sleep_on(void *arg)
{
    struct sleeper *s = arg;
    struct timespec limit = {.tv_sec = 60};

    while (__atomic_load_n(s->word, __ATOMIC_SEQ_CST) == s->value)
        if (syscall(SYS_futex, s->word, s->op, s->value, &limit, NULL, 0) && errno == ETIMEDOUT)
            wrong("nobody was woken in a minute", "futex");
    return NULL;
}

OP(op_futex)
{
    uint32_t i = (uint32_t)(chance(state) % b->npages);
    int private = chance(state) % 2 ? FUTEX_PRIVATE_FLAG : 0;
    struct sleeper s = {.word = (uint32_t *)page_at(b, i) + 20, .op = FUTEX_WAIT | private};
    pthread_t thread;

    s.value = *s.word;
    if (pthread_create(&thread, NULL, sleep_on, &s))
        return lacking("futex") || errno == EAGAIN ? false : (wrong("no thread", "futex"), false);
    pause_ms((unsigned)chance(state) % 3);
    page_add(page_at(b, i), &b->page[i]);
    __atomic_store_n(&s.word[0], ~s.value, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, s.word, FUTEX_WAKE | private, 1, NULL, NULL, 0);
    pthread_join(thread, NULL);
    __atomic_store_n(&s.word[0], s.value, __ATOMIC_SEQ_CST);
    block_check(b, i, 1, "futex");
    return true;
}
