/* SPDX-License-Identifier: Apache-2.0 */
/* Reads /proc/PID/status, however long its lines are: a program may be in 65,536 groups. No
 * allocation. */
#ifndef SP_AGENT_STATUS_H
#define SP_AGENT_STATUS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Calls fn with each byte of the lines that begin with one of the names and a colon, which come
 * before those bytes: which is the name's place. The line's end comes, too. All of it is of one
 * moment, unless a signal ends a read. 0, or a negative errno: it could not be read, or not to its
 * end.
 */
int sp_status_read(int fd, const char *const *name, unsigned names,
                   void (*fn)(void *arg, unsigned which, char c), void *arg);

#endif
