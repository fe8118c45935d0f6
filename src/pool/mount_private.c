/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child makes the mounts, in a mount namespace that ends with it; they live on in the descriptors
 * that it hands over. Two reasons:
 *  - Since Linux 6.15 a detached mount may be cloned, with open_tree() of any file in it, by
 * whoever may mount and is in the mount namespace that it came from; and nothing keeps the clone's
 * owner from making it writable. A mount that came from a namespace without processes nobody
 * clones.
 *  - Without root a user namespace is needed, and whoever is in one of its own may not look into
 * the memory of processes outside any more, not even of its own user's (ptrace_may_access); the
 * daemon must, to repair a program (D2).
 */
#include "mount_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mount.h"

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    int err = n == (ssize_t)strlen(text) ? 0 : n < 0 ? -errno : -EIO;
    close(fd);
    return err;
}

/* Becomes the owner of a new user and mount namespace, the ids unchanged. */
static int enter_user_namespace(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char map[64];
    int err;

    if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return -errno;
    snprintf(map, sizeof(map), "%u %u 1", uid, uid);
    err = write_text("/proc/self/uid_map", map);
    if (err)
        return err;
    /* An unprivileged gid_map is only accepted after setgroups is given up. */
    err = write_text("/proc/self/setgroups", "deny");
    if (err && err != -ENOENT)
        return err;
    snprintf(map, sizeof(map), "%u %u 1", gid, gid);
    return write_text("/proc/self/gid_map", map);
}

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

/* A mount in no tree, with the same file system: from it the namespace is left behind. */
static int clone_mount(int mnt, bool readonly)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    int clone = open_tree(mnt, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (clone < 0)
        return -errno;
    if (readonly && mount_setattr(clone, "", AT_EMPTY_PATH, &attr, sizeof(attr))) {
        int err = -errno;

        close(clone);
        return err;
    }
    return clone;
}

/* What the child says: with err 0 two descriptors come along, rw and ro. */
struct word {
    int err;
    bool limited;
    char why[160];
};

static int failed(struct word *word, const char *what, int err)
{
    snprintf(word->why, sizeof(word->why), "%s failed: %s", what, strerror(-err));
    return err;
}

/* Into a mount namespace of our own, whose mounts nobody else sees. */
static int enter_namespace(struct word *word)
{
    int err = 0;

    word->limited = true;
    if (unshare(CLONE_NEWNS))
        err = -errno;
    if (err == -EPERM || err == -EACCES) {
        word->limited = false;
        err = enter_user_namespace();
        if (err)
            return failed(
                word, "making the pool's tmpfs needs root or a user namespace, and entering one",
                err);
    }
    if (err)
        return failed(word, "entering a mount namespace for the pool", err);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return failed(word, "keeping the pool's mounts apart (is / a mount?)", -errno);
    return 0;
}

/* A tmpfs that starts without a limit never gets one, so it starts with the least. */
static int make_mounts(struct word *word, struct sp_pool_mount *to)
{
    char page[32];
    int mnt, err = enter_namespace(word);

    if (err)
        return err;
    snprintf(page, sizeof(page), "%ld", sysconf(_SC_PAGESIZE));
    mnt = mount_tmpfs(word->limited ? page : "0");
    if (mnt < 0)
        return failed(word, "making the pool's tmpfs", mnt);
    if (move_mount(mnt, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH))
        return failed(word, "mounting the pool's tmpfs", -errno);
    to->rw = clone_mount(mnt, false);
    if (to->rw < 0)
        return failed(word, "a view of the pool's tmpfs", to->rw);
    to->ro = clone_mount(mnt, true);
    return to->ro < 0 ? failed(word, "a read-only view of the pool's tmpfs", to->ro) : 0;
}

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(2 * sizeof(int))];
};

static void say(int sock, const struct word *word, const struct sp_pool_mount *mount)
{
    struct iovec iov = {(void *)word, sizeof(*word)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int fd[2] = {mount->rw, mount->ro};
    union control control = {.bytes = {0}};

    if (!word->err) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control.bytes);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(fd));
        memcpy(CMSG_DATA(c), fd, sizeof(fd));
    }
    (void)!sendmsg(sock, &msg, MSG_NOSIGNAL);
}

static void child(int sock)
{
    struct sp_pool_mount mount = {.rw = -1, .ro = -1};
    struct word word = {.why = ""};

    word.err = make_mounts(&word, &mount);
    say(sock, &word, &mount);
}

static int hear(int sock, struct word *word, struct sp_pool_mount *mount)
{
    union control control;
    struct iovec iov = {word, sizeof(*word)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;
    int fd[2];
    ssize_t n;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != sizeof(*word))
        return n < 0 ? -errno : -ECHILD;
    word->why[sizeof(word->why) - 1] = 0;
    if (word->err)
        return word->err;
    c = CMSG_FIRSTHDR(&msg);
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(fd)))
        return -EMFILE;
    memcpy(fd, CMSG_DATA(c), sizeof(fd));
    mount->rw = fd[0];
    mount->ro = fd[1];
    mount->limited = word->limited;
    return 0;
}

int sp_pool_mount_private(struct sp_pool_mount *mount, char *why, size_t why_size)
{
    struct word word = {.why = ""};
    int sock[2], err;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock)) {
        err = -errno;
        goto out;
    }
    pid = fork();
    err = pid < 0 ? -errno : 0;
    if (pid == 0) {
        child(sock[1]);
        _exit(0);
    }
    close(sock[1]);
    if (!err)
        err = hear(sock[0], &word, mount);
    close(sock[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
out:
    if (err && word.why[0])
        snprintf(why, why_size, "%s", word.why);
    else if (err)
        snprintf(why, why_size, "a helper for making the pool's tmpfs failed: %s", strerror(-err));
    return err;
}
