/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that go with a packet over a socket of this machine. */
#ifndef SP_COMMON_SEND_FD_H
#define SP_COMMON_SEND_FD_H

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#define SP_SEND_FDS 2u /* with one packet */

/* Room for what the kernel wants to be told of them; lives as long as the message. */
union sp_send_room {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(SP_SEND_FDS * sizeof(int))];
};

/* Has n of them, at most SP_SEND_FDS, go with msg, which has no control data yet. With 0 nothing changes. They stay the caller's. */
static inline void sp_send_with(struct msghdr *msg, union sp_send_room *room, const int *fd, size_t n)
{
    struct cmsghdr *c;

    if (n == 0)
        return;
    memset(room, 0, sizeof(*room));
    msg->msg_control = room;
    msg->msg_controllen = CMSG_SPACE(n * sizeof(*fd));
    c = CMSG_FIRSTHDR(msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(*fd));
    memcpy(CMSG_DATA(c), fd, n * sizeof(*fd));
}

#endif
