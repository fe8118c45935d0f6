/* SPDX-License-Identifier: Apache-2.0 */
#include "mount_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "mount.h"
#include "mount_child.h"

static int mount_tmpfs(const char *size)
{
    static const char *const option[][2] = {{"huge", "never"}, {"mode", "0700"}};
    int mnt = -1, err = 0;
    int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);

    if (fs < 0)
        return -errno;
    for (size_t i = 0; i < sizeof(option) / sizeof(option[0]); i++)
        if (fsconfig(fs, FSCONFIG_SET_STRING, option[i][0], option[i][1], 0)) {
            /* A kernel without huge pages in tmpfs knows no huge=, and has none. */
            if (strcmp(option[i][0], "huge") != 0 || errno != EINVAL)
                err = -errno;
        }
    if (!err && fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0))
        err = -errno;
    if (!err && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        err = -errno;
    if (!err) {
        mnt = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        if (mnt < 0)
            err = -errno;
    }
    close(fs);
    return err ? err : mnt;
}

static int readonly_clone(int mnt)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    int clone = open_tree(mnt, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (clone < 0)
        return -errno;
    if (mount_setattr(clone, "", AT_EMPTY_PATH, &attr, sizeof(attr))) {
        int err = -errno;

        close(clone);
        return err;
    }
    return clone;
}

static int failed(char *why, size_t why_size, const char *what, int err)
{
    snprintf(why, why_size, "%s failed: %s", what, strerror(-err));
    return err;
}

/* A tmpfs that starts without a limit never gets one, so it starts with the least. */
static int make_mounts(bool root, int *fd, char *why, size_t why_size)
{
    char page[32];
    int mnt;

    snprintf(page, sizeof(page), "%ld", sysconf(_SC_PAGESIZE));
    mnt = mount_tmpfs(root ? page : "0");
    if (mnt < 0)
        return failed(why, why_size, "making the pool's tmpfs", mnt);
    fd[0] = sp_mount_detached(mnt);
    if (fd[0] < 0)
        return failed(why, why_size, "a view of the pool's tmpfs", fd[0]);
    fd[1] = readonly_clone(mnt);
    return fd[1] < 0 ? failed(why, why_size, "a read-only view of the pool's tmpfs", fd[1]) : 0;
}

int sp_pool_mount_private(struct sp_pool_mount *mount, char *why, size_t why_size)
{
    int fd[2], err;

    err = sp_mount_child(make_mounts, fd, 2, &mount->limited, why, why_size);
    if (err)
        return err;
    mount->rw = fd[0];
    mount->ro = fd[1];
    return 0;
}
