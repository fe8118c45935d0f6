/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of which the kernel holds the pages themselves, for a ring or a pipe, while the program takes a right
 * away from it and gives it back. usage: held_by_kernel ring|pipe|drop|drop-protected none|read|exec [nobody]
 *
 * Fills a region that is equal in every one of them, prints "ready ADDRESS BYTES" (or "skip WHY"); at a line on
 * stdin lets the kernel hold some pages, protects all, makes it writable again, and lets the ring write to the
 * pages, or writes to them what the pipe's reader must see, or drops them: then the reader must see what they
 * were. Prints "ok". Some were written before they were held. nobody: gives up root before all that.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pattern.h"

static void x_must(int holds, const char *what)
{
    if (!holds)
        die(what);
}

static void x_skip(const char *why)
{
    printf("skip %s\n", why);
    exit(0);
}

#include "x_uring.h"

#define PAGES 1024u
#define FIRST 300u /* of the pages that are held */
#define HELD  16u  /* as many as a pipe holds */

static char *region;
static int ends[2];

static char *held(unsigned i)
{
    return region + (FIRST + i) * PAGE;
}

static void protect(int protection)
{
    if (mprotect(region, PAGES * PAGE, protection))
        die("mprotect");
}

static void protect_and_back(int protection)
{
    protect(protection);
    protect(PROT_READ | PROT_WRITE);
}

/* Every fourth page is written before it is held: version 1. */
static void write_some(void)
{
    for (unsigned i = 0; i < HELD; i += 4)
        pattern_fill(held(i), FIRST + i, 1);
}

static void check_all(uint64_t version)
{
    for (unsigned i = 0; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, i - FIRST < HELD ? version : 0, "after it");
}

static void with_ring(int protection)
{
    struct iovec buffer = {held(0), HELD * PAGE};
    int file = memfd_create("held", 0);
    static char page[PAGE];

    for (unsigned i = 0; i < HELD; i++) {
        pattern_fill(page, FIRST + i, 2);
        if (write(file, page, PAGE) != PAGE)
            die("write");
    }
    if (uring_register(IORING_REGISTER_BUFFERS, &buffer, 1))
        die("io_uring_register");
    protect_and_back(protection);
    x_must(uring_do(IORING_OP_READ_FIXED, file, held(0), HELD * PAGE) == HELD * PAGE, "read");
    check_all(2);
}

static void into_pipe(void)
{
    struct iovec part = {held(0), HELD * PAGE};

    if (pipe(ends) || vmsplice(ends[1], &part, 1, 0) != HELD * PAGE)
        die("vmsplice");
}

/* The next page in the pipe. */
static void check_pipe(unsigned i, uint64_t version)
{
    static char page[PAGE];

    if (read(ends[0], page, PAGE) != PAGE)
        die("read");
    pattern_check(page, FIRST + i, version, "in the pipe");
}

static void with_pipe(int protection)
{
    into_pipe();
    protect_and_back(protection);
    for (unsigned i = 0; i < HELD; i++)
        pattern_fill(held(i), FIRST + i, 2);
    for (unsigned i = 0; i < HELD; i++)
        check_pipe(i, 2);
    check_all(2);
}

static void and_drop(int protection, int while_protected)
{
    into_pipe();
    protect(protection);
    if (!while_protected)
        protect(PROT_READ | PROT_WRITE);
    if (madvise(region, PAGES * PAGE, MADV_DONTNEED))
        die("madvise");
    if (!while_protected || (protection & PROT_READ))
        region_zero(region, PAGES, "dropped");
    protect(PROT_READ | PROT_WRITE);
    region_zero(region, PAGES, "writable again");
    for (unsigned i = 0; i < HELD; i++)
        check_pipe(i, i % 4 == 0);
}

int main(int argc, char **argv)
{
    int protection = argv[2][0] == 'n' ? PROT_NONE : argv[2][0] == 'r' ? PROT_READ : PROT_READ | PROT_EXEC;

    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    if (argv[1][0] == 'r')
        uring_open();
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (getchar() == EOF)
        return 4;
    write_some();
    if (argc > 3 && (setgid(65534) || setuid(65534)))
        die("setuid");
    if (argv[1][0] == 'r')
        with_ring(protection);
    else if (argv[1][0] == 'p')
        with_pipe(protection);
    else
        and_drop(protection, argv[1][4] == '-');
    printf("ok\n");
    fflush(stdout);
    return 0;
}
