/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of the keeper: finding or starting it, questions and answers. */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper_msg.h"

#define ANSWER_SECONDS 5   /* a keeper that takes longer is taken for dead */
#define OPEN_TRIES     100 /* of 10 ms: a keeper that is just leaving is soon gone */
#define KEEPER_FD      3   /* where the new process finds its listening socket */

struct sp_keeper {
    int fd;
};

static int make_address(const char *socket_path, struct sockaddr_un *addr)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (socket_path[0] != '/')
        return -EINVAL;
    int n = snprintf(addr->sun_path, sizeof(addr->sun_path), "%s" SP_KEEPER_SUFFIX, socket_path);
    return n < (int)sizeof(addr->sun_path) ? 0 : -ENAMETOOLONG;
}

static int new_socket(void)
{
    struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    return fd;
}

static int connect_to(const struct sockaddr_un *addr)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int fd = new_socket(), err = 0;

    if (fd < 0)
        return fd;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)))
        err = -errno;
    else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        err = -errno;
    else if (peer.uid != geteuid())
        err = -EPERM;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

static int listen_at(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    /* The name that bind makes has the socket's own mode, so it is never open to others. */
    if (fchmod(fd, 0600) || bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) ||
        listen(fd, 4)) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* Runs this program as the keeper of that listening socket. Its first process leaves at once, so
 * that the keeper is no child of ours. */
static int spawn_keeper(int listener)
{
    extern char **environ;
    char *argv[] = {(char *)"samepaged", (char *)"--keeper", (char *)"3", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int err, status;

    _Static_assert(KEEPER_FD == 3, "argv names it");
    err = posix_spawn_file_actions_init(&actions);
    if (err)
        return -err;
    err = posix_spawn_file_actions_adddup2(&actions, listener, KEEPER_FD);
    if (!err)
        err = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (err)
        return -err;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 0; /* somebody else reaps our children: the greeting will tell */
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

/* Sends msg and waits for the answer, in the same place. The answer's status; -EPIPE, and the
 * connection hung up, if none comes. */
static int ask(struct sp_keeper *keeper, struct sp_keeper_msg *msg, const int *fd,
               int got[SP_KEEPER_FDS])
{
    int err = sp_keeper_msg_send(keeper->fd, msg, fd);

    if (err == -EBADF || err == -EMFILE || err == -ETOOMANYREFS || err == -ENOMEM)
        return err; /* nothing was sent */
    if (!err)
        err = sp_keeper_msg_recv(keeper->fd, msg, got, 0);
    if (err == -EMFILE)
        return err;
    if (err) {
        shutdown(keeper->fd, SHUT_RDWR);
        return -EPIPE;
    }
    return msg->status;
}

/* A question whose answer has no descriptors. */
static int ask_plain(struct sp_keeper *keeper, struct sp_keeper_msg *msg, const int *fd)
{
    int got[SP_KEEPER_FDS] = {-1, -1, -1, -1};
    int status = ask(keeper, msg, fd, got);

    for (int i = 0; i < SP_KEEPER_FDS; i++)
        if (got[i] >= 0)
            close(got[i]);
    return status;
}

/* Waits for the keeper's greeting. It speaks first: a refused daemon that had said something would
 * see a reset instead of the refusal. 0, 1, -EBUSY, or -EPIPE. */
static int hear_greeting(struct sp_keeper *keeper)
{
    struct sp_keeper_msg msg;
    int fd[SP_KEEPER_FDS];

    if (sp_keeper_msg_recv(keeper->fd, &msg, fd, 0) || msg.type != SP_KEEPER_GREET)
        return -EPIPE;
    return msg.status;
}

static void hang_up(struct sp_keeper *keeper)
{
    if (keeper->fd >= 0)
        close(keeper->fd);
    keeper->fd = -1;
}

/* A connection to a keeper that listens already. 0, 1 or an error as sp_keeper_open(); -EAGAIN:
 * none is there, or it is leaving. */
static int join_keeper(struct sp_keeper *keeper, const struct sockaddr_un *addr)
{
    int status;

    keeper->fd = connect_to(addr);
    if (keeper->fd == -ENOENT || keeper->fd == -ECONNREFUSED)
        return -EAGAIN;
    if (keeper->fd < 0)
        return keeper->fd;
    status = hear_greeting(keeper);
    if (status >= 0)
        return status;
    hang_up(keeper);
    return status == -EPIPE ? -EAGAIN : status;
}

/* The name is taken: its owner is dead, or came to life just now, which the next try sees. */
static void remove_dead_name(const struct sockaddr_un *addr)
{
    int fd = connect_to(addr);

    if (fd == -ECONNREFUSED)
        unlink(addr->sun_path);
    else if (fd >= 0)
        close(fd);
}

/* Starts a keeper. Our connection is made before it runs, so it never sees itself without one. */
static int start_keeper(struct sp_keeper *keeper, const struct sockaddr_un *addr)
{
    int listener, err;

    listener = listen_at(addr);
    if (listener == -EADDRINUSE) {
        remove_dead_name(addr);
        return -EAGAIN;
    }
    if (listener < 0)
        return listener;
    keeper->fd = connect_to(addr);
    err = keeper->fd < 0 ? keeper->fd : spawn_keeper(listener);
    close(listener);
    if (!err)
        err = hear_greeting(keeper);
    if (err < 0) {
        unlink(addr->sun_path);
        hang_up(keeper);
    }
    return err;
}

static int find_or_start(struct sp_keeper *keeper, const struct sockaddr_un *addr)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    int err = -EAGAIN;

    for (int i = 0; i < OPEN_TRIES && err == -EAGAIN; i++) {
        if (i)
            nanosleep(&pause, NULL);
        err = join_keeper(keeper, addr);
        if (err == -EAGAIN)
            err = start_keeper(keeper, addr);
    }
    return err;
}

int sp_keeper_open(const char *socket_path, struct sp_keeper **out, char *why, size_t why_size)
{
    struct sockaddr_un addr;
    struct sp_keeper *keeper;
    int err = make_address(socket_path, &addr);

    if (err) {
        snprintf(why, why_size, "\"%s\" cannot name a socket: %s", socket_path,
                 err == -EINVAL ? "it does not begin with /" : "it is too long");
        return err;
    }
    keeper = calloc(1, sizeof(*keeper));
    if (!keeper) {
        snprintf(why, why_size, "no memory");
        return -ENOMEM;
    }
    keeper->fd = -1;
    err = find_or_start(keeper, &addr);
    if (err == -EBUSY)
        snprintf(why, why_size, "another samepaged runs at %s", socket_path);
    else if (err < 0)
        snprintf(why, why_size, "no keeper at %s: %s", addr.sun_path, strerror(-err));
    if (err < 0)
        free(keeper);
    else
        *out = keeper;
    return err;
}

int sp_keeper_fd(const struct sp_keeper *keeper)
{
    return keeper->fd;
}

static void close_from(const int *fd, int first)
{
    for (int i = first; i < SP_KEEPER_FDS; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

/* Gives one answer of GET to whom it concerns, the descriptors with it. */
static void hand_over(const struct sp_keeper_msg *msg, const int fd[SP_KEEPER_FDS],
                      const struct sp_keeper_visitor *visitor, void *arg)
{
    struct sp_keeper_client client;
    struct sp_pool_record record;

    if (msg->type == SP_KEEPER_PUT_POOL && msg->length == sizeof(record) && visitor->pool) {
        memcpy(&record, msg->body, sizeof(record));
        visitor->pool(arg, &record, fd[0]);
        close_from(fd, 1); /* what a sane keeper does not send */
        return;
    }
    if (msg->type == SP_KEEPER_PUT_CLIENT && msg->length == sizeof(client) && visitor->client) {
        memcpy(&client, msg->body, sizeof(client));
        client.domain[SP_DOMAIN_MAX - 1] = 0;
        visitor->client(arg, &client, fd);
        return;
    }
    if (msg->type == SP_KEEPER_PUT_STATE && visitor->state)
        visitor->state(arg, msg->body, msg->length);
    close_from(fd, 0);
}

int sp_keeper_visit(struct sp_keeper *keeper, const struct sp_keeper_visitor *visitor, void *arg)
{
    struct sp_keeper_msg msg = {.arg = 0};

    for (;;) {
        int fd[SP_KEEPER_FDS] = {-1, -1, -1, -1};

        msg.type = SP_KEEPER_GET;
        msg.length = 0;
        msg.nfds = 0;
        int status = ask(keeper, &msg, NULL, fd);
        if (status < 0 || msg.type == SP_KEEPER_GET) {
            close_from(fd, 0); /* none, of a sane keeper */
            return status < 0 ? status : 0;
        }
        hand_over(&msg, fd, visitor, arg);
    }
}

int sp_keeper_put_client(struct sp_keeper *keeper, const struct sp_keeper_client *client,
                         const int fd[SP_KEEPER_FDS])
{
    struct sp_keeper_msg msg = {
        .type = SP_KEEPER_PUT_CLIENT,
        .nfds = fd[SP_KEEPER_AGENT] < 0 ? SP_KEEPER_AGENT : SP_KEEPER_FDS,
        .length = sizeof(*client),
    };

    memcpy(msg.body, client, sizeof(*client));
    return ask_plain(keeper, &msg, fd);
}

int sp_keeper_drop_client(struct sp_keeper *keeper, uint32_t client_id)
{
    struct sp_keeper_msg msg = {.type = SP_KEEPER_DROP_CLIENT, .arg = client_id};

    return ask_plain(keeper, &msg, NULL);
}

int sp_keeper_put_pool(struct sp_keeper *keeper, const struct sp_pool_record *record, int fd)
{
    struct sp_keeper_msg msg = {
        .type = SP_KEEPER_PUT_POOL,
        .nfds = 1,
        .length = sizeof(*record),
    };

    memcpy(msg.body, record, sizeof(*record));
    return ask_plain(keeper, &msg, &fd);
}

int sp_keeper_drop_segment(struct sp_keeper *keeper, uint32_t segment)
{
    struct sp_keeper_msg msg = {.type = SP_KEEPER_DROP_SEGMENT, .arg = segment};

    return ask_plain(keeper, &msg, NULL);
}

int sp_keeper_pool_change(struct sp_keeper *keeper, const struct sp_pool_record *record, int fd)
{
    return fd < 0 ? sp_keeper_drop_segment(keeper, record->segment)
                  : sp_keeper_put_pool(keeper, record, fd);
}

int sp_keeper_put_state(struct sp_keeper *keeper, const void *data, size_t size)
{
    struct sp_keeper_msg msg = {.type = SP_KEEPER_PUT_STATE, .length = (uint32_t)size};

    if (size > sizeof(msg.body))
        return -EMSGSIZE;
    memcpy(msg.body, data, size);
    return ask_plain(keeper, &msg, NULL);
}

int sp_keeper_stop(struct sp_keeper *keeper)
{
    struct sp_keeper_msg msg = {.type = SP_KEEPER_STOP};

    return ask_plain(keeper, &msg, NULL);
}

void sp_keeper_close(struct sp_keeper *keeper)
{
    if (!keeper)
        return;
    hang_up(keeper);
    free(keeper);
}
