/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames are in use (S2), and since when the others are not.
 *
 * From time to time, and before frames leave memory, the kernel is asked of each frame whether
 * anybody used it since it was asked before: a **look**. A process of its own does it
 * (looks_ask.h), so nobody waits for it; the event loop takes the answer. What is known of a frame
 * then:
 *
 *   used    at the last look; has a second chance, once until a look sees it used again
 *   idle    at the last look, and since when
 *   neither nobody was found who maps it, it came to the pool or back to memory since, or there is
 * no way to look: then only its comeback tells (sp_storage_came_back())
 *
 * A frame's first look finds it used, for the merge itself does that: it says from when on it is
 * watched, and gives no second chance.
 *
 * Who leaves first: those idle for ten minutes, for one, since the look before, then all others.
 * Looks take a hundredth of a processor at most, a fifth while somebody asks for reclaims.
 */
#ifndef SP_DAEMON_LOOKS_H
#define SP_DAEMON_LOOKS_H

#include "daemon.h"

/* In which order frames leave. At one level only those that are so long idle may; at the last one
 * all may, those that were used after their second chance. */
enum sp_looks_level { SP_LOOKS_MINUTES, SP_LOOKS_MINUTE, SP_LOOKS_IDLE, SP_LOOKS_ALL };

/* Once a second: begins a look when its time has come. */
void sp_looks_each_second(struct sp_daemon *daemon);
/* Before frames leave. True: what is known is as fresh as it can be. False: a look is under way,
 * which takes some tenths of a second; nobody need wait for it. */
bool sp_looks_fresh(struct sp_daemon *daemon);
/* How many have ended, since this daemon began: with each the levels begin anew. */
uint64_t sp_looks_count(const struct sp_daemon *daemon);
/* CPU that they used, us; what the kernel's own threads use for it is not in it. */
uint64_t sp_looks_cpu_us(const struct sp_daemon *daemon);

/* Whether the frame may leave at this level, as far as looks tell. SP_USE_SINCE is said once. */
enum sp_use sp_looks_use(struct sp_daemon *daemon, sp_frame frame, enum sp_looks_level level);
/* It came back to memory, and lies elsewhere. */
void sp_looks_came_back(struct sp_daemon *daemon, sp_frame frame);

/* Forgets all. A look that is under way ends by itself. */
void sp_looks_stop(struct sp_daemon *daemon);

#endif
