/* SPDX-License-Identifier: Apache-2.0 */
#include "store_place.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "send_fd.h"
#include "store.h"

#define PATIENCE_MS 30000 /* taking the room of a large file may take a while */
#define FOLDER_MAX  4096u

/* What the child says: with err 0 a descriptor comes along. */
struct word {
    int err;
    char why[480];
};

/* The type of the file system that it is on, as mountinfo has it: no question to that one, which
 * may not answer. False: it cannot be known. */
static bool type_of(int fd, char *type, size_t size)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    struct statx st;
    char *line = NULL;
    size_t room = 0;
    bool found = false;

    if (f && !statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &st))
        while (!found && getline(&line, &room, f) > 0) {
            const char *rest = strstr(line, " - ");

            found = rest && strtoull(line, NULL, 10) == st.stx_mnt_id;
            if (found)
                snprintf(type, size, "%.*s", (int)strcspn(rest + 3, " "), rest + 3);
        }
    free(line);
    if (f)
        fclose(f);
    return found;
}

/* Why nothing is to be made there, or NULL. */
static const char *unfit(int folder)
{
    static const char *const memory[] = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"};
    char type[32];

    if (!type_of(folder, type, sizeof(type)))
        return NULL;
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        if (!strcmp(type, memory[i]))
            return "lies in memory (tmpfs), where it would free none: name a file on a disk";
    if (!strncmp(type, "fuse", 4))
        return "lies on a FUSE file system, whose server may wait for memory itself: name a file "
               "on a "
               "disk";
    return NULL;
}

static const char *advice(int err)
{
    switch (err) {
    case -EEXIST:
        return "exists, and samepaged overwrites nothing: remove it, or name another swap_file";
    case -ENOENT:
    case -ENOTDIR:
        return "has no folder to be in: make it, or name another swap_file";
    case -ENOSPC:
    case -EDQUOT:
        return "finds too little room on its disk: make swap_size smaller, or name another "
               "swap_file";
    case -EFBIG:
        return "would be larger than its file system allows: make swap_size smaller";
    case -EOPNOTSUPP:
        return "is on a file system that takes no room beforehand (fallocate): name one on ext4, "
               "xfs or "
               "btrfs";
    case -EROFS:
        return "is on a file system that is mounted read-only: name another swap_file";
    case -EACCES:
    case -EPERM:
        return "may not be made there by samepaged: name another swap_file";
    default:
        return NULL;
    }
}

/* The folder; *name is what follows in the path, "" if it ends there. Negative errno. */
static int open_folder(const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    char folder[FOLDER_MAX];
    int fd;

    if (!slash || (size_t)(slash - path) >= sizeof(folder) - 1)
        return -EINVAL;
    *name = slash + 1;
    snprintf(folder, sizeof(folder), "%.*s/", (int)(slash - path), path);
    fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int make(struct word *word, const char *path, uint64_t bytes)
{
    const char *name, *what = NULL;
    int folder = open_folder(path, &name), file = folder;

    if (folder >= 0 && !*name)
        what = "is a folder: name a file in it that does not exist yet";
    else if (folder >= 0)
        what = unfit(folder);
    if (what)
        file = -EINVAL;
    if (folder >= 0 && file == folder)
        file = sp_store_file_open(folder, name, bytes);
    word->err = file < 0 ? file : 0;
    if (!what)
        what = advice(word->err);
    if (file < 0 && what)
        snprintf(word->why, sizeof(word->why), "swap_file %s %s", path, what);
    else if (file < 0)
        snprintf(word->why, sizeof(word->why), "swap_file %s cannot be made: %s", path,
                 strerror(-file));
    return file;
}

static void child(int sock, const char *path, uint64_t bytes)
{
    struct word word = {.why = ""};
    struct iovec v = {&word, sizeof(word)};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};
    union sp_send_room room;
    int fd = make(&word, path, bytes);

    sp_send_with(&msg, &room, &fd, fd >= 0);
    (void)!sendmsg(sock, &msg, MSG_NOSIGNAL);
}

/* The descriptor that came with the word, or a negative errno. */
static int hear(int sock, struct word *word)
{
    struct iovec v = {word, sizeof(*word)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    struct pollfd p = {.fd = sock, .events = POLLIN};
    const struct cmsghdr *c;
    int n, fd;

    do
        n = poll(&p, 1, PATIENCE_MS);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n ? -errno : -ETIMEDOUT;
    if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*word))
        return -ECHILD;
    word->why[sizeof(word->why) - 1] = 0;
    if (word->err)
        return word->err < 0 ? word->err : -EPROTO;
    c = CMSG_FIRSTHDR(&msg);
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(fd)))
        return -EMFILE;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

int sp_store_place(const char *path, uint64_t bytes, char *why, size_t why_size)
{
    struct word word = {.why = ""};
    int sock[2], fd;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock)) {
        fd = -errno;
        snprintf(why, why_size, "swap_file %s cannot be made: %s", path, strerror(-fd));
        return fd;
    }
    pid = fork();
    fd = pid < 0 ? -errno : 0;
    if (pid == 0) {
        child(sock[1], path, bytes);
        _exit(0);
    }
    close(sock[1]);
    if (!fd)
        fd = hear(sock[0], &word);
    close(sock[0]);
    if (pid > 0) {
        kill(pid, SIGKILL);
        /* Who hangs in a file system ends later, or never. */
        while (waitpid(pid, NULL, fd == -ETIMEDOUT ? WNOHANG : 0) < 0 && errno == EINTR)
            ;
    }
    if (fd < 0 && word.why[0])
        snprintf(why, why_size, "%s", word.why);
    else if (fd == -ETIMEDOUT)
        snprintf(
            why, why_size,
            "swap_file %s: its file system gave no answer for %d s: name a file on another one",
            path, PATIENCE_MS / 1000);
    else if (fd < 0)
        snprintf(why, why_size, "swap_file %s cannot be made: %s", path, strerror(-fd));
    return fd;
}
