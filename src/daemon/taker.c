/* SPDX-License-Identifier: Apache-2.0 */
#include "taker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "admit.h"
#include "ask.h"
#include "disposable.h"
#include "log.h"
#include "send_fd.h"
#include "server.h"
#include "taker_msg.h"

#define LIMIT_USECS (SP_ANSWER_MSECS * 1000ull) /* nobody waits for it but who sent the descriptor, and who comes after */
#define HUNG_MAX    2u    /* takers that one user may have had killed, and that have not ended */
#define WAITING_MAX 4096u /* closings that wait */
#define PACKETS_MAX 4096u /* in a socket that is closed: more than the kernel keeps */

struct job {
    STAILQ_ENTRY(job) link;
    enum sp_taker_what what;
    struct sp_conn *conn; /* of TAKE; NULL: he is gone */
    int fd;               /* of CLOSE: the job's, until it is begun */
    bool unkillable;      /* who waits for the end of this may not end when he is killed */
    uid_t uid;
};

STAILQ_HEAD(jobs, job);

struct hung {
    pid_t pid;
    uid_t uid;
};

struct sp_taker {
    struct sp_daemon *daemon;
    struct sp_disposable process;
    sd_event_source *io, *limit;
    struct jobs takes, closings; /* somebody waits for the first ones: they go first */
    unsigned nclosings;
    struct job *now; /* under way; in neither */
    uint32_t serial;
    uint64_t cpu_us, cpu_us_past; /* of the present one, of those before */
    struct hung hung[SP_DISPOSABLE_KILLED];
    unsigned nhung;
};

/* ---- its life ---- */

static void end_taker(struct sp_taker *taker, bool its_fault)
{
    if (!taker->process.pid)
        return;
    taker->io = sd_event_source_disable_unref(taker->io);
    sp_disposable_kill(&taker->process, its_fault);
    taker->cpu_us_past += taker->cpu_us;
    taker->cpu_us = 0;
}

static int on_answer(sd_event_source *source, int fd, uint32_t events, void *arg);
static int on_limit(sd_event_source *source, uint64_t usec, void *arg);

/* If it does not run. 0, or a negative errno: then it is tried again after a while. */
static int start_taker(struct sp_taker *taker)
{
    int err = taker->process.pid ? 0 : sp_disposable_start(&taker->process);

    if (err || taker->io)
        return err;
    err = sd_event_add_io(taker->daemon->event, &taker->io, taker->process.fd, EPOLLIN, on_answer, taker);
    if (err < 0)
        end_taker(taker, true);
    return err < 0 ? err : 0;
}

static struct sp_taker *taker_of(struct sp_daemon *daemon)
{
    struct sp_taker *taker = daemon->taker;

    if (taker || daemon->taker_stopped)
        return taker;
    taker = calloc(1, sizeof(*taker));
    if (!taker)
        return NULL;
    taker->daemon = daemon;
    taker->process.argument = SP_TAKER_ARGUMENT;
    taker->process.what = "takes what programs send";
    STAILQ_INIT(&taker->takes);
    STAILQ_INIT(&taker->closings);
    if (sd_event_add_time(daemon->event, &taker->limit, CLOCK_MONOTONIC, 0, 1000, on_limit, taker) < 0 ||
        sd_event_source_set_enabled(taker->limit, SD_EVENT_OFF) < 0) {
        sd_event_source_disable_unref(taker->limit);
        free(taker);
        return NULL;
    }
    daemon->taker = taker;
    return taker;
}

/* ---- users who had takers killed ---- */

static bool is_ended(const struct sp_taker *taker, pid_t pid)
{
    for (unsigned i = 0; i < taker->process.nkilled; i++)
        if (taker->process.killed[i] == pid)
            return false;
    return true;
}

static unsigned hung_of(struct sp_taker *taker, uid_t uid)
{
    unsigned n = 0, of_uid = 0;

    sp_disposable_reap(&taker->process);
    for (unsigned i = 0; i < taker->nhung; i++) {
        if (is_ended(taker, taker->hung[i].pid))
            continue;
        of_uid += taker->hung[i].uid == uid;
        taker->hung[n++] = taker->hung[i];
    }
    taker->nhung = n;
    return of_uid;
}

/* Not for who may do as he likes (admit.h). */
static bool is_refused(struct sp_taker *taker, uid_t uid)
{
    return sp_admit_is_limited(taker->daemon, uid) && hung_of(taker, uid) >= HUNG_MAX;
}

static void note_hung(struct sp_taker *taker, uid_t uid)
{
    (void)hung_of(taker, uid); /* so that there is room */
    if (taker->nhung < SP_DISPOSABLE_KILLED)
        taker->hung[taker->nhung++] = (struct hung){taker->process.pid, uid};
    sp_log(SP_LOG_WARNING,
           "a descriptor that a process of user %u sent could not be closed within %u ms; what it is about is given up",
           (unsigned)uid, (unsigned)(LIMIT_USECS / 1000));
}

/* ---- a job ---- */

static int ask(struct sp_taker *taker, const struct job *job, int fd)
{
    struct sp_taker_question question = {.serial = taker->serial + 1, .what = (uint32_t)job->what};
    struct iovec iov = {&question, sizeof(question)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union sp_send_room room;

    sp_send_with(&msg, &room, &fd, 1);
    if (sendmsg(taker->process.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(question))
        return -EPIPE;
    taker->serial++;
    return 0;
}

static void job_free(struct job *job)
{
    if (job->fd >= 0)
        close(job->fd);
    free(job);
}

/* False: not now. */
static bool begin(struct sp_taker *taker, struct job *job)
{
    if (start_taker(taker))
        return false;
    if (ask(taker, job, job->what == SP_TAKER_TAKE ? job->conn->fd : job->fd)) {
        end_taker(taker, true);
        return false;
    }
    if (job->what == SP_TAKER_CLOSE) {
        STAILQ_REMOVE(&taker->closings, job, job, link);
        taker->nclosings--;
        close(job->fd); /* the taker has it: not the last */
        job->fd = -1;
    } else {
        STAILQ_REMOVE(&taker->takes, job, job, link);
    }
    taker->now = job;
    sd_event_source_set_time(taker->limit, sp_now_usecs() + LIMIT_USECS);
    sd_event_source_set_enabled(taker->limit, SD_EVENT_ONESHOT);
    return true;
}

static struct job *first(struct sp_taker *taker)
{
    struct job *job = STAILQ_FIRST(&taker->takes);

    if (job)
        return job;
    STAILQ_FOREACH(job, &taker->closings, link)
        if (!job->unkillable || !is_refused(taker, job->uid))
            break;
    return job;
}

/* What was asked for before its user came to be refused. */
static void refuse(struct sp_taker *taker)
{
    struct job *job;

    while ((job = STAILQ_FIRST(&taker->takes)) && is_refused(taker, job->uid)) {
        struct sp_conn *conn = job->conn;

        STAILQ_REMOVE_HEAD(&taker->takes, link);
        job_free(job);
        sp_server_taken(conn, -EBUSY, NULL);
    }
}

static void next(struct sp_taker *taker)
{
    struct job *job;

    if (taker->now)
        return;
    job = first(taker);
    if (job)
        (void)begin(taker, job); /* else it is tried again within a second */
}

/* The end of what is under way: taken is NULL, and err says why, if nothing came. */
static void finish(struct sp_taker *taker, int err, const struct sp_taken *taken)
{
    struct job *job = taker->now;
    struct sp_conn *conn = job->conn;
    uid_t uid = job->uid;

    taker->now = NULL;
    sd_event_source_set_enabled(taker->limit, SD_EVENT_OFF);
    job_free(job);
    if (!taken && err != -EPROTO) {
        if (err == -ETIMEDOUT)
            note_hung(taker, uid);
        end_taker(taker, err != -ETIMEDOUT);
    }
    if (conn)
        sp_server_taken(conn, err, taken);
    else if (taken && taken->fd >= 0)
        sp_taker_close(taker->daemon, uid, taken->fd);
    refuse(taker);
    next(taker);
}

static int fd_in(struct msghdr *msg)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    int fd = -1;

    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(int));
    return fd;
}

/* -EAGAIN: nothing yet. */
static int hear(struct sp_taker *taker, struct sp_taker_answer *answer, struct sp_taken *taken)
{
    struct iovec iov = {answer, sizeof(*answer)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(taker->process.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    taken->fd = n > 0 ? fd_in(&msg) : -1;
    if (n != sizeof(*answer) || answer->serial != taker->serial || answer->size > sizeof(answer->packet)) {
        if (taken->fd >= 0)
            close(taken->fd);
        return -EPIPE;
    }
    taken->packet = answer->packet;
    taken->size = answer->size;
    taken->sender = answer->sender;
    taker->cpu_us = answer->cpu_us;
    return answer->status;
}

static int on_answer(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_taker *taker = arg;
    struct sp_taker_answer answer;
    struct sp_taken taken;
    int err = hear(taker, &answer, &taken);

    if (err == -EAGAIN)
        return 0;
    if (taker->now)
        finish(taker, err, err ? NULL : &taken);
    else
        end_taker(taker, true);
    return 0;
}

/* It may have answered while the daemon was busy elsewhere. */
static int on_limit(sd_event_source *source, uint64_t usec, void *arg)
{
    struct sp_taker *taker = arg;
    struct sp_taker_answer answer;
    struct sp_taken taken;
    int err;

    if (!taker->now)
        return 0;
    err = hear(taker, &answer, &taken);
    finish(taker, err == -EAGAIN ? -ETIMEDOUT : err, err ? NULL : &taken);
    return 0;
}

static int add(struct sp_taker *taker, struct job what)
{
    struct job *job = malloc(sizeof(*job));

    if (!job)
        return -ENOMEM;
    *job = what;
    if (job->what == SP_TAKER_TAKE) {
        STAILQ_INSERT_TAIL(&taker->takes, job, link);
    } else {
        STAILQ_INSERT_TAIL(&taker->closings, job, link);
        taker->nclosings++;
    }
    next(taker);
    return 0;
}

/* ---- what others ask of it ---- */

void sp_taker_begin(struct sp_daemon *daemon)
{
    struct sp_taker *taker = taker_of(daemon);

    if (taker)
        (void)start_taker(taker);
}

int sp_taker_take(struct sp_conn *conn)
{
    struct sp_taker *taker = taker_of(conn->daemon);

    if (!taker)
        return -ENOMEM;
    if (is_refused(taker, conn->uid))
        return -EBUSY;
    return add(taker, (struct job){.what = SP_TAKER_TAKE, .conn = conn, .fd = -1, .uid = conn->uid});
}

void sp_taker_forget(struct sp_conn *conn)
{
    struct sp_taker *taker = conn->daemon->taker;
    struct job *job;

    if (!taker)
        return;
    if (taker->now && taker->now->conn == conn)
        taker->now->conn = NULL;
    STAILQ_FOREACH(job, &taker->takes, link)
        if (job->conn == conn)
            break;
    if (job) {
        STAILQ_REMOVE(&taker->takes, job, job, link);
        job_free(job);
    }
}

static void end(struct sp_daemon *daemon, uid_t uid, int fd, bool unkillable)
{
    struct sp_taker *taker = taker_of(daemon);
    struct job job = {.what = SP_TAKER_CLOSE, .fd = fd, .uid = uid, .unkillable = unkillable};

    if (!taker || taker->nclosings >= WAITING_MAX || add(taker, job))
        close(fd);
}

void sp_taker_close(struct sp_daemon *daemon, uid_t uid, int fd)
{
    if (fd >= 0)
        end(daemon, uid, fd, true);
}

/* Takes the packets out that have no descriptors. False: one is there that has. */
static bool empty(int fd)
{
    char byte;

    shutdown(fd, SHUT_RD); /* nobody puts any more in */
    for (unsigned i = 0; i < PACKETS_MAX; i++) {
        int err = sp_peek_fds(fd);

        if (err)
            return err != -EBADMSG;
        if (recv(fd, &byte, 1, MSG_DONTWAIT) < 0)
            return errno != EINTR;
    }
    return false;
}

void sp_taker_close_socket(struct sp_daemon *daemon, uid_t uid, int fd)
{
    if (fd < 0)
        return;
    if (empty(fd))
        close(fd);
    else
        end(daemon, uid, fd, false);
}

void sp_taker_each_second(struct sp_daemon *daemon)
{
    if (!daemon->taker)
        return;
    sp_disposable_reap(&daemon->taker->process);
    next(daemon->taker);
}

uint64_t sp_taker_cpu_us(const struct sp_daemon *daemon)
{
    return daemon->taker ? daemon->taker->cpu_us + daemon->taker->cpu_us_past : 0;
}

void sp_taker_stop(struct sp_daemon *daemon)
{
    struct sp_taker *taker = daemon->taker;
    struct job *job;

    daemon->taker_stopped = true;
    daemon->taker = NULL;
    if (!taker)
        return;
    end_taker(taker, true);
    if (taker->now)
        job_free(taker->now);
    STAILQ_CONCAT(&taker->closings, &taker->takes);
    while ((job = STAILQ_FIRST(&taker->closings))) {
        STAILQ_REMOVE_HEAD(&taker->closings, link);
        job_free(job);
    }
    sd_event_source_disable_unref(taker->limit);
    free(taker);
}
