/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that gives up root and everything else, is then taken over, and takes over its agent,
 * whose code and memory it shares: what can the agent be made to do that the program gave up?
 *
 * usage: x_rights WHEN MS FILE SOCKET, the last two being root's alone. WHEN: early (after the
 * start), late (when a line comes on stdin), forked (a child); MS: and so many milliseconds after
 * that. Prints "reached NAME" for each right that it got at, "answer TEXT" for what the daemon
 * said, and "done"; or "gone" if the agent ended before it could be taken over.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "pattern.h"

#define NPAGES   512u
#define NOBODY   65534
#define TRIES    48u
#define WAIT_MS  5000u
#define FDS      256
#define PFN_BITS ((1ull << 55) - 1)

static char *region;
static unsigned char *text, *text_end; /* of the agent */
static struct sockaddr_un root_socket, *daemon_address;
static const char *root_file;
static int parent, delay_ms;

static struct {
    volatile int done;
    unsigned n;
    const char *reached[TRIES];
    char answer[512];
} found;

/* No libc: neither the patched places in it nor its thread-local errno may be used in here. And no system
 * call in the program's own code: then it would not be merged, and its children would have no agents. So
 * this is copied to memory of its own: nr, and the first five arguments. */
static const unsigned char raw_code[] = {
    0x48, 0x89, 0xf8, /* mov %rdi, %rax */
    0x48, 0x89, 0xf7, /* mov %rsi, %rdi */
    0x48, 0x89, 0xd6, /* mov %rdx, %rsi */
    0x48, 0x89, 0xca, /* mov %rcx, %rdx */
    0x4d, 0x89, 0xc2, /* mov %r8, %r10 */
    0x4d, 0x89, 0xc8, /* mov %r9, %r8 */
    0x45, 0x31, 0xc9, /* xor %r9d, %r9d */
    0x0f, 0x05,       /* syscall */
    0xc3,             /* ret */
};
static long (*raw)(long nr, long a, long b, long c, long d, long e);

static void make_raw(void)
{
    void *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);

    if (code == MAP_FAILED)
        die("mmap");
    __builtin_memcpy(code, raw_code, sizeof(raw_code));
    __builtin_memcpy(&raw, &code, sizeof(raw));
}

/* Nothing is done to the machine if a call is allowed after all: it is refused for its arguments
 * then. What is not allowed is EPERM, and where a file's permission decides, EACCES. */
static long try(const char *name, long nr, long a, long b, long c, long d, long e)
{
    long ret = raw(nr, a, b, c, d, e);

    if (ret != -EPERM && ret != -EACCES && found.n < TRIES)
        found.reached[found.n++] = name;
    return ret;
}

static void try_files(void)
{
    uint64_t how[3] = {O_RDONLY};

    try("open", SYS_open, (long)root_file, O_RDONLY, 0, 0, 0);
    try("openat", SYS_openat, AT_FDCWD, (long)root_file, O_RDONLY, 0, 0);
    try("openat for writing", SYS_openat, AT_FDCWD, (long)root_file, O_RDWR, 0, 0);
    try("openat2", 437, AT_FDCWD, (long)root_file, (long)how, sizeof(how), 0);
    try("chmod", SYS_chmod, (long)root_file, 0600, 0, 0, 0);
    try("truncate", SYS_truncate, (long)root_file, -1, 0, 0, 0);
    try("rename", SYS_rename, (long)root_file, 0, 0, 0, 0);
    try("memfd_create", SYS_memfd_create, (long)"x", 0, 0, 0, 0);
    try("mount", SYS_mount, 0, 0, 0, 0, 0);
    try("chroot", SYS_chroot, 0, 0, 0, 0, 0);
}

static void try_processes(void)
{
    char byte;
    struct iovec mine = {&byte, 1}, theirs = {region, 1};
    struct rlimit64 {
        uint64_t cur, max;
    } limit = {1, 1};

    try("setresuid", SYS_setresuid, -1, -1, -1, 0, 0);
    try("kill", SYS_kill, parent, 0, 0, 0, 0);
    try("tgkill", SYS_tgkill, parent, parent, 0, 0, 0);
    try("ptrace", SYS_ptrace, 0x4206, parent, -1, 0, 0);
    try("process_vm_readv", SYS_process_vm_readv, parent, (long)&mine, 1, (long)&theirs, 1);
    try("move_pages", SYS_move_pages, 0, 0, (long)&region, (long)&limit, (long)&limit);
    try("move_pages of another", SYS_move_pages, parent, 0, (long)&region, 0, (long)&limit);
    try("pidfd_open", SYS_pidfd_open, parent, 0, 0, 0, 0);
    try("clone", SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0);
    try("unshare", SYS_unshare, 1, 0, 0, 0, 0);
    try("prctl", SYS_prctl, PR_SET_NAME, (long)"x", 0, 0, 0);
    try("prlimit64", SYS_prlimit64, 0, RLIMIT_CORE, (long)&limit, 0, 0);
    try("bpf", SYS_bpf, -1, 0, 0, 0, 0);
    try("userfaultfd", SYS_userfaultfd, 0, 0, 0, 0, 0);
    try("io_uring_setup", SYS_io_uring_setup, 1, (long)region, 0, 0, 0);
    try("executable memory", SYS_mmap, 0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
        -1);
    try("mprotect", SYS_mprotect, (long)region, PAGE, PROT_READ, 0, 0);
}

static void try_sockets(void)
{
    long fd = raw(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0);

    try("an internet socket", SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0);
    try("a datagram socket", SYS_socket, AF_UNIX, SOCK_DGRAM, 0, 0, 0);
    try("root's socket", SYS_connect, fd, (long)&root_socket, sizeof(root_socket), 0, 0);
    try("bind", SYS_bind, fd, (long)&root_socket, sizeof(root_socket), 0, 0);
}

/* Which physical pages memory lies in is for CAP_SYS_ADMIN to know. */
static void try_descriptors(void)
{
    uint64_t entry;
    long at = (long)((uintptr_t)region / PAGE * 8);

    for (long fd = 0; fd < FDS; fd++) {
        entry = 0;
        if (raw(SYS_pread64, fd, (long)&entry, 8, at, 0) != 8 || !(entry >> 63) ||
            !(entry & PFN_BITS) || found.n >= TRIES)
            continue;
        found.reached[found.n++] = "physical page numbers";
        return;
    }
}

/* The agent may speak to samepaged, at this address. It must not be believed to be root. */
static void try_daemon(void)
{
    static const char request[] = "{\"op\":\"set\",\"key\":\"run\",\"value\":\"0\"}";
    struct iovec out = {(void *)request, sizeof(request) - 1},
                 in = {found.answer, sizeof(found.answer) - 1};
    struct msghdr ask = {.msg_iov = &out, .msg_iovlen = 1},
                  answer = {.msg_iov = &in, .msg_iovlen = 1};
    long fd = raw(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0);

    if (fd < 0 || !daemon_address ||
        raw(SYS_connect, fd, (long)daemon_address, sizeof(*daemon_address), 0, 0))
        return;
    if (raw(SYS_sendmsg, fd, (long)&ask, MSG_NOSIGNAL, 0, 0) > 0)
        raw(SYS_recvmsg, fd, (long)&answer, 0, 0, 0);
}

/* The agent gets here. */
__attribute__((used)) static void taken_over(void)
{
    if (__atomic_exchange_n(&found.done, 1, __ATOMIC_SEQ_CST) == 0) {
        try_files();
        try_processes();
        try_sockets();
        try_descriptors();
        try_daemon();
        found.done = 2;
    }
    for (;;)
        raw(SYS_exit_group, 0, 0, 0, 0, 0);
}

void entry(void);
__asm__(".text\nentry: and $-16, %rsp\n xor %ebp, %ebp\n call taken_over\n hlt\n");

/* Behind the last instruction of the agent's code, and from there to its first one: a way to
 * entry(). Wherever the agent goes on, it arrives there. */
static void overwrite(void)
{
    static const unsigned char jump[] = {0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe3};
    volatile unsigned char *to = text_end - sizeof(jump);
    void (*where)(void) = entry;

    for (size_t i = 0; i < sizeof(jump); i++)
        to[i] = i >= 2 && i < 10 ? ((unsigned char *)&where)[i - 2] : jump[i];
    while (to > text)
        *--to = 0x90;
}

static void find_agent(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];

    while (maps && fgets(line, sizeof(line), maps)) {
        unsigned long start, end;

        if (sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        if (strstr(line, "libsamepage-agent.so") && strstr(line, " r-xp ")) {
            text = (void *)start;
            text_end = (void *)end;
        } else if (strstr(line, "/memfd:samepage-address")) {
            daemon_address = (void *)start;
        }
    }
    fclose(maps);
    if (!text || mprotect(text, text_end - text, PROT_READ | PROT_WRITE | PROT_EXEC))
        die("the agent's code");
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ALLOW(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void give_up_rights(void)
{
    struct sock_filter filter[] = {LOAD(nr), ALLOW(SYS_write), ALLOW(SYS_nanosleep),
                                   ALLOW(SYS_exit_group),
                                   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    if (raw(SYS_setgroups, 0, 0, 0, 0, 0) || raw(SYS_setresgid, NOBODY, NOBODY, NOBODY, 0, 0) ||
        raw(SYS_setresuid, NOBODY, NOBODY, NOBODY, 0, 0) ||
        raw(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, (long)&program, 0, 0))
        raw(SYS_exit_group, 4, 0, 0, 0, 0);
}

static void put(const char *word, const char *text_of)
{
    raw(SYS_write, 1, (long)word, (long)__builtin_strlen(word), 0, 0);
    raw(SYS_write, 1, (long)text_of, (long)__builtin_strlen(text_of), 0, 0);
    raw(SYS_write, 1, (long)"\n", 1, 0, 0);
}

static void attack(void)
{
    struct timespec millisecond = {.tv_nsec = 1000000};

    for (int ms = 0; ms < delay_ms; ms++)
        raw(SYS_nanosleep, (long)&millisecond, 0, 0, 0, 0);
    give_up_rights();
    overwrite();
    for (unsigned ms = 0; ms < WAIT_MS && found.done != 2; ms++)
        raw(SYS_nanosleep, (long)&millisecond, 0, 0, 0, 0);
    for (unsigned i = 0; i < found.n; i++)
        put("reached ", found.reached[i]);
    if (found.answer[0])
        put("answer ", found.answer);
    put(found.done == 2 ? "done" : "gone", "");
    raw(SYS_exit_group, 0, 0, 0, 0, 0);
}

int main(int argc, char **argv)
{
    char line[16];

    if (argc != 5)
        return 2;
    parent = getppid();
    delay_ms = atoi(argv[2]);
    root_file = argv[3];
    root_socket.sun_family = AF_UNIX;
    snprintf(root_socket.sun_path, sizeof(root_socket.sun_path), "%s", argv[4]);
    make_raw();
    region = region_map(NPAGES);
    region_fill(region, NPAGES / 2, 0); /* twice the same: they are merged with one another */
    region_fill(region + NPAGES / 2 * PAGE, NPAGES / 2, 0);
    find_agent();
    if (!strcmp(argv[1], "early"))
        attack();
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    if (!strcmp(argv[1], "late") || !fork())
        attack();
    wait(NULL);
    return 0;
}
