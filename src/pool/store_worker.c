/* SPDX-License-Identifier: Apache-2.0 */
/* The store's worker: its segments, and the questions that it is asked (store_process.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "send_fd.h"
#include "store_worker_inside.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* Takes what is in the cache and not in the store under our lock again: another process had it. */
static void keep_what_is_left(struct sp_store_worker *w, uint32_t id)
{
    static unsigned char there[SP_POOL_SEGMENT_PAGES];
    struct sp_store_segment *s = w->segment[id];

    if (mincore(s->view, SP_POOL_SEGMENT_PAGES * w->page_size, there))
        return;
    for (uint32_t i = 0; i < SP_POOL_SEGMENT_PAGES; i++) {
        if (!sp_store_bit(s->marks->filled, i) || sp_store_has(w->run.store, sp_store_frame(id, i)))
            continue;
        if ((there[i] & 1) &&
            !madvise(s->view + i * w->page_size, w->page_size, MADV_POPULATE_READ))
            sp_store_set_bit(s->marks->kept, i, true);
        else if (sp_store_bit(s->marks->kept, i))
            sp_store_set_bit(s->marks->lost, i, true);
    }
}

/* Makes it known to the server. -ENOMEM. */
static int note_segment(struct sp_store_worker *w, uint32_t id)
{
    struct sp_store_segment *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->fd = -1;
    s->marks = sp_store_marks(w->run.store, id);
    w->segment[id] = s;
    sp_store_set_bit(w->notes->segment, id, true);
    return 0;
}

/* Waits for the server. */
static int open_view(struct sp_store_worker *w, uint32_t id)
{
    size_t size = SP_POOL_SEGMENT_PAGES * w->page_size;
    struct sp_store_segment *s = w->segment[id];
    void *view;

    if (s->fd < 0)
        s->fd = sp_store_fuse_segment(w->run.mount, id);
    if (s->fd < 0)
        return s->fd;
    view = mmap(NULL, size, PROT_READ, MAP_SHARED, s->fd, 0);
    if (view == MAP_FAILED)
        return -errno;
    madvise(view, size, MADV_DONTFORK);
    madvise(view, size, MADV_DONTDUMP);
    s->view = view;
    s->locks = !mlock2(view, size, MLOCK_ONFAULT);
    keep_what_is_left(w, id);
    return 0;
}

/* Its number last: a worker that is killed before leaves a segment, which is removed once more. */
static int remove_segment(struct sp_store_worker *w, uint32_t id)
{
    struct sp_store_segment *s = w->segment[id];

    if (!sp_frames_ours_alone(w, id))
        return -EBUSY;
    munmap(s->view, SP_POOL_SEGMENT_PAGES * w->page_size);
    close(s->fd);
    (void)sp_store_fuse_drop(w->run.dev, id, 0, SP_POOL_SEGMENT_PAGES);
    sp_store_drop_segment(w->run.store, id);
    w->segment[id] = NULL;
    sp_store_set_bit(w->notes->segment, id, false);
    sp_stalls_removed(w, id);
    free(s);
    return 0;
}

/* One that was used is somebody else's, of a pool that was lost: -EEXIST, as long as anybody has it. */
static int add(struct sp_store_worker *w, uint32_t id)
{
    int err = 0;

    if (!id || id >= SP_STORE_SEGMENTS)
        return -EINVAL;
    if (!w->segment[id])
        err = note_segment(w, id);
    if (!err && !w->segment[id]->view)
        err = open_view(w, id);
    if (err || !sp_frames_filled(w, id))
        return err;
    if (remove_segment(w, id))
        return -EEXIST;
    err = note_segment(w, id);
    return err ? err : open_view(w, id);
}

static void count(struct sp_store_worker *w, struct sp_store_answer *to)
{
    to->locks = 1;
    sp_store_counters(w->run.store, &to->counters);
    for (uint32_t id = 1; id < SP_STORE_SEGMENTS; id++)
        if (w->segment[id] && !w->segment[id]->locks)
            to->locks = 0;
}

static bool is_of_all(uint32_t what)
{
    return what == SP_STORE_TELL || what == SP_STORE_COUNT || what == SP_STORE_RELEASE ||
           what == SP_STORE_AGENT || what == SP_STORE_ALLOW;
}

static bool is_of_pages(uint32_t what)
{
    return what != SP_STORE_ADD && what != SP_STORE_FD && what != SP_STORE_REMOVE &&
           what != SP_STORE_FILLED && !is_of_all(what);
}

/* Is it about frames that are held? The worker would wait for itself. */
static bool is_held(const struct sp_store_worker *w, const struct sp_store_ask *ask)
{
    if (ask->what == SP_STORE_REMOVE)
        return sp_frames_is_held(w, ask->segment, 0, SP_POOL_SEGMENT_PAGES);
    return is_of_pages(ask->what) && ask->what != SP_STORE_HOLD &&
           sp_frames_is_held(w, ask->segment, ask->index, ask->n);
}

/* -ENOENT: there is no such segment. One that there is, but cannot be opened now, is not gone. */
static int check(struct sp_store_worker *w, const struct sp_store_ask *ask)
{
    if (ask->what == SP_STORE_ADD || is_of_all(ask->what))
        return 0;
    if (ask->segment >= SP_STORE_SEGMENTS || !w->segment[ask->segment])
        return -ENOENT;
    if (!w->segment[ask->segment]->view && open_view(w, ask->segment))
        return -EIO;
    if (is_of_pages(ask->what) &&
        (!ask->n || ask->n > SP_STORE_PAGES || ask->index > SP_POOL_SEGMENT_PAGES - ask->n))
        return -EINVAL;
    return is_held(w, ask) ? -EBUSY : 0;
}

static int hold(struct sp_store_worker *w, const struct sp_store_ask *ask,
                struct sp_store_answer *to)
{
    uint16_t index[SP_STORE_PAGES];

    for (uint32_t i = 0; i < ask->n; i++) {
        index[i] = (uint16_t)(ask->index + i);
        to->result[i] = SP_STORE_DONE;
    }
    return sp_frames_hold(w, ask->segment, index, ask->n, 0, 0);
}

/* Answers in *to; the descriptor to send with it, or -1. given: came with the question, and stays
 * the caller's; or -1. */
static int work(struct sp_store_worker *w, const struct sp_store_ask *ask, const int *given,
                struct sp_store_answer *to)
{
    int fd = -1;

    *to = (struct sp_store_answer){.seq = ask->seq, .status = check(w, ask)};
    if (to->status)
        return -1;
    if (is_of_pages(ask->what))
        to->n = ask->n;
    switch ((enum sp_store_what)ask->what) {
    case SP_STORE_ADD:
        to->status = add(w, ask->segment);
        break;
    case SP_STORE_FD:
        fd = sp_store_fuse_segment(w->run.mount, ask->segment);
        to->status = fd < 0 ? fd : 0;
        break;
    case SP_STORE_FILL:
        to->status = sp_frames_fill(w, ask);
        break;
    case SP_STORE_EVICT:
        sp_frames_evict(w, ask, to->result);
        break;
    case SP_STORE_HOLD:
        to->status = hold(w, ask, to);
        break;
    case SP_STORE_AGENT:
        to->status = sp_stalls_add(w, ask->index, ask->n, given);
        break;
    case SP_STORE_ALLOW:
        to->status = sp_stalls_allow(w, ask->index, ask->segment);
        break;
    case SP_STORE_BRING:
        sp_frames_bring(w, ask, to->result);
        break;
    case SP_STORE_FORGET:
        sp_frames_forget(w, ask, to->result);
        break;
    case SP_STORE_RELEASE:
        to->status = sp_frames_release(w);
        break;
    case SP_STORE_GET:
        sp_frames_get(w, ask, to->result);
        break;
    case SP_STORE_WHERE:
        to->status = sp_frames_where(w, ask, to->result);
        break;
    case SP_STORE_FILLED:
        to->n = sp_frames_filled(w, ask->segment);
        sp_frames_mark(w->segment[ask->segment]->marks->told, 0, SP_POOL_SEGMENT_PAGES, false);
        break;
    case SP_STORE_REMOVE:
        to->status = remove_segment(w, ask->segment);
        break;
    case SP_STORE_TELL:
        sp_frames_tell(w, to);
        break;
    case SP_STORE_COUNT:
        count(w, to);
        break;
    default:
        to->status = -EPROTO;
    }
    return fd < 0 ? -1 : fd;
}

static bool say(int sock, const struct sp_store_answer *answer, int fd)
{
    struct iovec v = {(void *)answer, sizeof(*answer)};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};
    union sp_send_room room;

    sp_send_with(&msg, &room, &fd, fd >= 0);
    return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof(*answer);
}

static void close_all(const int *fd)
{
    for (size_t i = 0; i < SP_STORE_AGENT_FDS; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

/* One question, and the descriptors that came with it, or -1. 1; 0: what came is none; -1: nobody
 * asks any more. */
static int take_question(int sock, struct sp_store_ask *ask, int given[SP_STORE_AGENT_FDS])
{
    struct iovec v = {ask, sizeof(*ask)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SP_STORE_AGENT_FDS * sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);

    given[0] = given[1] = -1;
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); n && c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len <= CMSG_LEN(SP_STORE_AGENT_FDS * sizeof(int)))
            memcpy(given, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    if (n == sizeof(*ask))
        return 1;
    close_all(given);
    return n ? 0 : -1;
}

static void answer_all(struct sp_store_worker *w)
{
    static struct sp_store_answer answer;
    struct sp_store_ask ask;
    bool told = true;

    while (told) {
        int given[SP_STORE_AGENT_FDS], fd, n;

        if (!sp_stalls_wait(w))
            continue;
        n = take_question(w->run.sock, &ask, given);
        if (n < 0)
            return;
        if (n == 0)
            continue;
        fd = work(w, &ask, given, &answer);
        close_all(given);
        told = say(w->run.sock, &answer, fd);
        if (fd >= 0)
            close(fd);
    }
}

static int take_over(struct sp_store_worker *w)
{
    const struct sp_store_notes *notes = w->notes;
    int err = 0;

    for (uint32_t id = 1; id < SP_STORE_SEGMENTS && !err; id++)
        if (sp_store_bit(notes->segment, id))
            err = note_segment(w, id);
    if (!err && notes->hold_n && w->segment[notes->hold_segment])
        sp_frames_hold_again(w);
    return err ? err : sp_stalls_begin(w);
}

static void open_views(struct sp_store_worker *w)
{
    for (uint32_t id = 1; id < SP_STORE_SEGMENTS; id++)
        if (w->segment[id])
            (void)open_view(w, id); /* or when it is added once more */
}

/*
 * The server's own descriptor is not for us, who touch pages of segments (store_fuse.h): we wait for
 * the kernel until it has ended what a dead server had read, and that is when nobody has it.
 */
static void take_own_dev(struct sp_store_worker *w)
{
    int dev = sp_store_fuse_clone(w->run.dev);

    if (dev < 0)
        return; /* then with what was given: in a user namespace none can be made from outside */
    close(w->run.dev);
    w->run.dev = dev;
}

static int prepare(struct sp_store_worker *w)
{
    take_own_dev(w);
    w->page_size = (size_t)sysconf(_SC_PAGESIZE);
    w->page = malloc(w->page_size);
    w->pages = mmap(NULL, SP_STORE_PAGES * w->page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                    w->run.pages, 0);
    if (!w->page || w->pages == MAP_FAILED)
        return -ENOMEM;
    w->notes = sp_store_notes(w->run.store);
    return 0;
}

int sp_store_worker_process(const struct sp_store_worker_run *run)
{
    static struct sp_store_worker worker;
    struct sp_store_worker *w = &worker;
    int err;

    w->run = *run;
    err = prepare(w);
    if (!err)
        err = take_over(w);
    if (err)
        return err;
    /* Who waits for memory may wait for us: our own requests for memory do not wait for others'. */
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    open_views(w);
    answer_all(w);
    return 0;
}
