/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon and the keeper say to each other: one packet is a header, a body, and up to
 * SP_KEEPER_FDS descriptors. The keeper greets; then the daemon asks, and the keeper answers with
 * the same type.
 */
#ifndef SP_DAEMON_KEEPER_MSG_H
#define SP_DAEMON_KEEPER_MSG_H

#include "keeper.h"

#define SP_KEEPER_MAGIC 0x314b5053u /* "SPK1" */

enum sp_keeper_msg_type {
    SP_KEEPER_GREET = 1,    /* the keeper, unasked, first. 1: it holds something; -EBUSY: another
                             * daemon is connected */
    SP_KEEPER_GET,          /* arg: cursor, 0 first; the answer is of one of the PUT types, arg the
                             * next cursor, or of type GET: that was all */
    SP_KEEPER_PUT_CLIENT,   /* struct sp_keeper_client, 3 or 4 descriptors */
    SP_KEEPER_DROP_CLIENT,  /* arg: client id */
    SP_KEEPER_PUT_POOL,     /* struct sp_pool_record, 1 descriptor */
    SP_KEEPER_DROP_SEGMENT, /* arg: segment */
    SP_KEEPER_PUT_STATE,    /* the bytes */
    SP_KEEPER_STOP,
};

struct sp_keeper_msg {
    uint32_t magic;
    uint16_t type;
    uint16_t nfds;
    int32_t status;
    uint32_t arg;
    uint32_t length; /* of body */
    uint32_t reserved;
    uint8_t body[SP_KEEPER_STATE_MAX];
};

/* Sends msg with msg->nfds descriptors, msg->magic set by this. 0 or a negative errno. */
int sp_keeper_msg_send(int sock, struct sp_keeper_msg *msg, const int *fd);
/*
 * Receives one packet; flags as recvmsg's. 0: msg is checked as far as the header goes, and fd has
 * msg->nfds descriptors, the caller's to close, the others are -1. -EMFILE: descriptors did not fit
 * in, msg->type is valid. -EPIPE: the other side is gone. -EPROTO: no such message. Without 0 no
 * descriptor is left open.
 */
int sp_keeper_msg_recv(int sock, struct sp_keeper_msg *msg, int fd[SP_KEEPER_FDS], int flags);

#endif
