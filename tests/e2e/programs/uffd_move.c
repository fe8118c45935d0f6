/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves pages of a region that is equal in every such program, but for its first pages, into memory
 * that a userfaultfd of its own has: in one call; then one that meets a hole, without leave and with it. Prints "ready ADDRESS BYTES", waits for a line, moves, prints "ok", and waits for the
 * end of stdin.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "pattern.h"

#define PAGES 2048u
#define PLAIN 24u  /* pages at the start of the region that no other program has */
#define MOVED 200u /* more than one un-merge takes; the first ones were never merged */
#define HOLE  100u

/* Linux 6.8; older headers lack it. */
struct move {
    uint64_t dst, src, len, mode;
    int64_t moved;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)

#define ALLOW_SRC_HOLES (1u << 1)

/* But for the hole's page, 0: there is none. */
static void check_moved(const char *at, size_t hole)
{
    for (size_t i = 0; i < MOVED; i++)
        if (i < PLAIN)
            for (size_t k = 0; k < PAGE / 2; k++)
                if (at[i * PAGE + k] != (char)(getpid() % 251 + 1))
                    die("a page that was moved");
    for (size_t i = PLAIN; i < MOVED; i++)
        if (!hole || i != hole)
            pattern_check(at + i * PAGE, i, 0, "moved");
}

int main(void)
{
    char *region = region_map(PAGES), *to = region_map(MOVED);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)to, MOVED * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct move move = {.dst = (uintptr_t)to, .src = (uintptr_t)region, .len = MOVED * PAGE};
    int fd;

    region_fill(region, PAGES, 0);
    for (size_t i = 0; i < PLAIN; i++)
        memset(region + i * PAGE, getpid() % 251 + 1, PAGE / 2);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("a userfaultfd");
    if (ioctl(fd, MOVE, &move) || move.moved != MOVED * PAGE)
        die("UFFDIO_MOVE");
    check_moved(to, 0);
    region_zero(region, MOVED, "moved away");
    /* Back, with a hole in the middle: all before it is moved; the second call has leave. */
    if (madvise(to + HOLE * PAGE, PAGE, MADV_DONTNEED))
        die("madvise");
    range.range.start = (uintptr_t)region;
    if (ioctl(fd, UFFDIO_REGISTER, &range) || madvise(region, MOVED * PAGE, MADV_DONTNEED))
        die("a second range");
    move = (struct move){.dst = (uintptr_t)region, .src = (uintptr_t)to, .len = MOVED * PAGE};
    if (ioctl(fd, MOVE, &move) != -1 || errno != EAGAIN || move.moved != HOLE * PAGE)
        die("UFFDIO_MOVE that meets a hole");
    move = (struct move){.dst = (uintptr_t)region + HOLE * PAGE, .src = (uintptr_t)to + HOLE * PAGE,
                         .len = (MOVED - HOLE) * PAGE, .mode = ALLOW_SRC_HOLES};
    if (ioctl(fd, MOVE, &move) || move.moved != (MOVED - HOLE) * PAGE)
        die("UFFDIO_MOVE with leave for holes");
    move = (struct move){.dst = (uintptr_t)region, .src = (uintptr_t)to + PAGE, .len = 7};
    if (ioctl(fd, MOVE, &move) != -1 || errno != EINVAL)
        die("UFFDIO_MOVE of no whole page");
    if (ioctl(fd, UFFDIO_UNREGISTER, &range.range)) /* else the hole waits for us */
        die("UFFDIO_UNREGISTER");
    check_moved(region, HOLE);
    region_zero(region + HOLE * PAGE, 1, "the hole");
    for (size_t i = MOVED; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, 0, "left where it was");
    puts("ok");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
