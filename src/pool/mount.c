/* SPDX-License-Identifier: Apache-2.0 */
#include "mount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "mount_private.h"

#define SP_TMPFS_MAGIC 0x01021994

int sp_pool_mount_open(struct sp_pool_mount *mount, char *why, size_t why_size)
{
    *mount = (struct sp_pool_mount){.rw = -1, .ro = -1};
    return sp_pool_mount_private(mount, why, why_size);
}

int sp_pool_mount_adopt(struct sp_pool_mount *mount, int rw, int ro)
{
    struct statfs a, b;

    if (fstatfs(rw, &a) || fstatfs(ro, &b))
        return -errno;
    if (a.f_type != SP_TMPFS_MAGIC || b.f_type != SP_TMPFS_MAGIC ||
        memcmp(&a.f_fsid, &b.f_fsid, sizeof(a.f_fsid)) != 0)
        return -EINVAL;
    if ((a.f_flags & ST_RDONLY) || !(b.f_flags & ST_RDONLY))
        return -EINVAL;
    *mount = (struct sp_pool_mount){.rw = rw, .ro = ro, .limited = a.f_blocks != 0};
    return 0;
}

int sp_pool_mount_limit(const struct sp_pool_mount *mount, uint64_t bytes)
{
    char size[32];
    int fs, err = 0;

    if (!mount->limited)
        return 0;
    /* 0 would mean no limit. */
    if (bytes == 0)
        bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    snprintf(size, sizeof(size), "%llu", (unsigned long long)bytes);
    fs = fspick(mount->rw, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
    if (fs < 0)
        return -errno;
    if (fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0) ||
        fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0))
        err = -errno;
    close(fs);
    return err;
}

int64_t sp_pool_mount_bytes(const struct sp_pool_mount *mount)
{
    struct statfs st;

    if (!mount->limited || fstatfs(mount->rw, &st))
        return -1;
    return (int64_t)(st.f_blocks - st.f_bfree) * st.f_bsize;
}

uint64_t sp_pool_mount_sweep(const struct sp_pool_mount *mount, bool (*known)(void *, uint32_t),
                             void *arg)
{
    int fd = openat(mount->rw, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    uint64_t bytes = 0;
    struct dirent *entry;
    struct stat st;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.' || known(arg, (uint32_t)strtoul(entry->d_name, NULL, 10)))
            continue;
        if (!fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
            !unlinkat(fd, entry->d_name, 0))
            bytes += (uint64_t)st.st_size;
    }
    closedir(dir);
    return bytes;
}

void sp_pool_mount_close(struct sp_pool_mount *mount)
{
    if (mount->rw >= 0)
        close(mount->rw);
    if (mount->ro >= 0)
        close(mount->ro);
    mount->rw = mount->ro = -1;
}
