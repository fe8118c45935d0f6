/* SPDX-License-Identifier: Apache-2.0 */
/* The pool's mounts for a user who may not mount: made in a user namespace. */
#ifndef SP_POOL_MOUNT_USERNS_H
#define SP_POOL_MOUNT_USERNS_H

#include <stddef.h>

struct sp_pool_mount;

/* Fills in rw and ro, the caller's to close; the calling process stays in the namespaces that it is
 * in. 0, or a negative errno with a sentence in why. */
int sp_pool_mount_userns(struct sp_pool_mount *mount, char *why, size_t why_size);

#endif
