/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of X, one subcommand each. usage: x_rows ROW [MIB]
 *
 * Fills a region that is equal in every x_rows, prints "ready ADDRESS BYTES", reads a line from
 * stdin (the test sends it when the region is merged), does what the row says, checks what it must
 * see, prints "ok" and exits 0. Rows that stay a while print further words and read further lines.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "pattern.h"

static char *region;
static size_t npages;

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

static void listen_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin)) {
        fprintf(stderr, "stdin ended\n");
        exit(3);
    }
}

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "x_rows: %s\n", what);
    exit(3);
}

static void row_hold(void)
{
    region_check(region, npages, 0, "held");
}

static void row_dontneed(void)
{
    size_t half = npages / 2;

    must(!madvise(region, half * PAGE, MADV_DONTNEED), "MADV_DONTNEED failed");
    region_zero(region, half, "after MADV_DONTNEED");
    for (size_t i = half; i < npages; i++)
        pattern_check(region + i * PAGE, i, 0, "beside MADV_DONTNEED");
    region_fill(region, half, 3);
    region_check(region, half, 3, "written after MADV_DONTNEED");
}

static void row_free(void)
{
    static const char zeros[PAGE];

    must(!madvise(region, npages * PAGE, MADV_FREE), "MADV_FREE failed");
    for (size_t i = 0; i < npages; i++)
        if (memcmp(region + i * PAGE, zeros, PAGE))
            pattern_check(region + i * PAGE, i, 0, "after MADV_FREE");
    region_fill(region, npages, 3);
    region_check(region, npages, 3, "written after MADV_FREE");
}

static void row_mremap_grow(void)
{
    char *grown = mremap(region, npages * PAGE, 2 * npages * PAGE, MREMAP_MAYMOVE);

    must(grown != MAP_FAILED, "mremap to twice the size failed");
    region_check(grown, npages, 0, "after mremap");
    region_zero(grown + npages * PAGE, npages, "in the part that mremap added");
    region_fill(grown, 2 * npages, 5);
    region_check(grown, 2 * npages, 5, "written after mremap");
}

static void row_mremap_move(void)
{
    char *place = mmap(NULL, npages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *moved = mremap(region, npages * PAGE, npages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);

    must(moved == place, "mremap to a fixed place failed");
    region_check(moved, npages, 0, "after mremap");
    must(!munmap(moved + npages / 2 * PAGE, npages / 2 * PAGE), "munmap of the second half failed");
    region_check(moved, npages / 2, 0, "after munmap of the other half");
    must(mremap(moved, npages / 2 * PAGE, npages / 4 * PAGE, 0) == moved, "mremap could not shrink");
    region_check(moved, npages / 4, 0, "after shrinking");
}

static void row_munmap_mmap(void)
{
    char *again;

    must(!munmap(region, npages * PAGE), "munmap failed");
    again = mmap(region, npages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    must(again == region, "mmap at the same address failed");
    region_zero(region, npages, "after munmap and mmap");
    again = mmap(region, npages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    must(again == region, "mmap over the region failed");
    region_zero(region, npages, "after mmap over it");
}

static volatile sig_atomic_t faults;

static void on_segv(int sig, siginfo_t *info, void *context)
{
    char *at = info->si_addr;

    if (at < region || at >= region + npages * PAGE || info->si_code != SEGV_ACCERR)
        _exit(99);
    faults++;
    mprotect((void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

/* The program's own handler sees each fault once and puts it right. */
static void row_mprotect(void)
{
    struct sigaction action = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };

    sigaction(SIGSEGV, &action, NULL);
    must(!mprotect(region, npages * PAGE, PROT_READ), "mprotect to read-only failed");
    region_check(region, npages, 0, "read-only");
    must(faults == 0, "a read of read-only memory faulted");
    for (size_t i = 0; i < npages; i += 16)
        pattern_fill(region + i * PAGE, i, 9);
    must(faults == (sig_atomic_t)(npages / 16), "not every write to read-only memory faulted once");
    must(!mprotect(region, npages * PAGE, PROT_NONE), "mprotect to none failed");
    faults = 0;
    for (size_t i = 0; i < npages; i += 16)
        pattern_check(region + i * PAGE, i, 9, "after mprotect");
    must(faults == (sig_atomic_t)(npages / 16), "not every read of forbidden memory faulted once");
}

static void row_mlock(void)
{
    must(!mlock(region, npages * PAGE), "mlock failed");
    region_check(region, npages, 0, "locked");
    pattern_fill(region, 0, 4);
    must(!munlock(region, npages * PAGE), "munlock failed");
    pattern_check(region, 0, 4, "unlocked");
    for (size_t i = 1; i < npages; i++)
        pattern_check(region + i * PAGE, i, 0, "unlocked");
}

static void wait_child(pid_t child)
{
    int status = -1;

    must(child > 0 && waitpid(child, &status, 0) == child, "no child");
    must(status == 0, "the child ended badly");
}

static void row_fork(void)
{
    pid_t child = fork();

    if (!child) {
        region_check(region, npages, 0, "in the child");
        region_fill(region, npages / 2, 6);
        region_check(region, npages / 2, 6, "written by the child");
        _exit(0);
    }
    region_fill(region + npages / 2 * PAGE, npages / 2, 7);
    wait_child(child);
    region_check(region, npages / 2, 0, "in the parent");
    region_check(region + npages / 2 * PAGE, npages / 2, 7, "written by the parent");
}

/* The child stays, with the inherited region and (new) data of its own, until told. */
static void row_fork_stay(void)
{
    pid_t child = fork();
    char *fresh;

    if (child) {
        wait_child(child);
        return;
    }
    printf("child %d\n", getpid());
    say("forked");
    listen_line();
    fresh = region_map(npages);
    region_fill(fresh, npages, 21);
    printf("fresh %p %zu\n", (void *)fresh, npages * PAGE);
    fflush(stdout);
    listen_line();
    region_check(region, npages, 0, "inherited");
    region_check(fresh, npages, 21, "the child's new data");
    _exit(0);
}

static void row_write(void)
{
    region_fill(region, npages / 2, 8);
    say("written");
    listen_line();
    region_check(region, npages / 2, 8, "written");
    for (size_t i = npages / 2; i < npages; i++)
        pattern_check(region + i * PAGE, i, 0, "not written");
}

/* The kernel reads and writes merged pages on the program's behalf. */
static void row_syscalls(void)
{
    char *copy = region_map(npages);
    char path[] = "/tmp/samepage-x-XXXXXX";
    int fd = mkstemp(path);
    struct iovec mine = { .iov_base = copy, .iov_len = npages * PAGE };
    struct iovec theirs = { .iov_base = region, .iov_len = npages * PAGE };

    must(fd >= 0 && !unlink(path), "no file to write to");
    must(write(fd, region, npages * PAGE) == (ssize_t)(npages * PAGE), "write(2) was short");
    must(pread(fd, copy, npages * PAGE, 0) == (ssize_t)(npages * PAGE), "read(2) was short");
    region_check(copy, npages, 0, "through a file");
    region_fill(copy, npages, 11);
    must(pwrite(fd, copy, npages * PAGE, 0) == (ssize_t)(npages * PAGE), "write(2) was short");
    must(pread(fd, region, npages * PAGE, 0) == (ssize_t)(npages * PAGE),
         "read(2) into merged pages was short");
    region_check(region, npages, 11, "read(2) into merged pages");
    must(process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) == (ssize_t)(npages * PAGE),
         "process_vm_readv was short");
    region_check(copy, npages, 11, "through process_vm_readv");
    close(fd);
}

/* How many pages move_pages() names a node of; asked, or told to move them to the first. */
static size_t nodes_known(bool move)
{
    void **page = malloc(npages * sizeof(*page));
    int *node = calloc(npages, sizeof(*node)), *status = malloc(npages * sizeof(*status));
    size_t known = 0;

    must(page && node && status, "no memory");
    for (size_t i = 0; i < npages; i++) {
        page[i] = region + i * PAGE;
        status[i] = -99;
    }
    must(!syscall(SYS_move_pages, 0, npages, page, move ? node : NULL, status,
                  move ? 2 /* MPOL_MF_MOVE */ : 0),
         "move_pages failed");
    for (size_t i = 0; i < npages; i++)
        known += status[i] >= 0;
    free(page);
    free(node);
    free(status);
    return known;
}

/* Pages that nobody touched since they were merged: the kernel knows where they lie, and moves
 * them. */
static void row_nodes(void)
{
    must(nodes_known(false) == npages, "not every page has a node");
    say("asked");
    listen_line();
    must(nodes_known(true) == npages, "not every page was moved");
    say("moved");
    listen_line();
    region_check(region, npages, 0, "moved");
}

/* Stays merged; a second region comes on "more", for what the test counts. */
static void row_more(void)
{
    char *fresh = region_map(npages);

    region_fill(fresh, npages, 31);
    printf("fresh %p %zu\n", (void *)fresh, npages * PAGE);
    fflush(stdout);
    listen_line();
    region_check(region, npages, 0, "held");
    region_check(fresh, npages, 31, "held");
}

/* Every page has the same content: one frame's limit of sites is met (K14). */
static void row_same(void)
{
    for (size_t i = 0; i < npages; i++)
        pattern_check(region + i * PAGE, 1, 0, "the same content everywhere");
}

static const struct row {
    const char *name;
    void (*run)(void);
} rows[] = {
    { "hold", row_hold },
    { "dontneed", row_dontneed },
    { "free", row_free },
    { "mremap-grow", row_mremap_grow },
    { "mremap-move", row_mremap_move },
    { "munmap-mmap", row_munmap_mmap },
    { "mprotect", row_mprotect },
    { "mlock", row_mlock },
    { "fork", row_fork },
    { "fork-stay", row_fork_stay },
    { "write", row_write },
    { "syscalls", row_syscalls },
    { "nodes", row_nodes },
    { "more", row_more },
    { "same", row_same },
};

int main(int argc, char **argv)
{
    const struct row *row = NULL;

    for (size_t i = 0; argc > 1 && i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!strcmp(argv[1], rows[i].name))
            row = &rows[i];
    if (!row)
        return 2;
    npages = (size_t)(argc > 2 ? atoi(argv[2]) : 8) * 256;
    region = region_map(npages);
    for (size_t i = 0; i < npages; i++)
        pattern_fill(region + i * PAGE, row->run == row_same ? 1 : i, 0);
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    listen_line();
    row->run();
    say("ok");
    return 0;
}
