/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage-ksmfs: mounts, serves until it is unmounted or told to end, and takes its mount away.
 * "samepage mount" and "samepage umount" run it, and have looked at their options before.
 */
#include "ksmfs.h"

#include "socket_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define THREADS_IDLE_MAX 4
#define LOCK_SECONDS     30 /* that another one may take to mount, or to unmount */
#define COULD_NOT        1
#define WRONG_USE        2

static int say(const char *what, const char *path, int err)
{
    fprintf(stderr, "samepage: %s %s: %s\n", what, path, strerror(-err));
    return COULD_NOT;
}

/* What an earlier server left there when it died. */
static int remove_dead(const char *path)
{
    struct ksmfs_mount mount;
    int err;

    while (ksmfs_mount_is_dead(path)) {
        err = ksmfs_mount_find(path, &mount);
        if (!err && !mount.ours)
            err = -ENOTCONN;
        if (!err)
            err = ksmfs_mount_remove(path);
        if (err)
            return say("cannot take away the dead mount at", path, err);
    }
    return 0;
}

static void on_interrupt(int sig)
{
}

/* flock(), for so long. Whether it got the lock is not told: any user who may read the folder can
 * hold it for ever, and keeps nobody from mounting by that. */
static void lock_in_time(int fd)
{
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    struct itimerval timer = {.it_value.tv_sec = LOCK_SECONDS, .it_interval.tv_sec = 1}, off = {0};

    if (sigaction(SIGALRM, &action, &before) < 0)
        return;
    if (setitimer(ITIMER_REAL, &timer, NULL) == 0)
        flock(fd, LOCK_EX);
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
}

/* Keeps others who mount, or unmount, out until it is closed. It is the folder above that is locked, for a dead
 * mount cannot be opened. -1: it cannot either, so nobody is kept out. */
static int lock_above(const char *path)
{
    char above[PATH_MAX];
    int length = (int)(strrchr(path, '/') - path);
    int fd;

    snprintf(above, sizeof(above), "%.*s", length ? length : 1, path);
    fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        lock_in_time(fd);
    return fd;
}

static int umount_once(const char *path)
{
    struct ksmfs_mount mount;
    int err = ksmfs_mount_find(path, &mount);

    if (err == -ENOENT || (!err && !mount.ours)) {
        fprintf(stderr,
                "samepage: no ksmfs is mounted at %s; \"findmnt -t fuse.ksmfs\" lists them\n",
                path);
        return COULD_NOT;
    }
    if (!err)
        err = ksmfs_mount_remove(path);
    return err ? say("cannot unmount", path, err) : 0;
}

/* What it finds is what it takes away: nobody mounts in between. */
static int do_umount(const char *dir)
{
    char path[PATH_MAX];
    int err = ksmfs_mount_path(dir, path, sizeof(path));
    int lock;

    if (err)
        return say("cannot find", dir, err);
    lock = lock_above(path);
    err = umount_once(path);
    if (lock >= 0)
        close(lock);
    return err;
}

/* The background: the parent ends at once, for the mount stands already; who uses it before we
 * serve waits. 0 in the child. */
static int go_to_background(void)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t child = null_fd < 0 ? -1 : fork();

    if (child < 0)
        return -errno;
    if (child > 0)
        _exit(0);
    setsid();
    dup2(null_fd, STDIN_FILENO);
    dup2(null_fd, STDOUT_FILENO);
    dup2(null_fd, STDERR_FILENO);
    close(null_fd);
    return 0;
}

/* libfuse sends this to a thread whose caller was interrupted, so that it stops waiting; it sees to
 * a handler itself only where the option came on the command line. */
static int handle_interrupt(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};

    return sigaction(KSMFS_INTERRUPT, &action, NULL) < 0 ? -errno : 0;
}

static int serve(struct fuse *fuse)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int err;

    if (!config)
        return -ENOMEM;
    fuse_loop_cfg_set_max_threads(config, KSMFS_THREADS_MAX);
    fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE_MAX);
    err = fuse_loop_mt(fuse, config);
    fuse_loop_cfg_destroy(config);
    return err < 0 ? err : 0;
}

/* Another mount may lie there by now, ours being open in some program only. */
static void unmount_own(const char *path, unsigned id)
{
    struct ksmfs_mount mount;

    if (ksmfs_mount_find(path, &mount) == 0 && mount.ours && mount.id == id)
        ksmfs_mount_remove(path);
}

/* One at a time: of two that begin at once the second one finds what the first one mounted, and
 * neither takes that for the dead mount that was there before. */
static int mount_once(struct fuse *fuse, const char *path, struct ksmfs_mount *mount)
{
    int lock = lock_above(path);
    int err = remove_dead(path);

    if (!err && ksmfs_mount_find(path, mount) == 0 && mount->ours) {
        fprintf(stderr, "samepage: a ksmfs is mounted at %s already\n", path);
        err = COULD_NOT;
    }
    /* libfuse says itself why it cannot mount. */
    if (!err && fuse_mount(fuse, path) < 0) {
        fprintf(stderr, "samepage: cannot mount at %s\n", path);
        err = COULD_NOT;
    }
    if (lock >= 0)
        close(lock);
    return err;
}

static int mount_and_serve(struct fuse *fuse, const char *path, bool foreground)
{
    struct ksmfs_mount mount = {0};
    int err;

    if (mount_once(fuse, path, &mount))
        return COULD_NOT;
    err = ksmfs_mount_find(path, &mount);
    if (!err && fuse_set_signal_handlers(fuse_get_session(fuse)) < 0)
        err = -ENOMEM;
    if (!err)
        err = handle_interrupt();
    if (!err && !foreground)
        err = go_to_background();
    if (!err)
        err = chdir("/") < 0 ? -errno : serve(fuse);
    unmount_own(path, mount.id);
    return err ? say("cannot serve", path, err) : 0;
}

/* The server works in another folder than the one in which the daemon's socket was named. */
static int socket_of(char *path, size_t size)
{
    char named[sizeof(((struct sockaddr_un *)0)->sun_path)], here[PATH_MAX] = "";
    int err = sp_socket_choose(named, sizeof(named));
    int n;

    if (err)
        return err;
    if (named[0] != '/' && !getcwd(here, sizeof(here)))
        return -errno;
    n = named[0] == '/' ? snprintf(path, size, "%s", named)
                        : snprintf(path, size, "%s/%s", strcmp(here, "/") ? here : "", named);
    return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static int do_mount(const char *dir, bool foreground)
{
    char *argv[] = {"samepage-ksmfs", "-o",
                    geteuid() == 0 ? "default_permissions,fsname=samepage,subtype=ksmfs,nosuid,"
                                     "nodev,noexec,allow_other"
                                   : "default_permissions,fsname=samepage,subtype=ksmfs",
                    NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    char path[PATH_MAX], socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct fuse *fuse;
    int err;

    err = socket_of(socket_path, sizeof(socket_path));
    if (err)
        return say("the daemon's socket:", "SAMEPAGE_SOCKET", err);
    err = ksmfs_mount_path(dir, path, sizeof(path));
    if (err)
        return say("cannot mount at", dir, err);
    fuse = fuse_new(&args, &ksmfs_operations, sizeof(ksmfs_operations), NULL);
    if (!fuse)
        return say("cannot mount at", path, -ENOMEM);
    ksmfs_ask_init(socket_path, fuse);
    err = mount_and_serve(fuse, path, foreground);
    fuse_destroy(fuse);
    fuse_opt_free_args(&args);
    return err;
}

int main(int argc, char **argv)
{
    bool foreground = argc == 3 && !strcmp(argv[1], "--foreground");
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close_range(STDERR_FILENO + 1, ~0u, 0); /* a pipe that the caller's shell waits for */
    if (argc == 3 && !strcmp(argv[1], "--umount"))
        return do_umount(argv[2]);
    if (foreground || (argc == 3 && !strcmp(argv[1], "--mount")))
        return do_mount(argv[2], foreground);
    fprintf(stderr, "samepage-ksmfs: \"samepage mount\" and \"samepage umount\" run it\n");
    return WRONG_USE;
}
