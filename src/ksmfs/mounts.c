/* SPDX-License-Identifier: Apache-2.0 */
/* What is mounted where, and taking it away; also where the server of a mount is dead. */
#include "ksmfs.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TYPE "fuse.ksmfs"

int ksmfs_mount_path(const char *dir, char *path, size_t size)
{
    char copy[PATH_MAX], parent[PATH_MAX];
    char *slash;
    int n;

    if (strlen(dir) >= sizeof(copy))
        return -ENAMETOOLONG;
    if (realpath(dir, parent))
        return (size_t)snprintf(path, size, "%s", parent) < size ? 0 : -ENAMETOOLONG;
    if (errno != ENOTCONN && errno != ECONNABORTED)
        return -errno;
    /* Dead: its name cannot be followed, that of its parent can. */
    strcpy(copy, dir);
    while ((slash = strrchr(copy, '/')) && slash > copy && !slash[1])
        *slash = 0;
    if (slash)
        *slash++ = 0;
    if (!realpath(!slash ? "." : *copy ? copy : "/", parent))
        return -errno;
    n = snprintf(path, size, "%s/%s", strcmp(parent, "/") ? parent : "", slash ? slash : copy);
    return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

/* mountinfo writes blanks and backslashes of a path as three octal digits. */
static void unescape(char *text)
{
    char *to = text;

    while (*text) {
        unsigned code;

        if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
            *to++ = (char)code;
            text += 4;
        } else {
            *to++ = *text++;
        }
    }
    *to = 0;
}

int ksmfs_mount_find(const char *path, struct ksmfs_mount *mount)
{
    FILE *in = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, *type;
    size_t size = 0;
    int err = -ENOENT;

    if (!in)
        return -errno;
    while (getline(&line, &size, in) > 0) {
        char at[PATH_MAX];
        unsigned id;

        if (sscanf(line, "%u %*u %*s %*s %4095s", &id, at) != 2)
            continue;
        unescape(at);
        type = strstr(line, " - ");
        if (strcmp(at, path) || !type)
            continue;
        mount->id = id; /* a later one lies over an earlier one */
        mount->ours = !strncmp(type + 3, TYPE " ", strlen(TYPE " "));
        err = 0;
    }
    free(line);
    fclose(in);
    return err;
}

bool ksmfs_mount_is_dead(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

/* Only the setuid helper may take away a user's mount. */
static int remove_as_user(const char *path)
{
    char *const argv[] = {"fusermount3", "-u", "-z", "-q", "--", (char *)path, NULL};
    int status;
    pid_t child = fork();

    if (child == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (child < 0)
        return -errno;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int ksmfs_mount_remove(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return 0;
    return errno == EPERM && geteuid() != 0 ? remove_as_user(path) : -errno;
}
