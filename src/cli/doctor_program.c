/* SPDX-License-Identifier: Apache-2.0 */
#include "doctor.h"

#include "control_client.h"
#include "daemon_start.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_SECONDS 5
#define PROBE            "true"

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

struct reply {
    struct sp_msg msg;
    struct sp_refuse refuse;
};

static int receive_device(int sock, char *why, size_t why_size)
{
    struct reply reply = {{0}, {{0}}};
    struct iovec iov = {&reply, sizeof(reply)};
    union control control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    int fd = -1;

    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(fd)))
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    if (n >= (ssize_t)sizeof(reply.msg) && reply.msg.type == SP_MSG_UFFD && fd >= 0)
        return fd;
    if (fd >= 0)
        close(fd);
    if (n == (ssize_t)sizeof(reply) && reply.msg.type == SP_MSG_REFUSE)
        snprintf(why, why_size, "%.*s", (int)sizeof(reply.refuse.why), reply.refuse.why);
    else
        snprintf(why, why_size, "the daemon does not answer the question for it");
    return -EPERM;
}

static int connect_patiently(const char *socket_path)
{
    const struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int sock = sp_control_connect(socket_path);

    if (sock >= 0) {
        setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    }
    return sock;
}

int sp_doctor_ask_status(const char *socket_path, struct json_object **status)
{
    static const char ask[] = "{\"op\":\"status\"}";
    static char answer[65536 + 1];
    int sock = connect_patiently(socket_path);
    ssize_t n = -1;

    if (sock >= 0 && send(sock, ask, sizeof(ask) - 1, MSG_NOSIGNAL) > 0)
        n = recv(sock, answer, sizeof(answer) - 1, 0);
    if (sock >= 0)
        close(sock);
    answer[n > 0 ? n : 0] = 0;
    *status = json_tokener_parse(answer);
    if (json_object_is_type(*status, json_type_object) &&
        json_object_get_boolean(json_object_object_get(*status, "ok")))
        return 0;
    json_object_put(*status);
    *status = NULL;
    return -1;
}

int sp_doctor_ask_device(const char *socket_path, char *why, size_t why_size)
{
    struct sp_msg ask = {
        .magic = SP_WIRE_MAGIC, .version = SP_WIRE_VERSION, .type = SP_MSG_WANT_UFFD};
    int sock = connect_patiently(socket_path), ret = sock;

    if (sock < 0)
        return sock;
    if (send(sock, &ask, sizeof(ask), MSG_NOSIGNAL) < 0)
        ret = -errno;
    else
        ret = receive_device(sock, why, why_size);
    close(sock);
    return ret;
}

/* In the child: samepage run --all true, with stderr into the pipe. */
static void run_probe(const char *samepage, int out)
{
    int null = open("/dev/null", O_RDWR);

    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    close_range(3, ~0u, 0);
    execl(samepage, "samepage", "run", "--all", "--", PROBE, (char *)NULL);
    _exit(127);
}

/* What it says until its end; false: patience was over before. */
static bool listen_to(int in, char *line, size_t size)
{
    struct pollfd p = {.fd = in, .events = POLLIN};
    size_t len = 0;
    ssize_t n = -1;

    while (n != 0 && poll(&p, 1, PATIENCE_SECONDS * 1000) > 0) {
        char rest[256];
        bool room = len < size - 1;

        n = room ? read(in, line + len, size - 1 - len) : read(in, rest, sizeof(rest));
        if (n < 0)
            break;
        len += room ? (size_t)n : 0;
    }
    line[len] = 0;
    line[strcspn(line, "\n")] = 0;
    return n == 0;
}

static void judge(struct sp_checks *checks, const char *line, int status)
{
    static const char marker[] = "not merged: ";
    const char *why = strstr(line, marker);

    if (!line[0] && status == 0)
        sp_checks_add(checks, "program", SP_STATE_OK, NULL, "a small one was let in and merged");
    else
        sp_checks_add(checks, "program", SP_STATE_MISSING, NULL, "a small one was not: %.180s",
                      why                 ? why + strlen(marker)
                      : line[0]           ? line
                      : WIFEXITED(status) ? "it failed"
                                          : "it was killed");
}

void sp_doctor_program(struct sp_checks *checks, bool answers)
{
    char line[512], samepage[4096];
    int out[2], status = -1;
    bool ended;
    ssize_t n = readlink("/proc/self/exe", samepage, sizeof(samepage) - 1);
    pid_t pid;

    if (!answers) {
        sp_checks_add(checks, "program", SP_STATE_WARNING,
                      "start a daemon, and ask again: it tells whether the C library is one that "
                      "the agent knows",
                      "none was tried, because no daemon answers");
        return;
    }
    samepage[n > 0 ? n : 0] = 0;
    if (pipe2(out, O_CLOEXEC)) {
        sp_checks_add(checks, "program", SP_STATE_WARNING, "free memory or descriptors",
                      "none could be tried: %s", strerror(errno));
        return;
    }
    pid = fork();
    if (pid == 0)
        run_probe(samepage, out[1]);
    close(out[1]);
    ended = listen_to(out[0], line, sizeof(line));
    close(out[0]);
    if (pid > 0 && !ended)
        kill(pid, SIGKILL);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    judge(checks, line, status);
}
