/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of which every second page is pinned for a while: a registered buffer of an io_uring. Fills a
 * region that is equal in every one of them, prints "ready ADDRESS BYTES" (or "skip WHY"); at a line on
 * stdin makes all of it MADV_WIPEONFORK, which needs all of it to be its own memory, and prints "done".
 */
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pattern.h"

#define PAGES  2048u
#define PINNED 512u /* the even ones of the first 1024 */

static int pin(char *region)
{
    struct io_uring_params params = {0};
    struct iovec buffer[PINNED];
    int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

    for (size_t i = 0; i < PINNED; i++)
        buffer[i] = (struct iovec){region + 2 * i * PAGE, PAGE};
    return ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffer, PINNED);
}

int main(void)
{
    char *region = region_map(PAGES);
    int c;

    region_fill(region, PAGES, 0);
    if (pin(region)) {
        printf("skip io_uring, or so many registered buffers, are not allowed here\n");
        return 0;
    }
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    while ((c = getchar()) != '\n')
        if (c == EOF)
            return 4;
    region_check(region, PAGES, 0, "merged");
    if (madvise(region, PAGES * PAGE, MADV_WIPEONFORK))
        die("MADV_WIPEONFORK");
    region_check(region, PAGES, 0, "not merged any more");
    printf("done\n");
    fflush(stdout);
    return 0;
}
