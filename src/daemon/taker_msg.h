/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon and its taker (taker.h) say to each other: one packet each. */
#ifndef SP_DAEMON_TAKER_MSG_H
#define SP_DAEMON_TAKER_MSG_H

#include <stdint.h>

#define SP_TAKER_ARGUMENT "--taker"
#define SP_TAKER_PACKET   512u /* bytes of a packet with a descriptor, at most: a HELLO is less */

enum sp_taker_what { SP_TAKER_TAKE, SP_TAKER_CLOSE };

/* With one descriptor: the socket, or what is to be closed. */
struct sp_taker_question {
    uint32_t serial;
    uint32_t what;
};

/* With the userfaultfd, if there was one. */
struct sp_taker_answer {
    uint32_t serial; /* the question's */
    int32_t status;  /* of TAKE: 0, or -EPROTO: the packet was cut, or had more than one descriptor */
    uint32_t size;
    int32_t sender;
    uint64_t cpu_us; /* that the taker has used since it began */
    _Alignas(8) uint8_t packet[SP_TAKER_PACKET];
};

#endif
