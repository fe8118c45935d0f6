/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper_msg.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEADER offsetof(struct sp_keeper_msg, body)

union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(SP_KEEPER_FDS * sizeof(int))];
};

int sp_keeper_msg_send(int sock, struct sp_keeper_msg *msg, const int *fd)
{
    union control control;
    struct iovec iov = {msg, HEADER + msg->length};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    msg->magic = SP_KEEPER_MAGIC;
    if (msg->nfds) {
        memset(&control, 0, sizeof(control));
        hdr.msg_control = &control;
        hdr.msg_controllen = CMSG_SPACE(msg->nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(msg->nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fd, msg->nfds * sizeof(int));
    }
    do
        n = sendmsg(sock, &hdr, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* Takes the descriptors out of the control message; their number. */
static unsigned take_fds(struct msghdr *hdr, int fd[SP_KEEPER_FDS])
{
    unsigned n = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c; c = CMSG_NXTHDR(hdr, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; n < SP_KEEPER_FDS && CMSG_LEN(at + sizeof(int)) <= c->cmsg_len;
             at += sizeof(int))
            memcpy(&fd[n++], CMSG_DATA(c) + at, sizeof(int));
    }
    return n;
}

static bool is_whole(const struct sp_keeper_msg *msg, size_t size)
{
    return size >= HEADER && msg->magic == SP_KEEPER_MAGIC && msg->length == size - HEADER;
}

int sp_keeper_msg_recv(int sock, struct sp_keeper_msg *msg, int fd[SP_KEEPER_FDS], int flags)
{
    union control control;
    struct iovec iov = {msg, sizeof(*msg)};
    struct msghdr hdr = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    unsigned nfds;
    ssize_t n;
    int err = 0;

    for (int i = 0; i < SP_KEEPER_FDS; i++)
        fd[i] = -1;
    do
        n = recvmsg(sock, &hdr, flags | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    nfds = take_fds(&hdr, fd);
    if (n == 0) /* the end, or an empty packet, which may carry descriptors */
        err = -EPIPE;
    else if ((hdr.msg_flags & MSG_TRUNC) || !is_whole(msg, (size_t)n))
        err = -EPROTO;
    else if (hdr.msg_flags & MSG_CTRUNC)
        err = -EMFILE;
    else if (nfds != msg->nfds)
        err = -EPROTO;
    for (unsigned i = 0; err && i < nfds; i++) {
        close(fd[i]);
        fd[i] = -1;
    }
    return err;
}
