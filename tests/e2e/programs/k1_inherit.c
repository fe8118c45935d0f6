/* SPDX-License-Identifier: Apache-2.0 */
/*
 * K1: registers memory, and has it, and what comes later, in itself, in a forked child, or in what a child
 * executes; then takes the registration back.
 *
 * usage: k1_inherit prctl|advise|except|later|zeros|anew self|fork|exec MIB. Prints "pid N" of who has the memory and "ready
 * ADDRESS BYTES"; on a line from stdin un-merges, checks its bytes, prints "unmerged"; ends at the next line.
 * except: as prctl; of twice as much memory, "all ADDRESS BYTES", one half, in the middle, is taken out by
 * MADV_UNMERGEABLE, and is what it tells of. later: the same, but it is taken out on a line from stdin. zeros: as
 * later, and the second half of it is zeros. anew: as prctl; the memory was taken out, unmapped, and mapped again.
 */
#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "pattern.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

/* Takes memory out, by either call that can. */
static int take_out(char *at, size_t bytes)
{
#ifdef BY_PROCESS
#ifdef APART
    struct iovec part[2] = {{at, bytes / 4}, {at + 3 * (bytes / 4), bytes / 4}};
#else
    struct iovec part[2] = {{at, bytes / 2}, {at + bytes / 2, bytes / 2}};
#endif
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    long ret = syscall(SYS_process_madvise, pidfd, part, 2, MADV_UNMERGEABLE, 0);

    close(pidfd);
    if (ret < 0 && errno == EINVAL) {
        puts("skip this kernel's process_madvise is for others only");
        exit(0);
    }
    return ret != (long)(part[0].iov_len + part[1].iov_len);
#else
    return madvise(at, bytes, MADV_UNMERGEABLE);
#endif
}

static int has_line(void)
{
    char line[16];

    return fgets(line, sizeof(line), stdin) != NULL;
}

static int hold(char *region, size_t npages, int advised)
{
    region_fill(region, npages, 0);
    printf("pid %d\nready %p %zu\n", getpid(), (void *)region, npages * PAGE);
    fflush(stdout);
    if (!has_line())
        return 3;
    if (advised ? madvise(region, npages * PAGE, MADV_UNMERGEABLE) : prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0))
        die("to take it back");
    puts("unmerged");
    fflush(stdout);
    region_check(region, npages, 0, "after it was taken back");
    return has_line() ? 0 : 3;
}

int main(int argc, char **argv)
{
    int advised = argc > 1 && !strcmp(argv[1], "advise"), status;
    int zeros = argc > 1 && !strcmp(argv[1], "zeros");
    int later = zeros || (argc > 1 && !strcmp(argv[1], "later"));
    int except = later || (argc > 1 && !strcmp(argv[1], "except"));
    size_t npages = (size_t)(argc > 3 ? atoi(argv[3]) : 8) * 256;
    char *region;
    pid_t child;

    if (argc > 2 && !strcmp(argv[2], "executed"))
        return hold(region_map(npages), npages, 0);
    region = region_map(npages);
    if (advised ? madvise(region, npages * PAGE, MADV_MERGEABLE) : prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
        die("to register");
    if (except) {
        region = region_map(2 * npages);
        region_fill(region, 2 * npages, 0);
        if (zeros)
            memset(region + npages * PAGE, 0, npages * PAGE);
        printf("all %p %zu\n", (void *)region, 2 * npages * PAGE);
        fflush(stdout);
        if (later && !has_line())
            return 3;
        region += npages / 2 * PAGE;
        if (take_out(region, npages * PAGE))
            die("to take it out");
#ifdef APART
        printf("taken %p %zu\n", (void *)region, npages * PAGE);
        fflush(stdout);
        return has_line() ? 0 : 3;
#endif
        return hold(region, npages, 1);
    }
    if (argc > 1 && !strcmp(argv[1], "anew")) {
        if (madvise(region, npages * PAGE, MADV_UNMERGEABLE) || munmap(region, npages * PAGE))
            die("to take it out");
        if (mmap(region, npages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != region)
            die("to map it again");
        return hold(region, npages, 0);
    }
    if (argc > 2 && !strcmp(argv[2], "self"))
        return hold(advised ? region : region_map(npages), npages, advised);
    child = fork();
    if (child == 0) {
        if (!strcmp(argv[2], "exec"))
            execl("/proc/self/exe", "k1_inherit", argv[1], "executed", argv[3], NULL);
        return hold(advised ? region : region_map(npages), npages, advised);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0 ? 0 : 4;
}
