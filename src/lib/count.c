/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merged pages lie in private mappings of the pool, which the agent knows. A page that was written
 * since lies there, too, but is the program's own: the kernel tells the difference.
 */
#include "inside.h"

#include <fcntl.h>
#include <unistd.h>

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_OF_FILE (1ull << 61)
#define BATCH        512u

/* A page of the pool that nobody touched since it was merged has no entry yet. */
static bool is_merged(uint64_t entry)
{
    return (entry & PAGE_OF_FILE) || !(entry & (PAGE_PRESENT | PAGE_SWAPPED));
}

/* fd: /proc/self/pagemap, -1: it cannot be read. */
static uint64_t count_run(int fd, uint64_t page_size, uint64_t start, uint64_t stop)
{
    uint64_t entry[BATCH], count = 0;

    while (start < stop) {
        uint64_t pages = (stop - start) / page_size;
        size_t want = (pages < BATCH ? pages : BATCH) * sizeof(entry[0]);
        ssize_t n = pread(fd, entry, want, (off_t)(start / page_size * sizeof(entry[0])));

        if (n < (ssize_t)sizeof(entry[0]))
            return count + pages; /* cannot be told */
        for (size_t i = 0; i < (size_t)n / sizeof(entry[0]); i++)
            count += is_merged(entry[i]);
        start += (size_t)n / sizeof(entry[0]) * page_size;
    }
    return count;
}

uint64_t sp_lib_count(const struct sp_linked *linked, uint64_t start, uint64_t end)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t count = 0, stop;

    while (start < end && linked->next_run(start, end, &start, &stop)) {
        count += count_run(fd, linked->page_size, start, stop);
        start = stop;
    }
    if (fd >= 0)
        close(fd);
    return count;
}
