/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent gives up every right it does not need: it shares its memory with a program that may be
 * compromised, and must not be a way to rights that the program gave up (X).
 */
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/seccomp.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "status.h"
#include "sys.h"

#define SIG_SEGV_BUS ((1ull << 10) | (1ull << 6))

#if defined(__x86_64__)
#define SP_ARCH AUDIT_ARCH_X86_64
#else
#define SP_ARCH AUDIT_ARCH_AARCH64
#endif

#define NR offsetof(struct seccomp_data, nr)
#define ARG(n) offsetof(struct seccomp_data, args[n])
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (field))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1)
#define ALLOW_NR(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), ALLOW
#define ALLOW_VALUE(v) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(v), 0, 1), ALLOW

/* What is filled in when it is installed: the address in the rule for connect, its verdict, and one more
 * ioctl in front of the last verdict. */
enum { ADDRESS_LOW = 6, ADDRESS_HIGH = 8, CONNECT_VERDICT = 11 };
#define FILTER_LENGTH (sizeof(filter) / sizeof(filter[0]))
#define LAST_IOCTL    (FILTER_LENGTH - 3)

static struct sock_filter filter[] = {
    LOAD(offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SP_ARCH, 1, 0),
    DENY,
    LOAD(NR),
    /* connect: only to the daemon's sealed address (address.c). */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_connect, 0, 8),
    LOAD(ARG(1)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5),
    LOAD(ARG(1) + 4),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
    LOAD(ARG(2)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SP_ADDRESS_SIZE, 0, 1),
    DENY,
    DENY,
    ALLOW_NR(__NR_read),
    ALLOW_NR(__NR_pread64),
    ALLOW_NR(__NR_pwrite64), /* coredump_filter is all that is open for it */
    ALLOW_NR(__NR_lseek),
    ALLOW_NR(__NR_close),
    ALLOW_NR(__NR_fstat),
    ALLOW_NR(__NR_ppoll),
    ALLOW_NR(__NR_recvmsg),
    ALLOW_NR(__NR_sendmsg),
    ALLOW_NR(__NR_munmap),
    ALLOW_NR(__NR_mremap),
    ALLOW_NR(__NR_madvise),
    ALLOW_NR(__NR_munlock),
    ALLOW_NR(__NR_mlock2), /* as much as anybody may: it has no CAP_IPC_LOCK */
    ALLOW_NR(__NR_clock_gettime),
    ALLOW_NR(__NR_clock_nanosleep),
    ALLOW_NR(__NR_sched_yield),
    ALLOW_NR(__NR_futex), /* sp_agent_spawned() */
    ALLOW_NR(__NR_get_mempolicy),
    ALLOW_NR(__NR_mbind),
    /* What puts memory in place of the store's is a process that ends if it cannot (stall.c). */
    ALLOW_NR(__NR_getpid),
    ALLOW_NR(__NR_getppid),
    ALLOW_NR(__NR_setitimer),
    ALLOW_NR(__NR_rt_sigaction),
    ALLOW_NR(__NR_rt_sigprocmask),
    ALLOW_NR(__NR_wait4),
    ALLOW_NR(__NR_exit),
    ALLOW_NR(__NR_exit_group),
    ALLOW_NR(__NR_rt_sigreturn),
#ifdef SP_FAULT_POINTS
    ALLOW_NR(__NR_kill),
#endif
    /* mmap: nothing executable. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mmap, 0, 4),
    LOAD(ARG(2)),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4 /* PROT_EXEC */, 1, 0),
    ALLOW,
    DENY,
    /* socket: only of the daemon's kind; one of another kind sends without being connected. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, 6),
    LOAD(ARG(0)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SP_LINK_FAMILY, 0, 3),
    LOAD(ARG(1)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SP_LINK_TYPE, 0, 1),
    ALLOW,
    DENY,
    /* clone: only that one. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 0, 4),
    LOAD(ARG(0)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SP_STALL_CLONE, 0, 1),
    ALLOW,
    DENY,
    /* prctl: only asking whether the program may be looked into, and to end when the parent does. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_prctl, 0, 6),
    LOAD(ARG(0)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PR_GET_DUMPABLE, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PR_SET_PDEATHSIG, 1, 0),
    DENY,
    ALLOW,
    DENY,
    /* move_pages: only asking where pages of one's own lie, moving none. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_move_pages, 0, 8),
    LOAD(ARG(0)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5),
    LOAD(ARG(3)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
    LOAD(ARG(3) + 4),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
    ALLOW,
    DENY,
    /* msync: only asking whether memory is locked. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_msync, 0, 4),
    LOAD(ARG(2)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MS_ASYNC | MS_INVALIDATE, 0, 1),
    ALLOW,
    DENY,
    /* ioctl: userfaultfd's, PAGEMAP_SCAN, and PROCMAP_QUERY. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 1, 0),
    DENY,
    LOAD(ARG(1)),
    ALLOW_VALUE(UFFDIO_REGISTER),
    ALLOW_VALUE(UFFDIO_UNREGISTER),
    ALLOW_VALUE(UFFDIO_WAKE),
    ALLOW_VALUE(UFFDIO_COPY),
    ALLOW_VALUE(UFFDIO_ZEROPAGE),
    ALLOW_VALUE(UFFDIO_WRITEPROTECT),
    ALLOW_VALUE(SP_UFFDIO_MOVE),
    ALLOW_VALUE(UFFDIO_API),
    ALLOW_VALUE(SP_PROCMAP_QUERY),
    ALLOW_VALUE(SP_PAGEMAP_SCAN),
    ALLOW_VALUE(SP_PAGEMAP_SCAN),
    DENY,
};

static void complete_filter(void)
{
    filter[ADDRESS_LOW].k = (uint32_t)sp_agent.address;
    filter[ADDRESS_HIGH].k = (uint32_t)(sp_agent.address >> 32);
    if (sp_agent.address)
        filter[CONNECT_VERDICT] = (struct sock_filter)ALLOW;
    /* Only where the daemon is to pass the device on. */
    filter[LAST_IOCTL].k =
        (uint32_t)(sp_agent.uffd < 0 ? SP_USERFAULTFD_NEW : SP_PAGEMAP_SCAN);
}

static int install_filter(void)
{
    struct sock_fprog prog = {.len = FILTER_LENGTH, .filter = filter};
    long ret = sp_sys(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

    complete_filter();
    if (sp_is_err(ret))
        return (int)ret;
    ret = sp_sys(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
    return sp_is_err(ret) ? (int)ret : 0;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    long ret = sp_sys(__NR_capset, &head, data);

    return sp_is_err(ret) ? (int)ret : 0;
}

/* Opened with CAP_SYS_ADMIN it shows where in the machine's memory a page lies. The number stays: the
 * program still has to close its copy. */
static int reopen_pagemap(void)
{
    long fd = sp_sys(__NR_openat, -100, "/proc/self/pagemap", 02000000), ret;

    if (sp_is_err(fd))
        return (int)fd;
    ret = sp_sys(__NR_dup3, fd, sp_agent.pagemap, 02000000);
    sp_sys(__NR_close, fd);
    return sp_is_err(ret) ? (int)ret : 0;
}

void sp_close_others(void)
{
    int keep[] = {sp_agent.sock,  sp_agent.uffd,           sp_agent.uffd_sync,
                  sp_agent.pagemap, sp_agent.smaps,        sp_agent.program_status,
                  sp_agent.program_statm, sp_agent.program_stat, sp_agent.own_statm,
                  sp_agent.pidfd, sp_agent.coredump,       sp_agent.maps};
    unsigned n = sizeof(keep) / sizeof(keep[0]);
    int from = 0;

    for (;;) {
        int next = -1;

        for (unsigned i = 0; i < n; i++)
            if (keep[i] >= from && (next < 0 || keep[i] < next))
                next = keep[i];
        if (next < 0)
            break;
        if (next > from)
            sp_sys(__NR_close_range, from, next - 1, 0);
        from = next + 1;
    }
    sp_sys(__NR_close_range, from, ~0u, 0);
}

int sp_confine(void)
{
    uint64_t mask = ~SIG_SEGV_BUS;
    struct rlimit64 nofile;
    int ret;

    sp_sys(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, 8);
    sp_sys(__NR_prctl, PR_SET_NAME, SP_AGENT_COMM);
    sp_sys(__NR_setsid);
    sp_sys(__NR_chdir, "/");
    sp_close_others();
    if (!sp_is_err(sp_sys(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &nofile))) {
        nofile.rlim_cur = nofile.rlim_max;
        sp_sys(__NR_prlimit64, 0, RLIMIT_NOFILE, &nofile, 0);
    }
    ret = drop_capabilities();
    if (!ret)
        ret = reopen_pagemap();
    return ret ? ret : install_filter();
}

struct rights {
    uint64_t sum;
    bool told; /* any line of them was there */
};

static void add_right(void *arg, unsigned which, char c)
{
    struct rights *r = arg;

    (void)which;
    r->sum = (r->sum ^ (unsigned char)c) * 0x100000001b3ull;
    r->told = true;
}

/* A number that changes when one of the lines of /proc/PID/status that tell of rights does. */
static uint64_t rights(int status, bool *ok)
{
    static const char *const lines[] = {"Uid",    "Gid",    "Groups",  "CapInh",         "CapPrm",
                                        "CapEff", "CapBnd", "Seccomp", "Seccomp_filters"};
    struct rights r = {.sum = 0xcbf29ce484222325ull};
    int ret = sp_status_read(status, lines, sizeof(lines) / sizeof(lines[0]), add_right, &r);

    *ok = !ret && r.told;
    return *ok ? r.sum : 0;
}

void sp_note_rights(void)
{
    bool ok;
    long fd = sp_sys(__NR_openat, -100, "/proc/self/status", 02000000);

    /* 0 when it cannot be read: then the program's own, at the first look, must do. */
    sp_agent.rights = sp_is_err(fd) ? 0 : rights((int)fd, &ok);
    if (!sp_is_err(fd))
        sp_sys(__NR_close, fd);
}

bool sp_program_changed(void)
{
    bool ok;
    uint64_t now = rights(sp_agent.program_status, &ok);

    if (!ok)
        return false; /* dead or gone: others notice that */
    if (!sp_agent.rights)
        sp_agent.rights = now;
    return now != sp_agent.rights;
}

bool sp_program_forbids(void)
{
    /* Dumpability belongs to the memory, which is ours too. */
    return sp_sys(__NR_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0) != 1;
}

static void add_digit(void *arg, unsigned which, char c)
{
    uint64_t *number = arg;

    (void)which;
    if (c >= '0' && c <= '9')
        *number = *number * 10 + (uint64_t)(c - '0');
}

/* The number in the line of that name, 0 if it cannot be read. */
static uint64_t status_number(const char *name)
{
    uint64_t number = 0;

    return sp_status_read(sp_agent.program_status, &name, 1, add_digit, &number) ? 0 : number;
}

uint32_t sp_program_threads(void)
{
    return (uint32_t)status_number("Threads");
}

bool sp_program_traced(void)
{
    return status_number("TracerPid") != 0;
}

bool sp_program_dumps(void)
{
    return status_number("CoreDumping") != 0;
}

static uint64_t first_number(int fd)
{
    char buf[32];
    const char *p = buf;
    long n = sp_sys(__NR_pread64, fd, buf, sizeof(buf), 0);

    return n > 0 ? sp_parse_dec(&p, buf + n) : 0;
}

/*
 * Whether the program still has this memory: the size of its address space is that of ours. kcmp
 * would tell directly, but not to a process without capabilities about one that has them. Two
 * different address spaces have the same size only by accident, and not for long; one whose size
 * changes while we look is in use, and nobody but the program uses it.
 */
bool sp_program_here(void)
{
    uint64_t own = first_number(sp_agent.own_statm);

    for (unsigned i = 0; i < 100; i++) {
        uint64_t theirs = first_number(sp_agent.program_statm), now;

        if (!theirs)
            return true; /* its first thread ended before the others; the pidfd tells of the last */
        now = first_number(sp_agent.own_statm);
        if (theirs == own || now != own)
            return true; /* only the program changes our size too */
        sp_sys(__NR_sched_yield);
    }
    return false;
}
