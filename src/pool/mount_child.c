/* SPDX-License-Identifier: Apache-2.0 */
#include "mount_child.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* What the child says: with err 0 the descriptors come along. */
struct word {
    int err;
    bool root;
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

    word->root = true;
    if (unshare(CLONE_NEWNS))
        err = -errno;
    if (err == -EPERM || err == -EACCES) {
        word->root = false;
        err = enter_user_namespace();
        if (err)
            return failed(
                word, "mounting the pool needs root or a user namespace, and entering one", err);
    }
    if (err)
        return failed(word, "entering a mount namespace", err);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return failed(word, "keeping our mounts apart (is / a mount?)", -errno);
    return 0;
}

int sp_mount_detached(int mount)
{
    int clone;

    if (move_mount(mount, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH))
        return -errno;
    clone = open_tree(mount, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    return clone < 0 ? -errno : clone;
}

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(SP_MOUNT_CHILD_FDS * sizeof(int))];
};

static void say(int sock, const struct word *word, const int *fd, size_t n)
{
    struct iovec iov = {(void *)word, sizeof(*word)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union control control = {.bytes = {0}};

    if (!word->err) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fd, n * sizeof(int));
    }
    (void)!sendmsg(sock, &msg, MSG_NOSIGNAL);
}

static void child(int sock, sp_mount_make_fn make, size_t n)
{
    int fd[SP_MOUNT_CHILD_FDS];
    struct word word = {.why = ""};

    word.err = enter_namespace(&word);
    if (!word.err)
        word.err = make(word.root, fd, word.why, sizeof(word.why));
    say(sock, &word, fd, n);
}

static int hear(int sock, struct word *word, int *fd, size_t nfds)
{
    union control control;
    struct iovec iov = {word, sizeof(*word)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;
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
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(nfds * sizeof(int)))
        return -EMFILE;
    memcpy(fd, CMSG_DATA(c), nfds * sizeof(int));
    return 0;
}

int sp_mount_child(sp_mount_make_fn make, int *fd, size_t n, bool *root, char *why, size_t why_size)
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
        child(sock[1], make, n);
        _exit(0);
    }
    close(sock[1]);
    if (!err)
        err = hear(sock[0], &word, fd, n);
    close(sock[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *root = word.root;
out:
    if (err && word.why[0])
        snprintf(why, why_size, "%s", word.why);
    else if (err)
        snprintf(why, why_size, "a helper for making mounts failed: %s", strerror(-err));
    return err;
}
