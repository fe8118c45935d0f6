/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open of one of the two files, when the kernel has done it: whose file is it, and samepage's in
 * its place.
 *
 * In this order: is this thread under a filter that may punish what comes? That is asked by the
 * very call that the program just made, of another file, which no filter can tell from it, and by
 * reading. Then, with signals blocked, so that no handler forks, jumps away or finds descriptors
 * that are not the program's: does the descriptor lead to this process' file, by what the kernel
 * says of it, however the path was written? What are the figures? Last, the file in memory.
 */
#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/memfd.h>
#include <linux/resource.h>

#include "gate.h"
#include "mem.h"
#include "own_file.h"
#include "sys.h"

#ifndef __NR_open
#define __NR_open (-1)
#endif

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#endif
#define SEALS    0xfu /* against seals, shrinking, growing, writing */
#define SET_MASK 2    /* of rt_sigprocmask */
#define STATUS   "/proc/thread-self/status"
#define LINE     32u /* bytes of a line of it that matter */
#define LINK                                                                                       \
    128u /* of what a descriptor leads to; longer than /proc/PID/task/TID/ksm_merging_pages */

/* Of a thread, in the numbers of this /proc. */
struct status {
    uint64_t tgid, pid;
    uint64_t mode; /* of seccomp; 0: under no filter */
};

static bool take(const char *line, const char *key, uint64_t *value)
{
    const char *number = line + sp_strlen(key);

    if (!sp_starts(line, key))
        return false;
    *value = sp_parse_dec(&number, line + LINE);
    return true;
}

static void take_line(const char *line, struct status *status)
{
    if (!take(line, "Tgid:\t", &status->tgid) && !take(line, "Pid:\t", &status->pid))
        take(line, "Seccomp:\t", &status->mode);
}

static bool read_status(int fd, struct status *status)
{
    char buf[256], line[LINE] = {0};
    unsigned length = 0;
    long n;

    *status = (struct status){0};
    while ((n = sp_sys(__NR_read, fd, buf, sizeof(buf))) > 0)
        for (long i = 0; i < n; i++) {
            if (buf[i] == '\n') {
                line[length] = 0;
                take_line(line, status);
                length = 0;
            } else if (length < LINE - 1) {
                line[length++] = buf[i];
            }
        }
    return n == 0 && status->tgid && status->pid;
}

/* Opens the thread's status, and reads it, by the call that the program made. The descriptor, or a
 * negative errno. */
static long open_status(long nr, const long *a, struct status *status)
{
    long fd = (int)nr == __NR_openat ? sp_sys(nr, a[0], STATUS, a[2], a[3])
                                     : sp_sys(nr, STATUS, a[1], a[2]);

    if (sp_is_err(fd) || (read_status((int)fd, status) && !status->mode))
        return fd;
    sp_sys(__NR_close, fd);
    return -EACCES;
}

/* Takes the end of the link away if it is this. */
static bool cut(const char *link, size_t *length, const char *end)
{
    size_t n = sp_strlen(end);

    if (*length < n || memcmp(link + *length - n, end, n) != 0)
        return false;
    *length -= n;
    return true;
}

/* The same with a slash and a number; false: there is none. */
static bool cut_number(const char *link, size_t *length, uint64_t *number)
{
    size_t at = *length;
    const char *digits;

    while (at && link[at - 1] >= '0' && link[at - 1] <= '9')
        at--;
    if (at == *length || !at || link[at - 1] != '/')
        return false;
    digits = link + at;
    *number = sp_parse_dec(&digits, link + *length);
    *length = at - 1;
    return true;
}

/* .../PID/ksm_stat, and .../PID/task/TID/ksm_stat, where PID is this process, or this thread, and
 * TID any of it. */
static enum sp_own_file file_of(const char *link, size_t length, const struct status *status)
{
    enum sp_own_file which = SP_OWN_NONE;
    uint64_t number;

    if (cut(link, &length, "/ksm_stat"))
        which = SP_OWN_STAT;
    else if (cut(link, &length, "/ksm_merging_pages"))
        which = SP_OWN_MERGING;
    if (which == SP_OWN_NONE || !cut_number(link, &length, &number))
        return SP_OWN_NONE;
    if (!cut(link, &length, "/task"))
        return number == status->tgid || number == status->pid ? which : SP_OWN_NONE;
    return cut_number(link, &length, &number) && number == status->tgid ? which : SP_OWN_NONE;
}

static void path_of(char path[64], int fd)
{
    struct sp_text text;

    sp_text_init(&text, path, 64);
    sp_text_str(&text, "/proc/thread-self/fd/");
    sp_text_dec(&text, (uint64_t)fd);
}

/* Which of the files fd is, of the /proc that the status is of. */
static enum sp_own_file look(int fd, int status_fd, const struct status *status)
{
    struct stat of_fd, of_status;
    char path[64], link[LINK];
    long n;

    if (sp_sys(__NR_fstat, fd, &of_fd) != 0 || sp_sys(__NR_fstat, status_fd, &of_status) != 0 ||
        of_fd.st_dev != of_status.st_dev)
        return SP_OWN_NONE;
    path_of(path, fd);
    n = sp_sys(__NR_readlinkat, AT_FDCWD, path, link, sizeof(link));
    return n > 0 && n < (long)sizeof(link) ? file_of(link, (size_t)n, status) : SP_OWN_NONE;
}

static long open_memory(enum sp_own_file which)
{
    const char *name = which == SP_OWN_STAT ? "ksm_stat" : "ksm_merging_pages";
    long fd = sp_sys(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    return fd == -EINVAL ? sp_sys(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd;
}

/* RLIMIT_FSIZE holds for files in memory, too, and who goes beyond it is killed by a signal. */
static bool may_write(size_t length)
{
    struct rlimit64 limit;

    return sp_sys(__NR_prlimit64, 0, RLIMIT_FSIZE, 0, &limit) == 0 && limit.rlim_cur >= length;
}

/* To be read only, as the kernel's: opened a second time for that. The descriptor, or a negative
 * errno. */
static long make_file(enum sp_own_file which, const char *text, size_t length)
{
    long memory = open_memory(which), fd = -EIO;
    char path[64];

    if (sp_is_err(memory))
        return memory;
    if (may_write(length) && sp_sys(__NR_pwrite64, memory, text, length, 0) == (long)length &&
        sp_sys(__NR_fchmod, memory, 0400) == 0 &&
        sp_sys(__NR_fcntl, memory, F_ADD_SEALS, SEALS) == 0) {
        path_of(path, (int)memory);
        fd = sp_sys(__NR_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    }
    sp_sys(__NR_close, memory);
    return fd;
}

static void replace(int fd, enum sp_own_file which, long flags)
{
    char text[SP_OWN_TEXT];
    size_t length = sp_own_ask(which, text);
    long file = length ? make_file(which, text, length) : -ESRCH;

    if (sp_is_err(file))
        return;
    sp_sys(__NR_dup3, file, fd, flags & O_CLOEXEC);
    sp_sys(__NR_close, file);
}

__attribute__((noinline)) void sp_own_open(long nr, const long *a, int fd)
{
    uint64_t all = ~(uint64_t)0, old = 0;
    enum sp_own_file which;
    struct status status;
    long status_fd = open_status(nr, a, &status);

    if (sp_is_err(status_fd))
        return;
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    which = look(fd, (int)status_fd, &status);
    sp_sys(__NR_close, status_fd);
    if (which != SP_OWN_NONE)
        replace(fd, which, (int)nr == __NR_open ? a[1] : a[2]);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
}
