/* SPDX-License-Identifier: Apache-2.0 */
/* X: filters, dropped privileges, namespaces, seals, a userfaultfd of one's own: what a program
 * does once. So a forked child does it, which was merged until then, and goes on working after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

#define NOBODY 65534
#define ALLOW(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Forks; the child works a little, does `change` and works on. A change returns false where it is
 * not possible here. */
static bool in_child(struct actor *a, struct block *b, uint64_t *state,
                     bool (*change)(struct actor *a, struct block *b, uint64_t *state),
                     const char *what)
{
    pid_t pid;

    if (b->npages > 1024)
        return false;
    pid = fork_with(a, b, 0);
    if (pid < 0)
        return false;
    if (!pid) {
        snapshot_check(a, b, what);
        child_works(a, b, state, 2 + (unsigned)chance(state) % 4, 10);
        if (!change(a, b, state))
            _exit(0);
        snapshot_check(a, b, what);
        child_works(a, b, state, 3, 5);
        _exit(0);
    }
    child_wait(pid, what, 0);
    block_check_some(b, state, what);
    return true;
}

static bool drop_root(struct actor *a, struct block *b, uint64_t *state)
{
    return !setgroups(0, NULL) && !setgid(NOBODY) && !setuid(NOBODY);
}

OP(op_child_setuid)
{
    return in_child(a, b, state, drop_root, "child-setuid");
}

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
    char text[120];
    int n =
        snprintf(text, sizeof(text), "a filtered child made a system call of ours: %d, near %p\n",
                 info->si_syscall, info->si_call_addr);

    (void)!write(2, text, (size_t)n);
    _exit(5);
}

/* Only what the child itself needs from here on: any other call is told of, and ends it. */
static bool filter(struct actor *a, struct block *b, uint64_t *state)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(__NR_madvise),
        ALLOW(__NR_mmap),
        ALLOW(__NR_clock_nanosleep),
        ALLOW(__NR_nanosleep),
        ALLOW(__NR_exit_group),
        ALLOW(__NR_rt_sigreturn),
        ALLOW(__NR_write), /* of a report */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    struct sigaction action = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};

    return !sigaction(SIGSYS, &action, NULL) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

OP(op_child_seccomp)
{
    return in_child(a, b, state, filter, "child-seccomp");
}

static bool leave_namespaces(struct actor *a, struct block *b, uint64_t *state)
{
    return !unshare(chance(state) % 2 ? CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS : CLONE_NEWUSER);
}

OP(op_child_unshare)
{
    return in_child(a, b, state, leave_namespaces, "child-unshare");
}

static bool change_root(struct actor *a, struct block *b, uint64_t *state)
{
    return !chroot(options.directory) && !chdir("/");
}

OP(op_child_chroot)
{
    return in_child(a, b, state, change_root, "child-chroot");
}

static bool no_new_code(struct actor *a, struct block *b, uint64_t *state)
{
    void *map;

    if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
        return false;
    map = mmap(NULL, PAGE, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map != MAP_FAILED)
        wrong("it is not in force", "child-mdwe");
    return true;
}

OP(op_child_mdwe)
{
    return in_child(a, b, state, no_new_code, "child-mdwe");
}

/* What is sealed stays where it is, and can be written. */
static bool seal(struct actor *a, struct block *b, uint64_t *state)
{
    uint32_t half = b->npages / 2;

    if (!half || syscall(__NR_mseal, b->base, (size_t)half * PAGE, 0))
        return false;
    if (!munmap(b->base, PAGE) || errno != EPERM)
        wrong("sealed memory can be unmapped", "child-mseal");
    if (mmap(page_at(b, half - 1), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) != MAP_FAILED)
        wrong("sealed memory can be mapped over", "child-mseal");
    snapshot_check(a, b, "sealed");
    for (uint32_t i = 0; i < half; i++) {
        a->snapshot[i] = page_chosen(b, i, state);
        page_fill(page_at(b, i), &a->snapshot[i]);
    }
    pause_ms(20);
    snapshot_check(a, b, "sealed and written");
    _exit(0);
}

OP(op_child_mseal)
{
    return in_child(a, b, state, seal, "child-mseal");
}

/* Where an agent was killed, merged memory that is dropped is not missing: it is zeros. */
static void not_missing(void)
{
    if (agent_killed())
        _exit(0);
    wrong("a page that was dropped is there", "child-userfaultfd");
}

static bool own_uffd(struct actor *a, struct block *b, uint64_t *state)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    uint32_t first, n;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        return false;
    block_stretch(b, state, 32, &first, &n);
    range.range.start = (uintptr_t)page_at(b, first);
    range.range.len = (uint64_t)n * PAGE;
    if (ioctl(fd, UFFDIO_REGISTER, &range)) {
        if (options.store && errno == EINVAL)
            return false;
        wrong("memory cannot be registered", "child-userfaultfd");
    }
    snapshot_check(a, b, "registered with a userfaultfd");
    if (madvise(page_at(b, first), (size_t)n * PAGE, MADV_DONTNEED))
        wrong("MADV_DONTNEED failed", "child-userfaultfd");
    pause_ms(20);
    for (uint32_t i = first; i < first + n; i++) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)page_at(b, i), .src = (uintptr_t)a->buffer, .len = PAGE};

        a->snapshot[i] = page_chosen(b, i, state);
        page_fill(a->buffer, &a->snapshot[i]);
        if (ioctl(fd, UFFDIO_COPY, &copy))
            not_missing();
    }
    snapshot_check(a, b, "given by a userfaultfd");
    pause_ms(20);
    snapshot_check(a, b, "given by a userfaultfd, later");
    close(fd);
    return true;
}

OP(op_child_userfaultfd)
{
    return in_child(a, b, state, own_uffd, "child-userfaultfd");
}

static bool forbid(struct actor *a, struct block *b, uint64_t *state)
{
    return !prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

OP(op_child_undumpable)
{
    return in_child(a, b, state, forbid, "child-undumpable");
}

/* Of a child's memory only the block is left, or all of the worker's would be copied and locked. */
static bool lock_future(struct actor *a, struct block *b, uint64_t *state)
{
    for (uint32_t i = 0; i < nblocks; i++)
        if (&block[i] != b)
            munmap(block[i].base, (size_t)block[i].npages * PAGE);
    return !mlockall(MCL_CURRENT | MCL_FUTURE) ||
           (errno != EAGAIN && errno != ENOMEM && (wrong("it failed", "child-mlockall-future"), 0));
}

OP(op_child_locks_future)
{
    return in_child(a, b, state, lock_future, "child-mlockall-future");
}
