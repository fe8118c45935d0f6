/* SPDX-License-Identifier: Apache-2.0 */
#include "looks.h"

#include <errno.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "looks_ask.h"
#include "self.h"
#include "storage.h"

#define SECOND       UINT64_C(1000000)
#define OFTEN        (10 * SECOND)  /* between two looks, while frames leave now and then */
#define SELDOM       (60 * SECOND)  /* ... and else */
#define LATELY       (600 * SECOND) /* since a reclaim: they leave now and then */
#define GIVEN_UP     (600 * SECOND) /* until it is tried again where it cannot be done */
#define SHARE        100u /* the times that a look takes are between two of them at least, */
#define SHARE_WANTED 5u   /* ... when somebody asks for it */

/* What is kept of a frame: since when it is idle, or watched, seconds of our own time; and these.
 */
#define ANSWER_SHIFT 30u
#define SPARED       (UINT32_C(1) << 29) /* had its second chance */
#define NEW          (UINT32_C(1) << 28) /* its first look was the last one */
#define SINCE        (NEW - 1)

struct sp_looks {
    struct sp_daemon *daemon;
    struct sp_look_paper *paper;
    int fd;    /* the paper's */
    pid_t pid; /* of the asker, 0: no look is under way */
    int pidfd;
    sd_event_source *end;
    uint64_t zero;               /* us: our time begins */
    uint64_t began, ended, took; /* us, of the last look */
    uint64_t wanted, not_before; /* us */
    uint64_t count, cpu_us;
    enum sp_look_how how;
    bool told;
    uint32_t **segment; /* what is kept of its frames, or NULL */
    uint32_t nsegments;
};

/* ---- what is known ---- */

static uint32_t seconds(const struct sp_looks *looks)
{
    return (uint32_t)((sp_now_usecs() - looks->zero) / SECOND + 1) & SINCE;
}

static enum sp_look_answer answer_of(uint32_t state)
{
    return (enum sp_look_answer)(state >> ANSWER_SHIFT);
}

static uint32_t *state_of(const struct sp_looks *looks, sp_frame frame)
{
    uint32_t id = SP_FRAME_SEGMENT(frame);
    uint32_t *states = looks && id < looks->nsegments ? looks->segment[id] : NULL;

    return states && SP_FRAME_INDEX(frame) < SP_POOL_SEGMENT_PAGES ? &states[SP_FRAME_INDEX(frame)]
                                                                   : NULL;
}

/* What a frame is after an answer. */
static uint32_t next_state(uint32_t state, enum sp_look_answer answer, uint32_t now)
{
    switch (answer) {
    case SP_LOOK_USED:
        return (uint32_t)answer << ANSWER_SHIFT | (state ? 0 : NEW) | now;
    case SP_LOOK_IDLE:
        return (uint32_t)answer << ANSWER_SHIFT | (state & SINCE ? state & SINCE : now);
    default:
        return 0;
    }
}

static void take_segment(struct sp_looks *looks, uint32_t id, uint32_t now)
{
    const uint8_t *answer = &looks->paper->frame[(size_t)id * SP_POOL_SEGMENT_PAGES];
    bool there = sp_store_bit(looks->paper->segment, id);
    uint32_t *states = looks->segment[id];

    if (there && !states)
        states = looks->segment[id] = calloc(SP_POOL_SEGMENT_PAGES, sizeof(*states));
    for (uint32_t i = 0; states && i < SP_POOL_SEGMENT_PAGES; i++)
        states[i] =
            next_state(states[i], there ? (enum sp_look_answer)answer[i] : SP_LOOK_UNKNOWN, now);
    if (states && !there) {
        free(states);
        looks->segment[id] = NULL;
    }
}

/* Room for all segments of which there are answers; without memory it is as if there were none. */
static void make_room(struct sp_looks *looks)
{
    uint32_t n = SP_STORE_SEGMENTS;
    uint32_t **more;

    while (n > looks->nsegments && !sp_store_bit(looks->paper->segment, n - 1))
        n--;
    more = n > looks->nsegments ? realloc(looks->segment, n * sizeof(*more)) : NULL;
    if (!more)
        return;
    memset(more + looks->nsegments, 0, (n - looks->nsegments) * sizeof(*more));
    looks->segment = more;
    looks->nsegments = n;
}

static void take_answers(struct sp_looks *looks)
{
    uint32_t now = seconds(looks);

    make_room(looks);
    for (uint32_t id = 0; id < looks->nsegments; id++)
        if (looks->segment[id] || sp_store_bit(looks->paper->segment, id))
            take_segment(looks, id, now);
    looks->count++;
}

static bool is_idle_for(const struct sp_looks *looks, uint32_t state, uint32_t secs)
{
    return answer_of(state) == SP_LOOK_IDLE && seconds(looks) - (state & SINCE) >= secs;
}

enum sp_use sp_looks_use(struct sp_daemon *daemon, sp_frame frame, enum sp_looks_level level)
{
    static const uint32_t idle_for[] = {
        [SP_LOOKS_MINUTES] = 600, [SP_LOOKS_MINUTE] = 60, [SP_LOOKS_IDLE] = 0};
    uint32_t *state = state_of(daemon->looks, frame);

    if (level < SP_LOOKS_ALL)
        return state && is_idle_for(daemon->looks, *state, idle_for[level]) ? SP_USE_NONE
                                                                            : SP_USE_LATER;
    if (!state || answer_of(*state) != SP_LOOK_USED || (*state & (SPARED | NEW)))
        return SP_USE_NONE;
    *state |= SPARED;
    return SP_USE_SINCE;
}

void sp_looks_came_back(struct sp_daemon *daemon, sp_frame frame)
{
    uint32_t *state = state_of(daemon->looks, frame);

    if (state)
        *state = 0; /* that it was used its comeback tells, and not the next look, too */
}

/* ---- a look ---- */

static void tell_how(struct sp_looks *looks)
{
    const struct sp_look_paper *paper = looks->paper;

    if (paper->how == SP_LOOK_NOHOW && (looks->told || paper->error == -EBUSY))
        return;
    if (paper->how == SP_LOOK_NOHOW)
        sp_log(SP_LOG_INFO,
               "the kernel does not tell which frames are in use (%s): one that was never out of "
               "memory is taken for unused",
               strerror(-paper->error));
    else if (paper->how != looks->how)
        sp_log(SP_LOG_INFO, "the kernel tells which frames are in use by DAMON");
    looks->told = paper->how == SP_LOOK_NOHOW;
    looks->how = paper->how;
}

static void finish(struct sp_looks *looks, bool well)
{
    uint64_t now = sp_now_usecs();

    looks->ended = now;
    looks->took = now - looks->began;
    if (!well || looks->paper->how > SP_LOOK_DAMON) {
        looks->not_before = now + GIVEN_UP;
        sp_log(SP_LOG_WARNING, "the process that asks which frames are in use did not end well");
        return;
    }
    tell_how(looks);
    if (looks->paper->how != SP_LOOK_NOHOW)
        take_answers(looks);
    else if (looks->paper->error != -EBUSY)
        looks->not_before = now + GIVEN_UP;
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_looks *looks = arg;
    struct rusage used = {0};
    int status = -1;

    if (wait4(looks->pid, &status, WNOHANG, &used) == 0)
        return 0;
    looks->cpu_us += (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * SECOND +
                     (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    looks->end = sd_event_source_disable_unref(looks->end);
    close(looks->pidfd);
    looks->pid = 0;
    finish(looks, status == 0);
    return 0;
}

static int spawn(int paper, pid_t *pid)
{
    char *argv[] = {(char *)"samepaged", (char *)"--looks", NULL};

    _Static_assert(SP_LOOKS_FD == SP_SELF_FD, "where it looks for the paper");
    return sp_self_start(&(struct sp_self){.argv = argv, .fd = &paper, .nfds = 1}, pid);
}

/* -1: it has ended. */
static pid_t pid_of(int pidfd)
{
    char path[48], line[64];
    int pid = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f) && sscanf(line, "Pid: %d", &pid) != 1)
        ;
    if (f)
        fclose(f);
    return pid;
}

/* Which mappings are of frames, and whose page tables show them: the worker's and the programs'. */
static int write_question(struct sp_looks *looks)
{
    struct sp_look_paper *paper = looks->paper;
    const struct sp_client *client;
    int worker, mount;
    struct statx st;
    pid_t pid;

    sp_storage_where(looks->daemon->storage, &worker, &mount);
    pid = pid_of(worker);
    if (pid <= 0)
        return -ESRCH;
    /* What the kernel knows: the server need not be asked, perhaps there is none. */
    if (statx(mount, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st))
        return -errno;
    paper->dev_major = st.stx_dev_major;
    paper->dev_minor = st.stx_dev_minor;
    paper->pid[paper->npids++] = pid;
    TAILQ_FOREACH(client, &looks->daemon->clients, link)
    if (paper->npids < SP_LOOKS_PIDS)
        paper->pid[paper->npids++] = client->program;
    return 0;
}

static int begin(struct sp_looks *looks)
{
    struct sp_daemon *daemon = looks->daemon;
    int err;

    looks->began = sp_now_usecs();
    if (ftruncate(looks->fd, 0) || ftruncate(looks->fd, sizeof(*looks->paper))) /* all zeros */
        return -errno;
    err = write_question(looks);
    if (!err)
        err = spawn(looks->fd, &looks->pid);
    if (err)
        return err;
    looks->pidfd = pidfd_open(looks->pid, 0);
    if (looks->pidfd >= 0)
        err = sd_event_add_io(daemon->event, &looks->end, looks->pidfd, EPOLLIN, on_end, looks);
    if (looks->pidfd >= 0 && err >= 0)
        return 0;
    kill(looks->pid, SIGKILL);
    (void)waitpid(looks->pid, NULL, 0);
    if (looks->pidfd >= 0)
        close(looks->pidfd);
    looks->pid = 0;
    return -EMFILE;
}

/* ---- when ---- */

static bool has_frames(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        struct sp_engine_counters c;

        if (!domain->engine)
            continue;
        sp_engine_counters(domain->engine, &c);
        if (c.pages_shared > c.frames_evicted)
            return true;
    }
    return false;
}

static struct sp_looks *looks_new(struct sp_daemon *daemon)
{
    struct sp_looks *looks = calloc(1, sizeof(*looks));
    void *paper = MAP_FAILED;

    if (!looks)
        return NULL;
    looks->daemon = daemon;
    looks->zero = sp_now_usecs();
    looks->fd = memfd_create("samepage-looks", MFD_CLOEXEC);
    if (looks->fd >= 0 && !ftruncate(looks->fd, sizeof(*looks->paper)))
        paper = mmap(NULL, sizeof(*looks->paper), PROT_READ | PROT_WRITE, MAP_SHARED, looks->fd, 0);
    if (paper == MAP_FAILED) {
        if (looks->fd >= 0)
            close(looks->fd);
        free(looks);
        return NULL;
    }
    looks->paper = paper;
    return looks;
}

static struct sp_looks *looks_of(struct sp_daemon *daemon)
{
    if (!daemon->storage || daemon->uid != 0)
        return NULL;
    if (!daemon->looks)
        daemon->looks = looks_new(daemon);
    return daemon->looks;
}

/* Begins one, if one may begin so long after the last one. */
static bool begin_after(struct sp_looks *looks, uint64_t gap)
{
    uint64_t now = sp_now_usecs();

    if (looks->pid)
        return true;
    if (now < looks->not_before || (looks->ended && now - looks->ended < gap) ||
        !has_frames(looks->daemon))
        return false;
    if (!begin(looks))
        return true;
    looks->not_before = now + SECOND;
    return false;
}

static uint64_t longer(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void sp_looks_each_second(struct sp_daemon *daemon)
{
    struct sp_looks *looks = looks_of(daemon);
    bool lately;

    if (!looks)
        return;
    lately = looks->wanted && sp_now_usecs() - looks->wanted < LATELY;
    (void)begin_after(looks, longer(lately ? OFTEN : SELDOM, looks->took * SHARE));
}

bool sp_looks_fresh(struct sp_daemon *daemon)
{
    struct sp_looks *looks = looks_of(daemon);

    if (!looks)
        return true;
    looks->wanted = sp_now_usecs();
    return !begin_after(looks, longer(SECOND, looks->took * SHARE_WANTED));
}

uint64_t sp_looks_count(const struct sp_daemon *daemon)
{
    return daemon->looks ? daemon->looks->count : 0;
}

uint64_t sp_looks_cpu_us(const struct sp_daemon *daemon)
{
    return daemon->looks ? daemon->looks->cpu_us : 0;
}

void sp_looks_stop(struct sp_daemon *daemon)
{
    struct sp_looks *looks = daemon->looks;

    if (!looks)
        return;
    if (looks->pid)
        close(looks->pidfd);
    sd_event_source_disable_unref(looks->end);
    for (uint32_t id = 0; id < looks->nsegments; id++)
        free(looks->segment[id]);
    free(looks->segment);
    munmap(looks->paper, sizeof(*looks->paper));
    close(looks->fd);
    free(looks);
    daemon->looks = NULL;
}
