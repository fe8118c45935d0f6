/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate in this very process: installed under PR_SET_MDWE, then used by everything that goes
 * through it. The merging itself is played by the test: it sets bits of the site map and answers
 * requests. Exit status 0, or 77 where there is no gate for the processor.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"
#include "own_file.h"
#include "sitemap.h"
#include "wire.h"

#define PAGE 4096u
#define RW   (PROT_READ | PROT_WRITE)

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("%s:%d: %s: not so: %s (errno %d)\n", __FILE__, __LINE__, __func__, #what,      \
                   errno);                                                                         \
            fflush(stdout);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

extern char **environ;

static int forked;

void sp_agent_finish_plain(void)
{
}

void sp_sites_drop_unmapped(uint64_t addr, uint64_t end)
{
    (void)addr;
    (void)end;
}

void sp_agent_forked(void)
{
    forked++;
}

static char *map_pages(unsigned n)
{
    char *p = mmap(NULL, (size_t)n * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static uint64_t at(const void *p)
{
    return (uint64_t)p;
}

/* In this epoch, and this alone: nothing that lies well away. */
static bool noted(const void *p, size_t length)
{
    return sp_gate_changed_any() && sp_gate_changed(at(p), at(p) + length);
}

static unsigned inside(void)
{
    unsigned n = __atomic_load_n(&sp_gate.counted, __ATOMIC_SEQ_CST);

    for (unsigned i = 0; i < SP_GATE_SLOTS; i++)
        n += __atomic_load_n(&sp_gate.slot[i].pass, __ATOMIC_SEQ_CST) != 0;
    return n;
}

/* However much changes elsewhere: what did not change does not look changed. */
static void changes_are_told_apart(void)
{
    size_t far = 2u << SP_GATE_MARK_SHIFT;
    char *p = map_pages(4 * (unsigned)(far / PAGE));

    sp_gate_begin_epoch();
    for (int i = 0; i < 10000; i++)
        CHECK(mprotect(p + 2 * far, far, i % 2 ? RW : PROT_READ) == 0);
    CHECK(noted(p + 3 * far - PAGE, PAGE) && !noted(p, far));
    sp_gate_begin_epoch();
    CHECK(!sp_gate_changed_any() && !noted(p, 4 * far));
    CHECK(munlockall() == 0 && noted(p, far)); /* a call that may change anything */
    CHECK(munmap(p, 4 * far) == 0);
}

/* Nor does what lies so far away that the table of marks went round, once or often. */
static void changes_far_away_are_told_apart(void)
{
    const uint64_t round = (uint64_t)SP_GATE_MARKS << SP_GATE_MARK_SHIFT;
    const uint64_t odd = (uint64_t)SP_GATE_MARKS_ODD << SP_GATE_MARK_SHIFT;
    const uint64_t length = round - (1u << SP_GATE_MARK_SHIFT);
    char *p = map_pages(4);
    char *all = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    CHECK(all != MAP_FAILED);
    sp_gate_begin_epoch();
    CHECK(mprotect(p, PAGE, PROT_READ) == 0 && noted(p, PAGE));
    for (uint64_t n = 1; n <= 1000; n++) {
        CHECK(!sp_gate_changed(at(p) + n * round, at(p) + n * round + PAGE));
        CHECK(!sp_gate_changed(at(p) + n * odd, at(p) + n * odd + PAGE));
    }
    /* A long range is noted in all of its length, up to where the tables go round. */
    sp_gate_begin_epoch();
    CHECK(munmap(all, length) == 0);
    for (uint64_t n = 0; n < SP_GATE_MARKS - 1; n++)
        CHECK(noted(all + (n << SP_GATE_MARK_SHIFT), PAGE));
    CHECK(munmap(p, 4 * PAGE) == 0);
}

/* Every call works, gives the kernel's result and errno, and is noted. */
static void calls_work_and_are_noted(void)
{
    char *p = map_pages(16), *q;
    int id;

#define NOTED(call)                                                                                \
    sp_gate_begin_epoch();                                                                         \
    CHECK(!noted(p, PAGE));                                                                        \
    CHECK(call);                                                                                   \
    CHECK(noted(p, PAGE))
    NOTED(mprotect(p, PAGE, PROT_READ) == 0);
    NOTED(mprotect(p, PAGE, RW) == 0);
    NOTED(pkey_mprotect(p, PAGE, RW, -1) == 0);
    NOTED(madvise(p, PAGE, MADV_DONTNEED) == 0);
    NOTED(mlock(p, PAGE) == 0);
    NOTED(munlock(p, PAGE) == 0);
    NOTED(mlock2(p, PAGE, 1) == 0);
    NOTED(munlock(p, PAGE) == 0);
    NOTED(munlockall() == 0);
    NOTED(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
    NOTED(syscall(SYS_mprotect, p, PAGE, RW) == 0);
    NOTED(syscall(SYS_madvise, p, PAGE, MADV_DONTNEED, 0, 0) == 0);
    NOTED((char *)syscall(SYS_mmap, p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          p);
    NOTED(syscall(SYS_mbind, p, PAGE, 0, NULL, 0, 0) == 0 || errno == ENOSYS);
    NOTED(munmap(p + 15 * PAGE, PAGE) == 0 && munmap(p, PAGE) == 0);
    CHECK(munmap(p + 1, PAGE) == -1 && errno == EINVAL);
    CHECK(mprotect(p, PAGE, RW) == -1 && errno == ENOMEM);
    CHECK(madvise(p + PAGE, PAGE, 12345) == -1 && errno == EINVAL);
    sp_gate_begin_epoch();
    q = mremap(p + PAGE, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && noted(p + PAGE, PAGE));
    CHECK(munmap(q, 8 * PAGE) == 0);
    CHECK(munmap(p, 15 * PAGE) == 0);
    CHECK(syscall(SYS_getpid) == getpid());
    CHECK(syscall(SYS_gettid) == gettid());
    sp_gate_begin_epoch();
    p = sbrk(0);
    CHECK(brk(p + 3 * PAGE) == 0 && noted(p, 1) && brk(p) == 0);
    id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
    if (id >= 0) {
        p = shmat(id, NULL, 0);
        CHECK(shmctl(id, IPC_RMID, NULL) == 0);
        CHECK(p != (void *)-1 && shmdt(p) == 0);
    }
    CHECK(ioctl(-1, 0xc020aa00, NULL) == -1 && errno == EBADF);
    CHECK(prctl(PR_GET_DUMPABLE) == 1);
    CHECK(inside() == 0);
}

static void *allocate_a_lot(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg;
    char *kept[16] = {0};

    for (unsigned i = 0; i < 4000; i++) {
        unsigned k = i % 16;
        size_t size = 1 + (size_t)(rand_r(&state) % 700) * 1024;

        if (i % 3 == 0) {
            free(kept[k]);
            kept[k] = malloc(size);
        } else {
            kept[k] = realloc(kept[k], size);
        }
        CHECK(kept[k]);
        kept[k][0] = kept[k][size - 1] = (char)i;
    }
    for (unsigned k = 0; k < 16; k++)
        free(kept[k]);
    return NULL;
}

static void allocation_works(void)
{
    pthread_t thread[4];

    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, allocate_a_lot, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < 4; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(inside() == 0);
}

static void loading_works(void)
{
    for (unsigned i = 0; i < 50; i++) {
        void *library = dlopen("libm.so.6", RTLD_NOW);

        CHECK(library && dlsym(library, "cos"));
        CHECK(dlclose(library) == 0);
    }
}

/* The page of its robust list is in the ring while the thread lives. */
static void *look_for_own_tcb(void *arg)
{
    uint64_t head = 0, length;

    CHECK(syscall(SYS_get_robust_list, 0, &head, &length) == 0);
    CHECK(sp_gate_tcb_in(head, head + 1));
    CHECK(sp_gate_tcb_in((uint64_t)pthread_self(), (uint64_t)pthread_self() + 0x900));
    return arg;
}

/* X: one that was there before the gate. */
static int early_may_end[2];

static void *be_early(void *arg)
{
    char byte;

    (void)arg;
    CHECK(read(early_may_end[0], &byte, 1) == 0);
    return NULL;
}

static pthread_t start_early(void)
{
    pthread_t early;

    CHECK(pipe(early_may_end) == 0);
    CHECK(pthread_create(&early, NULL, be_early, NULL) == 0);
    return early;
}

static void early_threads_are_known(pthread_t early)
{
    CHECK(sp_gate_tcb_in((uint64_t)early, (uint64_t)early + 1));
    close(early_may_end[1]);
    CHECK(pthread_join(early, NULL) == 0);
}

static void threads_are_known(void)
{
    pthread_attr_t small;
    void *result;

    CHECK(sp_gate_tcb_in((uint64_t)pthread_self(), (uint64_t)pthread_self() + 1));
    CHECK(!sp_gate_tcb_in(0x1000, 0x2000));
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (uintptr_t i = 0; i < 3000; i++) {
        pthread_t thread;

        CHECK(pthread_create(&thread, i % 2 ? &small : NULL, look_for_own_tcb, (void *)i) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == (void *)i);
    }
    CHECK(sp_gate.tcb_seq < SP_GATE_TCBS);
    CHECK(inside() == 0);
}

static void reap(pid_t pid, int status)
{
    int got;

    CHECK(pid > 0 && waitpid(pid, &got, 0) == pid);
    CHECK(WIFEXITED(got) && WEXITSTATUS(got) == status);
}

static int cloned(void *arg)
{
    (void)arg;
    return 7;
}

static void processes_are_made(void)
{
    static char stack[65536];
    char *argv[] = {"/bin/true", NULL};
    uint32_t execs = sp_gate.execs;
    pid_t pid;

    for (unsigned i = 0; i < 50; i++) {
        pid = i % 2 ? fork() : (pid_t)syscall(SYS_fork);
        if (pid == 0)
            _exit(forked == 1 && inside() == 0 ? 3 : 4);
        reap(pid, 3);
    }
    for (unsigned i = 0; i < 20; i++) {
        pid = vfork();
        if (pid == 0)
            _exit(5);
        reap(pid, 5);
        CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) == 0);
        reap(pid, 0);
    }
    CHECK(sp_gate.execs >= execs + 20);
    CHECK(system("exit 9") >> 8 == 9);
    reap(clone(cloned, stack + sizeof(stack), SIGCHLD, NULL), 7);
    reap(clone(cloned, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL), 7);
    reap(clone(cloned, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL), 7);
    CHECK(syscall(SYS_clone3, NULL, 0) == -1);
    CHECK(forked == 0 && inside() == 0);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
    char *p = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)sig;
    p[0] = 1;
    if (munmap(p, PAGE) != 0)
        _exit(2);
    alarms = alarms + 1;
}

static void signals_nest(void)
{
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    time_t end = time(NULL) + 2;

    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    while (time(NULL) < end) {
        char *p = map_pages(4);

        CHECK(madvise(p, 2 * PAGE, MADV_DONTNEED) == 0);
        CHECK(munmap(p, 4 * PAGE) == 0);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK(alarms > 100 && inside() == 0);
}

static uint32_t stop;
static uint64_t calls_done;

/* The call is a madvise of its own page. What shows that it runs under the closed gate: the page is
 * dropped although the closer wrote it and expects it to stay. */
static char *watched;

static void *hammer(void *arg)
{
    uint64_t n = 0;

    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        CHECK(madvise(watched, PAGE, MADV_DONTNEED) == 0);
        n++;
    }
    __atomic_fetch_add(&calls_done, n, __ATOMIC_SEQ_CST);
    return NULL;
}

static void closed_means_nobody_inside(void)
{
    struct timespec ts;
    pthread_t thread[4];
    unsigned closed = 0, failed = 0;
    time_t end;

    watched = map_pages(1);
    for (unsigned i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, hammer, NULL) == 0);
    end = time(NULL) + 3;
    while (time(NULL) < end) {
        if (!sp_gate_close(20000)) {
            failed++;
            continue;
        }
        CHECK(inside() == 0 || sp_gate.closed);
        for (unsigned i = 0; i < 20; i++) {
            *(volatile char *)watched = 1;
            for (volatile unsigned spin = 0; spin < 500; spin++)
                ;
            CHECK(*(volatile char *)watched == 1);
        }
        closed++;
        sp_gate_open();
        if (closed % 16 == 0) {
            ts = (struct timespec){0, 100000};
            nanosleep(&ts, NULL);
        }
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < 4; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    printf("closed %u times (%u could not), %lu calls meanwhile\n", closed, failed,
           (unsigned long)calls_done);
    CHECK(closed > 50 && calls_done > 50);
    CHECK(inside() == 0 && sp_gate.waiters == 0);
    CHECK(munmap(watched, PAGE) == 0);
}

/* A frame is played by a file in memory that holds 'f' everywhere. */
static int frame_fd;

static char *merged_pages(unsigned n)
{
    char *p = map_pages(n + 2) + PAGE;

    CHECK(mmap(p, (size_t)n * PAGE, RW, MAP_PRIVATE | MAP_FIXED, frame_fd, 0) == p);
    CHECK(sp_sitemap_set(at(p), at(p) + (uint64_t)n * PAGE) == 0);
    return p;
}

static bool all_bytes(const char *p, size_t n, char c)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != c)
            return false;
    return true;
}

static void merged_pages_are_dropped(uint32_t agent)
{
    char *p = merged_pages(8);

    sp_gate.agent = agent;
    p[3 * PAGE] = 'w';
    CHECK(madvise(p, 8 * PAGE, MADV_DONTNEED) == 0);
    CHECK(all_bytes(p, 8 * PAGE, 0));
    CHECK(sp_sitemap_any(at(p), at(p) + 8 * PAGE) == (agent == SP_GATE_FILTERED));
    CHECK(munmap(p - PAGE, 10 * PAGE) == 0);
    CHECK(sp_sitemap_pages() == 0);
    p = merged_pages(8);
    CHECK(madvise(p - PAGE, 10 * PAGE, MADV_FREE) == 0);
    CHECK(p[0] == (agent == SP_GATE_FILTERED ? 'f' : 0));
    CHECK(munmap(p - PAGE, 10 * PAGE) == 0);
    sp_gate.agent = SP_GATE_NO_AGENT;
}

static void merged_pages_are_moved(void)
{
    char *p = merged_pages(8), *q;

    CHECK(mremap(p, 8 * PAGE, 6 * PAGE, 0) == p);
    CHECK(sp_sitemap_pages() == 6);
    CHECK(mremap(p, 6 * PAGE, 9 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    q = mremap(p, 6 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && q != p);
    CHECK(sp_sitemap_pages() == 6 && sp_sitemap_any(at(q), at(q) + 6 * PAGE));
    CHECK(all_bytes(q, 6 * PAGE, 'f') && all_bytes(q + 6 * PAGE, 58 * PAGE, 0));
    CHECK(munmap(q, 64 * PAGE) == 0);
    CHECK(munmap(p - PAGE, 10 * PAGE) == 0);
    p = merged_pages(4);
    q = map_pages(4);
    CHECK(mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
    CHECK(all_bytes(q, 4 * PAGE, 'f'));
    CHECK(sp_sitemap_pages() == 4 && sp_sitemap_any(at(q), at(q) + 4 * PAGE));
    CHECK(munmap(q, 4 * PAGE) == 0 && sp_sitemap_pages() == 0);
    /* The place behind is free: it grows where it is. */
    p = merged_pages(4);
    CHECK(munmap(p + 4 * PAGE, PAGE) == 0);
    q = mremap(p, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && all_bytes(q, 4 * PAGE, 'f') && all_bytes(q + 4 * PAGE, PAGE, 0));
    CHECK(munmap(q, 5 * PAGE) == 0 && sp_sitemap_pages() == 0);
}

/* Where the kernel refuses to move many mappings at once, because one is tracked or because it is older
 * than 6.17, they are moved one by one, and a pipe still has the pages themselves. */
static void pieces_are_moved(void)
{
    char *p = merged_pages(5) - PAGE, *q = map_pages(7), got;
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {at(p), PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct iovec vector = {p, 1};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), ends[2];

    p[0] = 'a';
    p[6 * PAGE] = 'z';
    CHECK(pipe(ends) == 0 && vmsplice(ends[1], &vector, 1, 0) == 1);
    if (uffd >= 0)
        CHECK(ioctl(uffd, UFFDIO_API, &api) == 0 && ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
    CHECK(mremap(p, 7 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
    CHECK(q[0] == 'a' && all_bytes(q + PAGE, 5 * PAGE, 'f') && q[6 * PAGE] == 'z');
    CHECK(sp_sitemap_pages() == 5 && sp_sitemap_any(at(q) + PAGE, at(q) + 6 * PAGE));
    CHECK(!sp_sitemap_any(at(p), at(p) + 7 * PAGE));
    q[0] = 'b';
    CHECK(read(ends[0], &got, 1) == 1 && got == 'b');
    CHECK(munmap(q, 7 * PAGE) == 0 && sp_sitemap_pages() == 0);
    close(ends[0]);
    close(ends[1]);
    /* Where one cannot be moved, those before it are moved back. The sealed page stays for good. */
    p = map_pages(4);
    q = map_pages(4);
    p[0] = 'a';
    reg.range.start = at(p);
    if (uffd >= 0 && syscall(462 /* mseal */, p + PAGE, PAGE, 0) == 0) {
        CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        CHECK(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == MAP_FAILED);
        CHECK(errno == EPERM && p[0] == 'a');
    }
    close(uffd);
}

static void merged_pages_are_protected_without_agent(void)
{
    char *p = merged_pages(4);

    p[PAGE] = 'w';
    CHECK(mprotect(p, 4 * PAGE, RW) == 0 && sp_sitemap_pages() == 4);
    CHECK(mprotect(p, 4 * PAGE, PROT_NONE) == 0 && sp_sitemap_pages() == 1); /* it was written */
    CHECK(mprotect(p, 4 * PAGE, RW) == 0);
    CHECK(p[PAGE] == 'w' && p[PAGE + 1] == 'f' && all_bytes(p, PAGE, 'f'));
    CHECK(madvise(p, 4 * PAGE, MADV_DONTNEED) == 0 && all_bytes(p, 4 * PAGE, 0));
    CHECK(munmap(p - PAGE, 6 * PAGE) == 0);
    p = merged_pages(4);
    CHECK(mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
    CHECK(sp_sitemap_pages() == 3 && madvise(p, 4 * PAGE, MADV_REMOVE) == -1 && errno == EINVAL);
    CHECK(munmap(p - PAGE, 6 * PAGE) == 0 && sp_sitemap_pages() == 0);
}

#ifdef SP_FAULT_POINTS
void sp_fault_point(const char *name)
{
    (void)name;
}
#endif

static unsigned served[SP_GATE_ZERO + 1];

/* Plays the agent: un-merges by copying. */
static void *serve(void *arg)
{
    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        struct sp_gate_request *request = sp_gate_next_request();
        uint64_t start, end;

        if (!request) {
            sched_yield();
            continue;
        }
        CHECK(sp_gate_close(1000000));
        if (request->kind != SP_GATE_GIVE_BACK)
            while (sp_sitemap_next(request->addr, request->end, &start, &end)) {
                char *copy = malloc(end - start);

                memcpy(copy, (void *)start, end - start);
                sp_sitemap_clear(start, end);
                CHECK(syscall(SYS_getpid) == getpid());
                for (uint64_t i = 0; i < end - start; i++)
                    ((char *)start)[i] = copy[i];
            }
        served[request->kind]++;
        sp_gate_open();
        sp_gate_request_done(request, request->kind == SP_GATE_GIVE_BACK ? -EAGAIN : 0);
    }
    return NULL;
}

/* Advice with bits other than those of kernels to come; the agent is asked and the pages are not
 * merged any more when the call runs. */
static void requests_are_served(void)
{
    char *p = merged_pages(4);
    pthread_t thread;

    stop = 0;
    CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);
    sp_gate.agent = SP_GATE_AGENT;
    madvise(p, 4 * PAGE, MADV_UNMERGEABLE);
    CHECK(served[SP_GATE_UNMERGE] == 1 && sp_sitemap_pages() == 0 && all_bytes(p, 4 * PAGE, 'f'));
    CHECK(sp_sitemap_set(at(p), at(p) + PAGE) == 0);
    CHECK(mprotect(p, PAGE, PROT_READ) == 0 && served[SP_GATE_UNMERGE] == 2);
    CHECK(madvise(p, 4 * PAGE, MADV_MERGEABLE) == 0);
    CHECK(sp_gate.advise_seq == 2 && sp_gate.advice[1].word == SP_WORD_MERGEABLE &&
          sp_gate.advice[1].addr == at(p));
    CHECK(sp_sitemap_set(at(p), at(p) + PAGE) == 0);
    CHECK(mprotect(p - PAGE, 8 * PAGE, RW) == 0 || errno == ENOMEM);
    CHECK(prctl(67, 1, 0, 0, 0) == 0 && sp_gate.advise_all == 1);
    CHECK(prctl(67, 0, 0, 0, 0) == 0 && sp_gate.advise_all == 0 && sp_sitemap_pages() == 0);
    CHECK(prctl(67, 1, 1, 0, 0) == -1 && errno == EINVAL);
    sp_gate.agent = SP_GATE_NO_AGENT;
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(!sp_gate_next_request() && sp_gate.waiters == 0 && inside() == 0);
    CHECK(munmap(p - PAGE, 6 * PAGE) == 0);
}

static enum sp_gate_word word_at(const char *p)
{
    uint64_t end = at(p) + PAGE;

    return sp_gate_advice_at(at(p), &end);
}

/* K1: what was advised holds as long as the memory is mapped, goes along where it moves, and is nothing of what
 * is mapped there later. */
static void advice_dies_with_the_memory(void)
{
    char *p = mmap(NULL, 16 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
    uint64_t seq;

    CHECK(p != MAP_FAILED && word_at(p) == SP_WORD_NONE);
    CHECK(madvise(p, 8 * PAGE, MADV_UNMERGEABLE) == 0);
    CHECK(word_at(p) == SP_WORD_UNMERGEABLE && word_at(p + 7 * PAGE) == SP_WORD_UNMERGEABLE);
    CHECK(word_at(p + 8 * PAGE) == SP_WORD_NONE);
    /* In the middle, at an edge, and by what is mapped over it. */
    CHECK(munmap(p + 3 * PAGE, PAGE) == 0 && word_at(p + 3 * PAGE) == SP_WORD_NONE);
    seq = sp_gate.advise_seq;
    CHECK(munmap(p + 3 * PAGE, PAGE) == 0 && sp_gate.advise_seq == seq);
    CHECK(word_at(p + 2 * PAGE) == SP_WORD_UNMERGEABLE && word_at(p + 4 * PAGE) == SP_WORD_UNMERGEABLE);
    CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
    CHECK(word_at(p) == SP_WORD_NONE && word_at(p + PAGE) == SP_WORD_UNMERGEABLE);
    CHECK(munmap(p + 6 * PAGE, 10 * PAGE) == 0 && word_at(p + 6 * PAGE) == SP_WORD_NONE);
    CHECK(word_at(p + 5 * PAGE) == SP_WORD_UNMERGEABLE);
    /* Grown where it is, moved, moved over something else, shrunk. */
    CHECK(mremap(p + 4 * PAGE, 2 * PAGE, 4 * PAGE, 0) == p + 4 * PAGE);
    CHECK(word_at(p + 7 * PAGE) == SP_WORD_UNMERGEABLE && word_at(p + 8 * PAGE) == SP_WORD_NONE);
    q = mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(q != MAP_FAILED && madvise(q, 8 * PAGE, MADV_MERGEABLE) == 0);
    CHECK(mremap(p + 4 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + 2 * PAGE) == q + 2 * PAGE);
    CHECK(word_at(p + 4 * PAGE) == SP_WORD_NONE && word_at(p + 7 * PAGE) == SP_WORD_NONE);
    CHECK(word_at(q + PAGE) == SP_WORD_MERGEABLE && word_at(q + 2 * PAGE) == SP_WORD_UNMERGEABLE);
    CHECK(word_at(q + 5 * PAGE) == SP_WORD_UNMERGEABLE && word_at(q + 6 * PAGE) == SP_WORD_MERGEABLE);
    CHECK(mremap(q + 2 * PAGE, 4 * PAGE, PAGE, 0) == q + 2 * PAGE);
    CHECK(word_at(q + 2 * PAGE) == SP_WORD_UNMERGEABLE && word_at(q + 3 * PAGE) == SP_WORD_NONE);
    CHECK(munmap(q, 8 * PAGE) == 0 && munmap(p, 16 * PAGE) == 0);
    for (unsigned i = 0; i < 16; i++)
        CHECK(word_at(p + i * PAGE) == SP_WORD_NONE && word_at(q + i % 8 * PAGE) == SP_WORD_NONE);
}

/* An agent that can do nothing. */
static void *refuse(void *arg)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        struct sp_gate_request *request = sp_gate_next_request();

        if (request)
            sp_gate_request_done(request, -EFAULT);
        else
            sched_yield();
    }
    return arg;
}

/* Plays an agent that was late: before it could zero the pages it un-merged them for another thread, which
 * locked them. */
static void *unmerge_and_lock(void *arg)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        struct sp_gate_request *request = sp_gate_next_request();

        if (!request) {
            sched_yield();
            continue;
        }
        if (request->kind == SP_GATE_ZERO) {
            char *p = (char *)request->addr;
            size_t length = request->end - request->addr;

            CHECK(mmap(p, length, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
            memset(p, 'f', length);
            CHECK(mlock(p, length) == 0);
        }
        sp_gate_request_done(request, 0);
    }
    return arg;
}

/* X: what was dropped is zeros, whoever locks it meanwhile. */
static void dropped_pages_are_zeros_when_locked_meanwhile(void)
{
    char *p = merged_pages(4);
    pthread_t thread;

    stop = 0;
    CHECK(pthread_create(&thread, NULL, unmerge_and_lock, NULL) == 0);
    sp_gate.agent = SP_GATE_AGENT;
    sp_gate.mixed = 1;
    CHECK(madvise(p, 4 * PAGE, MADV_DONTNEED) == 0 && all_bytes(p, 4 * PAGE, 0));
    sp_gate.mixed = 0;
    sp_gate.agent = SP_GATE_NO_AGENT;
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(munmap(p - PAGE, 6 * PAGE) == 0 && sp_sitemap_pages() == 0);
}

/* X: the kernel, which knows a file's mapping, would add what follows in it. */
static void frames_do_not_grow(void)
{
    char *p = merged_pages(4);
    pthread_t thread;

    CHECK(munmap(p + 4 * PAGE, PAGE) == 0);
    sp_gate.agent = SP_GATE_FILTERED;
    CHECK(mremap(p, 4 * PAGE, 5 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(mremap(p, 4 * PAGE, 3 * PAGE, 0) == p);
    stop = 0;
    CHECK(pthread_create(&thread, NULL, refuse, NULL) == 0);
    sp_gate.agent = SP_GATE_AGENT;
    CHECK(mremap(p, 3 * PAGE, 4 * PAGE, 0) == MAP_FAILED && errno == EFAULT);
    CHECK(mremap(p, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
    sp_gate.agent = SP_GATE_NO_AGENT;
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(all_bytes(p, 3 * PAGE, 'f') && munmap(p - PAGE, 5 * PAGE) == 0);
    CHECK(sp_sitemap_pages() == 0);
}

/* D2: whoever waits at the gate of a dead agent goes on when the daemon says so. */
static void abandoned_gate_opens(void)
{
    CHECK(sp_gate_close(100000));
    *sp_gate.wait_page = SP_WAIT_PAGE_ABANDONED;
    sp_gate.agent = SP_GATE_AGENT;
    CHECK(munmap(map_pages(1), PAGE) == 0);
    CHECK(sp_gate.agent == SP_GATE_NO_AGENT && !sp_gate.closed && sp_gate.waiters == 0);
    *sp_gate.wait_page = 0;
    /* Or the kernel, where no daemon knows of the agent. */
    CHECK(sp_gate_close(100000));
    sp_gate.agent = SP_GATE_AGENT;
    sp_gate_agent_tid = 0;
    CHECK(munmap(map_pages(1), PAGE) == 0);
    CHECK(sp_gate.agent == SP_GATE_NO_AGENT && !sp_gate.closed && sp_gate.waiters == 0);
    sp_gate_agent_tid = 1;
}

static double nanoseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double cost_of_call(void)
{
    char *p = map_pages(1);
    double start;

    munmap(p, PAGE);
    start = nanoseconds();
    for (unsigned i = 0; i < 1000000; i++)
        munmap(p, PAGE);
    return (nanoseconds() - start) / 1e6;
}

static bool read_word(uint64_t addr, uint64_t *word)
{
    *word = *(const uint64_t *)addr;
    return true;
}

static bool read_nothing(uint64_t addr, uint64_t *word)
{
    (void)addr;
    (void)word;
    return false;
}

/* Wherever the path begins and ends, with whatever behind it. */
static void own_names_are_found(void)
{
    static const struct {
        const char *path;
        bool named;
    } paths[] = {
        {"ksm_stat", true},         {"ksm_merging_pages", true},  {"/proc/self/ksm_stat", true},
        {"x/ksm_merging_pages", true}, {"/ksm_stat", true},       {"", false},
        {"k", false},               {"/", false},                 {"sm_stat", false},
        {"xksm_stat", false},       {"ksm_stats", false},         {"ksm_stat/", false},
        {"xksm_merging_pages", false}, {"ksm_merging_page", false}, {"/ksm_stat/status", false},
        {"/proc/self/stat", false}, {"/some/longer/path/of/another/file", false},
    };
    char *page = map_pages(2);

    for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        for (unsigned at_byte = 8; at_byte < 24; at_byte++)
            for (int filler = 0; filler < 256; filler++) {
                memset(page, filler, 128);
                strcpy(page + at_byte, paths[i].path);
                CHECK(sp_own_is_named(at(page) + at_byte, read_word) == paths[i].named);
            }
    CHECK(!sp_own_is_named(at(page) + 8, read_nothing));
    memset(page, 'x', 2 * PAGE); /* no end: not read on for ever */
    CHECK(!sp_own_is_named(at(page), read_word));
    CHECK(munmap(page, 2 * PAGE) == 0);
}

int main(void)
{
    char why[256] = "";
    double before, start;
    pthread_t early;

    before = cost_of_call();
    frame_fd = memfd_create("frames", 0);
    for (unsigned i = 0; i < 16 * PAGE; i++)
        CHECK(write(frame_fd, "f", 1) == 1);
    CHECK(sp_sitemap_init(PAGE) == 0);
    sp_gate.page_size = PAGE;
    sp_gate.wait_page = (volatile uint32_t *)map_pages(1);
    early = start_early();
    prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0);
    start = nanoseconds();
    if (sp_gate_install(why, sizeof(why)) != 0) {
        printf("not installed: %s\n", why);
        return strstr(why, "processor") ? 77 : 1;
    }
    printf("installed in %.1f ms\n", (nanoseconds() - start) / 1e6);
    printf("munmap of nothing: %.0f ns without the gate, %.0f ns with it\n", before,
           cost_of_call());
    own_names_are_found();
    calls_work_and_are_noted();
    changes_are_told_apart();
    changes_far_away_are_told_apart();
    allocation_works();
    loading_works();
    early_threads_are_known(early);
    threads_are_known();
    processes_are_made();
    signals_nest();
    closed_means_nobody_inside();
    merged_pages_are_dropped(SP_GATE_NO_AGENT);
    merged_pages_are_dropped(SP_GATE_FILTERED);
    merged_pages_are_moved();
    pieces_are_moved();
    merged_pages_are_protected_without_agent();
    requests_are_served();
    advice_dies_with_the_memory();
    dropped_pages_are_zeros_when_locked_meanwhile();
    frames_do_not_grow();
    abandoned_gate_opens();
    puts("ok");
    return 0;
}
