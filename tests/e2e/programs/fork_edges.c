/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Corners of fork, threads and locking, one a run; each waits for a line on stdin when its region
 * is there to be merged, and says what it saw. usage: fork_edges CASE [subreaper]
 */
#include <errno.h>
#include <pthread.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define PAGES  8192u /* 32 MiB */
#define HALF   (PAGES / 2 * PAGE)
#define NOBODY 65534
#define FORKS  200u /* of which nearly each met a signal */

static char *region;

static void wait_for_line(void)
{
    int c;

    while ((c = getchar()) != '\n')
        if (c == EOF)
            exit(4);
}

static void ready(void)
{
    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    wait_for_line();
}

static void said(const char *word, double ms)
{
    printf("%s %.3f\n", word, ms);
    fflush(stdout);
}

static void *make_read_only(void *half)
{
    if (mprotect(half, HALF, PROT_READ))
        die("mprotect");
    return NULL;
}

/* Forks while the agent un-merges what a thread asked for; the child asks for the same later. */
static int fork_while_served(void)
{
    pid_t child[4];
    pthread_t thread;
    int status;

    pthread_create(&thread, NULL, make_read_only, region);
    for (unsigned i = 0; i < 4; i++) {
        pause_ms(2);
        child[i] = fork();
        if (!child[i]) {
            alarm(60); /* for one that waits for ever */
            pause_ms(500);
            make_read_only(region + HALF);
            region_check(region, PAGES, 0, "in the child");
            _exit(0);
        }
    }
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < 4; i++)
        if (waitpid(child[i], &status, 0) != child[i] || status)
            return 3;
    said("done", 0);
    return 0;
}

/* How long the end of a pipe takes to be seen when a child that had it closes it, and lives on: at best, and
 * until it was seen before an agent does anything at all (15 ms); 300 tries are 30 s. */
static int pipe_end(void)
{
    double best = 1e9;

    for (unsigned i = 0; i < 300 && (i < 20 || best > 0.015); i++) {
        int end[2];
        char byte;
        double start;
        pid_t child;

        if (pipe(end))
            die("pipe");
        start = seconds_now();
        child = fork();
        if (!child) {
            close(end[1]);
            pause_ms(100);
            _exit(0);
        }
        close(end[1]);
        if (read(end[0], &byte, 1) != 0)
            die("read");
        if (seconds_now() - start < best)
            best = seconds_now() - start;
        close(end[0]);
        waitpid(child, NULL, 0);
    }
    said("pipe", best * 1000);
    return 0;
}

/* A child gives up root at once, before its agent is up. */
static int child_gives_up_root(void)
{
    pid_t child = fork();

    if (!child) {
        if (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
            die("setresuid");
        said("child", getpid());
        pause_ms(60000);
        _exit(0);
    }
    wait_for_line();
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}

static int lock_all(void)
{
    double start = seconds_now();

    if (mlockall(MCL_CURRENT))
        die("mlockall");
    said("locked", (seconds_now() - start) * 1000);
    region_check(region, PAGES, 0, "after mlockall");
    if (munlockall())
        die("munlockall");
    /* The agent must still be able to let threads wait, and to serve them. */
    make_read_only(region);
    region_check(region, PAGES, 0, "at the end");
    said("done", 0);
    return 0;
}

static void *go_on(void *unused)
{
    said("thread", 0);
    wait_for_line();
    region_check(region, PAGES, 0, "after the first thread's end");
    exit(0);
    return unused;
}

/* The first thread ends, the others go on. */
static int first_thread_ends(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, go_on, NULL))
        die("pthread_create");
    pthread_exit(NULL);
}

/* Gives merged pages to a userfaultfd of its own: what is dropped is missing, and comes from there. */
static void own_userfaultfd(char *at, size_t length)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)at, length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct uffdio_copy copy = {.dst = (uintptr_t)at, .src = (uintptr_t)region + HALF, .len = length};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("a userfaultfd");
    if (madvise(at, length, MADV_DONTNEED))
        die("MADV_DONTNEED");
    if (ioctl(fd, UFFDIO_COPY, &copy))
        die("a page that was dropped is there");
    if (memcmp(at, region + HALF, length))
        die("other bytes than the userfaultfd gave");
}

/* A child's first calls need what only an agent can do, and come as soon as fork returns. */
static int child_asks_at_once(void)
{
    for (unsigned i = 0; i < 5; i++) {
        pid_t child = fork();
        int status;

        if (!child) {
            if (i % 2)
                own_userfaultfd(region, 16 * PAGE);
            *(volatile char *)&region[(32 + i) * PAGE] ^= 0; /* written, it stays in a mapping of the pool */
            if (madvise(region + 32 * PAGE, 16 * PAGE, MADV_WIPEONFORK))
                die("MADV_WIPEONFORK");
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child || status)
            return 3;
    }
    region_check(region, PAGES, 0, "after the children");
    said("done", 0);
    return 0;
}

/* A child whose agent is killed while nobody knows it: what the child asks for is not waited for. */
static int child_loses_agent(void)
{
    pid_t child = fork();
    int status;

    if (!child) {
        said("child", getpid());
        wait_for_line();
        make_read_only(region);
        region_check(region, PAGES, 0, "read-only, without an agent");
        said("done", 0);
        _exit(0);
    }
    return waitpid(child, &status, 0) != child || status ? 3 : 0;
}

#define NOTES 65536u

static struct {
    unsigned n;
    pid_t in[NOTES]; /* the process that a handler ran in */
} *notes;

static void note_process(int sig)
{
    unsigned n = __atomic_fetch_add(&notes->n, 1, __ATOMIC_SEQ_CST);

    (void)sig;
    if (n < NOTES)
        notes->in[n] = (pid_t)syscall(SYS_getpid);
}

static pid_t flood_group(pid_t group)
{
    pid_t child = fork();

    if (child)
        return child;
    signal(SIGUSR1, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (setpgid(0, 0))
        _exit(3);
    for (;;) {
        kill(-group, SIGUSR1);
        sched_yield();
    }
}

/* Signals for its whole process group while it forks: how many handlers ran, and how many of them in a process that
 * it did not make. */
static int group_signals(void)
{
    struct sigaction action = {.sa_handler = note_process, .sa_flags = SA_RESTART};
    static pid_t own[FORKS + 2];
    unsigned foreign = 0;

    notes = mmap(NULL, sizeof(*notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (notes == MAP_FAILED || sigaction(SIGUSR1, &action, NULL))
        die("group_signals");
    own[0] = getpid();
    own[1] = flood_group(getpgrp());
    for (unsigned i = 0; i < FORKS; i++) {
        own[i + 2] = fork();
        if (!own[i + 2])
            _exit(0);
        while (waitpid(own[i + 2], NULL, 0) != own[i + 2])
            ;
    }
    kill(own[1], SIGKILL);
    waitpid(own[1], NULL, 0);
    for (unsigned i = 0; i < notes->n && i < NOTES; i++) {
        unsigned k = 0;

        while (k < FORKS + 2 && own[k] != notes->in[i])
            k++;
        foreign += k == FORKS + 2;
    }
    printf("handlers %u foreign %u\n", notes->n, foreign);
    fflush(stdout);
    return 0;
}

/* Waits for all of its children until there are none. */
static int waits_for_all(void)
{
    pid_t child = vfork(), got;
    unsigned reaped = 0;

    if (!child)
        _exit(0);
    while ((got = wait(NULL)) > 0)
        reaped += got == child ? 1 : 100;
    printf("reaped %u %s\n", reaped, strerrorname_np(errno));
    fflush(stdout);
    wait_for_line();
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(void);
    } cases[] = {{"fork_while_served", fork_while_served}, {"pipe_end", pipe_end},
                 {"child_gives_up_root", child_gives_up_root}, {"lock_all", lock_all},
                 {"first_thread_ends", first_thread_ends},
                 {"child_asks_at_once", child_asks_at_once},
                 {"child_loses_agent", child_loses_agent}, {"group_signals", group_signals},
                 {"waits_for_all", waits_for_all}};

    if (argc == 3) { /* the orphans among its descendants become its children, from before an exec on */
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        execl(argv[0], argv[0], argv[1], NULL);
        die("exec");
    }
    ready();
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (argc == 2 && !strcmp(argv[1], cases[i].name))
            return cases[i].run();
    return 2;
}
