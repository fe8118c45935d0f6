/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the pool's mounts where nobody can get at them. */
#ifndef SP_POOL_MOUNT_PRIVATE_H
#define SP_POOL_MOUNT_PRIVATE_H

#include <stddef.h>

struct sp_pool_mount;

/* Fills in the mount: its descriptors are the caller's to close. The calling process stays in the
 * namespaces that it is in. 0, or a negative errno with a sentence in why. */
int sp_pool_mount_private(struct sp_pool_mount *mount, char *why, size_t why_size);

#endif
