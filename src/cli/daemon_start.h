/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the other parts of an installation, and having a daemon.
 *
 * The parts lie beside this program (build folder), or in ../lib/samepage (or what the system calls
 * lib), ../libexec/samepage, ../libexec, ../sbin, ../bin of it, or where the build was configured
 * to install them.
 */
#ifndef SP_CLI_DAEMON_START_H
#define SP_CLI_DAEMON_START_H

#include <stddef.h>

/*
 * Writes the absolute path of the installed file of that name into path (at most size bytes).
 * Returns 0, or -ENOENT.
 */
int sp_part_find(const char *name, char *path, size_t size);

/* Whether sp_daemon_ensure() could start one: 0, or -1 and the reason in why. Changes nothing. */
int sp_daemon_can_start(const char *socket_path, char *why, size_t size);

/*
 * Sees to it that a daemon answers at the socket, and starts one when none does: in the background,
 * in a session of its own, no child of ours, its messages in samepaged.log beside the socket. Two
 * of us at once do no harm: the later daemon finds the earlier one and ends.
 *
 * Returns 0 when a daemon answers, within five seconds; or -1 and the reason in why.
 */
int sp_daemon_ensure(const char *socket_path, char *why, size_t size);

#endif
