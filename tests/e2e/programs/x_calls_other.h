/* SPDX-License-Identifier: Apache-2.0 */
/* X: memory policies, msync, mincore, remap_file_pages, names on merged pages. */
#ifndef SP_E2E_X_CALLS_OTHER_H
#define SP_E2E_X_CALLS_OTHER_H

#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <sys/prctl.h>

#include "x_calls.h"

#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node 450
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

/* The policy of each page, run by run. */
static void told_policies(struct area *a)
{
    int last = -2;

    note("policies=");
    for (size_t i = 0; i < AREA_PAGES; i++) {
        int mode = -1;
        long ret = syscall(SYS_get_mempolicy, &mode, NULL, 0, place(a, i), MPOL_F_ADDR);

        if (ret != 0)
            mode = -1;
        if (mode != last)
            note("%zu:%d,", i, mode);
        last = mode;
    }
    note(" ");
}

static void mbind_bind(struct area *a)
{
    unsigned long nodes = 1;

    RAW(mbind, place(a, 7), 60 * PAGE, MPOL_BIND, &nodes, 64, 0);
    told_policies(a);
    ask("merge");
    told_policies(a);
    same(a, 0, AREA_PAGES, "bound to a node");
    RAW(mbind, place(a, 7), 60 * PAGE, MPOL_BIND, &nodes, 64, MPOL_MF_MOVE | MPOL_MF_STRICT);
    RAW(mbind, place(a, 20), 20 * PAGE, MPOL_DEFAULT, NULL, 0, 0);
    told_policies(a);
    ask("unmerge");
    told_policies(a);
    same(a, 0, AREA_PAGES, "bound to a node");
}

static void mlock_mbind(struct area *a)
{
    unsigned long nodes = 1;

    CALL(mlock, place(a, 0), AREA_PAGES * PAGE);
    RAW(mbind, place(a, 7), 60 * PAGE, MPOL_BIND, &nodes, 64, MPOL_MF_MOVE);
    told_policies(a);
    told_smaps(place(a, 0), AREA_PAGES);
    told_locked();
    ask("merge");
    told_policies(a);
    same(a, 0, AREA_PAGES, "locked and bound to a node");
    CALL(munlock, place(a, 0), AREA_PAGES * PAGE);
    ask("unmerge");
    told_policies(a);
    told_locked();
    same(a, 0, AREA_PAGES, "bound to a node");
}

static void mbind_interleave(struct area *a)
{
    unsigned long nodes = 1;

    RAW(mbind, place(a, 0), AREA_PAGES * PAGE, MPOL_INTERLEAVE, &nodes, 64, MPOL_MF_MOVE);
    told_policies(a);
    same(a, 0, AREA_PAGES, "interleaved");
    usable(a, 0, AREA_PAGES, "interleaved");
}

static void mbind_refused(struct area *a)
{
    unsigned long nodes = 1, none = 0;

    RAW(mbind, place(a, 7) + 8, PAGE, MPOL_BIND, &nodes, 64, 0);
    RAW(mbind, place(a, 7), PAGE, MPOL_BIND, &none, 64, 0);
    RAW(mbind, place(a, 7), PAGE, 77, &nodes, 64, 0);
    RAW(mbind, place(a, 7), PAGE, MPOL_BIND, &nodes, 64, 1 << 20);
    RAW(mbind, place(a, 7), ~(size_t)0 - PAGE, MPOL_BIND, &nodes, 64, 0);
    RAW(mbind, place(a, 7), 0, MPOL_BIND, &nodes, 64, 0);
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    RAW(mbind, place(a, 7), 60 * PAGE, MPOL_BIND, &nodes, 64, 0);
    told_policies(a);
    same(a, 0, 30, "below a hole");
    same(a, 34, AREA_PAGES - 34, "above a hole");
}

static void home_node(struct area *a)
{
    unsigned long nodes = 1;

    RAW(set_mempolicy_home_node, place(a, 7), 60 * PAGE, 0, 0);
    RAW(mbind, place(a, 7), 60 * PAGE, MPOL_BIND, &nodes, 64, 0);
    RAW(set_mempolicy_home_node, place(a, 7), 60 * PAGE, 0, 0);
    RAW(set_mempolicy_home_node, place(a, 0), AREA_PAGES * PAGE, 0, 0);
    RAW(set_mempolicy_home_node, place(a, 7), 60 * PAGE, 0, 1);
    RAW(set_mempolicy_home_node, place(a, 7) + 8, 60 * PAGE, 0, 0);
    RAW(set_mempolicy_home_node, place(a, 7), 0, 0, 0);
    told_policies(a);
    same(a, 0, AREA_PAGES, "after set_mempolicy_home_node");
}

static void migrate(struct area *a)
{
    unsigned long nodes = 1;

    RAW(migrate_pages, 0, 64, &nodes, &nodes);
    RAW(migrate_pages, getpid(), 64, &nodes, &nodes);
    same(a, 0, AREA_PAGES, "after migrate_pages");
}

/* On which nodes pages lie, and moved to the first one: all that has kinds, one by one and
 * unordered, by no pid, by the own one; and a place where nothing is. */
static void told_nodes(struct area *a, int pid, const int *to, int flags)
{
    void *pages[AREA_PAGES + 1];
    int status[AREA_PAGES + 1], last = 99;

    for (size_t i = 0; i < AREA_PAGES; i++)
        pages[i] = place(a, i * 13 % AREA_PAGES) + i % 7;
    pages[AREA_PAGES] = place(a, AREA_PAGES + 3);
    RAW(move_pages, pid, AREA_PAGES + 1, pages, to, status, flags);
    note("nodes=");
    for (size_t i = 0; i <= AREA_PAGES; i++) {
        if (status[i] != last)
            note("%zu:%d,", i, status[i]);
        last = status[i];
    }
    note(" ");
}

static void move_some(struct area *a)
{
    void *pages[4] = { place(a, 0), place(a, 9), place(a, 12), place(a, 5) };
    int to[AREA_PAGES + 1] = {0}, status[4];

    /* The kernel asks for no right to read. */
    must(!mprotect(place(a, 32), PAGE, PROT_NONE), "mprotect");
    told_nodes(a, 0, NULL, 0);
    told_nodes(a, getpid(), NULL, 0);
    RAW(move_pages, 0, 4, pages, NULL, status, 0);
    for (int i = 0; i < 4; i++)
        note("%d ", status[i]);
    told_nodes(a, 0, to, 2 /* MPOL_MF_MOVE */);
    told_nodes(a, getpid(), to, 2);
    RAW(move_pages, 0, 4, pages, to, status, 64);
    RAW(move_pages, 0, 4, NULL, NULL, status, 0);
    RAW(move_pages, 0, ~0ul / 8, pages, NULL, NULL, 0);
    RAW(move_pages, 0, 0, pages, to, status, 2);
    must(!mprotect(place(a, 32), PAGE, PROT_READ | PROT_WRITE), "mprotect");
    same(a, 0, AREA_PAGES, "after move_pages");
    usable(a, 0, AREA_PAGES, "after move_pages");
}

/* The node of a page, which get_mempolicy answers, too. */
static void node_of(struct area *a)
{
    int last = -2;

    note("nodes=");
    for (size_t i = 0; i < AREA_PAGES; i++) {
        int node = -1;

        if (syscall(SYS_get_mempolicy, &node, NULL, 0, place(a, i), MPOL_F_NODE | MPOL_F_ADDR))
            node = -errno;
        if (node != last)
            note("%zu:%d,", i, node);
        last = node;
    }
    note(" ");
    same(a, 0, AREA_PAGES, "after get_mempolicy");
}

static void msync_all(struct area *a)
{
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, MS_ASYNC);
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, MS_SYNC);
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, MS_SYNC | MS_INVALIDATE);
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, MS_SYNC | MS_ASYNC);
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, 64);
    CALL(msync, place(a, 0) + 8, PAGE, MS_SYNC);
    CALL(msync, place(a, 0), 0, MS_SYNC);
    CALL(msync, place(a, 0), ~(size_t)0 - 2 * PAGE, MS_SYNC);
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    CALL(msync, place(a, 0), AREA_PAGES * PAGE, MS_SYNC);
    same(a, 0, 30, "after msync");
    same(a, 34, AREA_PAGES - 34, "after msync");
}

static void mincore_all(struct area *a)
{
    unsigned char in[AREA_PAGES];
    size_t resident = 0;

    CALL(mincore, place(a, 0), AREA_PAGES * PAGE, in);
    for (size_t i = 0; i < AREA_PAGES; i++)
        resident += in[i] & 1;
    if (!moving) /* what is in the air is not resident */
        note("resident=%zu ", resident);
    CALL(mincore, place(a, 0) + 8, PAGE, in);
    CALL(mincore, place(a, 0), 0, in);
    CALL(mincore, place(a, 0), PAGE, (unsigned char *)8);
    must(!munmap(place(a, 30), 4 * PAGE), "munmap");
    CALL(mincore, place(a, 0), AREA_PAGES * PAGE, in);
    same(a, 0, 30, "after mincore");
    same(a, 34, AREA_PAGES - 34, "after mincore");
}

/* Only shared mappings can be rearranged. */
static void remap_pages(struct area *a)
{
    CALL(remap_file_pages, place(a, 7), 20 * PAGE, 0, 3, 0);
    CALL(remap_file_pages, place(a, 7) + 8, 20 * PAGE, 0, 3, 0);
    CALL(remap_file_pages, place(a, 7), 20 * PAGE, PROT_READ, 3, 0);
    CALL(remap_file_pages, place(a, 7), 0, 0, 0, 0);
    same(a, 0, AREA_PAGES, "after remap_file_pages");
}

static void named(struct area *a)
{
    CALL(prctl, PR_SET_VMA, 0, place(a, 7), 60 * PAGE, "x calls");
    CALL(prctl, PR_SET_VMA, 0, place(a, 7) + 8, 60 * PAGE, "x calls");
    CALL(prctl, PR_SET_VMA, 0, place(a, 7), 0, "x calls");
    CALL(prctl, PR_SET_VMA, 1, place(a, 7), 60 * PAGE, "x calls");
    same(a, 0, AREA_PAGES, "named");
    CALL(prctl, PR_SET_VMA, 0, place(a, 7), 60 * PAGE, NULL);
    usable(a, 0, AREA_PAGES, "named");
}

/* Its own userfaultfd is told of what is missing, and gives it. */
static void own_userfaultfd(struct area *a)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register range = { .range = { (uintptr_t)place(a, 7), 60 * PAGE },
                                     .mode = UFFDIO_REGISTER_MODE_MISSING };
    static char page[PAGE] __attribute__((aligned(4096)));

    must(fd >= 0 && !ioctl(fd, UFFDIO_API, &api), "userfaultfd");
    same(a, 0, AREA_PAGES, "before anybody reads what is missing");
    CALL(ioctl, fd, UFFDIO_REGISTER, &range);
    same(a, 0, AREA_PAGES, "registered with a userfaultfd");
    CALL(madvise, place(a, 7), 40 * PAGE, MADV_DONTNEED);
    ask("merge");
    for (size_t i = 7; i < 47; i++) {
        struct uffdio_copy copy = { .dst = (uintptr_t)place(a, i), .src = (uintptr_t)page,
                                    .len = PAGE };

        pattern_fill(page, i, 5);
        must(!ioctl(fd, UFFDIO_COPY, &copy), "UFFDIO_COPY");
        pattern_check(place(a, i), i, 5, "given by a userfaultfd");
    }
    same(a, 47, AREA_PAGES - 47, "above what a userfaultfd gave");
    close(fd);
    usable(a, 7, 60, "of no userfaultfd any more");
}

#define OTHER_ROWS                                                                                 \
    { "mbind", mbind_bind }, { "mlock-mbind", mlock_mbind },                                       \
        { "mbind-interleave", mbind_interleave },                                                  \
        { "mbind-refused", mbind_refused }, { "set-mempolicy-home-node", home_node },              \
        { "migrate-pages", migrate }, { "move-pages", move_some }, { "node-of-pages", node_of },   \
        { "msync", msync_all }, { "mincore", mincore_all }, { "remap-file-pages", remap_pages },   \
        { "prctl-set-vma", named }, { "userfaultfd", own_userfaultfd }

#endif
