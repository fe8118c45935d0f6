/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: a program that gives up rights, or goes elsewhere, goes on, and what it set is in force.
 *
 * Each row is for ever, so with "loop" it is done by a forked child, once its own agent is there.
 */
#include "x_table.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define NOBODY     65534
#define THREADS    3u
#define ROUNDS_A_S 4000 /* of use_memory(), roughly */
#define BEFORE_S   0.05 /* as long as a child's agent needs to come */
#define AFTER_S    0.05 /* in the loop; alone: until the agent has seen what happened */
#define ALONE_S    0.25

static double seconds_after(void)
{
    return x_looping ? AFTER_S : ALONE_S;
}

/* Uses memory as programs do; mapping: with calls that go through the gate. */
static volatile bool threads_run, enough;
static unsigned started;

/* In strict mode there is no clock either: then the rounds are counted. */
static void use_memory(double seconds, bool mapping)
{
    double end = mapping ? seconds_now() + seconds : 0;
    unsigned rounds = (unsigned)(seconds * ROUNDS_A_S), round = 0;

    do {
        size_t first = round * X_WINDOW % X_PAGES;

        if (!threads_run) /* they have it in work */
            x_check_pages(x_region + first * PAGE, first, X_WINDOW, 0, "while it goes on");
        x_fill_pages(x_window, x_first, X_WINDOW, 1 + round);
        x_check_window(1 + round, "written");
        if (mapping)
            x_renew_window();
        else
            x_fill_pages(x_window, x_first, X_WINDOW, 0);
        round++;
    } while (mapping ? seconds_now() < end : round < rounds);
}

/* Here, or in the loop in a child, which is waited for; true where it is to be done. */
static bool starts(void)
{
    pid_t child = x_looping ? fork() : 0;

    if (child) {
        x_wait_child(child, "the child ended badly");
        return false;
    }
    if (x_looping)
        use_memory(BEFORE_S, true);
    return true;
}

static void for_ever(void (*give_up)(void))
{
    if (!starts())
        return;
    give_up();
    use_memory(seconds_after(), true);
    x_check_all("at the end");
    if (x_looping)
        _exit(0);
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ALLOW(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Whatever is not named kills the program. */
static void install_filter(bool mapping, unsigned flags)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        ALLOW(SYS_read),
        ALLOW(SYS_write),
        ALLOW(SYS_exit),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_futex),
        ALLOW(SYS_clock_gettime),
        ALLOW(SYS_rt_sigreturn),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        ALLOW(SYS_mmap),
        ALLOW(SYS_munmap),
        ALLOW(SYS_madvise),
        ALLOW(SYS_rt_sigprocmask), /* a thread ends with it */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    size_t kill = 15; /* the first verdict to kill */

    if (mapping)
        filter[kill] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    x_must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
               !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program),
           "no filter");
}

static void filter_with_mapping(void)
{
    install_filter(true, 0);
}

static void row_filter(void)
{
    for_ever(filter_with_mapping);
}

/* Only memory, no call that goes through the gate, and the end by the bare system call. */
static void end_bare(const char *word)
{
    if (!x_looping && write(1, word, strlen(word)) < 0)
        syscall(SYS_exit, 4);
    syscall(SYS_exit, 0);
}

static void go_bare(void (*give_up)(void))
{
    if (!starts())
        return;
    fflush(stdout);
    give_up();
    use_memory(seconds_after(), false);
    x_check_all("at the end");
    end_bare("ok\n");
}

static void strict_mode(void)
{
    x_must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict mode");
}

static void row_strict_mode(void)
{
    go_bare(strict_mode);
}

static void filter_without_mapping(void)
{
    install_filter(false, 0);
}

static void row_strict_filter(void)
{
    go_bare(filter_without_mapping);
}

/* Each thread maps and unmaps its own part of the region, so it meets lifts at the gate. */
static void *map_and_unmap(void *arg)
{
    size_t first = (x_first + X_PAGES / 4 * (1 + (uintptr_t)arg)) % X_PAGES;

    for (bool first_time = true; !enough; first_time = false) {
        char *at = x_region + first * PAGE;

        x_check_pages(at, first, X_WINDOW, 0, "a thread's part");
        x_renew(first, X_WINDOW);
        x_must(!madvise(at, PAGE, MADV_DONTNEED), "MADV_DONTNEED");
        pattern_fill(at, first, 0);
        if (first_time)
            __atomic_fetch_add(&started, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

/* Does it with threads running that go on through it. */
static void under_threads(void (*give_up)(void))
{
    pthread_t thread[THREADS];

    enough = false;
    started = 0;
    threads_run = true;
    for (uintptr_t i = 0; i < THREADS; i++)
        x_must(!pthread_create(&thread[i], NULL, map_and_unmap, (void *)i), "no thread");
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < THREADS)
        pause_ms(1); /* a thread that begins makes calls of libc's own */
    give_up();
    use_memory(seconds_after(), true);
    enough = true;
    for (unsigned i = 0; i < THREADS; i++)
        x_must(!pthread_join(thread[i], NULL), "pthread_join");
    threads_run = false;
}

static void filter_all_threads(void)
{
    install_filter(true, SECCOMP_FILTER_FLAG_TSYNC);
}

static void tsync_under_threads(void)
{
    under_threads(filter_all_threads);
}

static void row_tsync(void)
{
    for_ever(tsync_under_threads);
}

/* What the kernel says about the process, as far as it is of rights. */
static void note_rights(void)
{
    static const char *const told[] = {
        "Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "NoNewPrivs:"};
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];

    x_must(status != NULL, "/proc/self/status");
    while (fgets(line, sizeof(line), status)) {
        for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
            if (!strncmp(line, told[i], strlen(told[i])))
                x_note("%.*s", (int)strcspn(line, "\n"), line);
    }
    fclose(status);
    x_result("root's file", open("/etc/shadow", O_RDONLY | O_CLOEXEC) >= 0);
}

static void to_nobody(void)
{
    x_must(!setgroups(0, NULL) && !setresgid(NOBODY, NOBODY, NOBODY) &&
               !setresuid(NOBODY, NOBODY, NOBODY),
           "setresuid");
    note_rights();
}

static void row_setuid(void)
{
    for_ever(to_nobody);
}

/* While other threads run: libc has each of them make the call. */
static void to_nobody_threaded(void)
{
    under_threads(to_nobody);
}

static void row_setuid_threads(void)
{
    for_ever(to_nobody_threaded);
}

static void no_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};

    x_must(!syscall(SYS_capset, &head, data), "capset");
    note_rights();
}

static void row_capset(void)
{
    for_ever(no_capabilities);
}

static void own_user_namespace(void)
{
    if (unshare(CLONE_NEWUSER))
        x_skip("no user namespaces here");
    note_rights();
}

static void row_unshare_user(void)
{
    for_ever(own_user_namespace);
}

static void own_mounts(void)
{
    x_must(!unshare(CLONE_NEWNS), "unshare");
    x_must(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
}

static void mounts_hidden(void)
{
    struct stat st;

    own_mounts();
    x_must(!mount("none", "/mnt", "tmpfs", 0, "size=64k") && !mkdir("/mnt/x-row", 0700), "mount");
    x_result("in it", stat("/mnt/x-row", &st));
}

static void row_unshare_mounts(void)
{
    for_ever(mounts_hidden);
}

/* The children are in it: the first of them is process 1 there. */
static void own_pids(void)
{
    pid_t child;

    x_must(!unshare(CLONE_NEWPID), "unshare");
    child = fork();
    if (!child) {
        x_must(getpid() == 1, "not the first process");
        use_memory(seconds_after(), true);
        x_check_all("in the new namespace");
        _exit(0);
    }
    x_wait_child(child, "the first process ended badly");
}

static void row_unshare_pids(void)
{
    for_ever(own_pids);
}

/* Out of the namespaces and back. */
static void enter_namespaces(void)
{
    static const char *const names[] = {"/proc/self/ns/uts", "/proc/self/ns/ipc",
                                        "/proc/self/ns/net"};
    int fd[3];

    for (size_t i = 0; i < 3; i++)
        fd[i] = open(names[i], O_RDONLY | O_CLOEXEC);
    x_must(!unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare");
    use_memory(seconds_after(), true);
    for (size_t i = 0; i < 3; i++) {
        x_result(names[i], setns(fd[i], 0));
        close(fd[i]);
    }
}

static void row_setns(void)
{
    for_ever(enter_namespaces);
}

static void empty_root(void)
{
    char name[] = "x-root-XXXXXX";

    x_must(mkdtemp(name) && !chroot(name) && !chdir("/"), "chroot");
    x_result("outside", access("/etc", F_OK));
}

static void row_chroot(void)
{
    for_ever(empty_root);
    if (x_looping)
        (void)!system("rmdir x-root-*");
}

static void other_root(void)
{
    own_mounts();
    x_must(!mount("none", "/mnt", "tmpfs", 0, "size=64k") && !chdir("/mnt"), "mount");
    x_must(!syscall(SYS_pivot_root, ".", ".") && !umount2(".", MNT_DETACH) && !chdir("/"),
           "pivot_root");
    x_result("outside", access("/etc", F_OK));
}

static void row_pivot_root(void)
{
    for_ever(other_root);
}

static void not_dumpable(void)
{
    x_must(!prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
    x_note("dumpable %d", prctl(PR_GET_DUMPABLE));
}

static void row_not_dumpable(void)
{
    for_ever(not_dumpable);
}

static const struct x_row rows[] = {
    {"seccomp-strict-mode", row_strict_mode, NULL},
    {"seccomp-strict-filter", row_strict_filter, NULL},
    {"seccomp-filter", row_filter, NULL},
    {"seccomp-tsync", row_tsync, NULL},
    {"setuid", row_setuid, NULL},
    {"setuid-threads", row_setuid_threads, NULL},
    {"capset", row_capset, NULL},
    {"unshare-user", row_unshare_user, NULL},
    {"unshare-mounts", row_unshare_mounts, NULL},
    {"unshare-pids", row_unshare_pids, NULL},
    {"setns", row_setns, NULL},
    {"chroot", row_chroot, NULL},
    {"pivot-root", row_pivot_root, NULL},
    {"not-dumpable", row_not_dumpable, NULL},
};

int main(int argc, char **argv)
{
    return x_main(argc, argv, rows, sizeof(rows) / sizeof(rows[0]));
}
