/* SPDX-License-Identifier: Apache-2.0 */
/* X: looked at, and written to, by another process: ptrace, process_vm_*, a core dump. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker.h"

#define TRIES      1000u  /* a page in the air gets EIO, for some microseconds, */
#define TRIES_MS   60000u /* ... or until an agent has a processor again */
#define CORE_PAGES 128u

/* Reads, or changes, a word of the traced process; where it is in the air, again. */
static void word(pid_t pid, int request, void *at, long *value)
{
    for (unsigned tries = 0; tries < TRIES + TRIES_MS; tries++) {
        if (tries >= TRIES)
            pause_ms(1);
        errno = 0;
        if (request == PTRACE_POKEDATA) {
            if (!ptrace(request, pid, at, *value))
                return;
        } else {
            *value = ptrace(request, pid, at, NULL);
            if (!errno)
                return;
        }
        if (errno != EIO)
            break;
    }
    if (errno == ESRCH)
        _exit(0); /* it was killed meanwhile */
    wrong("a word of the traced process can not be had", "ptrace");
}

/* The tracer, a child: every word of the stretch is right; one word of each page is added to. */
static void trace(struct actor *a, struct block *b, pid_t traced, uint32_t first, uint32_t n)
{
    int status;
    long value;

    if (ptrace(PTRACE_SEIZE, traced, NULL, NULL))
        _exit(errno == EPERM ? 2 : 3);
    if (ptrace(PTRACE_INTERRUPT, traced, NULL, NULL) || waitpid(traced, &status, __WALL) != traced)
        _exit(4);
    for (uint32_t i = first; i < first + n; i++) {
        for (uint32_t w = 0; w < WORDS; w++)
            word(traced, PTRACE_PEEKDATA, page_at(b, i) + 8 * w, (long *)a->buffer + w);
        if (!page_is(a->buffer, &a->snapshot[i]))
            wrong("the traced process has other bytes than it had", "ptrace");
        value = ((long *)a->buffer)[4] + 1; /* the counting word */
        word(traced, PTRACE_POKEDATA, page_at(b, i) + 8 * 4, &value);
    }
    ptrace(PTRACE_DETACH, traced, NULL, NULL);
    _exit(0);
}

OP(op_ptrace)
{
    pid_t self = (pid_t)syscall(SYS_gettid), pid;
    uint32_t first, n;
    int status;

    block_stretch(b, state, 4, &first, &n);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* where Yama asks for it */
    pid = fork_with(a, b, 0);
    if (pid < 0)
        return false;
    if (!pid)
        trace(a, b, self, first, n);
    while (waitpid(pid, &status, 0) != pid)
        if (errno != EINTR)
            wrong("the tracer is not there", "ptrace");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return false; /* somebody traces us already, or it is forbidden here */
    if (WIFSIGNALED(status) && options.enomem_ok)
        return false;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        wrong("the tracer failed", "ptrace");
    for (uint32_t i = first; i < first + n; i++)
        b->page[i].additions++;
    block_check_some(b, state, "ptrace");
    return true;
}

static void not_there(void)
{
    if (errno == ESRCH)
        _exit(0); /* it was killed meanwhile */
    wrong("the parent's memory can not be had", "process-vm-child");
}

/* A child reads its parent's pages, and writes others of them. */
OP(op_vm_child)
{
    pid_t self = getpid(), pid;
    uint32_t first, n;
    uint64_t c = chance(state);

    block_stretch(b, state, 16, &first, &n);
    pid = fork_with(a, b, 0);
    if (pid < 0)
        return false;
    for (uint32_t i = first; i < first + n; i++) {
        struct page page = page_chosen(b, i, &c);
        struct iovec local = {a->buffer, PAGE}, remote = {page_at(b, i), PAGE};

        if (pid) {
            a->snapshot[i] = page;
            continue;
        }
        if (process_vm_readv(self, &local, 1, &remote, 1, 0) != PAGE)
            not_there();
        if (!page_is(a->buffer, &a->snapshot[i]))
            wrong("the parent has other bytes than it had", "process-vm-child");
        page_fill(a->buffer, &page);
        if (process_vm_writev(self, &local, 1, &remote, 1, 0) != PAGE)
            not_there();
    }
    if (!pid)
        _exit(0);
    child_wait(pid, "process-vm-child", 0);
    memcpy(&b->page[first], &a->snapshot[first], n * sizeof(b->page[0]));
    block_check(b, first, n, "process-vm-child");
    block_check_some(b, state, "process-vm-child");
    return true;
}

/*
 * A core dump.
 */

static bool cores_are_files(void)
{
    char pattern[8] = "|";
    int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (read(fd, pattern, sizeof(pattern)) < 1)
            pattern[0] = '|';
        close(fd);
    }
    return !strncmp(pattern, "core", 4);
}

/* Where in the file the page at this address is; 0: nowhere. */
static off_t in_core(const Elf64_Phdr *load, unsigned nloads, uint64_t at)
{
    for (unsigned i = 0; i < nloads; i++)
        if (load[i].p_type == PT_LOAD && at >= load[i].p_vaddr &&
            at + PAGE <= load[i].p_vaddr + load[i].p_filesz)
            return (off_t)(load[i].p_offset + (at - load[i].p_vaddr));
    return 0;
}

/* The program headers of a core file, for munmap: as many as the process had mappings. */
static Elf64_Phdr *core_loads(int fd, unsigned *nloads, size_t *size)
{
    Elf64_Phdr *load;
    Elf64_Ehdr head;

    if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG))
        wrong("the core file is none", "core-dump");
    *nloads = head.e_phnum;
    *size = *nloads * sizeof(*load);
    load = mmap(NULL, *size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (load == MAP_FAILED)
        return lacking("core-dump") ? NULL : (wrong("mmap failed", "core-dump"), NULL);
    if (pread(fd, load, *size, (off_t)head.e_phoff) != (ssize_t)*size)
        wrong("the core file has no program headers", "core-dump");
    return load;
}

static void core_check(struct actor *a, struct block *b, int fd)
{
    static const struct page zero = {.kind = KIND_ZERO};
    static const char zeros_page[PAGE];
    unsigned nloads, zeros = 0;
    size_t size;
    Elf64_Phdr *load = core_loads(fd, &nloads, &size);

    for (uint32_t i = 0; load && i < b->npages; i++) {
        off_t where = in_core(load, nloads, (uintptr_t)page_at(b, i));

        if (!where && page_is(&zeros_page, &b->page[i]))
            continue; /* memory that was only read is left out */
        if (!where || pread(fd, a->buffer, PAGE, where) != PAGE)
            wrong("a page is not in the core file", "core-dump");
        if (page_is(a->buffer, &zero) && !page_is(a->buffer, &b->page[i]) && ++zeros <= 64)
            continue; /* known limit: in the air in that microsecond; one lift's pages at most */
        page_check(a->buffer, &b->page[i], true, "core-dump");
    }
    if (load)
        munmap(load, size + 1);
}

/* Of all memory only the block: a core file of everything takes too long. */
static void die_with_core(struct block *b)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    char path[300];

    for (uint32_t i = 0; i < nblocks; i++)
        if (&block[i] != b)
            munmap(block[i].base, (size_t)block[i].npages * PAGE);
    snprintf(path, sizeof(path), "%s/core-%d", options.directory, getpid());
    if (setrlimit(RLIMIT_CORE, &all) || mkdir(path, 0700) || chdir(path))
        _exit(0);
    signal(SIGABRT, SIG_DFL);
    pause_ms(30);
    kill(getpid(), SIGABRT);
}

OP(op_core)
{
    static int possible = -1;
    char path[330], core[350];
    pid_t pid;
    int fd;

    if (possible < 0)
        possible = cores_are_files();
    if (!possible)
        return NOT_HERE;
    if (b->npages > CORE_PAGES || options.mappings)
        return false;
    pid = fork_with(a, b, 0);
    if (pid < 0)
        return false;
    if (!pid) {
        die_with_core(b);
        _exit(0);
    }
    child_wait(pid, "core-dump", SIGABRT);
    snprintf(path, sizeof(path), "%s/core-%d", options.directory, (int)pid);
    snprintf(core, sizeof(core), "%s/core", path);
    fd = open(core, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(core, sizeof(core), "%s/core.%d", path, (int)pid);
        fd = open(core, O_RDONLY | O_CLOEXEC);
    }
    if (fd >= 0) {
        core_check(a, b, fd);
        close(fd);
        unlink(core);
    }
    rmdir(path);
    return fd >= 0;
}
