/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child does it: whoever is in a user namespace of its own may not look into the memory of
 * processes outside any more, not even its own user's (ptrace_may_access), and the daemon must, to
 * repair a program (D2). The mounts live on in the descriptors that the child hands over.
 */
#include "mount_userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
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
static int enter_namespace(void)
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

/* What the child says: with err 0 two descriptors come along, rw and ro. */
struct word {
    int err;
    char why[160];
};

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
    struct word word = {.err = enter_namespace()};

    if (word.err)
        snprintf(
            word.why, sizeof(word.why),
            "making the pool's tmpfs needs root or a user namespace, and entering one failed: %s",
            strerror(-word.err));
    else
        word.err = sp_pool_mount_make("0", &mount, word.why, sizeof(word.why));
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
    return 0;
}

int sp_pool_mount_userns(struct sp_pool_mount *mount, char *why, size_t why_size)
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
