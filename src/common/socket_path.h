/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon listens: the one rule that daemon, commands and agents share. */
#ifndef SP_COMMON_SOCKET_PATH_H
#define SP_COMMON_SOCKET_PATH_H

#include <stddef.h>

/*
 * Writes the path of the daemon's socket, 0-terminated: SAMEPAGE_SOCKET if set and not empty, else
 * $XDG_RUNTIME_DIR/samepage/samepage.sock for users other than root, else
 * /run/samepage/samepage.sock. Returns 0, or -ENAMETOOLONG if it fits neither buf nor a socket
 * address.
 */
int sp_socket_path(char *buf, size_t size);

#endif
