/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's end of the stall (stall.h): agents have frames held while they put other memory over
 * them.
 *
 * One hold at a time, and nothing else is done meanwhile: the daemon's questions wait, too (but
 * those that come to a worker that found frames held). Before frames are given back it is certain
 * that the agent puts nothing any more: it said so, or hung up, which the kernel does for it after
 * it took its memory away. So who lets a hold last is killed first.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stall.h"
#include "store_worker_inside.h"

#define NOBODY   UINT32_MAX
#define DEAD_MS  5000 /* that a killed agent may take to end */
#define GRACE_MS 100  /* for what an agent started, after its end, where its connection is lost */
#define LEFT_MS  1000 /* ... and where somebody has it yet: that ends with what it started, as a rule */
/*
 * Who waited for frames touches them again when they are back. If they were gone again by then, he
 * would wait with the lock on his memory's mappings, and the next agent for him.
 */
#define TOUCH_MS   10
#define LONG_MS    50 /* a hold; who had one gets none for REST times as long */
#define REST_TIMES 4

struct agent {
    int fd, pidfd;
    ino_t inode; /* of fd: a socket's is its own */
    uint32_t key, pid;
    uint64_t *segments; /* bits: whose frames it may have held */
    uint32_t answered;  /* the last question that was, 0: none */
    bool waits;         /* with this question: */
    struct sp_stall_ask ask;
    int64_t rest_until; /* ms */
};

struct sp_store_stalls {
    struct agent *agent;
    struct pollfd *poll; /* one more than agents */
    uint32_t n, room, next;
    uint32_t holder;                    /* NOBODY: none, or of the worker before */
    int pidfd;                          /* of the one of the worker before, -1: it is gone */
    int64_t since, killed_at, ended_at; /* ms; 0: not */
    uint32_t waited;
    bool asked; /* it was the daemon's turn */
    /* What was held last, and until when it is not to be again. */
    uint32_t last_segment, last_n;
    uint16_t last_index[SP_STORE_HELD];
    int64_t last_until;
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* When the process began, in the kernel's ticks; 0: there is none. */
static uint64_t born(uint32_t pid)
{
    char path[32], line[512], *p;
    unsigned long long ticks = 0;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, line, sizeof(line) - 1);
    close(fd);
    line[n < 0 ? 0 : n] = 0;
    p = strrchr(line, ')'); /* the name may have anything in it */
    for (unsigned field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (p)
        ticks = strtoull(p + 1, NULL, 10);
    return ticks;
}

bool sp_stalls_hold(const struct sp_store_worker *w)
{
    return w->notes->hold_n && w->notes->hold_pid;
}

int sp_stalls_begin(struct sp_store_worker *w)
{
    struct sp_store_stalls *s = calloc(1, sizeof(*s));
    uint32_t pid = w->notes->hold_pid;

    if (!s)
        return -ENOMEM;
    w->stalls = s;
    s->holder = NOBODY;
    s->pidfd = -1;
    s->poll = calloc(1, sizeof(*s->poll));
    if (!s->poll)
        return -ENOMEM;
    if (!sp_stalls_hold(w))
        return 0;
    s->since = now_ms();
    s->pidfd = pidfd_open((pid_t)pid, 0);
    if (s->pidfd < 0 || born(pid) != w->notes->hold_born) {
        close_fd(&s->pidfd);
        (void)sp_frames_release(w);
    }
    return 0;
}

static bool answer_agent(const struct agent *a, uint32_t seq, int status)
{
    const struct sp_stall_answer answer = {.status = status, .seq = seq};

    return send(a->fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL) ==
           (ssize_t)sizeof(answer);
}

static int make_room(struct sp_store_stalls *s)
{
    uint32_t room = s->room ? s->room * 2 : 16;
    void *more;

    if (s->n < s->room)
        return 0;
    more = realloc(s->agent, room * sizeof(*s->agent));
    if (!more)
        return -ENOMEM;
    s->agent = more;
    more = realloc(s->poll, (room + 1) * sizeof(*s->poll));
    if (!more)
        return -ENOMEM;
    s->poll = more;
    s->room = room;
    return 0;
}

static void free_agent(struct agent *a)
{
    close_fd(&a->fd);
    close_fd(&a->pidfd);
    free(a->segments);
}

/* However often its descriptor was sent. */
static struct agent *with_connection(struct sp_store_stalls *s, ino_t inode)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->agent[i].inode == inode)
            return &s->agent[i];
    return NULL;
}

/*
 * The same agent may be given more than once: a worker ended while the daemon asked this of it, which asks the next
 * one again, and then gives that one all agents. As two it would have the same frames held twice, and give them back
 * once.
 */
int sp_stalls_add(struct sp_store_worker *w, uint32_t key, uint32_t pid,
                  const int fd[SP_STORE_AGENT_FDS])
{
    struct sp_store_stalls *s = w->stalls;
    struct agent a = {.fd = -1, .pidfd = -1, .key = key, .pid = pid}, *known;
    struct stat st;

    if (fd[0] < 0 || fd[1] < 0 || !pid || fstat(fd[0], &st) || !S_ISSOCK(st.st_mode))
        return -EINVAL;
    a.inode = st.st_ino;
    known = with_connection(s, a.inode);
    if (known) {
        known->key = key;
        memcpy(known->segments, w->pages, SP_STORE_SEGMENTS / 8);
        return 0;
    }
    a.fd = fcntl(fd[0], F_DUPFD_CLOEXEC, 0);
    a.pidfd = fcntl(fd[1], F_DUPFD_CLOEXEC, 0);
    a.segments = malloc(SP_STORE_SEGMENTS / 8);
    if (a.fd < 0 || a.pidfd < 0 || !a.segments || make_room(s)) {
        free_agent(&a);
        return -ENOMEM;
    }
    memcpy(a.segments, w->pages, SP_STORE_SEGMENTS / 8);
    s->agent[s->n++] = a;
    (void)answer_agent(&a, 0, 0);
    return 0;
}

int sp_stalls_allow(struct sp_store_worker *w, uint32_t key, uint32_t segment)
{
    struct sp_store_stalls *s = w->stalls;
    int err = -ENOENT;

    if (segment >= SP_STORE_SEGMENTS)
        return -EINVAL;
    for (uint32_t i = 0; i < s->n; i++) /* one that was killed may not be gone yet */
        if (s->agent[i].key == key) {
            sp_store_set_bit(s->agent[i].segments, segment, true);
            err = 0;
        }
    return err;
}

void sp_stalls_removed(struct sp_store_worker *w, uint32_t segment)
{
    for (uint32_t i = 0; i < w->stalls->n; i++)
        sp_store_set_bit(w->stalls->agent[i].segments, segment, false);
}

static void end_hold(struct sp_store_worker *w)
{
    struct sp_store_stalls *s = w->stalls;
    const struct sp_store_notes *notes = w->notes;
    int64_t now = now_ms();

    s->last_n = 0;
    if (__atomic_load_n(&notes->waited, __ATOMIC_RELAXED) != s->waited) {
        s->last_segment = notes->hold_segment;
        s->last_n = notes->hold_n;
        memcpy(s->last_index, notes->hold_index, sizeof(s->last_index));
        s->last_until = now + TOUCH_MS;
    }
    if (s->holder < s->n && now - s->since > LONG_MS)
        s->agent[s->holder].rest_until = now + (now - s->since) * REST_TIMES;
    (void)sp_frames_release(w);
    close_fd(&s->pidfd);
    s->holder = NOBODY;
    s->since = s->killed_at = s->ended_at = 0;
}

/* It is dead, or will ask nothing any more. */
static void drop_agent(struct sp_store_worker *w, uint32_t i)
{
    struct sp_store_stalls *s = w->stalls;

    if (s->holder == i)
        end_hold(w);
    free_agent(&s->agent[i]);
    s->agent[i] = s->agent[--s->n];
    if (s->holder == s->n)
        s->holder = i;
}

static void released(struct sp_store_worker *w, uint32_t i)
{
    struct sp_store_stalls *s = w->stalls;

    if (sp_stalls_hold(w) &&
        (s->holder == i || (s->holder == NOBODY && s->agent[i].pid == w->notes->hold_pid)))
        end_hold(w);
}

/* Whoever receives descriptors closes them, also those that he has no room for: in his own time, as long as it
 * takes. */
static bool brings_descriptors(const struct agent *a)
{
    char byte;
    struct iovec v = {&byte, 1};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

    return recvmsg(a->fd, &msg, MSG_PEEK | MSG_DONTWAIT) >= 0 && (msg.msg_flags & MSG_CTRUNC);
}

/* One message. False: the agent is gone, or is not to be heard any more. */
static bool hear(struct sp_store_worker *w, uint32_t i)
{
    struct agent *a = &w->stalls->agent[i];
    struct sp_stall_ask ask;
    ssize_t n;

    if (brings_descriptors(a))
        return false;
    n = recv(a->fd, &ask, sizeof(ask), MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == sizeof(ask) && ask.what == SP_STALL_HOLD && ask.seq != a->answered) {
        a->ask = ask;
        a->waits = true;
    }
    if (n == sizeof(ask) && ask.what == SP_STALL_RELEASE)
        released(w, i);
    return n != 0; /* what is none of these is not heard */
}

static bool is_allowed(const struct sp_store_worker *w, const struct agent *a)
{
    uint32_t segment = a->ask.segment;

    return segment < SP_STORE_SEGMENTS && w->segment[segment] && w->segment[segment]->view &&
           sp_store_bit(a->segments, segment);
}

static bool is_list(const struct sp_stall_ask *ask)
{
    if (!ask->n || ask->n > SP_STALL_PAGES)
        return false;
    for (uint32_t i = 0; i < ask->n; i++)
        if (ask->index[i] >= SP_POOL_SEGMENT_PAGES || (i && ask->index[i] <= ask->index[i - 1]))
            return false;
    return true;
}

/* Was one of them held just now, and somebody waited for it? */
static bool is_too_soon(const struct sp_store_stalls *s, const struct sp_stall_ask *ask,
                        int64_t now)
{
    if (now >= s->last_until || ask->segment != s->last_segment)
        return false;
    for (uint32_t i = 0, k = 0; i < s->last_n && k < ask->n;) {
        if (s->last_index[i] == ask->index[k])
            return true;
        if (s->last_index[i] < ask->index[k])
            i++;
        else
            k++;
    }
    return false;
}

/* Of an agent for which the worker before held frames: of these, and then it could not say so any
 * more; or of others, and then it did not hear that they are released. */
static void go_on_with(struct sp_store_worker *w, uint32_t i)
{
    struct sp_store_stalls *s = w->stalls;
    const struct sp_store_notes *notes = w->notes;
    struct agent *a = &s->agent[i];
    int status;

    if (a->ask.n != notes->hold_n || a->ask.segment != notes->hold_segment ||
        memcmp(a->ask.index, notes->hold_index, a->ask.n * sizeof(a->ask.index[0]))) {
        end_hold(w);
        return;
    }
    s->holder = i;
    s->since = now_ms();
    status = sp_frames_drop_again(w);
    a->answered = a->ask.seq;
    a->waits = false;
    if (!answer_agent(a, a->answered, status) || status)
        end_hold(w);
}

static bool has_ended(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return pidfd < 0 || poll(&p, 1, 0) > 0;
}

/* Answers the question that it waits with. False: not yet. */
static bool grant(struct sp_store_worker *w, uint32_t i, int64_t now)
{
    struct sp_store_stalls *s = w->stalls;
    struct agent *a = &s->agent[i];
    int status = -EINVAL;

    if (now < a->rest_until) {
        status = -EBUSY;
    } else if (is_list(&a->ask) && is_allowed(w, a)) {
        if (is_too_soon(s, &a->ask, now))
            return false;
        s->waited = __atomic_load_n(&w->notes->waited, __ATOMIC_RELAXED);
        status = -ESRCH;
        if (!has_ended(a->pidfd)) /* else that number may be another one's already */
            status = sp_frames_hold(w, a->ask.segment, a->ask.index, a->ask.n, a->pid, born(a->pid));
    }
    if (!status) {
        s->holder = i;
        s->since = now_ms();
    }
    a->answered = a->ask.seq;
    a->waits = false;
    if (!answer_agent(a, a->answered, status) && s->holder == i)
        end_hold(w);
    return true;
}

/* The next one's turn; the others wait until its hold is over. */
static void grant_next(struct sp_store_worker *w)
{
    struct sp_store_stalls *s = w->stalls;
    int64_t now = now_ms();

    for (uint32_t i = 0; i < s->n && sp_stalls_hold(w) && s->holder == NOBODY; i++)
        if (s->agent[i].waits && s->agent[i].pid == w->notes->hold_pid)
            go_on_with(w, i);
    for (uint32_t k = 0; k < s->n && !w->notes->hold_n; k++) {
        uint32_t i = (s->next + k) % s->n;

        if (s->agent[i].waits && grant(w, i, now) && w->notes->hold_n)
            s->next = i + 1;
    }
}

/* With nothing heard: it had its time. Who has the connection of a dead agent is nobody. */
static void limit(struct sp_store_worker *w)
{
    struct sp_store_stalls *s = w->stalls;
    int64_t now = now_ms(), grace = s->holder == NOBODY ? GRACE_MS : LEFT_MS;
    int pidfd;

    if (!sp_stalls_hold(w))
        return;
    pidfd = s->holder == NOBODY ? s->pidfd : s->agent[s->holder].pidfd;
    if (!s->killed_at && now - s->since > SP_STALL_MSECS) {
        if (pidfd >= 0)
            (void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
        s->killed_at = now;
    }
    if (!s->ended_at && has_ended(pidfd))
        s->ended_at = now;
    if (!(s->ended_at && now - s->ended_at > grace) &&
        !(s->killed_at && now - s->killed_at > DEAD_MS))
        return;
    if (s->holder == NOBODY)
        end_hold(w);
    else
        drop_agent(w, s->holder);
}

/* ms until something is to be done that nobody tells of; -1: nothing. */
static int time_left(const struct sp_store_worker *w)
{
    const struct sp_store_stalls *s = w->stalls;

    if (sp_stalls_hold(w))
        return 20;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->agent[i].waits)
            return 1;
    return -1;
}

bool sp_stalls_wait(struct sp_store_worker *w)
{
    struct sp_store_stalls *s = w->stalls;
    /* Of what the worker before held the daemon has the agent's connection yet to give. */
    bool held = sp_stalls_hold(w) && s->holder != NOBODY, wanted;
    int heard;

    s->poll[0] = (struct pollfd){.fd = held ? -1 : w->run.sock, .events = POLLIN};
    for (uint32_t i = 0; i < s->n; i++)
        s->poll[i + 1] =
            (struct pollfd){.fd = s->agent[i].waits ? -1 : s->agent[i].fd, .events = POLLIN};
    heard = poll(s->poll, s->n + 1, time_left(w));
    if (heard < 0)
        return false;
    for (uint32_t i = s->n;
         i-- > 0;) /* who is dropped is replaced by the last one, which was served */
        if (s->poll[i + 1].revents && !hear(w, i))
            drop_agent(w, i);
    if (heard == 0 || (s->since && now_ms() - s->since > SP_STALL_MSECS))
        limit(w);
    wanted = s->poll[0].revents;
    if (held || (wanted && !s->asked)) { /* the daemon has its turn after each hold, and an agent
                                            after each question */
        s->asked = wanted;
        return wanted;
    }
    grant_next(w);
    s->asked = wanted && (!sp_stalls_hold(w) || s->holder == NOBODY);
    return s->asked;
}
