/* SPDX-License-Identifier: Apache-2.0 */
/* X: fork, clone, vfork, posix_spawn, threads, signals: a child has the parent's bytes at that
 * instant, nobody sees what the other writes afterwards. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker.h"

#define BRIEF_PAGES 256u

extern char **environ;

uint64_t forks_begun, forks_ended;

pid_t fork_with(struct actor *a, struct block *b, int how)
{
    pid_t pid;

    memcpy(a->snapshot, b->page, b->npages * sizeof(b->page[0]));
    __atomic_add_fetch(&forks_begun, 1, __ATOMIC_SEQ_CST);
    if (how)
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    else
        pid = fork();
    if (pid)
        __atomic_add_fetch(&forks_ended, 1, __ATOMIC_SEQ_CST);
    if (pid < 0 && errno != EAGAIN && !lacking("fork"))
        wrong("fork failed", "fork");
    return pid;
}

void snapshot_check(struct actor *a, struct block *b, const char *when)
{
    for (uint32_t i = 0; i < b->npages; i++)
        page_check(page_at(b, i), &a->snapshot[i], true, when);
}

static void child_writes(struct actor *a, struct block *b, uint32_t from, uint32_t to,
                         uint64_t *state)
{
    for (uint32_t i = from; i < to; i++) {
        a->snapshot[i] = page_chosen(b, i, state);
        page_fill(page_at(b, i), &a->snapshot[i]);
    }
}

void child_works(struct actor *a, struct block *b, uint64_t *state, unsigned rounds, unsigned ms)
{
    static const struct page zero = {.kind = KIND_ZERO};

    for (unsigned k = 0; k < rounds; k++) {
        uint32_t i = (uint32_t)(chance(state) % b->npages);
        uint32_t n = b->npages - i < 16 ? b->npages - i : 16;

        snapshot_check(a, b, "a child at work");
        child_writes(a, b, i, i + n, state);
        if (chance(state) % 4 == 0 && !madvise(page_at(b, i), (size_t)n * PAGE, MADV_DONTNEED))
            for (uint32_t j = i; j < i + n; j++)
                a->snapshot[j] = zero;
        if (chance(state) % 8 == 0 && pages_map(page_at(b, i), n, MAP_FIXED) != MAP_FAILED)
            for (uint32_t j = i; j < i + n; j++)
                a->snapshot[j] = zero;
        pause_ms(ms);
    }
    snapshot_check(a, b, "a child at the end");
}

void child_wait(pid_t pid, const char *who, int killed_ok)
{
    char text[64];
    int status;

    while (waitpid(pid, &status, 0) != pid)
        if (errno != EINTR)
            wrong("a child is not there", who);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (WIFSIGNALED(status) &&
        (WTERMSIG(status) == killed_ok || (options.enomem_ok && WTERMSIG(status) == SIGKILL)))
        return;
    snprintf(text, sizeof(text), "a child ended with status %#x", (unsigned)status);
    wrong(text, who);
}

static bool forked(struct actor *a, struct block *b, uint64_t *state, int how, const char *what)
{
    pid_t pid = fork_with(a, b, how);
    uint32_t half = b->npages / 2;

    if (pid < 0)
        return false;
    if (!pid) {
        snapshot_check(a, b, "in a child");
        child_writes(a, b, 0, half, state);
        snapshot_check(a, b, "written by a child");
        _exit(0);
    }
    for (uint32_t i = half; i < b->npages; i++)
        block_rewrite(b, i, page_chosen(b, i, state));
    block_check_some(b, state, "while a child writes");
    child_wait(pid, what, 0);
    block_check_some(b, state, "when a child has written");
    return true;
}

OP(op_fork)
{
    return forked(a, b, state, 0, "fork");
}

/* With the raw call, which libc knows nothing of. */
OP(op_clone_raw)
{
    return forked(a, b, state, 1, "clone-raw");
}

/* A child that stays, and is merged itself; waited for when its place is needed. */
OP(op_fork_stay)
{
    unsigned i = (unsigned)(chance(state) % 4);
    pid_t *place = &a->child[i];

    if (*place) {
        child_wait(*place, "fork-stay", 0);
        __atomic_sub_fetch(&a->stayed[i]->stays, 1, __ATOMIC_SEQ_CST);
    }
    *place = fork_with(a, b, 0);
    if (*place < 0) {
        *place = 0;
        return false;
    }
    if (!*place) {
        child_works(a, b, state, 30, 10);
        _exit(0);
    }
    a->stayed[i] = b;
    __atomic_add_fetch(&b->stays, 1, __ATOMIC_SEQ_CST);
    return true;
}

OP(op_fork_nested)
{
    pid_t pid = fork_with(a, b, 0), inner;

    if (pid < 0)
        return false;
    if (pid) {
        child_wait(pid, "fork-nested", 0);
        block_check_some(b, state, "after nested forks");
        return true;
    }
    child_writes(a, b, 0, b->npages / 3, state);
    inner = fork();
    if (!inner) {
        snapshot_check(a, b, "in a child's child");
        child_works(a, b, state, 3, 5);
        _exit(0);
    }
    child_works(a, b, state, 3, 5);
    if (inner > 0)
        child_wait(inner, "fork-nested, inner", 0);
    _exit(0);
}

/* A program of its own, for a moment: merged too. */
int brief(uint64_t seed)
{
    static struct page page[BRIEF_PAGES];
    char *memory = pages_map(NULL, BRIEF_PAGES, 0);

    if (memory == MAP_FAILED)
        return 0;
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < BRIEF_PAGES; i++) {
            page[i] = (struct page){.kind = KIND_EQUAL, .number = (1u << 16) + i, .version = round};
            page_fill(memory + (size_t)i * PAGE, &page[i]);
        }
        pause_ms(10 + (unsigned)(mix(seed) % 20));
        for (uint32_t i = 0; i < BRIEF_PAGES; i++)
            if (!page_is(memory + (size_t)i * PAGE, &page[i]))
                return 77;
    }
    return 0;
}

static char **brief_argv(uint64_t *state)
{
    static __thread char seed[24], *argv[4];

    argv[0] = (char *)"torture-worker";
    argv[1] = (char *)"--brief";
    argv[2] = seed;
    snprintf(seed, sizeof(seed), "%llu", (unsigned long long)chance(state));
    return argv;
}

OP(op_vfork_exec)
{
    char **argv = brief_argv(state);
    pid_t pid = vfork();

    if (pid < 0)
        return errno == EAGAIN || lacking("vfork") ? false : (wrong("it failed", "vfork"), false);
    if (!pid) {
        execv("/proc/self/exe", argv);
        _exit(3);
    }
    child_wait(pid, "vfork-exec", 0);
    return true;
}

OP(op_posix_spawn)
{
    pid_t pid;
    int err = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, brief_argv(state), environ);

    if (err) {
        errno = err;
        return err == EAGAIN || lacking("posix-spawn") ? false
                                                       : (wrong("it failed", "posix-spawn"), false);
    }
    child_wait(pid, "posix-spawn", 0);
    return true;
}

OP(op_fork_exec)
{
    char **argv = brief_argv(state);
    pid_t pid = fork_with(a, b, 0);

    if (pid < 0)
        return false;
    if (!pid) {
        block_check_some(b, state, "before exec in a child");
        execv("/proc/self/exe", argv);
        _exit(3);
    }
    child_wait(pid, "fork-exec", 0);
    return true;
}

/* A thread that writes the block for whoever holds it, with memory of its own besides. */
struct helper {
    struct block *b;
    uint64_t *state;
};

static void *help(void *arg)
{
    struct helper *h = arg;
    uint32_t n = 64 + (uint32_t)(chance(h->state) % 64);
    char *own = pages_map(NULL, n, 0);
    struct page page = {.kind = KIND_EQUAL, .number = 1u << 16};

    for (uint32_t i = 0; own != MAP_FAILED && i < n; i++, page.number++)
        page_fill(own + (size_t)i * PAGE, &page);
    for (unsigned k = 0; k < 16; k++) {
        uint32_t i = (uint32_t)(chance(h->state) % h->b->npages);

        block_rewrite(h->b, i, page_chosen(h->b, i, h->state));
    }
    pause_ms((unsigned)chance(h->state) % 4);
    for (page.number = 1u << 16; own != MAP_FAILED && page.number < (1u << 16) + n; page.number++)
        page_check(own + (size_t)(page.number - (1u << 16)) * PAGE, &page, true,
                   "a thread's own memory");
    if (own != MAP_FAILED)
        munmap(own, (size_t)n * PAGE);
    return NULL;
}

OP(op_thread)
{
    struct helper h = {b, state};
    pthread_t thread;
    int err = pthread_create(&thread, NULL, help, &h);

    if (err) {
        errno = err;
        return err == EAGAIN || lacking("thread") ? false : (wrong("no thread", "thread"), false);
    }
    pthread_join(thread, NULL);
    block_check_some(b, state, "thread");
    return true;
}

static void *map_for_ever(void *arg)
{
    for (;;) {
        void *map = pages_map(NULL, 16, 0);

        if (map != MAP_FAILED) {
            *(volatile char *)map = 1;
            madvise(map, 16 * PAGE, MADV_DONTNEED);
            munmap(map, 16 * PAGE);
        }
        pthread_testcancel();
    }
    return arg;
}

OP(op_thread_cancelled)
{
    pthread_t thread;
    void *result;

    if (pthread_create(&thread, NULL, map_for_ever, NULL))
        return false;
    pause_ms(1 + (unsigned)chance(state) % 4);
    pthread_cancel(thread);
    if (pthread_join(thread, &result) || result != PTHREAD_CANCELED)
        wrong("a thread was not cancelled", "thread-cancelled");
    return true;
}

/* A handler that maps and unmaps, wherever the thread is, in the gate too. */
static void on_signal(int sig)
{
    int saved = errno;
    char *map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map != MAP_FAILED) {
        bool refused;

        map[0] = map[3 * PAGE] = (char)sig;
        refused = madvise(map, 2 * PAGE, MADV_DONTNEED); /* by another thread's mlockall */
        if ((map[0] && !refused) || map[3 * PAGE] != (char)sig)
            wrong("a handler's memory", "signal");
        mprotect(map, PAGE, PROT_READ);
        munmap(map, 4 * PAGE);
    }
    errno = saved;
}

void signals_init(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
}

OP(op_signal)
{
    for (unsigned k = 0; k < 8; k++) {
        kill(getpid(), chance(state) % 2 ? SIGUSR1 : SIGUSR2);
        if (chance(state) % 4 == 0)
            sched_yield();
    }
    raise(SIGUSR1);
    return true;
}
