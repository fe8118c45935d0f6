/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: vmsplice. The pipe refers to the pages: what the program writes to them afterwards shows in
 * the pipe. A fork makes one of the two have another page, so what is in the pipe is only certain
 * while nobody forks.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "worker.h"

#define MOST 12u /* pages; a pipe holds 16 */

struct spliced {
    int pipe[2], second[2];
    struct block *b; /* NULL: nothing lies in the pipe */
    uint32_t first, n;
    uint64_t forks;
};

static struct spliced *spliced_of(struct actor *a)
{
    static struct spliced spliced[MAX_THREADS];
    struct spliced *s = &spliced[a->index];

    if (!a->spliced && !pipe2(s->pipe, O_CLOEXEC) && !pipe2(s->second, O_CLOEXEC))
        a->spliced = s;
    return a->spliced;
}

OP(op_vmsplice)
{
    struct spliced *s = spliced_of(a);
    struct iovec part;

    if (!s || s->b)
        return false;
    block_stretch(b, state, MOST, &s->first, &s->n);
    part = (struct iovec){page_at(b, s->first), (size_t)s->n * PAGE};
    /* A page that a fork left shared would be another one after the next write. */
    for (uint32_t i = 0; i < s->n; i++)
        page_add(page_at(b, s->first + i), &b->page[s->first + i]);
    s->forks = __atomic_load_n(&forks_begun, __ATOMIC_SEQ_CST);
    if (s->forks != __atomic_load_n(&forks_ended, __ATOMIC_SEQ_CST))
        s->forks = ~0ull; /* one is under way */
    if (vmsplice(s->pipe[1], &part, 1, 0) != (ssize_t)s->n * PAGE)
        wrong("vmsplice was short, or failed", "vmsplice");
    s->b = b;
    b->pins++;
    block_check(b, s->first, s->n, "vmsplice");
    return true;
}

static struct spliced *spliced_hold(struct actor *a)
{
    if (!a->spliced || !a->spliced->b)
        return NULL;
    pthread_rwlock_wrlock(&a->spliced->b->lock);
    return a->spliced;
}

OP(op_vmsplice_write)
{
    struct spliced *s = spliced_hold(a);

    if (!s)
        return false;
    b = s->b;
    for (uint32_t i = s->first; i < s->first + s->n; i += 1 + (uint32_t)(chance(state) % 3)) {
        if (chance(state) % 2)
            block_rewrite(b, i, page_chosen(b, i, state));
        else
            page_add(page_at(b, i), &b->page[i]);
    }
    block_check(b, s->first, s->n, "vmsplice-write");
    pthread_rwlock_unlock(&b->lock);
    return true;
}

static void read_page(int fd, char *buffer)
{
    for (size_t done = 0; done < PAGE;) {
        ssize_t n = read(fd, buffer + done, PAGE - done);

        if (n <= 0 && errno != EINTR)
            wrong("the pipe ended", "vmsplice-read");
        done += n > 0 ? (size_t)n : 0;
    }
}

/* Straight from the pipe, or through a second one by splice. */
OP(op_vmsplice_read)
{
    struct spliced *s = spliced_hold(a);
    int from;

    if (!s)
        return false;
    b = s->b;
    from = s->pipe[0];
    if (chance(state) % 2) {
        for (size_t left = (size_t)s->n * PAGE; left;) {
            ssize_t n = splice(s->pipe[0], NULL, s->second[1], NULL, left, 0);

            if (n <= 0)
                wrong("splice failed", "vmsplice-read");
            left -= (size_t)n;
        }
        from = s->second[0];
        pause_ms((unsigned)chance(state) % 2);
    }
    for (uint32_t i = s->first; i < s->first + s->n; i++) {
        read_page(from, a->buffer);
        if (s->forks == __atomic_load_n(&forks_begun, __ATOMIC_SEQ_CST))
            page_check(a->buffer, &b->page[i], true, "vmsplice-read");
    }
    block_check(b, s->first, s->n, "vmsplice-read");
    b->pins--;
    s->b = NULL;
    pthread_rwlock_unlock(&b->lock);
    return true;
}
