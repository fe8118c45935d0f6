/* SPDX-License-Identifier: Apache-2.0 */
/*
 * D1: whatever packets a keeper gets, it holds what it says it holds, answers each one, and leaves
 * no descriptor behind. The input is packets: one byte of options, two of length, the bytes.
 */
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "fuzz.h"

/* Its loop is static, and waits for a process of its own. */
#include "../../src/daemon/keeper_serve.c"

#define HEADER offsetof(struct sp_keeper_msg, body)

static struct serve s;
static int peer = -1, held = -1;

/* Sends size bytes as they are, with nfds descriptors. */
static void send_raw(const void *packet, size_t size, unsigned nfds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(SP_KEEPER_FDS * sizeof(int))];
    } control = {.space = {0}};
    struct iovec iov = {(void *)packet, size};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds) {
        int *fd = (int *)CMSG_DATA(&control.align);

        hdr.msg_control = &control;
        hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        control.align = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS,
                                         .cmsg_len = CMSG_LEN(nfds * sizeof(int))};
        for (unsigned i = 0; i < nfds; i++)
            fd[i] = held;
    }
    expect(sendmsg(peer, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size);
}

static void hear_answer(void)
{
    static struct sp_keeper_msg msg;
    int fd[SP_KEEPER_FDS];

    expect(sp_keeper_msg_recv(peer, &msg, fd, MSG_DONTWAIT) == 0);
    expect(msg.length <= sizeof(msg.body));
    close_fds(fd);
}

static void connect_daemon(void)
{
    int pair[2];

    expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    peer = pair[0];
    s.daemon = pair[1];
    expect(watch(&s, s.daemon, WATCH_DAEMON) == 0);
}

/* Options: bits 0 to 2 the type (0 and above 7: as it stands), 3: a right header around the bytes;
 * 4 to 6: descriptors. Returns whether the keeper still listens. */
static bool put_packet(uint8_t options, const uint8_t *bytes, size_t size)
{
    static struct sp_keeper_msg msg;
    unsigned nfds = options >> 4 & 7;

    if (nfds > SP_KEEPER_FDS)
        nfds = SP_KEEPER_FDS;
    memset(&msg, 0, HEADER);
    if (options & 8) {
        msg = (struct sp_keeper_msg){.magic = SP_KEEPER_MAGIC,
                                     .type = (uint16_t)(1 + (options & 7)),
                                     .nfds = (uint16_t)nfds,
                                     .arg = size ? (uint32_t)bytes[0] << 24 | size : 0,
                                     .length = (uint32_t)size};
        if (size > sizeof(msg.body))
            msg.length = (uint32_t)(size = sizeof(msg.body));
        memcpy(msg.body, bytes, size);
        send_raw(&msg, HEADER + size, nfds);
    } else {
        send_raw(bytes, size, nfds);
    }
    if (!serve_daemon(&s))
        return false;
    hear_answer();
    return true;
}

static void drop_all(void)
{
    for (uint32_t i = 0; i < s.nclients; i++)
        if (s.clients[i].used)
            drop_client(&s, i);
    expect(s.live == 0);
    for (uint32_t i = 0; i < s.npool; i++)
        if (s.pool[i].used)
            close(s.pool[i].fd);
    free(s.clients);
    free(s.pool);
    if (s.daemon >= 0)
        hang_up(&s);
    close(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int epoll = -1;
    uint64_t before;

    if (epoll < 0) {
        epoll = epoll_create1(EPOLL_CLOEXEC);
        held = eventfd(0, EFD_CLOEXEC);
    }
    before = open_descriptors();
    memset(&s, 0, offsetof(struct serve, state));
    s.epoll = epoll;
    connect_daemon();
    while (size >= 3) {
        size_t length = (size_t)data[1] | (size_t)(data[2] & 0x1f) << 8;

        if (length > size - 3)
            length = size - 3;
        if (!put_packet(data[0], data + 3, length))
            break;
        data += 3 + length;
        size -= 3 + length;
    }
    drop_all();
    expect(open_descriptors() == before);
    return 0;
}
