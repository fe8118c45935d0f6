/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of which half the pages are zeros that were written: every second page, and all of the last
 * quarter. The others are its own, found nowhere else.
 *
 * usage: zeros PAGES. Prints "ready ADDRESS BYTES". Then a line from stdin is an order, and is answered
 * with "done" or, in the child of a fork, with "child PID":
 *   check    every page holds what it must
 *   write N  every Nth page of zeros is written, and holds a pattern from then on
 *   merged   all pages become one pattern that is equal in every such program
 *   clear    all that was written by "write" or "merged" is zeros again, by writing
 *   some N   every Nth page is zeros, by writing
 *   lock     mlock() of all of it
 *   drop     MADV_DONTNEED of the last quarter
 *   unmap    the last quarter goes
 *   move     the last quarter is moved elsewhere by mremap, read there, and moved back
 *   pieces   the last quarter becomes many mappings side by side, which the kernel cannot make one
 *   advise, unadvise   MADV_MERGEABLE and MADV_UNMERGEABLE of all of it
 *   filtered   PR_SET_MEMORY_MERGE 0 at once after a filter that lets no madvise pass
 *   forkall  forks; the child checks, writes its first page of zeros, checks again, and stays until
 *            its parent ends
 * Ends with 0 at the end of stdin, after a last check.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

static char *region;
static size_t npages, mapped;
static uint64_t *version; /* of each page; 0: as it was at first */
static uint8_t *zero;

static int is_zero_page(size_t i)
{
    return i % 2 == 0 || i >= npages - npages / 4;
}

static void check(const char *when)
{
    for (size_t i = 0; i < mapped; i++) {
        if (zero[i])
            region_zero(region + i * PAGE, 1, when);
        else
            pattern_check(region + i * PAGE, version[i] == 1 ? i | PATTERN_OWN : i, version[i], when);
    }
}

static void set(size_t i, uint64_t number, uint64_t v)
{
    pattern_fill(region + i * PAGE, number, v);
    version[i] = v;
    zero[i] = 0;
}

static void clear(size_t i)
{
    memset(region + i * PAGE, 0, PAGE);
    zero[i] = 1;
}

static void stay(void)
{
    prctl(PR_SET_PDEATHSIG, 9);
    check("in the child");
    set(0, 0, 7);
    check("written in the child");
    printf("child %d\n", getpid());
    fflush(stdout);
    for (;;)
        pause();
}

static void move_away_and_back(char *last, size_t length)
{
    char *elsewhere = mremap(last, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                             region + npages * PAGE + length);

    if (elsewhere == MAP_FAILED)
        die("mremap");
    region_zero(elsewhere, length / PAGE, "moved");
    if (mremap(elsewhere, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, last) != last)
        die("mremap back");
}

static void move_to(char *from, char *to, size_t length)
{
    if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
        die("mremap");
}

/* Neighbours change places: what they hold is the same, zeros. */
static void make_pieces(char *last, size_t length)
{
    const size_t piece = 13 * PAGE;
    char *elsewhere = region + npages * PAGE + length;

    for (char *at = last; at + 2 * piece <= last + length; at += 2 * piece) {
        move_to(at, elsewhere, piece);
        move_to(at + piece, at, piece);
        move_to(elsewhere, at + piece, piece);
    }
}

/* The agent has no time to see the filter. */
static void call_filtered(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        die("filter");
    prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
}

static void follow(const char *order)
{
    char *last = region + (npages - npages / 4) * PAGE;
    size_t length = npages / 4 * PAGE, every;

    if (sscanf(order, "write %zu", &every) == 1) {
        for (size_t i = 0, n = 0; i < npages; i++)
            if (is_zero_page(i) && n++ % every == 0)
                set(i, i, 2);
    } else if (!strcmp(order, "merged\n")) {
        for (size_t i = 0; i < npages; i++)
            set(i, i, 3);
    } else if (!strcmp(order, "clear\n")) {
        for (size_t i = 0; i < npages; i++)
            if (version[i] > 1 && !zero[i])
                clear(i);
    } else if (sscanf(order, "some %zu", &every) == 1) {
        for (size_t i = 0; i < npages; i += every)
            clear(i);
    } else if (!strcmp(order, "filtered\n")) {
        call_filtered();
    } else if (!strcmp(order, "lock\n")) {
        if (mlock(region, npages * PAGE))
            die("mlock");
    } else if (!strcmp(order, "drop\n")) {
        if (madvise(last, length, MADV_DONTNEED))
            die("MADV_DONTNEED");
    } else if (!strcmp(order, "unmap\n")) {
        munmap(last, length);
        mapped = npages - npages / 4;
    } else if (!strcmp(order, "pieces\n")) {
        make_pieces(last, length);
    } else if (!strcmp(order, "move\n")) {
        move_away_and_back(last, length);
    } else if (!strcmp(order, "advise\n")) {
        madvise(region, npages * PAGE, MADV_MERGEABLE);
    } else if (!strcmp(order, "unadvise\n")) {
        madvise(region, npages * PAGE, MADV_UNMERGEABLE);
    } else if (!strcmp(order, "forkall\n")) {
        if (fork() == 0)
            stay();
        return;
    } else if (strcmp(order, "check\n")) {
        die("what order?");
    }
    check(order);
    puts("done");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[64];

    npages = mapped = argc > 1 ? strtoul(argv[1], NULL, 10) : 2048;
    pattern_process = (uint64_t)getpid() << 32 | (uint32_t)time(NULL);
    version = calloc(npages, sizeof(*version));
    zero = calloc(npages, 1);
    region = region_map(npages * 2 + 512); /* with room to move to */
    for (size_t i = 0; i < npages; i++) {
        set(i, i | PATTERN_OWN, 1);
        if (is_zero_page(i))
            clear(i);
    }
    printf("ready %p %zu\n", (void *)region, npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin))
        follow(line);
    check("at the end");
    return 0;
}
