/* SPDX-License-Identifier: Apache-2.0 */
/* X: processes, threads, signals, futexes and the program's own fault handling, on merged pages. */
#include "wchan.h"
#include "x_table.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#define NEW         7
#define THREADS     4u
#define STACK_BYTES (256u * 1024)
#define STACK_PAGES (STACK_BYTES / PAGE)
#define COUNTS      2000u
#define SECONDS     60

/* What every child must see, and may do. */
static void in_child(void)
{
    x_check_all("in the child");
    x_fill_pages(x_window, x_first, X_WINDOW, 6);
    x_check_window(6, "written by the child");
}

/* The parent goes on writing at once. */
static void after_fork(pid_t child)
{
    if (!child) {
        in_child();
        _exit(0);
    }
    x_must(child > 0, "no child");
    x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    x_wait_child(child, "the child ended badly");
    x_check_window(NEW, "written by the parent");
    x_renew_window();
}

static void row_fork(void)
{
    after_fork(fork());
}

/* What waited for children used: none of the program's own have been waited for. */
static bool children_used_nothing(void)
{
    struct rusage used;

    x_must(!getrusage(RUSAGE_CHILDREN, &used), "getrusage");
    return !used.ru_maxrss && !used.ru_minflt && !used.ru_nvcsw && !used.ru_nivcsw &&
           !used.ru_utime.tv_usec && !used.ru_stime.tv_usec;
}

static void children_usage_at_start(void)
{
    x_must(children_used_nothing(), "there was a child before there was one");
}

static volatile sig_atomic_t told_of_child;

static void on_child(int sig)
{
    (void)sig;
    told_of_child++;
}

/* Nor does a child begin with any, and what the program wants to know of its children is told to it. */
static void row_children_usage(void)
{
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART}, now;
    pid_t child;

    told_of_child = 0;
    x_must(!sigaction(SIGCHLD, &action, NULL), "sigaction");
    child = fork();
    if (!child) {
        x_must(!sigaction(SIGCHLD, NULL, &now) && now.sa_handler == on_child && (now.sa_flags & SA_RESTART),
               "another handler in the child");
        x_must(!told_of_child && children_used_nothing(), "the child had a child");
        child = fork();
        if (!child)
            _exit(0);
        x_wait_child(child, "the child's child ended badly");
        x_must(told_of_child == 1, "not one signal in the child");
        _exit(0);
    }
    x_wait_child(child, "the child ended badly");
    x_must(told_of_child == 1, "not one signal");
    signal(SIGCHLD, SIG_DFL);
}

static void row_clone_process(void)
{
    after_fork((pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0));
}

static void row_clone3_process(void)
{
    struct clone_args args = {.exit_signal = SIGCHLD};

    after_fork((pid_t)syscall(SYS_clone3, &args, sizeof(args)));
}

static void row_vfork(void)
{
    pid_t child = vfork();

    if (!child) {
        /* The memory is the parent's: what is written here stays. */
        pattern_fill(x_window, x_first, NEW);
        _exit(0);
    }
    x_wait_child(child, "the child ended badly");
    pattern_check(x_window, x_first, NEW, "written by the vfork child");
    x_renew_window();
}

static void row_posix_spawn(void)
{
    char *argv[] = {"true", NULL}, *env[] = {NULL};
    pid_t child = -1;

    x_result("posix_spawn", posix_spawn(&child, "/bin/true", NULL, NULL, argv, env));
    x_wait_child(child, "true ended badly");
}

static int with_memory(void *arg)
{
    (void)arg;
    x_check_window(0, "in the clone");
    x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    return 0;
}

/* A stack in the region that the window is not in. */
static char *far_stack(void)
{
    return x_region + (x_first < X_PAGES / 2 ? X_PAGES - 2 * STACK_PAGES : 0) * PAGE;
}

static void row_clone_memory(void)
{
    char *stack = far_stack();
    pid_t child = clone(with_memory, stack + STACK_BYTES, CLONE_VM | SIGCHLD, NULL);

    x_wait_child(child, "the clone ended badly");
    x_check_window(NEW, "written by the clone");
    x_renew_window();
    x_renew((size_t)(stack - x_region) / PAGE, STACK_PAGES);
}

static void clone3_child(void)
{
    with_memory(NULL);
    syscall(SYS_exit, 0);
}

/* syscall() returns twice, in the child on a stack that has nothing but where to go on. */
static void row_clone3_memory(void)
{
    char *stack = far_stack();
    struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK,
                              .exit_signal = SIGCHLD,
                              .stack = (uintptr_t)stack,
                              .stack_size = STACK_BYTES - 16};
    void (**go_on)(void) = (void *)(stack + STACK_BYTES - 16);

    *go_on = clone3_child;
    x_wait_child((pid_t)syscall(SYS_clone3, &args, sizeof(args)), "the clone ended badly");
    x_check_window(NEW, "written by the clone");
    x_renew_window();
    x_renew((size_t)(stack - x_region) / PAGE, STACK_PAGES);
}

static void *check_part(void *arg)
{
    size_t part = X_WINDOW / THREADS, first = (uintptr_t)arg * part;
    char *at = x_window + first * PAGE;

    x_check_pages(at, x_first + first, part, 0, "in a thread");
    x_fill_pages(at, x_first + first, part, NEW);
    return arg;
}

/* Each thread has a part of the window. stacks: theirs, in the region; NULL: libc's. */
static void run_threads(void *(*run)(void *), char *stacks)
{
    pthread_t thread[THREADS];
    pthread_attr_t attr;

    for (uintptr_t i = 0; i < THREADS; i++) {
        x_must(!pthread_attr_init(&attr), "no attributes");
        if (stacks)
            x_must(!pthread_attr_setstack(&attr, stacks + i * STACK_BYTES, STACK_BYTES), "a stack");
        x_must(!pthread_create(&thread[i], &attr, run, (void *)i), "no thread");
        pthread_attr_destroy(&attr);
    }
    for (uintptr_t i = 0; i < THREADS; i++) {
        void *result;

        x_must(!pthread_join(thread[i], &result) && result == (void *)i, "pthread_join");
    }
}

static void row_threads(void)
{
    run_threads(check_part, NULL);
    x_check_window(NEW, "written by threads");
    x_renew_window();
}

static void row_thread_stacks(void)
{
    char *stacks = x_region + (x_first < X_PAGES / 2 ? X_PAGES - THREADS * STACK_PAGES : 0) * PAGE;

    run_threads(check_part, stacks);
    x_check_window(NEW, "written by threads");
    x_renew_window();
    x_renew((size_t)(stacks - x_region) / PAGE, THREADS * STACK_PAGES);
}

static void *count_up(void *arg)
{
    uint64_t *word = (uint64_t *)x_window;

    for (unsigned i = 0; i < COUNTS; i++)
        __atomic_fetch_add(&word[i % X_WINDOW * WORDS], 1, __ATOMIC_RELAXED);
    return arg;
}

/* Every addition of every thread counts, on pages that are merged when it begins. */
static void row_atomics(void)
{
    uint64_t before[X_WINDOW], *word = (uint64_t *)x_window;

    for (size_t i = 0; i < X_WINDOW; i++)
        before[i] = word[i * WORDS];
    run_threads(count_up, NULL);
    for (size_t i = 0; i < X_WINDOW; i++)
        x_must(word[i * WORDS] - before[i] == THREADS * COUNTS / X_WINDOW, "an addition was lost");
    x_renew_window();
}

static volatile sig_atomic_t handled;

static void on_usr1(int sig, siginfo_t *info, void *context)
{
    char local[8 * PAGE];

    memset(local, sig, sizeof(local));
    __asm__ volatile("" : : "r"(local) : "memory");
    handled += local[sizeof(local) / 2] == SIGUSR1 && (char *)&info > x_region;
    (void)context;
}

/* The handler's stack is merged when the signal comes. */
static void row_alternate_stack(void)
{
    stack_t stack = {.ss_sp = x_window, .ss_size = X_BYTES}, off = {.ss_flags = SS_DISABLE};
    struct sigaction action = {.sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    handled = 0;
    x_must(!sigaltstack(&stack, NULL) && !sigaction(SIGUSR1, &action, NULL), "sigaltstack");
    x_must(!raise(SIGUSR1) && handled == 1, "the handler did not run");
    x_must(!sigaltstack(&off, NULL), "sigaltstack");
    x_renew_window();
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
    char *at = (char *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));

    if (at < x_window || at >= x_window + X_BYTES || info->si_code != SEGV_ACCERR)
        _exit(99);
    handled++;
    mprotect(at, PAGE, PROT_READ | PROT_WRITE);
    (void)sig;
    (void)context;
}

/* A write barrier as garbage collectors have it: each page faults once, at its first write. */
static void row_segv_handler(void)
{
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};

    handled = 0;
    x_must(!sigaction(SIGSEGV, &action, NULL), "sigaction");
    x_must(!mprotect(x_window, X_BYTES, PROT_READ), "mprotect");
    x_check_window(0, "read-only");
    x_must(handled == 0, "a read faulted");
    x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    x_note("faults %d", (int)handled);
    x_must(handled == X_WINDOW, "not every page faulted once");
    x_check_window(NEW, "behind the barrier");
    signal(SIGSEGV, SIG_DFL);
    x_renew_window();
}

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

struct waiting {
    uint32_t *word, old;
    int op;
    atomic_int tid;
    long slept;
};

static void *wait_change(void *arg)
{
    struct waiting *w = arg;
    struct timespec limit = {.tv_sec = SECONDS};

    w->tid = (int)syscall(SYS_gettid);
    while (__atomic_load_n(w->word, __ATOMIC_SEQ_CST) == w->old) {
        if (futex(w->word, w->op, w->old, &limit) && errno == ETIMEDOUT) {
            w->slept = -1; /* nobody woke us */
            break;
        }
    }
    return NULL;
}

/* A waiter on a word of a merged page, which is un-merged and merged while it waits. */
static void wait_and_wake(int private)
{
    struct waiting w = {.word = (uint32_t *)(x_window + PAGE) + 5, .op = FUTEX_WAIT | private};
    pthread_t thread;

    w.old = *w.word;
    x_must(!pthread_create(&thread, NULL, wait_change, &w), "no thread");
    wchan_wait(&w.tid, "futex");
    pause_ms(20);
    __atomic_store_n(w.word, w.old + 1, __ATOMIC_SEQ_CST);
    x_result("woken", futex(w.word, FUTEX_WAKE | private, 1, NULL));
    x_must(!pthread_join(thread, NULL) && !w.slept, "a wake-up was lost");
    *w.word = w.old;
    x_check_window(0, "after waking");
    x_renew_window();
}

static void row_futex_private(void)
{
    wait_and_wake(FUTEX_PRIVATE_FLAG);
}

static void row_futex_shared(void)
{
    wait_and_wake(0);
}

static void *die_with(void *mutex)
{
    x_must(!pthread_mutex_lock(mutex), "lock");
    return NULL;
}

/* The kernel writes to the mutex when its owner ends, and wakes who waits for it. */
static void row_robust(void)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)(x_window + 2 * PAGE + 64);
    struct timespec limit;
    pthread_mutexattr_t attr;
    pthread_t thread;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, x_round % 2);
    x_must(!pthread_mutex_init(mutex, &attr), "no mutex");
    x_must(!pthread_create(&thread, NULL, die_with, mutex), "no thread");
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += SECONDS;
    x_must(!pthread_join(thread, NULL), "pthread_join");
    x_must(pthread_mutex_timedlock(mutex, &limit) == EOWNERDEAD, "the owner's death is not told");
    x_must(!pthread_mutex_consistent(mutex) && !pthread_mutex_unlock(mutex), "unlock");
    x_renew_window();
}

/* Stopped by a child and continued: as before. */
static void row_stop(void)
{
    pid_t self = getpid(), child = fork();

    if (!child) {
        kill(self, SIGSTOP);
        pause_ms(20);
        kill(self, SIGCONT);
        _exit(0);
    }
    x_wait_child(child, "the stopper ended badly");
}

static int open_uffd(uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0)
        x_skip("no userfaultfd");
    x_must(!ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
    return fd;
}

struct serving {
    int fd, events;
};

/* Gives each missing page, and takes the protection from each protected one, once. */
static void *serve_faults(void *arg)
{
    struct serving *s = arg;
    struct uffd_msg msg;

    while (read(s->fd, &msg, sizeof(msg)) == sizeof(msg)) {
        uintptr_t at = msg.arg.pagefault.address & ~(uintptr_t)(PAGE - 1);
        struct uffdio_copy copy = {.dst = at, .src = (uintptr_t)x_copy, .len = PAGE};
        struct uffdio_writeprotect off = {.range = {at, PAGE}};

        s->events++;
        if (msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
            ioctl(s->fd, UFFDIO_WRITEPROTECT, &off);
        } else {
            pattern_fill(x_copy, x_first + (at - (uintptr_t)x_window) / PAGE, NEW);
            ioctl(s->fd, UFFDIO_COPY, &copy);
        }
        if (s->events == X_WINDOW)
            break;
    }
    return NULL;
}

/* The program's own userfaultfd, on pages that are merged. */
static void own_userfaultfd(bool missing)
{
    struct serving s = {.fd = open_uffd(missing ? 0 : UFFD_FEATURE_PAGEFAULT_FLAG_WP)};
    struct uffdio_register reg = {.mode = missing ? UFFDIO_REGISTER_MODE_MISSING
                                                  : UFFDIO_REGISTER_MODE_WP};
    struct uffdio_writeprotect on = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
    pthread_t thread;

    reg.range = on.range = (struct uffdio_range){(uintptr_t)x_window, X_BYTES};
    x_result("register", ioctl(s.fd, UFFDIO_REGISTER, &reg));
    x_note("ioctls %llx", (unsigned long long)reg.ioctls);
    x_check_window(0, "registered");
    if (missing)
        x_must(!madvise(x_window, X_BYTES, MADV_DONTNEED), "MADV_DONTNEED");
    else
        x_must(!ioctl(s.fd, UFFDIO_WRITEPROTECT, &on), "UFFDIO_WRITEPROTECT");
    x_must(!pthread_create(&thread, NULL, serve_faults, &s), "no thread");
    if (!missing)
        x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    x_check_window(NEW, "behind userfaultfd");
    x_must(!pthread_join(thread, NULL), "pthread_join");
    x_note("events %d", s.events);
    x_result("unregister", ioctl(s.fd, UFFDIO_UNREGISTER, &reg.range));
    close(s.fd);
    x_renew_window();
}

static void row_uffd_missing(void)
{
    own_userfaultfd(true);
}

static void row_uffd_protect(void)
{
    own_userfaultfd(false);
}

static const struct x_row rows[] = {
    {"fork", row_fork, NULL},
    {"children-usage", row_children_usage, children_usage_at_start},
    {"vfork", row_vfork, NULL},
    {"posix-spawn", row_posix_spawn, NULL},
    {"clone", row_clone_process, NULL},
    {"clone-vm", row_clone_memory, NULL},
    {"clone3", row_clone3_process, NULL},
    {"clone3-vm", row_clone3_memory, NULL},
    {"threads", row_threads, NULL},
    {"thread-stacks", row_thread_stacks, NULL},
    {"atomics", row_atomics, NULL},
    {"alternate-stack", row_alternate_stack, NULL},
    {"segv-handler", row_segv_handler, NULL},
    {"futex-private", row_futex_private, NULL},
    {"futex-shared", row_futex_shared, NULL},
    {"robust-mutex", row_robust, NULL},
    {"sigstop", row_stop, NULL},
    {"userfaultfd-missing", row_uffd_missing, NULL},
    {"userfaultfd-protect", row_uffd_protect, NULL},
};

int main(int argc, char **argv)
{
    return x_main(argc, argv, rows, sizeof(rows) / sizeof(rows[0]));
}
