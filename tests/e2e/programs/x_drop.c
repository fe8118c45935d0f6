/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives up rights and stays. usage: x_drop user|filter|forked|inside: becomes nobody, installs a seccomp
 * filter (which allows all), forks a child that becomes nobody, or does as filter while a thread is
 * inside an address-space call, which it leaves on a line: it waits for a page of our own userfaultfd.
 *
 * Fills a region that is equal in every x_drop, prints "ready ADDRESS BYTES"; on a line gives up,
 * prints "dropped PID" (and "left", inside); on the next one checks all bytes and ends.
 */
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"
#include "wchan.h"

#define NPAGES 2048u
#define NOBODY 65534

static void listen_line(void)
{
    char line[16];

    if (read(0, line, sizeof(line)) <= 0)
        exit(3);
}

static void become_nobody(void)
{
    if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
        setresuid(NOBODY, NOBODY, NOBODY))
        die("setresuid");
}

static void filter_nothing(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("seccomp");
}

static char *missing; /* a page of our own userfaultfd's */
static int uffd;
static atomic_int tid;
static pthread_t thread;

static void *call(void *unused)
{
    tid = (int)syscall(SYS_gettid);
    if (madvise(missing, PAGE, MADV_POPULATE_READ))
        die("MADV_POPULATE_READ");
    return unused;
}

static void register_missing(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    missing = region_map(1);
    reg.range = (struct uffdio_range){(uintptr_t)missing, PAGE};
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
        die("userfaultfd");
}

/* Returns when a thread is inside, and waits there. */
static void start_call(void)
{
    if (pthread_create(&thread, NULL, call, NULL))
        die("pthread_create");
    wchan_wait(&tid, "userfault");
}

static void end_call(void)
{
    struct uffdio_zeropage zero = {.range = {(uintptr_t)missing, PAGE}};

    if (ioctl(uffd, UFFDIO_ZEROPAGE, &zero) || pthread_join(thread, NULL))
        die("UFFDIO_ZEROPAGE");
    printf("left\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bool inside = argc == 2 && !strcmp(argv[1], "inside");
    char *region = region_map(NPAGES);
    pid_t child = 0;
    int status = 0;

    if (argc != 2)
        return 2;
    if (inside)
        register_missing();
    region_fill(region, NPAGES, 0);
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    if (!strcmp(argv[1], "forked"))
        child = fork();
    if (child) {
        waitpid(child, &status, 0);
        return status != 0;
    }
    if (inside)
        start_call();
    if (inside || !strcmp(argv[1], "filter"))
        filter_nothing();
    else
        become_nobody();
    printf("dropped %d\n", getpid());
    fflush(stdout);
    listen_line();
    if (inside) {
        end_call();
        listen_line();
    }
    region_check(region, NPAGES, 0, "after rights were given up");
    return 0;
}
