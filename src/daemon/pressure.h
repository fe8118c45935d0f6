/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames leave memory by themselves when memory is short.
 *
 * Two things say when. The kernel: processes lost time to memory (PSI), of the daemon's own cgroup
 * or, if that has little available, of the machine. Each time frames worth reclaim_min leave; when
 * that is said again soon, twice as much as the last time, up to reclaim_max. And the limit of the
 * daemon's own cgroup, which is looked at twenty times a second: where there is no swap the kernel
 * kills before anybody loses time (6.18, 256 MiB filled at 200 MiB/s: when OOM struck, `some` of
 * the machine had grown by 1.9 ms). Nearer than reclaim_min, or a quarter of the limit if that is
 * less, so much leaves as makes that room again: what programs may take between two looks.
 *
 * What is in memory never falls below reclaim_floor. Only what samepage-reclaim(1) would take is
 * taken: second chances and locks count. It goes in pieces that the event loop can bear.
 */
#ifndef SP_DAEMON_PRESSURE_H
#define SP_DAEMON_PRESSURE_H

#include "daemon.h"

/* Listens, if the configuration wants it and there is a store. 0, or a negative errno: nothing
 * leaves by itself then. */
int sp_pressure_open(struct sp_daemon *daemon);
void sp_pressure_close(struct sp_daemon *daemon);
/* Bytes that left by themselves since this daemon began. */
uint64_t sp_pressure_bytes(const struct sp_daemon *daemon);

#endif
