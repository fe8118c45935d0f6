/* SPDX-License-Identifier: Apache-2.0 */
/* The taker's own process (taker.h). What may wait is done before the answer: the answer says that it is over. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "disposable.h"
#include "send_fd.h"
#include "status.h"
#include "taker.h"
#include "taker_msg.h"

#define FDS         4u    /* the kernel lets go of what does not fit in */
#define PACKETS_MAX 4096u /* in a socket: more than the kernel keeps */

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(FDS * sizeof(int))];
};

struct received {
    int fd[FDS];
    unsigned nfds;
    int32_t sender;
    bool cut;
    ssize_t size;
};

/* Asks nobody: the kernel makes the name of what has no file. */
static bool is_userfaultfd(int fd)
{
    char path[64], target[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return false;
    target[n] = 0;
    return !strcmp(target, "anon_inode:[userfaultfd]");
}

static void take_control(struct msghdr *msg, struct received *got)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
            struct ucred cred;

            memcpy(&cred, CMSG_DATA(c), sizeof(cred));
            got->sender = cred.pid;
        }
        for (size_t at = 0; c->cmsg_type == SCM_RIGHTS && got->nfds < FDS &&
                            CMSG_LEN(at + sizeof(int)) <= c->cmsg_len;
             at += sizeof(int))
            memcpy(&got->fd[got->nfds++], CMSG_DATA(c) + at, sizeof(int));
    }
}

static void receive(int sock, void *buf, size_t size, struct received *got)
{
    union control control;
    struct iovec iov = {buf, size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};

    memset(got, 0, sizeof(*got));
    do
        got->size = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | (sock == SP_DISPOSABLE_FD ? 0 : MSG_DONTWAIT));
    while (got->size < 0 && errno == EINTR);
    if (got->size < 0)
        return;
    got->cut = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
    take_control(&msg, got);
}

/* -1, or the userfaultfd; the caller's. */
static int take(int sock, struct sp_taker_answer *answer)
{
    struct received got;

    receive(sock, answer->packet, sizeof(answer->packet), &got);
    if (got.size < 0 || got.cut || got.nfds > 1) {
        answer->status = -EPROTO;
    } else {
        answer->size = (uint32_t)got.size;
        answer->sender = got.sender;
    }
    if (!answer->status && got.nfds == 1 && is_userfaultfd(got.fd[0]))
        return got.fd[0];
    for (unsigned i = 0; i < got.nfds; i++)
        close(got.fd[i]);
    return -1;
}

static bool send_answer(const struct sp_taker_answer *answer, int fd)
{
    struct iovec iov = {(void *)answer, sizeof(*answer)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union sp_send_room room;

    sp_send_with(&msg, &room, &fd, fd >= 0);
    return sendmsg(SP_DISPOSABLE_FD, &msg, MSG_NOSIGNAL) == sizeof(*answer);
}

/* So that who has the other end of a socket sees its end, not an error. What comes with the packets is let go
 * of without having been in a table of descriptors: nobody's flush is called. */
static void throw_away(int fd)
{
    char byte;

    for (unsigned i = 0; i < PACKETS_MAX && recv(fd, &byte, 1, MSG_DONTWAIT) > 0; i++)
        ;
}

/* False: the daemon is gone. */
static bool serve_one(void)
{
    struct sp_taker_question question;
    struct sp_taker_answer answer = {0};
    struct received got;
    int fd = -1;
    bool done;

    receive(SP_DISPOSABLE_FD, &question, sizeof(question), &got);
    if (got.size != sizeof(question) || got.cut || got.nfds != 1)
        return false;
    answer.serial = question.serial;
    if (question.what == SP_TAKER_TAKE)
        fd = take(got.fd[0], &answer);
    else
        throw_away(got.fd[0]);
    close(got.fd[0]);
    answer.cpu_us = sp_own_cpu_us();
    done = send_answer(&answer, fd);
    if (fd >= 0)
        close(fd); /* the daemon has it: not the last */
    return done;
}

int sp_taker_main(int argc, char **argv)
{
    if (!sp_disposable_is(argc, argv, SP_TAKER_ARGUMENT))
        return -1;
    sp_disposable_settle("samepage-taker", 0);
    while (serve_one())
        ;
    return 0;
}
