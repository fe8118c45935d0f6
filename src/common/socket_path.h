/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon listens: the one rule that daemon, commands and agents share. */
#ifndef SP_COMMON_SOCKET_PATH_H
#define SP_COMMON_SOCKET_PATH_H

#include <stdbool.h>
#include <stddef.h>

#define SP_SYSTEM_SOCKET "/run/samepage/samepage.sock" /* of root's daemon, which serves all users */

/*
 * Where a daemon of this user listens, 0-terminated: SAMEPAGE_SOCKET if set and not empty, else
 * $XDG_RUNTIME_DIR/samepage/samepage.sock for users other than root, else SP_SYSTEM_SOCKET. Returns
 * 0, or -ENAMETOOLONG if it fits neither buf nor a socket address.
 */
int sp_socket_path(char *buf, size_t size);

/*
 * The daemon that this user's programs and commands speak to: that at SAMEPAGE_SOCKET if set; else
 * the user's own if one listens; else the system's if one listens; else the user's own, to be
 * started. Returns as sp_socket_path() does.
 */
int sp_socket_choose(char *buf, size_t size);

/* Whether somebody listens there. Does not wait. */
bool sp_socket_listens(const char *path);

#endif
