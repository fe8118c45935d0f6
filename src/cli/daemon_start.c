/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon_start.h"

#include "cli_paths.h"
#include "control_client.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_SECONDS  5
#define LOSER_SECONDS  2 /* ours ended: how long the daemon that beat it may take to answer */
#define POLL_MILLISECS 10
#define LOG_NAME       "samepaged.log"

int sp_part_find(const char *name, char *path, size_t size)
{
    static const char *const beside[] = {"",
                                         "../" SP_LIBDIR_NAME "/samepage/",
                                         "../lib/samepage/",
                                         "../libexec/samepage/",
                                         "../libexec/",
                                         "../sbin/",
                                         "../bin/"};
    static const char *const configured[] = {SP_BINDIR "/", SP_LIBDIR "/samepage/", SP_LIBDIR "/"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    const size_t nbeside = n > 0 ? sizeof(beside) / sizeof(beside[0]) : 0;

    self[n > 0 ? n : 0] = 0;
    for (size_t i = 0; i < nbeside; i++) {
        char *slash = strrchr(self, '/');

        if ((size_t)snprintf(path, size, "%.*s%s%s", (int)(slash + 1 - self), self, beside[i],
                             name) < size &&
            access(path, R_OK) == 0)
            return 0;
    }
    for (size_t i = 0; i < sizeof(configured) / sizeof(configured[0]); i++)
        if ((size_t)snprintf(path, size, "%s%s", configured[i], name) < size &&
            access(path, R_OK) == 0)
            return 0;
    return -ENOENT;
}

/* Whether somebody speaks our protocol there; any packet will do. */
static bool answers(const char *socket_path, int *err)
{
    static const char ask[] = "{\"op\":\"status\"}";
    const struct timeval patience = {.tv_sec = START_SECONDS};
    int fd = sp_control_connect(socket_path);
    char byte;
    ssize_t n;

    *err = fd < 0 ? fd : 0;
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    n = send(fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL);
    if (n > 0)
        n = recv(fd, &byte, 1, 0);
    if (n <= 0)
        *err = n < 0 ? -errno : -ECONNRESET;
    close(fd);
    return n > 0;
}

/* The log lies beside the socket; where none can be made, messages are lost. */
static int open_log(const char *socket_path)
{
    char path[PATH_MAX];
    const char *slash = strrchr(socket_path, '/');
    int fd = -1;

    if (slash && (size_t)snprintf(path, sizeof(path), "%.*s/" LOG_NAME, (int)(slash - socket_path),
                                  socket_path) < sizeof(path))
        fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* The daemon's own process, from here to exec. Never returns. */
static void become_daemon(const char *program, const char *socket_path, int log_fd)
{
    char *const argv[] = {(char *)program, "--foreground", NULL}; /* we did the forking */
    sigset_t none;
    int null_fd = open("/dev/null", O_RDWR);
    int log_copy = fcntl(log_fd, F_DUPFD, 3); /* we may have been started without 0, 1 and 2 */

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL); /* what the shell had us ignore is not for the daemon */
    if (chdir("/") < 0 || setenv("SAMEPAGE_SOCKET", socket_path, 1) < 0)
        _exit(127);
    unsetenv("LD_PRELOAD"); /* samepage does not merge itself */
    dup2(null_fd, STDIN_FILENO);
    dup2(log_copy, STDOUT_FILENO);
    dup2(log_copy, STDERR_FILENO);
    close_range(3, ~0u, 0);
    execv(program, argv);
    _exit(127);
}

/*
 * Forks twice, so that the daemon is not a child of the program that we become. Returns a pidfd of
 * the daemon, or a negative errno.
 */
static int spawn_daemon(const char *program, const char *socket_path, int log_fd)
{
    int ready[2];
    pid_t child, daemon_pid = 0;
    int pidfd = -ESRCH;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return -errno;
    child = fork();
    if (child == 0) {
        setsid();
        daemon_pid = fork();
        if (daemon_pid == 0)
            become_daemon(program, socket_path, log_fd);
        _exit(write(ready[1], &daemon_pid, sizeof(daemon_pid)) != sizeof(daemon_pid));
    }
    close(ready[1]);
    if (child < 0) {
        pidfd = -EAGAIN;
    } else if (read(ready[0], &daemon_pid, sizeof(daemon_pid)) == sizeof(daemon_pid) &&
               daemon_pid > 0) {
        pidfd = (int)syscall(SYS_pidfd_open, daemon_pid, 0);
        pidfd = pidfd < 0 ? -errno : pidfd;
    }
    close(ready[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return pidfd;
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Waits until a daemon answers, ours or the one that was faster. */
static bool wait_for_answer(const char *socket_path, int pidfd)
{
    const double start = now();
    double end = start + START_SECONDS;
    int err;

    while (now() < end) {
        struct pollfd dead = {.fd = pidfd, .events = POLLIN};

        if (answers(socket_path, &err))
            return true;
        if (poll(&dead, 1, POLL_MILLISECS) > 0) {
            double last = now() + LOSER_SECONDS;

            end = last < end ? last : end;
            pidfd = -1; /* poll ignores it from now on, and only sleeps */
        }
    }
    return false;
}

/* The last line that the daemon wrote since its start, for the one line that we print. */
static void last_words(int log_fd, off_t from, char *why, size_t size)
{
    char tail[512];
    off_t end = lseek(log_fd, 0, SEEK_END);
    ssize_t n;
    char *line;

    if (end <= from)
        return;
    if (end - from > (off_t)sizeof(tail) - 1)
        from = end - (off_t)sizeof(tail) + 1;
    n = pread(log_fd, tail, sizeof(tail) - 1, from);
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == ' '))
        n--;
    if (n <= 0)
        return;
    tail[n] = 0;
    line = strrchr(tail, '\n') ? strrchr(tail, '\n') + 1 : tail;
    snprintf(why, size, "the daemon does not start: %s", line);
}

/* The folder of the socket, as the daemon would make it: ours alone unless it is everybody's. */
static int make_socket_dir(const char *socket_path, char *why, size_t size)
{
    char copy[PATH_MAX];
    char *dir;

    if (strlen(socket_path) >= sizeof(copy))
        return -1;
    strcpy(copy, socket_path);
    dir = dirname(copy);
    if (mkdir(dir, getuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST) {
        snprintf(why, size, "cannot make the folder %.500s for the daemon's socket: %s", dir,
                 strerror(errno));
        return -1;
    }
    if (access(dir, W_OK | X_OK) < 0) {
        snprintf(why, size,
                 "no daemon is running, and %.500s, the folder of its socket, may not be "
                 "written; set SAMEPAGE_SOCKET to another place",
                 dir);
        return -1;
    }
    return 0;
}

int sp_daemon_can_start(const char *socket_path, char *why, size_t size)
{
    char path[PATH_MAX];
    char *slash;

    if (sp_part_find("samepaged", path, sizeof(path)) < 0) {
        snprintf(why, size, "no daemon is running, and samepaged is not installed beside samepage");
        return -1;
    }
    snprintf(path, sizeof(path), "%s", socket_path);
    /* The folder of the socket may be made; what it lies in may not. */
    for (int i = 0; i < 2; i++) {
        slash = strrchr(path, '/');
        if (!slash)
            break;
        slash[slash == path] = 0;
        if (access(path, W_OK | X_OK) == 0)
            return 0;
        if (errno != ENOENT)
            break;
    }
    snprintf(why, size, "no daemon is running, and %.120s, for its socket, may not be written", path);
    return -1;
}

/* Nobody listens, or who did ended while he was asked: who follows him may be there by now, and is found then. */
static bool is_none(int err)
{
    return err == -ENOENT || err == -ECONNREFUSED || err == -ECONNRESET || err == -EPIPE;
}

int sp_daemon_ensure(const char *socket_path, char *why, size_t size)
{
    char program[PATH_MAX];
    int err, log_fd, pidfd, ret = -1;
    off_t log_start;

    if (answers(socket_path, &err))
        return 0;
    if (!is_none(err)) {
        snprintf(why, size, "the daemon at %s cannot be reached: %s", socket_path, strerror(-err));
        return -1;
    }
    if (sp_part_find("samepaged", program, sizeof(program)) < 0) {
        snprintf(why, size, "no daemon is running, and samepaged is not installed beside samepage");
        return -1;
    }
    if (make_socket_dir(socket_path, why, size) < 0)
        return -1;
    log_fd = open_log(socket_path);
    if (log_fd < 0) {
        snprintf(why, size, "the daemon cannot be started: %s", strerror(errno));
        return -1;
    }
    log_start = lseek(log_fd, 0, SEEK_END);
    pidfd = spawn_daemon(program, socket_path, log_fd);
    if (pidfd < 0 && pidfd != -ESRCH) {
        snprintf(why, size, "the daemon cannot be started: %s", strerror(-pidfd));
    } else if (wait_for_answer(socket_path, pidfd)) {
        ret = 0;
    } else {
        snprintf(why, size, "the daemon was started but does not answer at %s", socket_path);
        last_words(log_fd, log_start, why, size);
    }
    if (pidfd >= 0)
        close(pidfd);
    close(log_fd);
    return ret;
}
