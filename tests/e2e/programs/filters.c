/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts itself under a seccomp filter that kills who makes a call that this program does not make,
 * and goes on at once with what it may do. usage: filters ROW [prctl|seccomp] fork     forks drop
 * gives memory back by MADV_DONTNEED thread   the same in a thread, which alone has the filter
 *   late     a forked child, told by a line, has a filter for a thread alone, and drops when told again
 *   refused  the filter is one that the kernel refuses
 *
 * Fills a region that is equal in every such program, prints "ready ADDRESS BYTES", waits for a
 * line, does the row, prints "ok", and waits for the end of stdin.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define PAGES 2048u
#define HALF  (PAGES / 2)
#define KILLS(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),                                                 \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static char *region;
static int by_prctl;

static int put_filter(struct sock_fprog *prog)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        die("no_new_privs");
    return by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, prog)
                    : (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, prog);
}

/* What this program does not do itself from here on, in what is without samepage. */
static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILLS(SYS_mmap),
        KILLS(SYS_mremap),
        KILLS(SYS_msync),
        KILLS(SYS_mlock2),
        KILLS(SYS_close_range),
        KILLS(SYS_wait4),
        KILLS(SYS_getpid),
        KILLS(SYS_chdir),
        KILLS(SYS_get_robust_list),
        KILLS(SYS_userfaultfd),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof(code) / sizeof(code[0]), code};

    if (put_filter(&prog))
        die("the filter");
}

static void row_fork(void)
{
    siginfo_t end = {0};
    pid_t child;

    filter();
    child = fork();
    if (!child)
        _exit(0);
    if (child < 0 || waitid(P_PID, (id_t)child, &end, WEXITED) || end.si_code != CLD_EXITED ||
        end.si_status)
        die("the child did not end by itself");
    region_check(region, PAGES, 0, "after the fork");
}

static void row_drop(void)
{
    filter();
    if (madvise(region, HALF * PAGE, MADV_DONTNEED))
        die("MADV_DONTNEED");
    region_zero(region, HALF, "dropped");
    for (size_t i = HALF; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, 0, "kept");
}

static void *drop_in_thread(void *unused)
{
    row_drop();
    return unused;
}

static void row_thread(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, drop_in_thread, NULL) || pthread_join(thread, NULL))
        die("a thread");
}

/* To the end of the line, or of the next one. False: there is none. */
static bool next_line(void)
{
    int c;

    while ((c = getchar()) != '\n')
        if (c == EOF)
            return false;
    return true;
}

/* The child's first thread has no filter: nobody but the gate knows of the other's. */
static void *drop_when_told(void *unused)
{
    filter();
    puts("filtered");
    fflush(stdout);
    if (!next_line())
        _exit(3);
    if (madvise(region, HALF * PAGE, MADV_DONTNEED))
        die("MADV_DONTNEED");
    region_zero(region, HALF, "dropped");
    return unused;
}

static void row_late(void)
{
    pthread_t thread;
    pid_t child;
    int status;

    next_line();
    child = fork();
    if (!child) {
        printf("child %d\n", (int)getpid());
        fflush(stdout);
        if (!next_line() || pthread_create(&thread, NULL, drop_when_told, NULL) ||
            pthread_join(thread, NULL))
            _exit(3);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        die("the child did not end by itself");
}

static void row_refused(void)
{
    struct sock_fprog none = {0, NULL};

    if (put_filter(&none) != -1 || errno != EINVAL || put_filter(NULL) != -1 || errno != EFAULT)
        die("a filter that is none was not refused as the kernel refuses it");
    region_check(region, PAGES, 0, "after the filter");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } rows[] = {
        {"fork", row_fork}, {"drop", row_drop}, {"thread", row_thread}, {"refused", row_refused},
        {"late", row_late}};

    by_prctl = argc > 2 && !strcmp(argv[2], "prctl");
    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (getchar() == EOF)
        return 3;
    for (size_t i = 0; argc > 1 && i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!strcmp(argv[1], rows[i].name))
            rows[i].run();
    puts("ok");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
