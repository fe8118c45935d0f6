/* SPDX-License-Identifier: Apache-2.0 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <json-c/json.h>

#include "admit.h"
#include "agent_name.h"
#include "answers.h"
#include "ask.h"
#include "client.h"
#include "control.h"
#include "control_parse.h"
#include "hello.h"
#include "log.h"
#include "status.h"
#include "strangers.h"
#include "taker.h"

#define BACKLOG      512
#define ACCEPT_BATCH 64

static void drop_replies(struct sp_conn *conn)
{
    struct sp_conn_reply *reply;

    while ((reply = STAILQ_FIRST(&conn->replies))) {
        STAILQ_REMOVE_HEAD(&conn->replies, link);
        free(reply);
    }
}

/* Frees the connection; its socket stays open if fd was taken out of it (-1). */
static void conn_free(struct sp_conn *conn)
{
    sd_event_source_disable_unref(conn->io);
    drop_replies(conn);
    if (conn->wait == SP_WAIT_TAKER)
        sp_taker_forget(conn);
    sp_taker_close_socket(conn->daemon, conn->uid, conn->fd);
    TAILQ_REMOVE(&conn->daemon->conns, conn, link);
    conn->daemon->nconns--;
    free(conn);
}

/* While an answer is outstanding nothing more is read: one request at a time. */
static void set_events(struct sp_conn *conn)
{
    uint32_t events = 0;

    if (!STAILQ_EMPTY(&conn->replies))
        events = EPOLLOUT;
    else if (conn->wait == SP_WAIT_NOTHING)
        events = EPOLLIN;
    sd_event_source_set_io_events(conn->io, events);
}

/* 0; -EAGAIN: some are left; else the connection is dead. */
static int flush(struct sp_conn *conn)
{
    struct sp_conn_reply *reply;

    while ((reply = STAILQ_FIRST(&conn->replies))) {
        if (send(conn->fd, reply->text, reply->size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return errno == EINTR ? -EAGAIN : -errno;
        STAILQ_REMOVE_HEAD(&conn->replies, link);
        free(reply);
    }
    return 0;
}

void sp_conn_reply(struct sp_conn *conn, struct json_object *object)
{
    const char *text = object ? json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN)
                              : "{\"ok\":false,\"error\":\"the daemon is short of memory: try again "
                                "later\",\"exit\":1}";
    size_t size = text ? strlen(text) : 0;
    struct sp_conn_reply *reply = size ? malloc(sizeof(*reply) + size) : NULL;

    if (reply) {
        reply->size = size;
        memcpy(reply->text, text, size);
        STAILQ_INSERT_TAIL(&conn->replies, reply, link);
        flush(conn); /* an error shows again, as an event */
    } else {
        shutdown(conn->fd, SHUT_RDWR); /* no silence: the asker sees the end */
    }
    json_object_put(object);
    set_events(conn);
}

/* The packet asks for /dev/userfaultfd. */
static bool wants_uffd(const struct sp_daemon *daemon, const struct sp_packet *packet)
{
    struct sp_msg msg;

    return sp_check_header(daemon->packet, packet->size, &msg) == 0 &&
           msg.type == SP_MSG_WANT_UFFD && msg.length == 0;
}

/* A first packet that is no JSON: a client, or nobody. The connection is over for us. */
static void become_client(struct sp_conn *conn, const struct sp_taken *taken)
{
    struct sp_hello_packet hello = {
        .packet = taken->packet,
        .size = taken->size,
        .fd = taken->fd,
        .sender = taken->sender,
        .uid = conn->uid,
    };
    struct sp_daemon *daemon = conn->daemon;
    int fd = conn->fd;

    conn->io = sd_event_source_disable_unref(conn->io);
    conn->fd = -1;
    conn_free(conn);
    sp_client_hello(daemon, fd, &hello);
}

/*
 * An agent has the user that its program began with, and whoever takes the program over has the agent. It
 * cannot give itself another name. Nor can it hide by ending: who is not there any more is refused too.
 */
static bool is_agent(pid_t pid)
{
    char comm[SP_COMM_SIZE];

    return pid > 0 && (!sp_read_comm(pid, comm) || !strcmp(comm, SP_AGENT_COMM));
}

static void on_packet(struct sp_conn *conn, struct sp_packet *packet)
{
    const char *data = (const char *)conn->daemon->packet;

    if (!conn->control && wants_uffd(conn->daemon, packet)) {
        sp_admit_pass_uffd(conn->daemon, conn->fd, ((const struct sp_msg *)data)->seq);
        conn_free(conn);
        return;
    }
    if (!conn->control && data[0] != '{') {
        become_client(conn, &(struct sp_taken){.packet = data, .size = packet->size, .fd = -1, .sender = packet->sender});
        return;
    }
    conn->control = true;
    conn->daemon->serving = true;
    if (is_agent(conn->peer) || is_agent(packet->sender))
        sp_control_error(conn, 1, "an agent asks for nothing: its program may have given up rights");
    else
        sp_control_request(conn, data, packet->size);
    conn->daemon->serving = false;
    set_events(conn);
}

static void note_malformed(struct sp_conn *conn)
{
    conn->daemon->malformed++;
    sp_strangers_note(conn->daemon, SP_STRANGE_PACKET, conn->uid, conn->peer);
}

/* The first packet has descriptors: a HELLO. */
static void take(struct sp_conn *conn)
{
    int err;

    conn->wait = SP_WAIT_TAKER;
    set_events(conn);
    err = sp_taker_take(conn);
    if (err)
        sp_server_taken(conn, err, NULL);
}

static void receive(struct sp_conn *conn)
{
    struct sp_packet packet;
    int err = sp_receive(conn->fd, conn->daemon->packet, &packet);

    if (err == -EAGAIN)
        return;
    if (err == -EBADMSG && !conn->control) {
        take(conn);
    } else if (err || packet.size == 0) {
        if (err == -EPROTO || err == -EBADMSG) /* no request has a descriptor */
            note_malformed(conn);
        conn_free(conn);
    } else {
        on_packet(conn, &packet);
    }
}

void sp_server_taken(struct sp_conn *conn, int err, const struct sp_taken *taken)
{
    conn->wait = SP_WAIT_NOTHING;
    if (err == -EPROTO)
        note_malformed(conn);
    else if (err == -EBUSY || err == -ETIMEDOUT)
        sp_hello_refuse(conn->fd, 0, "the daemon did not get its userfaultfd: a descriptor that a process of this "
                                     "user sent before cannot be closed; see samepaged's log");
    if (err)
        conn_free(conn);
    else
        become_client(conn, taken);
}

static int on_conn(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_conn *conn = arg;

    conn->put_off = false;
    conn->heard_at = sp_now_usecs();
    if (events & EPOLLOUT) {
        int err = flush(conn);

        if (err && err != -EAGAIN)
            conn_free(conn);
        else
            set_events(conn);
    } else if (events & EPOLLIN) {
        receive(conn);
    } else { /* hung up while it waited */
        conn_free(conn);
    }
    return 0;
}

short sp_conn_wants(const struct sp_conn *conn)
{
    if (conn->put_off || conn->wait != SP_WAIT_NOTHING)
        return 0;
    return STAILQ_EMPTY(&conn->replies) ? POLLIN : POLLOUT;
}

/* The packet stays where it is: what is not for now is read by the event loop. */
static bool may_be_served_now(const struct sp_conn *conn)
{
    char request[SP_REQUEST_MAX + 1];
    ssize_t n = recv(conn->fd, request, sizeof(request), MSG_PEEK | MSG_DONTWAIT);

    return n > 0 && n <= (ssize_t)SP_REQUEST_MAX && request[0] == '{' &&
           sp_control_only_reads(request, (size_t)n);
}

static bool send_more(struct sp_conn *conn)
{
    const struct sp_conn_reply *first = STAILQ_FIRST(&conn->replies);
    int err = flush(conn);

    set_events(conn);
    return !err || (err == -EAGAIN && STAILQ_FIRST(&conn->replies) != first);
}

void sp_conn_serve_reader(struct sp_conn *conn)
{
    TAILQ_REMOVE(&conn->daemon->conns, conn, link);
    TAILQ_INSERT_TAIL(&conn->daemon->conns, conn, link);
    if (!STAILQ_EMPTY(&conn->replies)) {
        conn->put_off = !send_more(conn);
    } else if (may_be_served_now(conn)) {
        conn->heard_at = sp_now_usecs();
        receive(conn);
    } else {
        conn->put_off = true;
    }
}

/* The connection that a new one may push out, of that user or of everybody: the oldest that said
 * nothing yet; if there is none, that whose request is the longest ago. NULL: all wait for an
 * answer. */
static struct sp_conn *least_missed(struct sp_daemon *daemon, uid_t uid)
{
    struct sp_conn *conn, *least = NULL;

    TAILQ_FOREACH(conn, &daemon->conns, link) {
        if (uid != SP_EVERYBODY && uid != conn->uid)
            continue;
        if (!conn->control)
            return conn;
        if (conn->wait == SP_WAIT_NOTHING && (!least || conn->heard_at < least->heard_at))
            least = conn;
    }
    return least;
}

static bool push_out(struct sp_daemon *daemon, uid_t uid)
{
    struct sp_conn *conn = least_missed(daemon, uid);

    if (conn)
        conn_free(conn);
    return conn != NULL;
}

static unsigned connections_of(const struct sp_daemon *daemon, uid_t uid)
{
    const struct sp_conn *conn;
    unsigned n = 0;

    TAILQ_FOREACH(conn, &daemon->conns, link)
        n += conn->uid == uid;
    return n;
}

/* Nobody takes more than a share, so that the others find room too. */
static bool make_room(struct sp_daemon *daemon, uid_t uid)
{
    if (sp_admit_is_limited(daemon, uid) &&
        connections_of(daemon, uid) >= daemon->config.max_connections)
        return push_out(daemon, uid);
    return daemon->nconns < SP_MAX_CONNECTIONS || push_out(daemon, SP_EVERYBODY);
}

static void conn_new(struct sp_daemon *daemon, int fd)
{
    struct sp_conn *conn = calloc(1, sizeof(*conn));
    struct ucred cred = {.uid = SP_EVERYBODY};
    socklen_t size = sizeof(cred);
    int on = 1;

    if (!conn || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) || !make_room(daemon, cred.uid)) {
        free(conn);
        sp_taker_close_socket(daemon, cred.uid, fd);
        return;
    }
    conn->daemon = daemon;
    conn->fd = fd;
    conn->uid = cred.uid;
    conn->peer = cred.pid;
    conn->heard_at = sp_now_usecs();
    STAILQ_INIT(&conn->replies);
    TAILQ_INSERT_TAIL(&daemon->conns, conn, link);
    daemon->nconns++;
    if (sd_event_add_io(daemon->event, &conn->io, fd, EPOLLIN, on_conn, conn) < 0)
        conn_free(conn);
}

/* What waits for the event loop lies there unread, and nothing that is new may push it out (config.h). */
unsigned sp_server_room(const struct sp_daemon *daemon)
{
    const struct sp_conn *conn;
    unsigned room = ACCEPT_BATCH;

    TAILQ_FOREACH(conn, &daemon->conns, link)
        room -= room && conn->put_off && !conn->control;
    return room;
}

bool sp_server_accept(struct sp_daemon *daemon)
{
    unsigned i, room = sp_server_room(daemon);

    for (i = 0; i < room; i++) {
        int fd = accept4(daemon->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
            break;
        conn_new(daemon, fd);
    }
    return i > 0;
}

static int on_listen(sd_event_source *source, int listen_fd, uint32_t events, void *arg)
{
    (void)sp_server_accept(arg);
    return 0;
}

/* Did it say something that was not read yet? Where the machine is busy, the daemon may have been away
 * for longer than a connection may be silent. */
static bool has_spoken(const struct sp_conn *conn)
{
    struct pollfd in = {.fd = conn->fd, .events = POLLIN};

    return poll(&in, 1, 0) > 0;
}

void sp_server_expire(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();
    struct sp_conn *conn, *next;

    for (conn = TAILQ_FIRST(&daemon->conns); conn; conn = next) {
        uint64_t limit = (conn->control ? SP_CONTROL_SECONDS : SP_HELLO_SECONDS) * 1000000ull;

        next = TAILQ_NEXT(conn, link);
        if (conn->wait != SP_WAIT_NOTHING || now - conn->heard_at <= limit || has_spoken(conn))
            continue;
        if (!conn->control)
            sp_strangers_note(daemon, SP_STRANGE_SILENT, conn->uid, conn->peer);
        conn_free(conn);
    }
}

/* Makes the socket's folder if it is not there: for everybody where the daemon is root's. */
static int make_folder(const char *socket, mode_t mode)
{
    char folder[sizeof(((struct sp_config *)0)->socket)];
    char *slash;

    snprintf(folder, sizeof(folder), "%s", socket);
    slash = strrchr(folder, '/');
    if (!slash || slash == folder)
        return 0;
    *slash = 0;
    if (mkdir(folder, mode) && errno != EEXIST)
        return -errno;
    return 0;
}

static int bind_socket(int fd, const struct sockaddr_un *address, mode_t mode)
{
    mode_t old = umask(0777 & ~mode);
    int err = 0;

    if (unlink(address->sun_path) && errno != ENOENT)
        err = -errno;
    if (!err && bind(fd, (const struct sockaddr *)address, sizeof(*address)))
        err = -errno;
    umask(old);
    return err;
}

static int make_socket(struct sp_daemon *daemon)
{
    bool root = daemon->uid == 0;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int err = make_folder(daemon->config.socket, root ? 0755 : 0700);
    int fd;

    if (err)
        return err;
    memcpy(address.sun_path, daemon->config.socket, sizeof(address.sun_path));
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    err = bind_socket(fd, &address, root ? 0666 : 0600);
    if (!err && listen(fd, BACKLOG))
        err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

int sp_server_open(struct sp_daemon *daemon, char *why, size_t why_size)
{
    bool activated = sd_listen_fds(1) == 1;
    int fd = activated ? SD_LISTEN_FDS_START : make_socket(daemon);
    int err = fd, on = 1;

    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
        err = -errno;
    if (activated && fcntl(fd, F_SETFL, O_NONBLOCK)) /* systemd's waits in accept() */
        err = -errno;
    if (err >= 0)
        err = sd_event_add_io(daemon->event, &daemon->listen_source, fd, EPOLLIN, on_listen,
                              daemon);
    if (err < 0) {
        if (fd >= 0)
            close(fd);
        snprintf(why, why_size, "cannot listen at %s: %s", daemon->config.socket, strerror(-err));
        return err;
    }
    daemon->listen_fd = fd;
    daemon->listen_ours = !activated;
    return 0;
}

void sp_server_close(struct sp_daemon *daemon)
{
    while (!TAILQ_EMPTY(&daemon->conns))
        conn_free(TAILQ_FIRST(&daemon->conns));
    daemon->listen_source = sd_event_source_disable_unref(daemon->listen_source);
    if (daemon->listen_fd >= 0)
        close(daemon->listen_fd);
    if (daemon->listen_fd >= 0 && daemon->listen_ours)
        unlink(daemon->config.socket);
    daemon->listen_fd = -1;
}
