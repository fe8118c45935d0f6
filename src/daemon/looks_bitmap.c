/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's bitmap of idle pages (looks_ask.h). It is read and written in words of 64 pages;
 * pages whose bit is not set in what is written stay as they are, so nobody else's are touched. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "looks_ask.h"

#define BITMAP "/sys/kernel/mm/page_idle/bitmap"
#define BITS   64u

/* The pages of one word. How many; 0: an error. */
static size_t one_word(int fd, struct sp_look_page *page, size_t n)
{
    uint64_t at = page[0].pfn / BITS, idle, ours = 0;
    size_t i;

    if (pread(fd, &idle, sizeof(idle), (off_t)(at * sizeof(idle))) != sizeof(idle))
        return 0;
    for (i = 0; i < n && page[i].pfn / BITS == at; i++) {
        page[i].used = !(idle >> page[i].pfn % BITS & 1);
        ours |= UINT64_C(1) << page[i].pfn % BITS;
    }
    if ((ours & ~idle) &&
        pwrite(fd, &ours, sizeof(ours), (off_t)(at * sizeof(ours))) != sizeof(ours))
        return 0;
    return i;
}

int sp_look_bitmap(struct sp_look_page *page, size_t n)
{
    int fd = open(BITMAP, O_RDWR | O_CLOEXEC), err = 0;

    if (fd < 0)
        return -EOPNOTSUPP;
    for (size_t i = 0, done; i < n && !err; i += done) {
        done = one_word(fd, page + i, n - i);
        if (!done)
            err = -EOPNOTSUPP;
    }
    close(fd);
    return err;
}
