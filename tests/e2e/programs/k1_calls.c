/* SPDX-License-Identifier: Apache-2.0 */
/*
 * K1: every call that registers memory for merging, with its result, its errno and whether the memory has
 * KSM's flag afterwards, one line each: to be compared with what the kernel alone answers.
 *
 * usage: k1_calls libc|syscall. Each row has fresh memory. What cannot be made here (huge pages, say) is
 * said so, alike in both.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "pattern.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define PAGES 8u
#define BYTES (PAGES * (size_t)PAGE)

static int raw;

static long do_madvise(void *addr, size_t length, int advice)
{
    return raw ? syscall(SYS_madvise, addr, length, advice) : madvise(addr, length, advice);
}

static long do_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    return raw ? syscall(SYS_prctl, option, a, b, c, d) : prctl(option, a, b, c, d);
}

static long do_process_madvise(void *addr, size_t length, int advice)
{
    struct iovec part = {addr, length};
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    long ret = syscall(SYS_process_madvise, pidfd, &part, 1, advice, 0);
    int err = errno;

    close(pidfd);
    errno = err;
    return ret;
}

/* Pages from addr on that lie in mappings with the flag, as one letter each: m, or - without, or . a hole. */
static void print_flags(const char *addr, size_t npages)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    unsigned long start = 0, end = 0, a, b;
    char line[1024], out[64];

    memset(out, '.', npages);
    out[npages] = 0;
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            start = a;
            end = b;
        }
        if (strncmp(line, "VmFlags:", 8))
            continue;
        for (size_t i = 0; i < npages; i++) {
            unsigned long at = (unsigned long)addr + i * PAGE;

            if (at >= start && at < end)
                out[i] = strstr(line, " mg") ? 'm' : '-';
        }
    }
    if (f)
        fclose(f);
    printf(" %s", out);
}

static void print_result(const char *name, const char *call, long ret)
{
    int err = errno;

    printf("%s %s: %ld %s", name, call, ret, ret < 0 ? strerrorname_np(err) : "-");
}

static char *map(int prot, int flags, int fd)
{
    char *p = mmap(NULL, BYTES, prot, flags, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

static char *anonymous(void)
{
    char *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

    for (size_t i = 0; p && i < PAGES; i++)
        pattern_fill(p + i * PAGE, PATTERN_OWN | i, 0);
    return p;
}

static char *with_prot(int prot)
{
    char *p = anonymous();

    mprotect(p, BYTES, prot);
    return p;
}

static char *with_advice(int advice)
{
    char *p = anonymous();

    madvise(p, BYTES, advice);
    return p;
}

static char *with_hole(size_t first, size_t n)
{
    char *p = anonymous();

    munmap(p + first * PAGE, n * PAGE);
    return p;
}

static char *locked(void)
{
    char *p = anonymous();

    return mlock(p, BYTES) ? NULL : p;
}

static char *of_file(int flags)
{
    int fd = memfd_create("k1", 0);
    char *p = fd >= 0 && !ftruncate(fd, BYTES) ? map(PROT_READ | PROT_WRITE, flags, fd) : NULL;

    close(fd);
    return p;
}

static char *of_device(int flags)
{
    int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    char *p = map(PROT_READ | PROT_WRITE, flags, fd);

    close(fd);
    return p;
}

enum kind { ANONYMOUS, ADVISED, UNADVISED, HOLE_FIRST, HOLE_MIDDLE, HOLE_LAST, UNMAPPED, SHARED, SHARED_FILE,
            PRIVATE_FILE, ZERO_PRIVATE, ZERO_SHARED, NO_ACCESS, READ_ONLY, EXECUTABLE, LOCKED, DONTFORK,
            DONTDUMP, WIPEONFORK, GROWS_DOWN, NORESERVE, HUGETLB, HALVES, VDSO, KINDS };

static const char *const kind_name[KINDS] = {
    "anonymous", "advised", "unadvised", "hole-first", "hole-middle", "hole-last", "unmapped", "shared",
    "shared-file", "private-file", "zero-private", "zero-shared", "no-access", "read-only", "executable",
    "locked", "dontfork", "dontdump", "wipeonfork", "grows-down", "noreserve", "hugetlb", "halves", "vdso",
};

static char *make(enum kind kind)
{
    char *p;

    switch (kind) {
    case ADVISED:      return with_advice(MADV_MERGEABLE);
    case UNADVISED:
        p = with_advice(MADV_MERGEABLE);
        madvise(p, BYTES, MADV_UNMERGEABLE);
        return p;
    case HOLE_FIRST:   return with_hole(0, 1);
    case HOLE_MIDDLE:  return with_hole(3, 2);
    case HOLE_LAST:    return with_hole(PAGES - 1, 1);
    case UNMAPPED:     return with_hole(0, PAGES);
    case SHARED:       return map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    case SHARED_FILE:  return of_file(MAP_SHARED);
    case PRIVATE_FILE: return of_file(MAP_PRIVATE);
    case ZERO_PRIVATE: return of_device(MAP_PRIVATE);
    case ZERO_SHARED:  return of_device(MAP_SHARED);
    case NO_ACCESS:    return with_prot(PROT_NONE);
    case READ_ONLY:    return with_prot(PROT_READ);
    case EXECUTABLE:   return with_prot(PROT_READ | PROT_WRITE | PROT_EXEC);
    case LOCKED:       return locked();
    case DONTFORK:     return with_advice(MADV_DONTFORK);
    case DONTDUMP:     return with_advice(MADV_DONTDUMP);
    case WIPEONFORK:   return with_advice(MADV_WIPEONFORK);
    case GROWS_DOWN:
        return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
    case NORESERVE:
        return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    case HUGETLB:
        return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
    case HALVES:
        p = anonymous();
        madvise(p, BYTES / 2, MADV_MERGEABLE);
        return p;
    case VDSO:         return (char *)getauxval(AT_SYSINFO_EHDR);
    default:           return anonymous();
    }
}

static const struct {
    const char *name;
    long offset;
    size_t length;
} part[] = {
    {"all", 0, BYTES},        {"none", 0, 0},           {"one", PAGE, PAGE},
    {"odd-length", 0, 5000},  {"unaligned", 1, PAGE},   {"unaligned-none", 100, 0},
    {"too-long", 0, -PAGE},   {"wraps", 0, ~(size_t)0}, {"half-page", 2048, 2048},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void advise_rows(enum kind kind, size_t which, int advice, const char *call,
                        long (*fn)(void *, size_t, int))
{
    char name[64], *p = make(kind);
    size_t pages = kind == VDSO ? 1 : PAGES;

    snprintf(name, sizeof(name), "%s %s", kind_name[kind], part[which].name);
    if (!p) {
        printf("%s %s: cannot be made\n", name, call);
        return;
    }
    errno = 0;
    print_result(name, call, fn(p + part[which].offset, part[which].length, advice));
    print_flags(p, pages);
    putchar('\n');
    if (kind != VDSO)
        munmap(p, BYTES);
}

static void prctl_row(const char *name, int option, unsigned long a, unsigned long b, unsigned long c,
                      unsigned long d)
{
    char *p;

    errno = 0;
    print_result("prctl", name, do_prctl(option, a, b, c, d));
    printf(" then %d", prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    p = anonymous(); /* what comes later */
    print_flags(p, PAGES);
    putchar('\n');
    munmap(p, BYTES);
}

static void prctl_rows(void)
{
    static const unsigned long high = 1ul << 40;

    prctl_row("get", PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
    prctl_row("get-2", PR_GET_MEMORY_MERGE, 1, 0, 0, 0);
    prctl_row("get-3", PR_GET_MEMORY_MERGE, 0, 1, 0, 0);
    prctl_row("get-4", PR_GET_MEMORY_MERGE, 0, 0, 1, 0);
    prctl_row("get-5", PR_GET_MEMORY_MERGE, 0, 0, 0, 1);
    prctl_row("set-0-unset", PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    prctl_row("set-1-3", PR_SET_MEMORY_MERGE, 1, 1, 0, 0);
    prctl_row("set-1-4", PR_SET_MEMORY_MERGE, 1, 0, 1, 0);
    prctl_row("set-1-5", PR_SET_MEMORY_MERGE, 1, 0, 0, 1);
    prctl_row("set-high", PR_SET_MEMORY_MERGE, high, 0, 0, 0);
    prctl_row("set-1-again", PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
    prctl_row("get-set", PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
    prctl_row("set-0-3", PR_SET_MEMORY_MERGE, 0, high, 0, 0);
    prctl_row("set-0", PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    prctl_row("set-2", PR_SET_MEMORY_MERGE, 2, 0, 0, 0);
}

/* Inherited: asked in a child, and in what a child executes. */
static void inherit_rows(const char *self, const char *how)
{
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        prctl_row("in-fork", PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
        fflush(stdout);
        execl(self, self, how, "executed", NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    pattern_process = (uint64_t)getpid();
    raw = argc > 1 && !strcmp(argv[1], "syscall");
    if (argc > 2) {
        prctl_row("in-exec", PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
        return 0;
    }
    for (enum kind kind = 0; kind < KINDS; kind++) {
        for (size_t i = 0; i < (kind == VDSO ? 1 : COUNT(part)); i++) {
            advise_rows(kind, i, MADV_MERGEABLE, "mergeable", do_madvise);
            advise_rows(kind, i, MADV_UNMERGEABLE, "unmergeable", do_madvise);
            advise_rows(kind, i, MADV_MERGEABLE, "process-mergeable", do_process_madvise);
            advise_rows(kind, i, MADV_UNMERGEABLE, "process-unmergeable", do_process_madvise);
        }
    }
    prctl_rows();
    inherit_rows("/proc/self/exe", raw ? "syscall" : "libc");
    return 0;
}
