/* SPDX-License-Identifier: Apache-2.0 */
#include "pins.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "kernel.h"

#define DESCRIPTORS_MAX 4096u /* that are looked at; who has more counts as not known */
#define TEXT_MAX        65536u
#define MOUNTS_MAX      (16u * TEXT_MAX)

const char *sp_pins_name(enum sp_pins pins)
{
    static const char *const name[SP_PINS_KINDS] = {
        [SP_PINS_NONE] = "none",           [SP_PINS_UNKNOWN] = "unknown",
        [SP_PINS_MEMORY] = "pinned_memory", [SP_PINS_AIO] = "aio",
        [SP_PINS_IO_URING] = "io_uring",   [SP_PINS_DIRECT] = "direct_io",
        [SP_PINS_FILESYSTEM] = "file_system", [SP_PINS_DEVICE] = "device",
        [SP_PINS_SOCKET] = "socket",
    };

    return name[pins];
}

/* ---- the parts ---- */

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, list[i]) == 0)
            return true;
    }
    return false;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* The number behind a key at the beginning of a line; -1: there is none. */
static long long number_of(const char *text, const char *key)
{
    const char *at = text;

    while (at && !starts_with(at, key)) {
        at = strchr(at, '\n');
        at = at ? at + 1 : NULL;
    }
    return at ? strtoll(at + strlen(key), NULL, 10) : -1;
}

enum sp_pins sp_pins_of_status(const char *text)
{
    /* Without a first thread /proc/PID/fd is empty, whatever the others have open. */
    if (number_of(text, "FDSize:") <= 0 || number_of(text, "VmPin:") < 0)
        return SP_PINS_UNKNOWN;
    return number_of(text, "VmPin:") > 0 ? SP_PINS_MEMORY : SP_PINS_NONE;
}

enum sp_pins sp_pins_of_mapping(const char *line)
{
    const char *name = strchr(line, '/');

    /* "/[aio] (deleted)", "anon_inode:[io_uring]": both outlive their descriptors. */
    if (name && starts_with(name, "/[aio]"))
        return SP_PINS_AIO;
    return strstr(line, "anon_inode:[io_uring]") ? SP_PINS_IO_URING : SP_PINS_NONE;
}

enum sp_pins_link sp_pins_of_link(const char *link, enum sp_pins *why)
{
    static const char *const fine[] = {
        "anon_inode:[eventfd]", "anon_inode:[eventpoll]",   "anon_inode:[timerfd]",
        "anon_inode:[signalfd]", "anon_inode:inotify",      "anon_inode:[fanotify]",
        "anon_inode:[pidfd]",   "anon_inode:[userfaultfd]", "anon_inode:[perf_event]",
        "anon_inode:bpf-prog",  "anon_inode:bpf_link",      "anon_inode:seccomp notify",
        "anon_inode:landlock-ruleset",
    };

    *why = SP_PINS_NONE;
    if (starts_with(link, "pipe:[") || starts_with(link, "net:[") || starts_with(link, "pid:[") ||
        starts_with(link, "mnt:[") || starts_with(link, "user:[") ||
        is_one_of(link, fine, sizeof(fine) / sizeof(fine[0])))
        return SP_PINS_LINK_FINE;
    if (starts_with(link, "socket:["))
        return SP_PINS_LINK_SOCKET;
    if (link[0] == '/')
        return SP_PINS_LINK_FILE;
    *why = strcmp(link, "anon_inode:[io_uring]") == 0 ? SP_PINS_IO_URING : SP_PINS_DEVICE;
    return SP_PINS_LINK_OTHER;
}

bool sp_pins_fdinfo(const char *text, unsigned *flags, int *mount)
{
    const char *at = strstr(text, "flags:");
    long long id = number_of(text, "mnt_id:");

    if (!at || id < 0 || id > INT32_MAX)
        return false;
    *flags = (unsigned)strtoul(at + strlen("flags:"), NULL, 8);
    *mount = (int)id;
    return true;
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": the type is behind the dash. */
bool sp_pins_mount_type(const char *mountinfo, int mount, char *type, size_t size)
{
    const char *line = mountinfo;

    while (line && *line) {
        const char *end = strchrnul(line, '\n'), *dash = strstr(line, " - ");

        if (atoi(line) == mount && dash && dash < end) {
            size_t length = strcspn(dash + 3, " \n");

            if (length >= size)
                return false;
            memcpy(type, dash + 3, length);
            type[length] = 0;
            return true;
        }
        line = *end ? end + 1 : NULL;
    }
    return false;
}

/* Network and user-space file systems may read into the pages themselves, without O_DIRECT too; so may overlay,
 * which may lie above one, and zfs, whose administrator may have all I/O direct. */
bool sp_pins_type_copies(const char *type)
{
    static const char *const copies[] = {
        "ext2",  "ext3",   "ext4",    "xfs",      "btrfs",   "f2fs",     "vfat",       "exfat",
        "tmpfs", "ramfs",  "squashfs", "erofs",   "iso9660", "hugetlbfs", "proc",      "sysfs",
        "cgroup", "cgroup2", "devtmpfs", "devpts", "debugfs", "tracefs", "securityfs", "rootfs",
        "nsfs",  "mqueue", "configfs", "bpf",     "pstore",  "bcachefs",
    };

    return is_one_of(type, copies, sizeof(copies) / sizeof(copies[0]));
}

bool sp_pins_protocol_copies(const char *protocol)
{
    static const char *const copies[] = {
        "TCP",  "TCPv6", "UDP",   "UDPv6", "UDP-Lite", "UDPLITEv6", "UNIX",    "UNIX-STREAM",
        "PING", "RAW",   "RAWv6", "MPTCP", "MPTCPv6",  "NETLINK",   "PINGv6",  "AF_VSOCK",
    };

    return is_one_of(protocol, copies, sizeof(copies) / sizeof(copies[0]));
}

bool sp_pins_tls_receives(const char *tls_stat)
{
    return number_of(tls_stat, "TlsCurrRxSw") > 0 || number_of(tls_stat, "TlsCurrRxDevice") > 0;
}

/* ---- looking ---- */

#define KNOWN_MOUNTS 64u

struct look {
    int proc, fds, infos; /* the folders /proc/PID, and fd and fdinfo in it */
    char *text;           /* TEXT_MAX bytes */
    char *mounts;         /* mountinfo, read when the first file is met */
    struct {
        bool is;
        int mount;
        enum sp_pins pins;
    } known[KNOWN_MOUNTS]; /* place: the mount's id */
    bool tls_known, tls_receives;
};

/* Reads what is there, at most size - 1 bytes. False: it could not be read. */
static bool read_text(int dir, const char *name, char *text, size_t size, bool *whole)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    size_t got = 0;
    ssize_t n = -1;

    if (fd < 0)
        return false;
    while (got < size - 1 && (n = read(fd, text + got, size - 1 - got)) > 0)
        got += (size_t)n;
    text[got] = 0;
    *whole = n == 0;
    close(fd);
    return n >= 0 || got;
}

static enum sp_pins look_at_status(struct look *look)
{
    bool whole;

    if (!read_text(look->proc, "status", look->text, TEXT_MAX, &whole))
        return SP_PINS_UNKNOWN;
    return sp_pins_of_status(look->text);
}

/* For kernels before 6.11. */
static enum sp_pins look_at_all_maps(FILE *f)
{
    enum sp_pins pins = SP_PINS_NONE;
    char *line = NULL;
    size_t size = 0;

    while (pins == SP_PINS_NONE && getline(&line, &size, f) > 0)
        pins = sp_pins_of_mapping(line);
    if (ferror(f))
        pins = SP_PINS_UNKNOWN;
    free(line);
    return pins;
}

/* What is looked for is shared, a ring would be of no use otherwise; merged memory, of which there may be
 * thousands of mappings, is not: the kernel passes over it. */
static enum sp_pins look_at_shared_maps(int fd)
{
    struct sp_procmap_query query = {.size = sizeof(query),
                                     .flags = SP_PROCMAP_SHARED | SP_PROCMAP_OR_NEXT | SP_PROCMAP_FILE};
    enum sp_pins pins = SP_PINS_NONE;
    char name[PATH_MAX];

    while (pins == SP_PINS_NONE) {
        query.name = (uint64_t)(uintptr_t)name;
        query.name_size = sizeof(name);
        if (ioctl(fd, SP_PROCMAP_QUERY, &query))
            return errno == ENOENT ? SP_PINS_NONE : SP_PINS_UNKNOWN;
        name[query.name_size ? query.name_size - 1 : 0] = 0;
        pins = sp_pins_of_mapping(name);
        query.addr = query.end;
    }
    return pins;
}

static enum sp_pins look_at_maps(int proc)
{
    int fd = openat(proc, "maps", O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    enum sp_pins pins;

    if (!f) {
        if (fd >= 0)
            close(fd);
        return SP_PINS_UNKNOWN;
    }
    pins = look_at_shared_maps(fd);
    if (pins == SP_PINS_UNKNOWN)
        pins = look_at_all_maps(f);
    fclose(f);
    return pins;
}

/* A character device that does nothing but copy. */
static bool device_copies(unsigned major, unsigned minor)
{
    if (major == 1) /* null, zero, full, random, urandom, kmsg */
        return minor == 3 || minor == 5 || (minor >= 7 && minor <= 11);
    return major == 4 || major == 5 || (major >= 136 && major <= 143); /* terminals */
}

/* The type of the file system of a mount; SP_PINS_UNKNOWN: the process does not see this mount. */
static enum sp_pins look_at_mount(struct look *look, int mount)
{
    enum sp_pins pins = SP_PINS_UNKNOWN;
    unsigned place = (unsigned)mount % KNOWN_MOUNTS;
    char type[64];
    bool whole;

    if (look->known[place].is && look->known[place].mount == mount)
        return look->known[place].pins;
    if (!look->mounts) {
        look->mounts = malloc(MOUNTS_MAX);
        if (!look->mounts)
            return SP_PINS_FILESYSTEM;
        if (!read_text(look->proc, "mountinfo", look->mounts, MOUNTS_MAX, &whole))
            look->mounts[0] = 0;
    }
    if (sp_pins_mount_type(look->mounts, mount, type, sizeof(type)))
        pins = sp_pins_type_copies(type) ? SP_PINS_NONE : SP_PINS_FILESYSTEM;
    look->known[place].is = true;
    look->known[place].mount = mount;
    look->known[place].pins = pins;
    return pins;
}

/* A memfd lies on a mount of the kernel's own, the same for all. Its name in /proc any file can have. */
static bool is_memfd(const struct statx *st)
{
    struct statx own = {0};
    int fd = memfd_create("", MFD_CLOEXEC);
    bool is = fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &own) == 0 &&
              own.stx_dev_major == st->stx_dev_major && own.stx_dev_minor == st->stx_dev_minor;

    if (fd >= 0)
        close(fd);
    return is;
}

/*
 * What is said of the file without asking its file system comes first: one that may never answer is not
 * asked. It may have become another file since; whoever waits for us then ends us.
 */
static enum sp_pins look_at_file(struct look *look, const char *name)
{
    struct statx st;
    unsigned flags;
    enum sp_pins pins;
    int mount, held;
    bool whole, known;

    if (!read_text(look->infos, name, look->text, TEXT_MAX, &whole))
        return errno == ENOENT ? SP_PINS_NONE : SP_PINS_UNKNOWN;
    if (!sp_pins_fdinfo(look->text, &flags, &mount))
        return SP_PINS_UNKNOWN;
    if (flags & O_DIRECT)
        return SP_PINS_DIRECT;
    pins = look_at_mount(look, mount);
    if (pins == SP_PINS_FILESYSTEM)
        return pins;
    held = openat(look->fds, name, O_PATH | O_CLOEXEC);
    if (held < 0)
        return errno == ENOENT ? SP_PINS_NONE : SP_PINS_UNKNOWN;
    known = statx(held, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0;
    close(held);
    if (!known)
        return SP_PINS_UNKNOWN;
    if (pins == SP_PINS_UNKNOWN)
        return is_memfd(&st) ? SP_PINS_NONE : SP_PINS_FILESYSTEM;
    if (S_ISBLK(st.stx_mode)) /* its ioctls may pin */
        return SP_PINS_DEVICE;
    return S_ISCHR(st.stx_mode) && !device_copies(st.stx_rdev_major, st.stx_rdev_minor) ? SP_PINS_DEVICE
                                                                                        : SP_PINS_NONE;
}

/* TLS in the kernel decrypts into the pages themselves. Which sockets do, only their owner is told: so none
 * may where any does. */
static bool tls_receives(struct look *look)
{
    bool whole;

    if (!look->tls_known) {
        look->tls_receives = read_text(look->proc, "net/tls_stat", look->text, TEXT_MAX, &whole) &&
                             sp_pins_tls_receives(look->text);
        look->tls_known = true;
    }
    return look->tls_receives;
}

static enum sp_pins look_at_socket(struct look *look, const char *name)
{
    int held = openat(look->fds, name, O_PATH | O_CLOEXEC);
    char link[32], protocol[64];
    ssize_t n;

    if (held < 0)
        return errno == ENOENT ? SP_PINS_NONE : SP_PINS_UNKNOWN;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", held);
    n = getxattr(link, "system.sockprotoname", protocol, sizeof(protocol) - 1);
    protocol[n > 0 ? n : 0] = 0;
    close(held);
    if (!sp_pins_protocol_copies(protocol) || (strstr(protocol, "TCP") && tls_receives(look)))
        return SP_PINS_SOCKET;
    return SP_PINS_NONE;
}

/* One descriptor. It may be closed, or become another, at any time. */
static enum sp_pins look_at_descriptor(struct look *look, const char *name)
{
    char to[256];
    enum sp_pins pins;
    ssize_t n = readlinkat(look->fds, name, to, sizeof(to) - 1);

    if (n < 0)
        return errno == ENOENT ? SP_PINS_NONE : SP_PINS_UNKNOWN;
    to[n] = 0;
    switch (sp_pins_of_link(to, &pins)) {
    case SP_PINS_LINK_SOCKET:
        return look_at_socket(look, name);
    case SP_PINS_LINK_FILE:
        return look_at_file(look, name);
    default:
        return pins;
    }
}

static enum sp_pins look_at_descriptors(struct look *look)
{
    enum sp_pins pins = SP_PINS_NONE;
    struct dirent *entry;
    unsigned n = 0;
    DIR *dir;

    look->fds = openat(look->proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    look->infos = openat(look->proc, "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    dir = look->fds < 0 ? NULL : fdopendir(look->fds);
    if (!dir) {
        if (look->fds >= 0)
            close(look->fds);
        return SP_PINS_UNKNOWN;
    }
    errno = 0;
    while (pins == SP_PINS_NONE && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        pins = n++ < DESCRIPTORS_MAX ? look_at_descriptor(look, entry->d_name) : SP_PINS_UNKNOWN;
        errno = 0;
    }
    if (pins == SP_PINS_NONE && errno)
        pins = SP_PINS_UNKNOWN;
    closedir(dir);
    return pins;
}

/* What is closed while the descriptors are looked at may go on in the mappings, or be accounted for: these
 * come last. */
static enum sp_pins look_at_all(struct look *look)
{
    enum sp_pins pins = look_at_status(look);

    if (pins == SP_PINS_NONE)
        pins = look_at_descriptors(look);
    if (pins == SP_PINS_NONE)
        pins = look_at_maps(look->proc);
    if (pins == SP_PINS_NONE)
        pins = look_at_status(look);
    return pins;
}

enum sp_pins sp_pins_look(pid_t pid)
{
    struct look look = {.fds = -1, .infos = -1, .text = malloc(TEXT_MAX)};
    enum sp_pins pins = SP_PINS_UNKNOWN;
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    look.proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (look.proc >= 0 && look.text)
        pins = look_at_all(&look);
    if (look.infos >= 0)
        close(look.infos);
    if (look.proc >= 0)
        close(look.proc);
    free(look.mounts);
    free(look.text);
    return pins;
}
