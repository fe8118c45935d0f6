/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's own process. */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper_msg.h"
#include "storage_start.h"

#define POOL_RECORDS (65535u + 2u) /* every segment id, and two mounts */
#define POOL_SEGMENT 3u            /* the kind of record that a segment has (pool.h) */
#define SWEEP_MS                                                                                   \
    500 /* without a daemon: how soon a program's exec is noticed, and                             \
           that one of the store's processes ended */

/* A cursor of GET: which table in the top byte, which slot below. */
#define CURSOR(table, slot) ((uint32_t)(table) << 24 | (slot))
enum { TABLE_POOL, TABLE_CLIENTS, TABLE_STATE, TABLE_END };

struct client {
    bool used;
    struct sp_keeper_client record;
    int fd[SP_KEEPER_FDS];
};

struct pooled {
    bool used;
    struct sp_pool_record record;
    int fd;
};

struct serve {
    int listener, epoll;
    int daemon; /* -1: none is connected */
    bool stop;
    struct client *clients;
    struct pooled *pool;
    uint32_t nclients, npool; /* slots, used or not: a slot keeps its place while GET walks */
    uint32_t live;            /* used slots of clients */
    uint32_t state_size;
    bool has_state;
    uint8_t state[SP_KEEPER_STATE_MAX];
    struct sp_keeper_msg msg; /* the question, then its answer */
    struct sockaddr_un addr;
    struct stat name; /* the socket's, to remove no other one */
};

enum { WATCH_LISTENER, WATCH_DAEMON, WATCH_CLIENT };

static int watch(struct serve *s, int fd, uint64_t what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = what};

    return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

/* Before a close: the daemon may hold a dup, and then epoll goes on watching. */
static void unwatch(struct serve *s, int fd)
{
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static void close_fds(const int *fd)
{
    for (int i = 0; i < SP_KEEPER_FDS; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

static void drop_client(struct serve *s, uint32_t slot)
{
    struct client *c = &s->clients[slot];

    unwatch(s, c->fd[SP_KEEPER_PROGRAM]);
    close_fds(c->fd);
    c->used = false;
    s->live--;
}

/* Room for one more element of size bytes: the table doubles, up to limit. 0 or a negative errno.
 */
static int grow(void **table, uint32_t *n, size_t size, uint32_t limit)
{
    uint32_t more = *n ? *n * 2 : 16;
    void *bigger;

    if (*n >= limit)
        return -ENOSPC;
    if (more > limit)
        more = limit;
    bigger = realloc(*table, more * size);
    if (!bigger)
        return -ENOMEM;
    memset((char *)bigger + *n * size, 0, (more - *n) * size);
    *table = bigger;
    *n = more;
    return 0;
}

static struct client *find_client(struct serve *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->nclients; i++)
        if (s->clients[i].used && s->clients[i].record.client_id == id)
            return &s->clients[i];
    return NULL;
}

static int put_client(struct serve *s, const int *fd)
{
    struct sp_keeper_client record;
    struct client *old;
    uint32_t slot = 0;
    int err;

    if (s->msg.length != sizeof(record) || s->msg.nfds < SP_KEEPER_AGENT)
        return -EINVAL;
    memcpy(&record, s->msg.body, sizeof(record));
    while (slot < s->nclients && s->clients[slot].used)
        slot++;
    if (slot == s->nclients) {
        void *table = s->clients;
        err = grow(&table, &s->nclients, sizeof(*s->clients), SP_KEEPER_RECORDS);
        if (err)
            return err;
        s->clients = table;
    }
    err = watch(s, fd[SP_KEEPER_PROGRAM], WATCH_CLIENT + (uint64_t)slot);
    if (err)
        return err;
    /* Only now nothing can fail any more, and the old record may go. */
    old = find_client(s, record.client_id);
    if (old)
        drop_client(s, (uint32_t)(old - s->clients));
    s->clients[slot] = (struct client){.used = true, .record = record};
    memcpy(s->clients[slot].fd, fd, sizeof(s->clients[slot].fd));
    s->live++;
    return 0;
}

static bool same_thing(const struct sp_pool_record *a, const struct sp_pool_record *b)
{
    return a->kind == b->kind && a->segment == b->segment;
}

static void drop_pooled(struct serve *s, const struct sp_pool_record *what)
{
    for (uint32_t i = 0; i < s->npool; i++)
        if (s->pool[i].used && same_thing(&s->pool[i].record, what)) {
            close(s->pool[i].fd);
            s->pool[i].used = false;
        }
}

static int put_pool(struct serve *s, const int *fd)
{
    struct sp_pool_record record;
    uint32_t slot = 0;

    if (s->msg.length != sizeof(record) || s->msg.nfds != 1)
        return -EINVAL;
    memcpy(&record, s->msg.body, sizeof(record));
    while (slot < s->npool && s->pool[slot].used && !same_thing(&s->pool[slot].record, &record))
        slot++;
    if (slot == s->npool) {
        void *table = s->pool;
        int err = grow(&table, &s->npool, sizeof(*s->pool), POOL_RECORDS);
        if (err)
            return err;
        s->pool = table;
    }
    drop_pooled(s, &record);
    s->pool[slot] = (struct pooled){.used = true, .record = record, .fd = fd[0]};
    return 0;
}

static int put_state(struct serve *s)
{
    if (s->msg.length > sizeof(s->state))
        return -EMSGSIZE;
    memcpy(s->state, s->msg.body, s->msg.length);
    s->state_size = s->msg.length;
    s->has_state = true;
    return 0;
}

static void answer_with(struct serve *s, uint16_t type, const void *body, size_t size,
                        uint32_t cursor)
{
    s->msg.type = type;
    s->msg.arg = cursor;
    s->msg.length = (uint32_t)size;
    memcpy(s->msg.body, body, size);
}

/* Turns the question GET into its answer; *fd is what to send with it. */
static void get(struct serve *s, const int **fd)
{
    uint32_t table = s->msg.arg >> 24, slot = s->msg.arg & 0xffffff;

    s->msg.length = 0;
    if (table == TABLE_POOL) {
        for (; slot < s->npool; slot++)
            if (s->pool[slot].used) {
                answer_with(s, SP_KEEPER_PUT_POOL, &s->pool[slot].record,
                            sizeof(s->pool[slot].record), CURSOR(TABLE_POOL, slot + 1));
                s->msg.nfds = 1;
                *fd = &s->pool[slot].fd;
                return;
            }
        table = TABLE_CLIENTS;
        slot = 0;
    }
    if (table == TABLE_CLIENTS) {
        for (; slot < s->nclients; slot++)
            if (s->clients[slot].used) {
                answer_with(s, SP_KEEPER_PUT_CLIENT, &s->clients[slot].record,
                            sizeof(s->clients[slot].record), CURSOR(TABLE_CLIENTS, slot + 1));
                s->msg.nfds =
                    s->clients[slot].fd[SP_KEEPER_AGENT] < 0 ? SP_KEEPER_AGENT : SP_KEEPER_FDS;
                *fd = s->clients[slot].fd;
                return;
            }
        table = TABLE_STATE;
    }
    if (table == TABLE_STATE && s->has_state)
        answer_with(s, SP_KEEPER_PUT_STATE, s->state, s->state_size, CURSOR(TABLE_END, 0));
}

static int drop_by_id(struct serve *s, uint32_t id)
{
    struct client *c = find_client(s, id);

    if (c)
        drop_client(s, (uint32_t)(c - s->clients));
    return 0;
}

static bool holds_anything(const struct serve *s)
{
    for (uint32_t i = 0; i < s->npool; i++)
        if (s->pool[i].used)
            return true;
    return s->live || s->has_state;
}

/* Does what s->msg asks. Its status; *keep is set if the descriptors in fd are held now. */
static int serve_one(struct serve *s, const int *fd, bool *keep)
{
    int status = -EPROTO;

    switch (s->msg.type) {
    case SP_KEEPER_PUT_CLIENT:
        status = put_client(s, fd);
        *keep = status == 0;
        return status;
    case SP_KEEPER_PUT_POOL:
        status = put_pool(s, fd);
        *keep = status == 0;
        return status;
    case SP_KEEPER_DROP_CLIENT:
        return drop_by_id(s, s->msg.arg);
    case SP_KEEPER_DROP_SEGMENT:
        drop_pooled(s, &(struct sp_pool_record){.kind = POOL_SEGMENT, .segment = s->msg.arg});
        return 0;
    case SP_KEEPER_PUT_STATE:
        return put_state(s);
    case SP_KEEPER_STOP:
        s->stop = s->live == 0;
        return s->live ? -EBUSY : 0;
    default:
        return status;
    }
}

static void remove_name(const struct serve *s)
{
    struct stat now;

    if (!lstat(s->addr.sun_path, &now) && now.st_dev == s->name.st_dev &&
        now.st_ino == s->name.st_ino)
        unlink(s->addr.sun_path);
}

static void hang_up(struct serve *s)
{
    unwatch(s, s->daemon);
    close(s->daemon);
    s->daemon = -1;
}

/* Serves one question of the daemon. false: none is there, or the daemon is gone. */
static bool serve_daemon(struct serve *s)
{
    int fd[SP_KEEPER_FDS];
    const int *with = NULL;
    bool keep = false;
    int status = sp_keeper_msg_recv(s->daemon, &s->msg, fd, MSG_DONTWAIT);

    if (status == -EAGAIN)
        return false;
    if (status && status != -EMFILE) {
        hang_up(s);
        return false;
    }
    if (!status && s->msg.type == SP_KEEPER_GET) {
        close_fds(fd);
        s->msg.nfds = 0;
        get(s, &with);
    } else {
        if (!status)
            status = serve_one(s, fd, &keep);
        if (!keep)
            close_fds(fd);
        s->msg.nfds = 0;
        s->msg.length = 0;
    }
    s->msg.status = status;
    if (s->stop)
        remove_name(s);
    /* The answer to one question always fits; who asks many and reads none is hung up on. */
    if (sp_keeper_msg_send(s->daemon, &s->msg, with)) {
        hang_up(s);
        return false;
    }
    return true;
}

static int greet(struct serve *s, int fd, int status)
{
    s->msg = (struct sp_keeper_msg){.type = SP_KEEPER_GREET, .status = status};
    return sp_keeper_msg_send(fd, &s->msg, NULL);
}

static void accept_daemon(struct serve *s)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.uid != geteuid()) {
        close(fd);
        return;
    }
    /* The first one may be dead already, and what it asked last not yet read. */
    while (s->daemon >= 0 && serve_daemon(s))
        ;
    if (s->daemon >= 0 || s->stop) {
        greet(s, fd, -EBUSY);
        close(fd);
        return;
    }
    if (greet(s, fd, holds_anything(s)) || watch(s, fd, WATCH_DAEMON))
        close(fd);
    else
        s->daemon = fd;
}

/*
 * Whether the memory that this userfaultfd serves is gone, though the program may live (exec). The
 * question is an ioctl about the lowest page that a program may map, which holds nothing: ENOENT
 * for memory that lives, and nothing is changed.
 */
static bool memory_is_gone(int uffd)
{
    uint64_t lowest = 65536; /* vm.mmap_min_addr; with another one this never says gone */
    struct uffdio_writeprotect none = {
        .range = {.start = lowest, .len = (uint64_t)sysconf(_SC_PAGESIZE)}};

    return ioctl(uffd, UFFDIO_WRITEPROTECT, &none) && errno == ESRCH;
}

static void sweep(struct serve *s)
{
    for (uint32_t i = 0; i < s->nclients; i++)
        if (s->clients[i].used && memory_is_gone(s->clients[i].fd[SP_KEEPER_UFFD]))
            drop_client(s, i);
}

/* Of a process of the store that ended the place where the next one's pidfd goes; NULL: it lives.
 */
static int *ended_place(struct serve *s, enum sp_storage_fd of, const int fd[SP_STORAGE_FDS])
{
    struct sp_storage_how how;
    enum sp_storage_fd which;

    if (!sp_storage_has_ended(fd[of]))
        return NULL;
    for (uint32_t i = 0; i < s->npool; i++)
        if (s->pool[i].used && sp_storage_of_record(&s->pool[i].record, &which, &how) &&
            which == of)
            return &s->pool[i].fd;
    return NULL;
}

/*
 * Nobody else sees to the store's processes while there is no daemon: who touches a frame that is
 * out would wait, some so that they could not be killed. The server first (storage.c).
 */
static void tend_store(struct serve *s)
{
    char socket[sizeof(s->addr.sun_path)];
    int fd[SP_STORAGE_FDS];
    struct sp_storage_how how = {0};
    enum sp_storage_fd which;

    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    for (int i = 0; i < SP_STORAGE_FDS; i++)
        fd[i] = -1;
    for (uint32_t i = 0; i < s->npool; i++)
        if (s->pool[i].used && sp_storage_of_record(&s->pool[i].record, &which, &how))
            fd[which] = s->pool[i].fd;
    snprintf(socket, sizeof(socket), "%.*s",
             (int)(strlen(s->addr.sun_path) - strlen(SP_KEEPER_SUFFIX)), s->addr.sun_path);
    for (which = SP_STORAGE_SERVER; which <= SP_STORAGE_WORKER; which++) {
        int *place = ended_place(s, which, fd);
        int next = place ? sp_storage_start(fd, which, &how, socket) : -1;

        if (next < 0)
            continue;
        close(*place);
        *place = next;
    }
}

/* Waits for one thing and does it. One at a time, for it may close what the next one is about. */
static void step(struct serve *s)
{
    struct epoll_event ev;
    int n = epoll_wait(s->epoll, &ev, 1, s->daemon < 0 ? SWEEP_MS : -1);

    if (n == 0) {
        sweep(s);
        tend_store(s);
    }
    if (n != 1)
        return;
    if (ev.data.u64 == WATCH_LISTENER)
        accept_daemon(s);
    else if (ev.data.u64 == WATCH_DAEMON)
        serve_daemon(s);
    else
        drop_client(s, (uint32_t)(ev.data.u64 - WATCH_CLIENT));
}

static int serve(int listener)
{
    static struct serve s;
    socklen_t size = sizeof(s.addr) - 1;

    s = (struct serve){.listener = listener, .daemon = -1};
    s.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s.epoll < 0 || getsockname(listener, (struct sockaddr *)&s.addr, &size) ||
        lstat(s.addr.sun_path, &s.name) || fcntl(listener, F_SETFL, O_NONBLOCK) ||
        watch(&s, listener, WATCH_LISTENER))
        return 1;
    accept_daemon(&s);
    while (!s.stop) {
        if (s.daemon < 0 && !s.live) {
            accept_daemon(&s);
            if (s.daemon < 0)
                break;
        }
        step(&s);
    }
    remove_name(&s);
    return 0;
}

/* Nobody's child, nobody's terminal, nobody's descriptors; many of its own. */
static void settle(void)
{
    struct rlimit files = {1u << 19, 1u << 19};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
    close_range(4, ~0u, 0);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (setrlimit(RLIMIT_NOFILE, &files) && !getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_NAME, "samepage-keeper");
    if (chdir("/"))
        _exit(1);
}

int sp_keeper_main(int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[1], "--keeper") != 0)
        return -1;
    if (strcmp(argv[2], "3") != 0)
        return 2;
    pid_t pid = fork();
    if (pid)
        _exit(pid < 0);
    settle();
    return serve(3);
}
