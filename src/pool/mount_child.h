/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child makes mounts, in a mount namespace that ends with it; they live on in the descriptors
 * that it hands over. Two reasons:
 *  - Since Linux 6.15 a detached mount may be cloned, with open_tree() of any file in it, by
 * whoever may mount and is in the mount namespace that it came from; and nothing keeps the clone's
 * owner from making it writable. A mount that came from a namespace without processes nobody
 * clones.
 *  - Without root a user namespace is needed, and whoever is in one of its own may not look into
 * the memory of processes outside any more, not even of its own user's (ptrace_may_access); the
 * daemon must, to repair a program (D2).
 */
#ifndef SP_POOL_MOUNT_CHILD_H
#define SP_POOL_MOUNT_CHILD_H

#include <stdbool.h>
#include <stddef.h>

#define SP_MOUNT_CHILD_FDS 3u /* at most */

/*
 * What the child is to do, in its namespaces; root: in a mount namespace of root's, else in a user
 * namespace of its own, too, the ids unchanged. Makes descriptors. 0, or a negative errno with a
 * sentence in why.
 */
typedef int (*sp_mount_make_fn)(bool root, int *fd, char *why, size_t why_size);

/* Has it done, and fills in its n descriptors, which are the caller's then; *root: as make was
 * told. The calling process stays in the namespaces that it is in. 0, or a negative errno with a
 * sentence in why. */
int sp_mount_child(sp_mount_make_fn make, int *fd, size_t n, bool *root, char *why,
                   size_t why_size);

/* For make: a mount, which gets the place of "/" in the namespace, once more in no tree; from it
 * the namespace is left behind. Its descriptor, or a negative errno. */
int sp_mount_detached(int mount);

#endif
