/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on the nodes of the machine's memory (N1, N3).
 *
 * A segment's policy is the file's: it holds for whoever fills a frame, and for as long as the file
 * is there, also under the next daemon. It prefers its node and does not insist: bound to it, a
 * frame for which the node has no room would have the kernel kill programs until there is some. So
 * who fills frames looks where they came to lie.
 *
 * In test builds SAMEPAGE_TEST_NODES=N has the machine have N nodes: for those that it has not no
 * policy is set, and frames lie where they were wanted, or one further where the file
 * SAMEPAGE_TEST_FRAMES_MOVED is.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SP_FAULT_POINTS
static int pretended(void)
{
    const char *nodes = getenv("SAMEPAGE_TEST_NODES");

    return nodes ? atoi(nodes) : 0;
}

static int pretend(const struct sp_pool_segment *segment, int real)
{
    const char *moved = getenv("SAMEPAGE_TEST_FRAMES_MOVED");

    if (!pretended() || real < 0 || segment->node < 0)
        return real;
    return moved && !access(moved, F_OK) ? (segment->node + 1) % pretended() : segment->node;
}
#else
static int pretended(void)
{
    return 0;
}

static int pretend(const struct sp_pool_segment *segment, int real)
{
    (void)segment;
    return real;
}
#endif

int sp_pool_segment_prefer(struct sp_pool_segment *segment)
{
    size_t size = segment->npages * (size_t)sysconf(_SC_PAGESIZE);
    unsigned long mask;
    int err;

    if (segment->node < 0 || segment->node >= SP_POOL_NODES)
        return -EINVAL;
    mask = 1ul << segment->node;
    err = sp_pool_segment_map(segment);
    if (err)
        return err;
    if (!syscall(SYS_mbind, segment->view, size, MPOL_PREFERRED, &mask, sizeof(mask) * 8 + 1, 0ul) ||
        (segment->node < pretended() && errno != EPERM))
        return 0;
    return errno == ENOMEM ? -ENOMEM : -EPERM;
}

int sp_pool_segment_nodes(struct sp_pool_segment *segment, uint32_t index, unsigned n, int *node)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *at[SP_POOL_NODES_MOST];

    if (n > SP_POOL_NODES_MOST || index > segment->npages || n > segment->npages - index)
        return -EINVAL;
    if (!segment->view)
        return -ENOENT;
    for (unsigned i = 0; i < n; i++)
        at[i] = (char *)segment->view + (index + i) * page;
    if (syscall(SYS_move_pages, 0, (unsigned long)n, at, NULL, node, 0))
        return -errno;
    for (unsigned i = 0; i < n; i++)
        node[i] = node[i] < 0 ? -1 : pretend(segment, node[i]);
    return 0;
}

void sp_pool_segment_empty(struct sp_pool_segment *segment, uint32_t index, unsigned n)
{
    off_t page = (off_t)sysconf(_SC_PAGESIZE);

    if (index <= segment->bump && n <= segment->bump - index)
        (void)fallocate(segment->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, index * page,
                        (off_t)n * page);
}
