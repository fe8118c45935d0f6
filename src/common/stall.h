/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent and the store's worker say to each other, so that pages of the store can be
 * un-merged (K13, X): **the stall**. As long as frames are held back, who touches a page that maps
 * one of them, and that was not written since, waits; so the agent finds out which pages those are,
 * and puts other memory with the same bytes in their place (src/agent/stall.c).
 *
 * The connection is made by the daemon, and outlives both it and the worker. The agent asks HOLD,
 * is answered, and says RELEASE, which is not answered. It may have frames held of the segments
 * that the daemon gave it. One hold at a time, of whoever: the others wait. It ends when the agent
 * says so, or is dead; after SP_STALL_MSECS it is killed, because the frames may be anybody's. A
 * question that comes again is answered once.
 *
 * Each is one packet (SOCK_SEQPACKET). The worker takes what comes as hostile. Who sends a
 * descriptor is not heard any more: to close one may take for ever, and who receives it does.
 */
#ifndef SP_COMMON_STALL_H
#define SP_COMMON_STALL_H

#include <stdint.h>

#define SP_STALL_PAGES 64u /* frames held at a time, at most */
#define SP_STALL_MSECS 500

enum sp_stall_what { SP_STALL_HOLD = 1, SP_STALL_RELEASE };

struct sp_stall_ask {
    uint32_t what;
    uint32_t seq;                   /* not 0; of a HOLD */
    uint32_t segment;               /* ... and these */
    uint32_t n;                     /* 1 to SP_STALL_PAGES */
    uint16_t index[SP_STALL_PAGES]; /* pages of the segment, ascending */
};

struct sp_stall_answer {
    int32_t status; /* 0: they are held; or a negative errno: nothing is */
    uint32_t seq; /* the question's; 0: the worker is a new one, and what was asked before is to be
                     asked again */
};

#endif
