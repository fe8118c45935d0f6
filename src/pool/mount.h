/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's tmpfs: one detached mount for writing and a read-only clone of it.
 *
 * Neither is attached to any tree, so no path leads to a frame. Clients only ever see descriptors
 * opened through the clone: a file remembers the mount it was opened through, and a reopen by way
 * of /proc goes through that mount again, which refuses to write (EROFS), root included. The mounts
 * come from a namespace that nobody is in, so nobody can make a mount of their own out of them
 * (mount_child.h).
 *
 * The clone is not noexec: a program may make merged memory executable.
 */
#ifndef SP_POOL_MOUNT_H
#define SP_POOL_MOUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sp_pool_mount {
    int rw, ro;
    bool limited; /* the size limit follows the segments */
};

/*
 * Makes both mounts. Without the right to mount it takes a user namespace; there the size is not
 * limited, for nobody stays in that namespace who could raise the limit. 0, or a negative errno
 * with a sentence in why.
 */
int sp_pool_mount_open(struct sp_pool_mount *mount, char *why, size_t why_size);
/* Takes over two mounts that another process made. -EINVAL if they are not what they should be. */
int sp_pool_mount_adopt(struct sp_pool_mount *mount, int rw, int ro);
/* Sets the limit to bytes (at least a page). 0, also when nothing is limited; negative errno. */
int sp_pool_mount_limit(const struct sp_pool_mount *mount, uint64_t bytes);
/* Memory that the tmpfs holds now, in bytes; -1 if only its files can tell. */
int64_t sp_pool_mount_bytes(const struct sp_pool_mount *mount);
/*
 * Removes the names of files that known() does not know by their number: a daemon that was killed
 * between making a file and telling the keeper left them. Returns their size in bytes, which may
 * stay in use for as long as somebody maps them.
 */
uint64_t sp_pool_mount_sweep(const struct sp_pool_mount *mount, bool (*known)(void *, uint32_t),
                             void *arg);
void sp_pool_mount_close(struct sp_pool_mount *mount);

#endif
