/* SPDX-License-Identifier: Apache-2.0 */
#include "probes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"

#define NEEDED_MAJOR 6
#define NEEDED_MINOR 8

static const char newer[] = "run Linux 6.8 or later";

const char *sp_state_name(enum sp_state state)
{
    return state == SP_STATE_OK ? "ok" : state == SP_STATE_WARNING ? "warning" : "missing";
}

void sp_checks_add(struct sp_checks *checks, const char *name, enum sp_state state, const char *fix,
                   const char *found, ...)
{
    struct sp_check *check = &checks->check[checks->n];
    va_list args;

    if (checks->n == SP_CHECKS_MAX)
        return;
    checks->n++;
    check->name = name;
    check->state = state;
    snprintf(check->fix, sizeof(check->fix), "%s", state == SP_STATE_OK || !fix ? "" : fix);
    va_start(args, found);
    vsnprintf(check->found, sizeof(check->found), found, args);
    va_end(args);
}

int sp_features_userfaultfd(int device, const char **how)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), err = errno, own;

    *how = "by the system call";
    if (fd >= 0)
        return fd;
    own = device < 0 ? open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) : device;
    if (own < 0)
        return -err;
    *how = device < 0 ? "by /dev/userfaultfd" : "passed by the daemon";
    fd = ioctl(own, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    err = errno;
    if (own != device)
        close(own);
    return fd < 0 ? -err : fd;
}

/* A small file's first line; "" if it cannot be read. */
static void read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");

    line[0] = 0;
    if (f && fgets(line, (int)size, f))
        line[strcspn(line, "\n")] = 0;
    if (f)
        fclose(f);
}

static void check_version(struct sp_checks *checks)
{
    unsigned major = 0, minor = 0;
    struct utsname name;

    if (uname(&name) || sscanf(name.release, "%u.%u", &major, &minor) != 2)
        snprintf(name.release, sizeof(name.release), "unknown");
    sp_checks_add(checks, "kernel",
                  major > NEEDED_MAJOR || (major == NEEDED_MAJOR && minor >= NEEDED_MINOR)
                      ? SP_STATE_OK
                      : SP_STATE_MISSING,
                  newer, "Linux %.60s", name.release);
}

static void check_uffd_features(struct sp_checks *checks, int uffd)
{
    static const struct {
        const char *name, *what;
        uint64_t bit;
    } feature[] = {
        {"UFFDIO_MOVE", "moves pages", SP_UFFD_MOVE},
        {"WP_ASYNC", "notes written pages", SP_UFFD_WP_ASYNC},
        {"WP_UNPOPULATED", "notes pages written for the first time", SP_UFFD_WP_UNPOPULATED},
        {"WP_SHMEM", "un-merges while the program writes", SP_UFFD_WP_SHMEM},
    };
    struct uffdio_api api = {.api = UFFD_API};
    /* One for faults of the program only everybody gets, and it has the same features. */
    int own = uffd < 0 ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) : uffd;
    bool asked = own >= 0 && ioctl(own, UFFDIO_API, &api) == 0;

    if (own >= 0 && own != uffd)
        close(own);

    for (unsigned i = 0; i < sizeof(feature) / sizeof(feature[0]); i++) {
        bool there = asked && (api.features & feature[i].bit);

        sp_checks_add(checks, feature[i].name,
                      there   ? SP_STATE_OK
                      : asked ? SP_STATE_MISSING
                              : SP_STATE_WARNING,
                      asked ? newer : "see userfaultfd", "%s",
                      asked ? feature[i].what : "cannot be asked without userfaultfd");
    }
}

static void check_pagemap_scan(struct sp_checks *checks)
{
    static char byte = 1;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)&byte & ~(page - 1);
    struct sp_page_region region;
    struct sp_pm_scan_arg arg = {.size = sizeof(arg),
                                 .start = at,
                                 .end = at + page,
                                 .vec = (uintptr_t)&region,
                                 .vec_len = 1,
                                 .category_mask = SP_PAGE_PRESENT,
                                 .return_mask = SP_PAGE_PRESENT};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        sp_checks_add(checks, "PAGEMAP_SCAN", SP_STATE_MISSING, "mount /proc",
                      "/proc/self/pagemap cannot be read: %s", strerror(errno));
    else if (ioctl(fd, SP_PAGEMAP_SCAN, &arg) < 0)
        sp_checks_add(checks, "PAGEMAP_SCAN", SP_STATE_MISSING, newer, "%s", strerror(errno));
    else
        sp_checks_add(checks, "PAGEMAP_SCAN", SP_STATE_OK, NULL, "tells which pages were written");
    if (fd >= 0)
        close(fd);
}

static void check_memfd(struct sp_checks *checks)
{
    int fd = memfd_create("samepage-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool sealed = fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0;

    sp_checks_add(checks, "memfd", sealed ? SP_STATE_OK : SP_STATE_MISSING,
                  "allow memfd_create(2) and its seals in the container's seccomp profile", "%s",
                  sealed ? "can be made and sealed" : "cannot be made and sealed");
    if (fd >= 0)
        close(fd);
}

static void check_leases(struct sp_checks *checks)
{
    char enabled[16];

    read_line("/proc/sys/fs/leases-enable", enabled, sizeof(enabled));
    sp_checks_add(checks, "leases", enabled[0] == '1' ? SP_STATE_OK : SP_STATE_WARNING,
                  "set fs.leases-enable=1, else memory of frames is never given back early", "%s",
                  enabled[0] == '1' ? "tell when a frame is in nobody's hands"
                                    : "are switched off");
}

static void check_kcmp(struct sp_checks *checks)
{
    long ret = syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0);

    if (ret == 0)
        sp_checks_add(checks, "kcmp", SP_STATE_OK, NULL, "tells whose memory is whose");
    else
        sp_checks_add(checks, "kcmp", SP_STATE_MISSING,
                      "run a kernel with CONFIG_KCMP, and allow kcmp(2) in seccomp profiles", "%s",
                      strerror(errno));
}

void sp_features_kernel(struct sp_checks *checks, int uffd)
{
    check_version(checks);
    check_uffd_features(checks, uffd);
    check_pagemap_scan(checks);
    check_memfd(checks);
    check_leases(checks);
    check_kcmp(checks);
}

/* As the pool does it (mount_child.h), in a child: 0, or the errno of what failed. */
static int try_mounts(void)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    int fs, mnt, clone;

    if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return errno;
    fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return errno;
    mnt = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    if (mnt < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        move_mount(mnt, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH))
        return errno;
    clone = open_tree(mnt, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (clone < 0 || mount_setattr(clone, "", AT_EMPTY_PATH, &attr, sizeof(attr)))
        return errno;
    return 0;
}

static void check_mounts(struct sp_checks *checks, enum sp_state severity)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(try_mounts());
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        status = EAGAIN << 8;
    if (WEXITSTATUS(status) == 0)
        sp_checks_add(checks, "pool", SP_STATE_OK, NULL, "this user may mount a tmpfs for it");
    else
        sp_checks_add(
            checks, "pool", severity,
            "have root run samepaged, or allow user namespaces (user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone)",
            "this user cannot mount a tmpfs for it: %s", strerror(WEXITSTATUS(status)));
}

/* Only a daemon of one's own is held back by Yama: root has CAP_SYS_PTRACE. */
static void check_yama(struct sp_checks *checks, enum sp_state severity)
{
    char scope[16];
    bool restricted;

    read_line("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope));
    restricted = scope[0] > '0' && (geteuid() != 0 || scope[0] == '3');
    sp_checks_add(checks, "ptrace", restricted ? severity : SP_STATE_OK,
                  "have root run samepaged, or set kernel.yama.ptrace_scope=0", "%s%s",
                  scope[0] ? "kernel.yama.ptrace_scope is " : "no Yama restricts it", scope);
}

static void check_hidepid(struct sp_checks *checks, enum sp_state severity)
{
    char line[1024], *option = NULL;
    FILE *f = fopen("/proc/self/mountinfo", "re");

    while (f && !option && fgets(line, sizeof(line), f)) {
        if (strstr(line, " /proc ") && strstr(line, " - proc "))
            option = strstr(line, "hidepid=");
    }
    if (f)
        fclose(f);
    if (option)
        option[strcspn(option, ", \n")] = 0;
    if (option && strcmp(option, "hidepid=0") && strcmp(option, "hidepid=off") && geteuid() != 0)
        sp_checks_add(checks, "proc", severity,
                      "have root run samepaged; one's own daemon sees no other users' processes",
                      "mounted with %.40s", option);
    else
        sp_checks_add(checks, "proc", SP_STATE_OK, NULL, "/proc shows processes");
}

void sp_features_daemon(struct sp_checks *checks, enum sp_state severity)
{
    check_mounts(checks, severity);
    check_yama(checks, severity);
    check_hidepid(checks, SP_STATE_WARNING);
}
