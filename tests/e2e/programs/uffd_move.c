/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves pages of a region that is equal in every such program into memory that a userfaultfd of its
 * own has. Prints "ready ADDRESS BYTES", waits for a line, moves, prints "ok", and waits for the
 * end of stdin.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "pattern.h"

#define PAGES 2048u
#define MOVED 16u

/* Linux 6.8; older headers lack it. */
struct move {
    uint64_t dst, src, len, mode;
    int64_t moved;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)

int main(void)
{
    char *region = region_map(PAGES), *to = region_map(MOVED);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)to, MOVED * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct move move = {.dst = (uintptr_t)to, .src = (uintptr_t)region, .len = MOVED * PAGE};
    int fd;

    region_fill(region, PAGES, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("a userfaultfd");
    if (ioctl(fd, MOVE, &move))
        die("UFFDIO_MOVE");
    region_check(to, MOVED, 0, "moved");
    for (size_t i = MOVED; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, 0, "left where it was");
    region_zero(region, MOVED, "moved away");
    puts("ok");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
