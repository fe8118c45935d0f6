/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames of the tmpfs are in memory, and where: the machine's own swap may have the others
 * (docs/decisions/0028-machines-own-swap.md).
 *
 * mincore() tells of a file's page whether it is in memory, whoever maps it, and touches nothing.
 * A frame's place, the number of its physical page, only the view's page table tells, and only if
 * the frame was read through it since it is in memory: so frames that are there are read first.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define AT_ONCE        128u /* frames in one question (pool.h) */
#define PAGEMAP_IS     (UINT64_C(1) << 63)
#define PAGEMAP_NUMBER ((UINT64_C(1) << 55) - 1)

/* The view of n frames that were handed out; NULL: there are none such, or no memory. */
static char *view_of(struct sp_pool_segment *segment, uint32_t index, unsigned n)
{
    if (n == 0 || n > AT_ONCE || index >= segment->bump || n > segment->bump - index)
        return NULL;
    return (char *)sp_pool_segment_at(segment, index);
}

int sp_pool_segment_out(struct sp_pool_segment *segment, uint32_t index, unsigned n, bool *out)
{
    unsigned handed_out = index < segment->bump ? segment->bump - index : 0;
    unsigned char in[AT_ONCE];
    char *view;

    for (unsigned i = 0; i < n; i++)
        out[i] = false;
    n = n < handed_out ? n : handed_out;
    view = view_of(segment, index, n);
    if (!view)
        return -ENOENT;
    if (mincore(view, n * (size_t)sysconf(_SC_PAGESIZE), in))
        return -errno;
    for (unsigned i = 0; i < n; i++)
        out[i] = !(in[i] & 1);
    return 0;
}

int sp_pool_segment_bring(struct sp_pool_segment *segment, uint32_t index)
{
    char *view = view_of(segment, index, 1);

    if (!view)
        return -ENOENT;
    if (!madvise(view, (size_t)sysconf(_SC_PAGESIZE), MADV_POPULATE_READ))
        return 0;
    /* EFAULT and EHWPOISON: reading it would have been a SIGBUS. */
    return errno == EFAULT || errno == EHWPOISON ? -EIO : -errno;
}

static int read_pagemap(int fd, const char *view, unsigned n, uint64_t *entry)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    ssize_t got = pread(fd, entry, n * sizeof(*entry), (off_t)((uintptr_t)view / size * sizeof(*entry)));

    if (got < 0)
        return -errno;
    return (size_t)got == n * sizeof(*entry) ? 0 : -EIO;
}

int sp_pool_segment_numbers(struct sp_pool_segment *segment, int pagemap, uint32_t index, unsigned n,
                            uint64_t *number)
{
    char *view = view_of(segment, index, n);
    bool out[AT_ONCE], read = false;
    int err = view ? sp_pool_segment_out(segment, index, n, out) : -ENOENT;

    if (!err)
        err = read_pagemap(pagemap, view, n, number);
    for (unsigned i = 0; i < n && !err; i++)
        if (!out[i] && !(number[i] & PAGEMAP_IS)) {
            (void)sp_pool_segment_bring(segment, index + i);
            read = true;
        }
    if (!err && read)
        err = read_pagemap(pagemap, view, n, number);
    for (unsigned i = 0; i < n && !err; i++) {
        bool is = number[i] & PAGEMAP_IS;

        number[i] = is ? number[i] & PAGEMAP_NUMBER : 0;
        if (is && !number[i]) /* no right to know */
            err = -EACCES;
    }
    return err;
}
