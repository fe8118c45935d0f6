/* SPDX-License-Identifier: Apache-2.0 */
#include "store_link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "send_fd.h"

#define TEND_MS  20    /* so long nobody notices that a process was killed */
#define PATIENCE 30000 /* ms */
#define SILENCE  100   /* ms, for a worker that did not answer the last time: the daemon does nothing else meanwhile */

struct sp_store_link {
    int sock;
    size_t page_size;
    char *pages;
    uint32_t seq;
    unsigned patience; /* ms */
    bool silent; /* the last question was not answered, and nothing came since */
    sp_store_tend_fn tend;
    void *arg;
    struct sp_store_answer answer;
};

int sp_store_link_new(struct sp_store_link **out, int sock, int pages, sp_store_tend_fn tend,
                      void *arg)
{
    struct sp_store_link *link = calloc(1, sizeof(*link));
    struct timespec now;

    if (!link)
        return -ENOMEM;
    link->sock = sock;
    link->tend = tend;
    link->arg = arg;
    link->page_size = (size_t)sysconf(_SC_PAGESIZE);
    link->patience = PATIENCE;
    link->pages =
        mmap(NULL, SP_STORE_PAGES * link->page_size, PROT_READ | PROT_WRITE, MAP_SHARED, pages, 0);
    if (link->pages == MAP_FAILED) {
        free(link);
        return -ENOMEM;
    }
    /* Not the numbers of the daemon before: an answer to it may still come. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    link->seq = (uint32_t)(now.tv_nsec ^ now.tv_sec << 20);
    *out = link;
    return 0;
}

void sp_store_link_be_patient(struct sp_store_link *link, unsigned msecs)
{
    link->patience = msecs;
}

void sp_store_link_free(struct sp_store_link *link)
{
    if (!link)
        return;
    munmap(link->pages, SP_STORE_PAGES * link->page_size);
    free(link);
}

uint32_t sp_store_link_seq(const struct sp_store_link *link)
{
    return link->seq;
}

void *sp_store_link_pages(const struct sp_store_link *link)
{
    return link->pages;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int descriptor_of(struct msghdr *msg)
{
    int fd = -1;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len == CMSG_LEN(sizeof(fd)))
            memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

/* One packet, if there is one that answers the question: 1, and *fd. */
static int take_answer(struct sp_store_link *link, int *fd)
{
    struct iovec v = {&link->answer, sizeof(link->answer)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(link->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
    if (n == 0)
        return -EPIPE;
    link->silent = false;
    *fd = descriptor_of(&msg);
    if (n == sizeof(link->answer) && link->answer.seq == link->seq)
        return 1;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return 0;
}

static int put(struct sp_store_link *link, const struct sp_store_ask *ask, const int *given)
{
    struct iovec v = {(void *)ask, sizeof(*ask)};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};
    union sp_send_room room;

    _Static_assert(SP_STORE_AGENT_FDS <= SP_SEND_FDS, "there is room");
    sp_send_with(&msg, &room, given, given ? SP_STORE_AGENT_FDS : 0);
    /* No room: workers that ended at once left this very question there again and again. */
    if (sendmsg(link->sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(*ask))
        return 0;
    return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
}

static int ask_worker(struct sp_store_link *link, struct sp_store_ask ask, const int *given,
                      const struct sp_store_answer **out)
{
    struct pollfd poller = {.fd = link->sock, .events = POLLIN};
    int64_t until = now_ms() + (link->silent ? SILENCE : link->patience);
    int fd = -1, err;

    ask.seq = ++link->seq;
    err = put(link, &ask, given);

    while (!err) {
        if (poll(&poller, 1, TEND_MS) > 0)
            err = take_answer(link, &fd);
        if (err)
            break;
        if (now_ms() > until) {
            link->silent = true;
            return -ETIMEDOUT;
        }
        err = link->tend(link->arg);
        if (err == 1)
            err = put(link, &ask, given);
    }
    if (err < 0)
        return err;
    if (out)
        *out = &link->answer;
    return link->answer.status ? link->answer.status : fd >= 0 ? fd : 0;
}

int sp_store_ask(struct sp_store_link *link, enum sp_store_what what, uint32_t segment,
                 uint32_t index, uint32_t n, const struct sp_store_answer **out)
{
    return ask_worker(link, (struct sp_store_ask){what, 0, segment, index, n}, NULL, out);
}

int sp_store_give_agent(struct sp_store_link *link, uint32_t key, uint32_t pid,
                        const int fd[SP_STORE_AGENT_FDS], const uint64_t *segments)
{
    memcpy(link->pages, segments, SP_STORE_SEGMENTS / 8);
    return ask_worker(link, (struct sp_store_ask){.what = SP_STORE_AGENT, .index = key, .n = pid},
                      fd, NULL);
}
