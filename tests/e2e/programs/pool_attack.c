/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_attack FD PAGE: tries to change page PAGE of the segment that descriptor FD is, or to get it
 * open for writing, by all that a process can do with the descriptor and with mappings of it. Prints
 * a line for each attempt that got further than it should; exit status 0 if none did and the bytes are
 * what they were. Frames must hold against everybody who got them, root included.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef __NR_open_tree_attr
#define __NR_open_tree_attr 467
#endif

static int fd, dir;
static off_t at;
static size_t page;
static char before[65536];
static int broken;

/* What must not work: a return that is not negative is a hole. */
static void must_fail(const char *what, long ret)
{
    if (ret < 0)
        return;
    printf("%s: worked\n", what);
    broken = 1;
}

static void check_bytes(const char *after)
{
    char now[65536];

    if (pread(fd, now, page, at) == (ssize_t)page && !memcmp(now, before, page))
        return;
    printf("%s: the frame changed\n", after);
    broken = 1;
}

static long reopen(int as, int flags)
{
    char path[64];
    int got;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", as);
    got = open(path, flags | O_CLOEXEC);
    if (got >= 0) {
        if ((flags & O_ACCMODE) != O_RDONLY)
            (void)!pwrite(got, "X", 1, at);
        close(got);
    }
    return got;
}

static void descriptor(void)
{
    char byte[16] = "XXXXXXXXXXXXXXX";
    struct iovec iov = {byte, 16};
    int pipes[2];

    must_fail("write", write(fd, byte, 1));
    must_fail("pwrite", pwrite(fd, byte, 1, at));
    must_fail("pwritev", pwritev(fd, &iov, 1, at));
    must_fail("reopen O_RDWR", reopen(fd, O_RDWR));
    must_fail("reopen O_WRONLY", reopen(fd, O_WRONLY));
    must_fail("reopen O_TRUNC", reopen(fd, O_RDWR | O_TRUNC));
    must_fail("reopen O_RDONLY O_TRUNC", reopen(fd, O_RDONLY | O_TRUNC));
    must_fail("ftruncate", ftruncate(fd, 0));
    must_fail("fallocate", fallocate(fd, 0, at, (off_t)page));
    must_fail("fallocate punch",
              fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)page));
    must_fail("fallocate zero", fallocate(fd, FALLOC_FL_ZERO_RANGE, at, (off_t)page));
    must_fail("fchmod", fchmod(fd, 0666));
    must_fail("fchown", fchown(fd, getuid(), getgid()));
    must_fail("futimens", futimens(fd, NULL));
    must_fail("fsetxattr", fsetxattr(fd, "user.x", "x", 1, 0));
    must_fail("fsetxattr trusted", fsetxattr(fd, "trusted.x", "x", 1, 0));
    must_fail("F_SETFL O_APPEND and write", fcntl(fd, F_SETFL, O_APPEND) ? -1 : write(fd, byte, 1));
    must_fail("F_SETLEASE write", fcntl(fd, F_SETLEASE, F_WRLCK));
    must_fail("F_SETLEASE read", fcntl(fd, F_SETLEASE, F_RDLCK));
    must_fail("F_ADD_SEALS", fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    must_fail("copy_file_range", copy_file_range(fd, &(off_t){0}, fd, &(off_t){at}, page, 0));
    must_fail("sendfile", sendfile(fd, fd, &(off_t){0}, 1));
    must_fail("FICLONE", ioctl(fd, FICLONE, fd));
    must_fail("FS_IOC_SETFLAGS", ioctl(fd, FS_IOC_SETFLAGS, &(int){FS_IMMUTABLE_FL}));
    must_fail("linkat", syscall(SYS_linkat, fd, "", dir, "linked", AT_EMPTY_PATH));
    if (pipe(pipes) == 0) {
        (void)!write(pipes[1], byte, 1);
        must_fail("splice into it", splice(pipes[0], NULL, fd, &(off_t){at}, 1, 0));
        /* A pipe that holds the frame's page must not take bytes into it. */
        if (splice(fd, &(off_t){at}, pipes[1], NULL, 1, 0) == 1)
            (void)!write(pipes[1], byte, 16);
        close(pipes[0]);
        close(pipes[1]);
    }
    check_bytes("the descriptor");
}

static void write_through_mem(char *view, const char *what)
{
    int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    struct iovec local = {"X", 1}, remote = {view, 1};

    if (mem >= 0) {
        (void)!pwrite(mem, "X", 1, (off_t)(uintptr_t)view);
        close(mem);
    }
    (void)!process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
    check_bytes(what);
}

static void poke(char *view)
{
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0) {
        waitpid(pid, NULL, 0);
        ptrace(PTRACE_POKEDATA, pid, view, (void *)~0ul);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    check_bytes("PTRACE_POKEDATA");
}

static void reopen_map(char *view, const char *what)
{
    char path[80];
    int got;

    snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)view,
             (unsigned long)view + page);
    got = open(path, O_RDWR | O_CLOEXEC);
    must_fail(what, got);
}

static void userfault(char *view)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {(uintptr_t)view, page},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
        return;
    must_fail("userfaultfd on a view", ioctl(uffd, UFFDIO_REGISTER, &reg));
    close(uffd);
}

static void mappings(void)
{
    char *shared = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, at);
    char *private = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, at);
    char *written = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);

    must_fail("mmap MAP_SHARED PROT_WRITE", written == MAP_FAILED ? -1 : 0);
    if (shared == MAP_FAILED || private == MAP_FAILED) {
        puts("the segment cannot be mapped at all");
        broken = 1;
        return;
    }
    must_fail("mprotect of a view", mprotect(shared, page, PROT_READ | PROT_WRITE));
    must_fail("mprotect of a view, executable",
              mprotect(shared, page, PROT_READ | PROT_WRITE | PROT_EXEC));
    must_fail("MADV_REMOVE", madvise(shared, page, MADV_REMOVE));
    must_fail("MADV_REMOVE, private", madvise(private, page, MADV_REMOVE));
    must_fail("MADV_POPULATE_WRITE", madvise(shared, page, 23));
    reopen_map(shared, "reopen through map_files");
    write_through_mem(shared, "/proc/self/mem, a view");
    poke(shared);
    userfault(shared);
    (void)madvise(shared, page, MADV_DONTNEED);
    (void)madvise(shared, page, 20 /* MADV_COLD */);
    (void)madvise(shared, page, 21 /* MADV_PAGEOUT */);
    check_bytes("madvise");
    reopen_map(private, "reopen through map_files, private");
    memset(private, 'X', page);
    (void)msync(private, page, MS_SYNC);
    check_bytes("a write to a private mapping");
    munmap(private, page);
    private = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, at);
    write_through_mem(private, "/proc/self/mem, a private mapping");
    munmap(private, page);
    munmap(shared, page);
}

static long set_writable(int tree)
{
    struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};

    return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr));
}

static void through_tree(const char *what, long tree)
{
    char name[100];

    if (tree < 0)
        return;
    (void)set_writable((int)tree);
    snprintf(name, sizeof(name), "%s, then open for writing", what);
    must_fail(name, reopen((int)tree, O_RDWR));
    snprintf(name, sizeof(name), "%s, then open of what moves", what);
    if (syscall(SYS_move_mount, tree, "", dir, "target", MOVE_MOUNT_F_EMPTY_PATH) == 0) {
        int got = openat(dir, "target", O_RDWR | O_CLOEXEC);

        must_fail(name, got);
        if (got >= 0)
            (void)!pwrite(got, "X", 1, at);
    }
    close((int)tree);
}

/* A mount of our own of that file, without the read-only flag. */
static void mounts(const char *who)
{
    struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};
    char self[64], target[128], what[100];

    must_fail("mount_setattr of the file", set_writable(fd));
    must_fail("move_mount of the file",
              syscall(SYS_move_mount, fd, "", dir, "target", MOVE_MOUNT_F_EMPTY_PATH));
    must_fail("fspick", syscall(SYS_fspick, fd, "", FSPICK_EMPTY_PATH));
    snprintf(what, sizeof(what), "open_tree clone%s", who);
    through_tree(what, syscall(SYS_open_tree, fd, "",
                               AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    snprintf(what, sizeof(what), "open_tree_attr clone%s", who);
    through_tree(what, syscall(__NR_open_tree_attr, fd, "",
                               AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, &attr,
                               sizeof(attr)));
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    snprintf(target, sizeof(target), "/proc/self/fd/%d/target", dir);
    if (syscall(SYS_mount, self, target, NULL, MS_BIND, NULL) == 0) {
        int got;

        (void)syscall(SYS_mount, NULL, target, NULL, MS_REMOUNT | MS_BIND, NULL);
        got = openat(dir, "target", O_RDWR | O_CLOEXEC);
        snprintf(what, sizeof(what), "bind mount%s, then open for writing", who);
        must_fail(what, got);
        if (got >= 0)
            (void)!pwrite(got, "X", 1, at);
        (void)syscall(SYS_umount2, target, MNT_DETACH);
    }
    check_bytes(what);
}

static void handles(void)
{
    union {
        struct file_handle handle;
        char space[sizeof(struct file_handle) + 128];
    } h = {.handle = {.handle_bytes = 128}};
    int mount_id, got;

    if (name_to_handle_at(fd, "", &h.handle, &mount_id, AT_EMPTY_PATH))
        return;
    got = open_by_handle_at(fd, &h.handle, O_RDWR | O_CLOEXEC);
    must_fail("open_by_handle_at", got);
    if (got >= 0)
        (void)!pwrite(got, "X", 1, at);
    check_bytes("open_by_handle_at");
}

int main(int argc, char **argv)
{
    char where[] = "/tmp/pool-attack-XXXXXX";
    pid_t pid;
    int status = 1;

    if (argc != 3 || !mkdtemp(where))
        return 2;
    fd = atoi(argv[1]);
    page = (size_t)sysconf(_SC_PAGESIZE);
    at = (off_t)atol(argv[2]) * (off_t)page;
    if (pread(fd, before, page, at) != (ssize_t)page)
        return 2;
    dir = open(where, O_PATH | O_DIRECTORY | O_CLOEXEC);
    close(openat(dir, "target", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && unshare(CLONE_NEWNS) == 0) /* that no mount stays */
            syscall(SYS_mount, "none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
        descriptor();
        mappings();
        handles();
        mounts("");
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
            mounts(" in a user namespace");
        fflush(stdout);
        _exit(broken);
    }
    waitpid(pid, &status, 0);
    /* Once more where we came from: the daemon's own mount namespace perhaps, in the end undone. */
    through_tree("open_tree clone at home",
                 syscall(SYS_open_tree, fd, "",
                         AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    (void)umount2(where, MNT_DETACH);
    {
        char target[sizeof(where) + 8];

        snprintf(target, sizeof(target), "%s/target", where);
        (void)umount2(target, MNT_DETACH);
        unlink(target);
        snprintf(target, sizeof(target), "%s/linked", where);
        unlink(target);
    }
    rmdir(where);
    check_bytes("all of it");
    return broken || !WIFEXITED(status) || WEXITSTATUS(status);
}
