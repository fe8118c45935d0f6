/* SPDX-License-Identifier: Apache-2.0 */
/* The store's processes: S1 and S6 (out and back, with the news of it), S3 (frames that are held),
 * S8 (lost bytes), S10 (forgotten frames leave nothing), K9 (a segment goes when nobody has it), D1
 * (the process is killed, and the next one goes on). */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "pool.h"
#include "stall.h"
#include "store_fuse.h"
#include "store_link.h"
#include "store_process.h"

#define PAGE    ((size_t)sysconf(_SC_PAGESIZE))
#define SEGMENT 3u
#define PAGES   SP_STORE_PAGES
#define MIB     ((uint64_t)1 << 20)
#define SKIPPED 77
#define HOLDS   20000u

static int sock, mount_fd, pages_fd, keeper, store_fd[SP_STORE_FDS];
static struct sp_store *store;
static pid_t keeper_pid;
static unsigned char *shared_pages;
static struct sp_store_answer answer;

static void be_server(const struct sp_store_worker_run *run, const int fd[SP_STORE_FDS])
{
    const struct sp_store_server_run mine = {
        run->dev, {fd[SP_STORE_FD_INDEX], fd[SP_STORE_FD_PIECES]}, -1};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(sp_store_server_process(&mine) ? 1 : 0);
}

static void be_worker(const struct sp_store_worker_run *run, const int fd[SP_STORE_FDS])
{
    const struct sp_store_config config = {.memory_bytes = 32 * MIB, .file = -1};
    struct sp_store_worker_run mine = *run;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sp_store_attach(&mine.store, fd, &config))
        _exit(1);
    _exit(sp_store_worker_process(&mine) ? 1 : 0);
}

/* Has all descriptors, and touches no page. Each byte that comes ends processes and begins others:
 * s the server, w the worker, b both, the worker first: it may wait for the server. T stops the
 * server, C has it go on. */
static void keep(int commands, const struct sp_store_worker_run *run, const int fd[SP_STORE_FDS])
{
    pid_t server = 0, worker = 0, old = 0;
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(commands, &c, 1) == 1) {
        if (c == 'T' || c == 'C') {
            kill(server, c == 'T' ? SIGSTOP : SIGCONT);
            waitpid(server, NULL, c == 'T' ? WUNTRACED : WCONTINUED);
            if (write(commands, &c, 1) == 1)
                continue;
            break;
        }
        if (c != 's' && worker) {
            kill(worker, SIGKILL);
            old = worker;
        }
        if (c != 'w') {
            if (server) {
                kill(server, SIGKILL);
                waitpid(server, NULL, 0);
            }
            server = fork();
            if (server == 0)
                be_server(run, fd);
        }
        if (c != 's') {
            if (old)
                waitpid(old, NULL, 0);
            worker = fork();
            if (worker == 0)
                be_worker(run, fd);
        }
        if (write(commands, &c, 1) != 1)
            break;
    }
    kill(worker, SIGKILL);
    kill(server, SIGKILL);
    _exit(0);
}

static void next_life(char of)
{
    assert_int_equal(write(keeper, &of, 1), 1);
    assert_int_equal(read(keeper, &of, 1), 1);
}

static int ask_about(enum sp_store_what what, uint32_t index, uint32_t n)
{
    static uint32_t seq;
    struct sp_store_ask ask = {what, ++seq, SEGMENT, index, n};

    assert_int_equal(send(sock, &ask, sizeof(ask), 0), sizeof(ask));
    do
        assert_int_equal(recv(sock, &answer, sizeof(answer), 0), sizeof(answer));
    while (answer.seq != seq);
    return answer.status;
}

static void all_done(enum sp_store_what what, uint32_t index, uint32_t n)
{
    assert_int_equal(ask_about(what, index, n), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(answer.result[i], SP_STORE_DONE);
}

static uint32_t news(uint32_t lost)
{
    uint32_t n = 0;

    assert_int_equal(ask_about(SP_STORE_TELL, 0, 0), 0);
    for (uint32_t i = 0; i < answer.n; i++)
        n += answer.news[i].lost == lost;
    return n;
}

static uint64_t frames_out(void)
{
    assert_int_equal(ask_about(SP_STORE_COUNT, 0, 0), 0);
    return answer.counters.frames;
}

static unsigned char byte_of(uint32_t i, size_t at)
{
    return (unsigned char)(i * 7 + at % 97 + 1);
}

static void fill(void)
{
    for (uint32_t i = 0; i < PAGES; i++)
        for (size_t k = 0; k < PAGE; k++)
            shared_pages[i * PAGE + k] = byte_of(i, k);
    if (ask_about(SP_STORE_ADD, 0, 0) != -EEXIST)
        assert_int_equal(answer.status, 0);
    assert_int_equal(ask_about(SP_STORE_FILL, 0, PAGES), 0);
}

static unsigned char *map_privately(void)
{
    int fd = sp_store_fuse_segment(mount_fd, SEGMENT);
    unsigned char *at;

    assert_true(fd >= 0);
    at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    close(fd);
    return at;
}

static uint32_t resident(unsigned char *at)
{
    unsigned char there[PAGES];
    uint32_t n = 0;

    assert_int_equal(mincore(at, PAGES * PAGE, there), 0);
    for (uint32_t i = 0; i < PAGES; i++)
        n += there[i] & 1;
    return n;
}

static bool is_right(const unsigned char *at, uint32_t i)
{
    for (size_t k = 0; k < PAGE; k++)
        if (at[i * PAGE + k] != byte_of(i, k))
            return false;
    return true;
}

static void bus(int sig)
{
    _exit(2);
}

static pid_t touch_in_child(unsigned char *at, uint32_t i)
{
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

    if (pid == 0) {
        signal(SIGBUS, bus);
        close_range(3, ~0u, 0); /* an agent's connection ends with the agent */
        _exit(is_right(at, i) ? 0 : 1);
    }
    return pid;
}

static int result_of(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool is_waiting(pid_t pid)
{
    int status;

    usleep(50000);
    return waitpid(pid, &status, WNOHANG) == 0;
}

static void s1_out_and_s6_back(void **state)
{
    unsigned char *at = map_privately();

    fill();
    assert_int_equal(frames_out(), 0);
    for (uint32_t i = 0; i < PAGES; i++)
        assert_true(is_right(at, i));
    (void)news(0);
    all_done(SP_STORE_EVICT, 0, PAGES);
    assert_int_equal(resident(at), 0);
    assert_int_equal(frames_out(), PAGES);
    assert_true(answer.counters.memory_bytes < PAGES * PAGE / 2);
    for (uint32_t i = 0; i < PAGES; i++)
        assert_true(is_right(at, i));
    assert_int_equal(news(0), PAGES);
    assert_int_equal(news(0), 0);
    /* Back: both have it, and it goes again at no cost. */
    all_done(SP_STORE_EVICT, 0, PAGES / 2);
    all_done(SP_STORE_BRING, PAGES / 4, PAGES / 2);
    assert_int_equal(frames_out(), PAGES / 2);
    all_done(SP_STORE_GET, 0, PAGES);
    for (uint32_t i = 0; i < PAGES; i++)
        assert_true(is_right(shared_pages, i) && is_right(at, i));
    munmap(at, PAGES * PAGE);
}

static void s3_frames_that_are_held(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    fill();
    all_done(SP_STORE_HOLD, 8, 4);
    assert_int_equal(ask_about(SP_STORE_HOLD, 20, 1), -EBUSY);
    assert_int_equal(ask_about(SP_STORE_BRING, 0, 9), -EBUSY);
    pid = touch_in_child(at, 9);
    assert_true(is_waiting(pid));
    assert_int_equal(result_of(touch_in_child(at, 40)), 0);
    /* Also by the next processes. */
    for (const char *of = "swb"; *of; of++) {
        next_life(*of);
        assert_true(is_waiting(pid));
    }
    assert_int_equal(ask_about(SP_STORE_RELEASE, 0, 0), 0);
    assert_int_equal(result_of(pid), 0);
    assert_int_equal(ask_about(SP_STORE_RELEASE, 0, 0), -ENOENT);
    munmap(at, PAGES * PAGE);
}

/* A page that is being read in while its server is dead, or stopped: who waited for it with
 * /dev/fuse in his hands could not be killed. */
static void d1_who_evicts_waits_for_no_server(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    fill();
    all_done(SP_STORE_EVICT, 0, PAGES);
    next_life('T');
    pid = touch_in_child(at, 5);
    assert_true(is_waiting(pid));
    all_done(SP_STORE_EVICT, 0, PAGES);
    assert_true(is_waiting(pid));
    next_life('C');
    assert_int_equal(result_of(pid), 0);
    assert_true(news(0) > 0);
    munmap(at, PAGES * PAGE);
}

/* Has a page dropped by the kernel and asked for again, all the time. */
static pid_t keep_dropping(uint32_t index)
{
    int fd = sp_store_fuse_segment(mount_fd, SEGMENT);
    off_t at = (off_t)(index * PAGE);
    pid_t pid;

    assert_true(fd >= 0);
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        char byte;

        while (pread(fd, &byte, 1, at) == 1)
            (void)posix_fadvise(fd, at, (off_t)PAGE, POSIX_FADV_DONTNEED);
        _exit(1);
    }
    close(fd);
    return pid;
}

static void s3_a_held_frame_that_the_kernel_drops_too(void **state)
{
    struct pollfd p = {.fd = sock, .events = POLLIN};
    static uint32_t seq = 1u << 28;
    unsigned held = 0;
    int status;
    pid_t pid;

    fill();
    all_done(SP_STORE_EVICT, 8, 1);
    pid = keep_dropping(8);
    for (unsigned i = 0; i < HOLDS; i++) {
        struct sp_store_ask hold = {SP_STORE_HOLD, ++seq, SEGMENT, 8, 1};

        assert_int_equal(send(sock, &hold, sizeof(hold), 0), sizeof(hold));
        assert_int_equal(poll(&p, 1, 10000), 1); /* it waits for nobody */
        assert_int_equal(recv(sock, &answer, sizeof(answer), 0), sizeof(answer));
        if (answer.status)
            continue;
        held++;
        assert_int_equal(ask_about(SP_STORE_RELEASE, 0, 0), 0);
    }
    assert_true(held > 0);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

/*
 * Agents that have frames held (stall.h).
 */

/* The worker's end is kept, as the daemon does. */
struct agent {
    int fd, other;
    pid_t pid;
    uint32_t key;
};

static int answer_to(const struct sp_store_ask *ask, const int *fd)
{
    struct iovec v = {(void *)ask, sizeof(*ask)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SP_STORE_AGENT_FDS * sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

    if (fd) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control.bytes);
        c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){CMSG_LEN(SP_STORE_AGENT_FDS * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fd, SP_STORE_AGENT_FDS * sizeof(int));
    }
    assert_int_equal(sendmsg(sock, &msg, 0), sizeof(*ask));
    do
        assert_int_equal(recv(sock, &answer, sizeof(answer), 0), sizeof(answer));
    while (answer.seq != ask->seq);
    return answer.status;
}

static void give(const struct agent *agent)
{
    static uint32_t seq = 1u << 30;
    int fd[SP_STORE_AGENT_FDS] = {agent->other, (int)syscall(SYS_pidfd_open, agent->pid, 0)};
    struct sp_store_ask ask = {
        .what = SP_STORE_AGENT, .seq = ++seq, .index = agent->key, .n = (uint32_t)agent->pid};

    assert_true(fd[1] >= 0);
    memset(shared_pages, 0, SP_STORE_SEGMENTS / 8);
    shared_pages[SEGMENT / 8] = 1u << SEGMENT % 8;
    assert_int_equal(answer_to(&ask, fd), 0);
    close(fd[1]);
}

static int allow(uint32_t key, uint32_t segment)
{
    static uint32_t seq = 1u << 29;
    struct sp_store_ask ask = {
        .what = SP_STORE_ALLOW, .seq = ++seq, .segment = segment, .index = key};

    return answer_to(&ask, NULL);
}

static struct agent pair_of(pid_t pid)
{
    static uint32_t key;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    return (struct agent){pair[1], pair[0], pid, ++key};
}

static struct agent new_agent(void)
{
    struct agent agent = pair_of(getpid());
    struct sp_stall_answer said;

    give(&agent);
    assert_int_equal(recv(agent.fd, &said, sizeof(said), 0), sizeof(said));
    assert_int_equal(said.seq, 0);
    return agent;
}

static void bury(const struct agent *agent)
{
    close(agent->fd);
    close(agent->other);
}

static uint32_t stall_seq;

/* With a descriptor, or (-1) without. */
static void say_with(const struct agent *agent, const struct sp_stall_ask *what, size_t size,
                     int with)
{
    struct sp_stall_ask ask = *what;
    struct iovec v = {&ask, size};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

    if (ask.what == SP_STALL_HOLD)
        ask.seq = ++stall_seq;
    if (with >= 0) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control.bytes);
        c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &with, sizeof(int));
    }
    assert_int_equal(sendmsg(agent->fd, &msg, MSG_NOSIGNAL), size);
}

static void say(const struct agent *agent, const struct sp_stall_ask *ask)
{
    say_with(agent, ask, sizeof(*ask), -1);
}

static bool is_silent(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 50) == 0;
}

static int heard(const struct agent *agent)
{
    struct sp_stall_answer said;

    do
        assert_int_equal(recv(agent->fd, &said, sizeof(said), 0), sizeof(said));
    while (!said.seq); /* that a worker is a new one */
    assert_int_equal(said.seq, stall_seq);
    return said.status;
}

static const struct sp_stall_ask three = {SP_STALL_HOLD, 0, SEGMENT, 3, {8, 9, 11}},
                                 one = {SP_STALL_HOLD, 0, SEGMENT, 1, {40}},
                                 give_back = {.what = SP_STALL_RELEASE};

static void s3_frames_that_an_agent_holds(void **state)
{
    struct agent first = new_agent(), second = new_agent(), third = new_agent();
    struct sp_store_ask count = {.what = SP_STORE_COUNT, .seq = 7};
    unsigned char *at = map_privately();
    pid_t pid;

    fill();
    say(&first, &three);
    assert_int_equal(heard(&first), 0);
    pid = touch_in_child(at, 11);
    assert_true(is_waiting(pid));
    assert_int_equal(result_of(touch_in_child(at, 10)), 0);
    /* Nothing else is done meanwhile. */
    say(&second, &one);
    assert_int_equal(send(sock, &count, sizeof(count), 0), sizeof(count));
    assert_true(is_silent(second.fd) && is_silent(sock));
    say(&third, &give_back); /* they are not its own */
    assert_true(is_waiting(pid));
    say(&first, &give_back);
    assert_int_equal(result_of(pid), 0);
    assert_int_equal(recv(sock, &answer, sizeof(answer), 0), sizeof(answer));
    assert_int_equal(heard(&second), 0);
    /* Who had them long gets none for a while. */
    pid = touch_in_child(at, 40);
    assert_true(is_waiting(pid));
    bury(&second);
    assert_int_equal(result_of(pid), 0);
    say(&first, &one);
    assert_int_equal(heard(&first), -EBUSY);
    say(&third, &one);
    assert_int_equal(heard(&third), 0);
    bury(&first);
    bury(&third);
    assert_int_equal(result_of(touch_in_child(at, 40)), 0);
    munmap(at, PAGES * PAGE);
}

/* As a daemon does whose worker ended while it was asked that. It is no second agent, which would wait for frames that
 * this one gave back already, and hold them until it is killed. */
static void s3_an_agent_that_is_given_twice_is_one(void **state)
{
    struct agent other = new_agent(), agent = new_agent(), third = new_agent();

    fill();
    give(&agent);
    assert_true(is_silent(agent.fd));
    say(&other, &three);
    assert_int_equal(heard(&other), 0);
    /* It asks again when it is told that a worker is a new one. */
    say(&agent, &one);
    stall_seq--;
    say(&agent, &one);
    say(&other, &give_back);
    assert_int_equal(heard(&agent), 0);
    say(&agent, &give_back);
    say(&third, &three);
    assert_int_equal(heard(&third), 0);
    bury(&agent);
    bury(&other);
    bury(&third);
}

static void s3_only_frames_that_an_agent_has_are_held(void **state)
{
    static const struct sp_stall_ask wrong[] = {
        {SP_STALL_HOLD, 0, SEGMENT, 0, {0}},
        {SP_STALL_HOLD, 0, SEGMENT, SP_STALL_PAGES + 1, {0}},
        {SP_STALL_HOLD, 0, SEGMENT, UINT32_MAX, {0}},
        {SP_STALL_HOLD, 0, SEGMENT, 2, {5, 5}},
        {SP_STALL_HOLD, 0, SEGMENT, 2, {5, 4}},
        {SP_STALL_HOLD, 0, SEGMENT, 1, {SP_POOL_SEGMENT_PAGES}},
        {SP_STALL_HOLD, 0, 0, 1, {5}},
        {SP_STALL_HOLD, 0, SEGMENT + 1, 1, {5}},
        {SP_STALL_HOLD, 0, SP_STORE_SEGMENTS, 1, {5}},
        {SP_STALL_HOLD, 0, UINT32_MAX, 1, {5}}};
    struct agent agent = new_agent();

    fill();
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        say(&agent, &wrong[i]);
        assert_int_equal(heard(&agent), -EINVAL);
    }
    /* Of a segment that was not given to it, and of one that is given afterwards. */
    assert_int_equal(ask_about(SP_STORE_REMOVE, 0, 0), 0);
    fill();
    say(&agent, &three);
    assert_int_equal(heard(&agent), -EINVAL);
    assert_int_equal(allow(agent.key, SP_STORE_SEGMENTS), -EINVAL);
    assert_int_equal(allow(77777, SEGMENT), -ENOENT);
    assert_int_equal(allow(agent.key, SEGMENT), 0);
    /* What is no question is not answered, nor what was. */
    stall_seq--;
    say(&agent, &three);
    say_with(&agent, &three, sizeof(three) - 1, -1);
    say(&agent, &(struct sp_stall_ask){.what = 77});
    say(&agent, &give_back);
    say(&agent, &three);
    assert_int_equal(heard(&agent), 0);
    bury(&agent);
}

/* A connection whose close takes for ever: the peer takes nothing of what was sent. *peer is its other end. */
static int lingering(int *peer)
{
    const struct linger for_ever = {.l_onoff = 1, .l_linger = 100000};
    int listens = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(at);
    static char bytes[65536];

    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listen(listens, 1) || getsockname(listens, (struct sockaddr *)&at, &size) ||
        connect(fd, (struct sockaddr *)&at, size))
        fail_msg("no loopback");
    *peer = accept(listens, NULL, NULL);
    assert_true(*peer >= 0);
    close(listens);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &for_ever, sizeof(for_ever)), 0);
    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    return fd;
}

static void s3_an_agent_that_sends_descriptors_is_not_heard(void **state)
{
    struct agent hostile = new_agent(), agent = new_agent();
    unsigned char *at = map_privately();
    int peer, fd = lingering(&peer);

    fill();
    say(&hostile, &three);
    assert_int_equal(heard(&hostile), 0);
    say_with(&hostile, &give_back, sizeof(give_back), fd);
    /* Its sender gives it up, and the worker does not get it. */
    close(fd);
    assert_int_equal(result_of(touch_in_child(at, 9)), 0);
    say(&agent, &one);
    assert_int_equal(heard(&agent), 0);
    say(&agent, &give_back);
    assert_int_equal(frames_out(), 4);
    close(peer); /* resets it: now it is closed at once */
    bury(&hostile);
    bury(&agent);
    munmap(at, PAGES * PAGE);
}

/* An agent that never gives back what it holds. */
static pid_t hold_for_ever(const struct agent *agent)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    say(agent, &three);
    if (heard(agent))
        _exit(1);
    for (;;)
        pause();
}

static void wait_held(unsigned char *at)
{
    unsigned char there = 1;

    while (there & 1) {
        assert_int_equal(mincore(at + 9 * PAGE, PAGE, &there), 0);
        usleep(1000);
    }
}

static void s3_who_holds_frames_too_long_is_killed(void **state)
{
    for (unsigned lives = 0; lives < 4; lives++) {
        struct agent agent = pair_of(0);
        unsigned char *at = map_privately();
        pid_t pid, holder;
        int status;

        fill();
        assert_true(is_right(at, 9));
        agent.pid = holder = hold_for_ever(&agent);
        if (lives < 3)
            close(agent.fd);
        give(&agent);
        wait_held(at);
        pid = touch_in_child(at, 9);
        /* Also by the next worker, whether it gets the connection or not. */
        if (lives == 1 || lives == 2)
            next_life('w');
        if (lives == 2)
            give(&agent);
        assert_int_equal(waitpid(holder, &status, 0), holder);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(result_of(pid), 0);
        /* Somebody else who has its connection gets nothing by it. */
        if (lives == 3) {
            while (recv(agent.fd, &answer, sizeof(answer), MSG_DONTWAIT) > 0)
                ;
            say(&agent, &one);
            assert_true(is_silent(agent.fd));
            close(agent.fd);
        }
        close(agent.other);
        munmap(at, PAGES * PAGE);
    }
}

static void d1_what_an_agent_holds_outlives_the_worker(void **state)
{
    struct agent agent = new_agent();
    unsigned char *at = map_privately();
    pid_t pid;

    fill();
    say(&agent, &three);
    assert_int_equal(heard(&agent), 0);
    pid = touch_in_child(at, 9);
    next_life('b');
    assert_true(is_waiting(pid));
    /* It said so before the new worker had the connection. */
    say(&agent, &give_back);
    next_life('w');
    assert_true(is_waiting(pid));
    give(&agent);
    assert_int_equal(result_of(pid), 0);
    bury(&agent);
    munmap(at, PAGES * PAGE);
}

static void d1_the_next_process_has_what_was_out_and_keeps_what_was_not(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    fill();
    all_done(SP_STORE_EVICT, 0, PAGES / 2);
    next_life('b');
    pid = touch_in_child(at, 3);
    assert_int_equal(result_of(pid), 0);
    assert_int_equal(frames_out(), PAGES / 2);
    all_done(SP_STORE_EVICT, 0, PAGES);
    assert_int_equal(frames_out(), PAGES);
    assert_int_equal(resident(at), 0);
    for (unsigned k = 0; k < 6; k++) {
        next_life("swb"[k % 3]);
        for (uint32_t i = k; i < PAGES; i += 6)
            assert_true(is_right(at, i));
    }
    assert_int_equal(news(1), 0);
    munmap(at, PAGES * PAGE);
}

static void s8_lost_bytes_are_a_signal_and_news(void **state)
{
    unsigned char *at = map_privately();
    unsigned char *pieces;

    fill();
    all_done(SP_STORE_EVICT, 0, PAGES);
    (void)news(0);
    /* The first piece, wherever slots lie in it: a byte of each of its first pages. */
    pieces =
        mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, store_fd[SP_STORE_FD_PIECES], 0);
    assert_ptr_not_equal(pieces, MAP_FAILED);
    for (size_t k = 0; k < MIB; k += 8)
        pieces[MIB + k] ^= 1;
    assert_int_equal(result_of(touch_in_child(at, 5)), 2);
    assert_true(news(1) >= 1);
    assert_int_equal(result_of(touch_in_child(at, 5)), 2);
    assert_int_equal(news(1), 0); /* once in its life */
    for (size_t k = 0; k < MIB; k += 8)
        pieces[MIB + k] ^= 1;
    assert_int_equal(result_of(touch_in_child(at, 5)), 0);
    munmap(pieces, 2 * MIB);
    munmap(at, PAGES * PAGE);
}

static void k9_s10_a_segment_goes_when_nobody_has_it(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;
    int err = -EBUSY;

    fill();
    all_done(SP_STORE_EVICT, 0, PAGES);
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    munmap(at, PAGES * PAGE);
    usleep(20000);
    assert_int_equal(ask_about(SP_STORE_REMOVE, 0, 0), -EBUSY);
    all_done(SP_STORE_FORGET, 0, 10); /* somebody maps them: their bytes stay */
    assert_int_equal(frames_out(), PAGES);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (unsigned i = 0; i < 1000 && err; i++) {
        all_done(SP_STORE_FORGET, 0, 10);
        err = frames_out() == PAGES - 10 ? 0 : -EBUSY;
        usleep(1000);
    }
    assert_int_equal(err, 0);
    assert_int_equal(ask_about(SP_STORE_REMOVE, 0, 0), 0);
    assert_int_equal(frames_out(), 0);
    assert_int_equal(ask_about(SP_STORE_EVICT, 0, 1), -ENOENT);
}

/* The pool's segments in the store (pool.h). */

static int tend_nothing(void *arg)
{
    return 0;
}

struct exported {
    struct sp_pool_record record[8];
    int fd[8];
    size_t n;
};

static void export_one(void *arg, const struct sp_pool_record *record, int fd)
{
    struct exported *e = arg;

    assert_true(e->n < 8);
    e->record[e->n] = *record;
    e->fd[e->n++] = dup(fd);
}

/* The daemon is killed, and the next one has the pool. */
static struct sp_pool_set *next_daemon(struct sp_pool **pool, struct sp_store_link *link)
{
    struct exported e = {.n = 0};
    char why[200] = "";

    sp_pool_export(*pool, export_one, &e);
    sp_pool_free(*pool);
    assert_int_equal(sp_pool_import(pool, e.record, e.fd, e.n, link, why, sizeof(why)), 0);
    return sp_pool_set_find(*pool, 7);
}

static void try_free_until_done(struct sp_pool_set *set, uint32_t segment)
{
    int err = -EBUSY;

    for (unsigned i = 0; i < 1000 && err == -EBUSY; i++) {
        err = sp_pool_segment_try_free(set, segment);
        usleep(1000);
    }
    assert_int_equal(err, 0);
}

static void k9_d1_the_pools_segments_in_the_store(void **state)
{
    uint32_t segment, index, other;
    const struct sp_store_answer *said;
    struct sp_store_link *link;
    struct sp_pool_set *set;
    const void *written;
    struct sp_pool *pool;
    unsigned char *at;
    char why[200];
    unsigned got;
    int fd;

    if (sp_pool_new(&pool, why, sizeof(why)))
        skip();
    assert_int_equal(sp_store_link_new(&link, sock, pages_fd, tend_nothing, NULL), 0);
    sp_pool_use_store(pool, link);
    set = sp_pool_set_new(pool, 7);
    assert_int_equal(sp_pool_alloc(set, 64, &segment, &index, &got), 0);
    assert_int_equal(got, 64);
    assert_true(sp_pool_is_stored(set, segment));
    assert_ptr_equal(sp_pool_set_of(pool, segment), set);
    for (uint32_t i = 0; i < got; i++)
        for (size_t k = 0; k < PAGE; k++)
            shared_pages[i * PAGE + k] = byte_of(i, k);
    at = malloc(64 * PAGE);
    assert_non_null(at);
    memcpy(at, shared_pages, 64 * PAGE);
    assert_int_equal(sp_pool_write(set, segment, index, got, at, &written), 0);
    assert_memory_equal(written, at, 64 * PAGE);
    free(at);
    fd = sp_pool_segment_fd(set, segment);
    assert_true(fd >= 0);
    at = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    close(fd);
    assert_int_equal(sp_store_ask(link, SP_STORE_EVICT, segment, index, 32, &said), 0);
    assert_true(is_right(sp_pool_frame(set, segment, index + 63), 63));
    assert_null(sp_pool_frame(set, segment, index + 64));
    /* Its frames are known to the next daemon: those that somebody still claims. */
    set = next_daemon(&pool, link);
    assert_non_null(set);
    assert_int_equal(sp_pool_segment_pages(set, segment), SP_POOL_SEGMENT_PAGES);
    for (uint32_t i = 0; i < 64; i++)
        assert_int_equal(sp_pool_claim(set, segment, index + i), 0);
    assert_int_equal(sp_pool_claim(set, segment, index + 64), -ENOENT);
    sp_pool_import_end(pool);
    assert_true(is_right(sp_pool_frame(set, segment, index + 5), 5));
    /* Forgotten frames that somebody maps stay readable; nobody: they are gone at once. */
    for (uint32_t i = 0; i < 32; i++)
        sp_pool_forget(set, segment, index + i);
    sp_pool_tell_forgotten(pool);
    for (uint32_t i = 0; i < 64; i++)
        assert_true(is_right(at, i));
    for (uint32_t i = 32; i < 64; i++)
        sp_pool_forget(set, segment, index + i);
    assert_int_equal(sp_pool_segment_try_free(set, segment), -EBUSY);
    assert_true(is_right(at, 40));
    munmap(at, 64 * PAGE);
    try_free_until_done(set, segment);
    assert_int_equal(frames_out(), 0);
    /* A node is wanted: that is the tmpfs'. */
    if (!sp_pool_alloc_on(set, 0, 1, &other, &index, &got))
        assert_false(sp_pool_is_stored(set, other));
    sp_pool_free(pool);
    sp_store_link_free(link);
}

/* Fills one frame of a new segment with that byte. A private mapping of it. */
static unsigned char *fill_one(struct sp_pool *pool, unsigned char byte, uint32_t *segment)
{
    struct sp_pool_set *set = sp_pool_set_new(pool, 7);
    unsigned char *bytes = malloc(PAGE), *at;
    const void *written;
    uint32_t index;
    unsigned got;
    int fd;

    assert_non_null(set);
    assert_non_null(bytes);
    memset(bytes, byte, PAGE);
    assert_int_equal(sp_pool_alloc(set, 1, segment, &index, &got), 0);
    assert_int_equal(index, 0);
    assert_int_equal(sp_pool_write(set, *segment, 0, 1, bytes, &written), 0);
    free(bytes);
    fd = sp_pool_segment_fd(set, *segment);
    assert_true(fd >= 0);
    at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    close(fd);
    assert_int_equal(at[0], byte);
    return at;
}

/* A daemon that cannot take over the pool of the one before, but the store. */
static void k11_d1_a_new_pool_leaves_the_old_ones_frames_alone(void **state)
{
    uint32_t first, second, third;
    unsigned char *old, *new;
    struct sp_store_link *link;
    struct sp_pool *pool;
    char why[200];

    assert_int_equal(sp_store_link_new(&link, sock, pages_fd, tend_nothing, NULL), 0);
    if (sp_pool_new(&pool, why, sizeof(why)))
        skip();
    sp_pool_use_store(pool, link);
    old = fill_one(pool, 1, &first);
    sp_pool_free(pool);
    assert_int_equal(sp_pool_new(&pool, why, sizeof(why)), 0);
    sp_pool_use_store(pool, link);
    new = fill_one(pool, 2, &second);
    assert_int_equal(old[0], 1);
    assert_int_not_equal(first, second);
    assert_int_equal(munmap(new, PAGE), 0);
    sp_pool_free(pool);
    /* What nobody has is nobody's. */
    assert_int_equal(munmap(old, PAGE), 0);
    while (sp_store_ask(link, SP_STORE_REMOVE, second, 0, 0, NULL))
        usleep(1000);
    assert_int_equal(sp_pool_new(&pool, why, sizeof(why)), 0);
    sp_pool_use_store(pool, link);
    new = fill_one(pool, 3, &third);
    assert_int_equal(third, first);
    assert_int_equal(munmap(new, PAGE), 0);
    while (sp_store_ask(link, SP_STORE_REMOVE, third, 0, 0, NULL))
        usleep(1000);
    sp_pool_free(pool);
    sp_store_link_free(link);
}

/* Both are killed all the time, and no question is lost. */
static unsigned *lives; /* of the worker; and 1: that is enough */

static pid_t start_killer(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned i = 0; !__atomic_load_n(&lives[1], __ATOMIC_SEQ_CST); i++) {
            usleep((useconds_t)(random() % 3000));
            next_life("swb"[i % 3]);
            __atomic_fetch_add(lives, i % 3 > 0, __ATOMIC_SEQ_CST);
        }
        _exit(0);
    }
    return pid;
}

static int tend(void *arg)
{
    unsigned *seen = arg, now = __atomic_load_n(lives, __ATOMIC_SEQ_CST);
    bool is_new = now != *seen;

    *seen = now;
    return is_new;
}

static void ask_link(struct sp_store_link *link, enum sp_store_what what, uint32_t index,
                     uint32_t n)
{
    const struct sp_store_answer *said;

    assert_int_equal(sp_store_ask(link, what, SEGMENT, index, n, &said), 0);
    for (uint32_t i = 0; i < n && what != SP_STORE_FILL; i++)
        assert_int_not_equal(said->result[i], SP_STORE_CANNOT);
}

static void d1_no_question_is_lost(void **state)
{
    unsigned char *at = map_privately();
    struct sp_store_link *link;
    unsigned seen;
    pid_t killer;

    lives = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(lives, MAP_FAILED);
    seen = *lives;
    fill();
    /* From here on nothing is in memory alone while its keeper is killed: that may be lost (S8). */
    all_done(SP_STORE_EVICT, 0, PAGES);
    assert_int_equal(sp_store_link_new(&link, sock, pages_fd, tend, &seen), 0);
    killer = start_killer();
    for (unsigned k = 0; k < 40; k++) {
        ask_link(link, SP_STORE_EVICT, 0, PAGES);
        for (uint32_t i = k % 5; i < PAGES; i += 5)
            assert_true(is_right(at, i));
        ask_link(link, SP_STORE_HOLD, 0, 8);
        assert_int_equal(sp_store_ask(link, SP_STORE_BRING, SEGMENT, 7, 2, NULL), -EBUSY);
        assert_true(sp_store_ask(link, SP_STORE_RELEASE, 0, 0, 0, NULL) <= 0);
        ask_link(link, SP_STORE_GET, 0, PAGES);
        for (uint32_t i = 0; i < PAGES; i++)
            assert_true(is_right(sp_store_link_pages(link), i));
    }
    __atomic_store_n(&lives[1], 1, __ATOMIC_SEQ_CST);
    assert_int_equal(result_of(killer), 0);
    assert_true(*lives > 2);
    sp_store_link_free(link);
    munmap(lives, PAGE);
    munmap(at, PAGES * PAGE);
}

static int begin(void)
{
    const struct sp_store_config config = {.memory_bytes = 32 * MIB, .file = -1};
    int commands[2], questions[2], fd[SP_STORE_FUSE_FDS];
    const struct timeval minute = {.tv_sec = 60};
    struct sp_store_worker_run run;
    char why[200] = "";

    if (sp_store_fuse_open(fd, why, sizeof(why))) {
        printf("skipped: %s\n", why);
        return SKIPPED;
    }
    run.dev = fd[SP_STORE_FUSE_DEV];
    run.mount = fd[SP_STORE_FUSE_MOUNT];
    close(fd[SP_STORE_FUSE_CLONE]); /* each worker makes one of its own */
    run.pages = memfd_create("pages", MFD_CLOEXEC);
    if (run.pages < 0 || ftruncate(run.pages, (off_t)(PAGES * PAGE)) ||
        sp_store_new(&run.store, &config) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, questions) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, commands))
        return 1;
    sp_store_fds(run.store, store_fd);
    run.sock = questions[1];
    store = run.store;
    keeper_pid = fork();
    if (keeper_pid == 0) {
        close(commands[0]);
        close(questions[0]);
        keep(commands[1], &run, store_fd);
    }
    close(run.dev);
    close(run.sock);
    close(commands[1]);
    keeper = commands[0];
    sock = questions[0];
    if (setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute)))
        return 1;
    mount_fd = run.mount;
    pages_fd = run.pages;
    shared_pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, run.pages, 0);
    return shared_pages == MAP_FAILED;
}

static int add_segment(void **state)
{
    return ask_about(SP_STORE_ADD, 0, 0);
}

static int remove_segment(void **state)
{
    int err = -EBUSY;

    for (unsigned i = 0; i < 1000 && err == -EBUSY; i++) {
        err = ask_about(SP_STORE_REMOVE, 0, 0);
        usleep(1000);
    }
    return err == -ENOENT ? 0 : err;
}

static int64_t msecs(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* D1: a worker that never answers holds up who asks once, not at each question, until it answers again. */
static void test_d1_a_silent_worker_is_not_waited_for_again(void **state)
{
    struct sp_store_ask ask;
    struct sp_store_link *link;
    int pair[2], pages = memfd_create("pages", MFD_CLOEXEC);
    int64_t began;

    assert_int_equal(ftruncate(pages, (off_t)(SP_STORE_PAGES * PAGE)), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(sp_store_link_new(&link, pair[0], pages, tend_nothing, NULL), 0);
    sp_store_link_be_patient(link, 2000);
    assert_int_equal(sp_store_ask(link, SP_STORE_COUNT, 0, 0, 0, NULL), -ETIMEDOUT);
    sp_store_link_be_patient(link, 1000000);
    began = msecs();
    for (int i = 0; i < 3; i++)
        assert_int_equal(sp_store_ask(link, SP_STORE_COUNT, 0, 0, 0, NULL), -ETIMEDOUT);
    assert_true(msecs() - began < 900000);
    /* It answers the second one now, late: from then on it is waited for as before. */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(recv(pair[1], &ask, sizeof(ask), 0), sizeof(ask));
        answer = (struct sp_store_answer){.seq = ask.seq};
        if (i == 1)
            assert_int_equal(send(pair[1], &answer, sizeof(answer), 0), sizeof(answer));
    }
    sp_store_link_be_patient(link, 2000);
    assert_int_equal(sp_store_ask(link, SP_STORE_COUNT, 0, 0, 0, NULL), -ETIMEDOUT);
    sp_store_link_free(link);
    close(pages);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_d1_a_silent_worker_is_not_waited_for_again),
        cmocka_unit_test_setup_teardown(s1_out_and_s6_back, add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(s3_frames_that_are_held, add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(d1_who_evicts_waits_for_no_server, add_segment,
                                        remove_segment),
        cmocka_unit_test_setup_teardown(s3_a_held_frame_that_the_kernel_drops_too, add_segment,
                                        remove_segment),
        cmocka_unit_test_setup_teardown(s3_frames_that_an_agent_holds, add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(s3_an_agent_that_is_given_twice_is_one, add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(s3_only_frames_that_an_agent_has_are_held, add_segment,
                                        remove_segment),
        cmocka_unit_test_setup_teardown(s3_an_agent_that_sends_descriptors_is_not_heard,
                                        add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(s3_who_holds_frames_too_long_is_killed, add_segment,
                                        remove_segment),
        cmocka_unit_test_setup_teardown(d1_what_an_agent_holds_outlives_the_worker, add_segment,
                                        remove_segment),
        cmocka_unit_test_setup_teardown(d1_the_next_process_has_what_was_out_and_keeps_what_was_not,
                                        add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(s8_lost_bytes_are_a_signal_and_news, add_segment,
                                        remove_segment),
        cmocka_unit_test(k9_d1_the_pools_segments_in_the_store),
        cmocka_unit_test(k11_d1_a_new_pool_leaves_the_old_ones_frames_alone),
        cmocka_unit_test_setup_teardown(d1_no_question_is_lost, add_segment, remove_segment),
        cmocka_unit_test_setup_teardown(k9_s10_a_segment_goes_when_nobody_has_it, add_segment,
                                        remove_segment),
    };
    int err = begin();

    if (err)
        return err;
    next_life('b');
    err = cmocka_run_group_tests(tests, NULL, NULL);
    close(keeper);
    waitpid(keeper_pid, NULL, 0);
    sp_store_free(store);
    return err;
}
