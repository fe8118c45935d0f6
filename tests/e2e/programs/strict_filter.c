/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds equal memory; on a word it drops root and puts itself under a seccomp filter that kills it for
 * any system call but read, write, sigreturn, exit and sleeping, in all its threads (TSYNC). Then reads and
 * writes all its memory for a while, by two threads.
 * usage: strict_filter SECONDS DUMPABLE
 */
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "loop.h"

#define NOBODY 65534

#define ALLOW(name)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1),                                        \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static atomic_uint state; /* of the second thread: 0 waits, 1 works, 2 is to end, 3 has ended */

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(read),
        ALLOW(write),
        ALLOW(rt_sigreturn), /* setuid signals all threads: the second may be about to return */
        ALLOW(exit),
        ALLOW(exit_group),
        ALLOW(clock_nanosleep),
        ALLOW(clock_gettime),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
        die("seccomp");
}

/* Which makes it not dumpable; if it is to be, it says so. */
static void drop_root(bool dumpable)
{
    if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY) ||
        (dumpable && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)))
        die("setuid");
}

/* Pages of one parity, so that two threads share no page. */
static void rewrite(unsigned parity, uint64_t from)
{
    for (size_t i = parity; i < LOOP_PAGES; i += 2) {
        pattern_check(loop_region + i * PAGE, i, from, "under the filter");
        pattern_fill(loop_region + i * PAGE, i, from + 1);
    }
}

__attribute__((noreturn)) static void *second_main(void *arg)
{
    uint64_t version = 0;

    while (!state)
        pause_ms(1);
    while (state == 1)
        rewrite(1, version++);
    for (size_t i = 1; i < LOOP_PAGES; i += 2)
        pattern_check(loop_region + i * PAGE, i, version, "at the end");
    state = 3;
    for (;;)
        pause_ms(1000); /* a thread's end makes calls that the filter does not allow */
}

int main(int argc, char **argv)
{
    static const char done[] = "done\n";
    double seconds = argc > 1 ? atof(argv[1]) : 2, end;
    pthread_t second;
    uint64_t version = 0;
    char line[16];

    loop_start();
    if (pthread_create(&second, NULL, second_main, NULL))
        die("pthread_create");
    printf("ready %p %u\n", (void *)loop_region, LOOP_PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    drop_root(argc > 2 && atoi(argv[2]));
    filter();
    printf("filtered\n");
    fflush(stdout);
    if (read(STDIN_FILENO, line, sizeof(line)) <= 0)
        return 3;
    state = 1;
    for (end = seconds_now() + seconds; seconds_now() < end; version++)
        rewrite(0, version);
    state = 2;
    while (state != 3)
        pause_ms(1);
    for (size_t i = 0; i < LOOP_PAGES; i += 2)
        pattern_check(loop_region + i * PAGE, i, version, "at the end");
    if (write(STDOUT_FILENO, done, sizeof(done) - 1) != sizeof(done) - 1)
        return 3;
    _exit(0);
}
