/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel definitions newer than the headers of Debian 12 (6.1), and the features that samepage
 * needs.
 * Sources: the man pages userfaultfd(2), ioctl_userfaultfd(2), PAGEMAP_SCAN(2const), and for
 * PROCMAP_QUERY the kernel's <linux/fs.h>.
 */
#ifndef SP_KERNEL_H
#define SP_KERNEL_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#define SP_USERFAULTFD_NEW     _IO(0xAA, 0x00) /* of /dev/userfaultfd, 6.1 */
#define SP_UFFD_WP_SHMEM       (1u << 12)      /* UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 5.19 */
#define SP_UFFD_WP_UNPOPULATED (1u << 13)      /* 6.4 */
#define SP_UFFD_WP_ASYNC       (1u << 15)      /* 6.7 */
#define SP_UFFD_MOVE           (1u << 16)      /* 6.8 */

struct sp_uffdio_move {
    __u64 dst, src, len, mode;
    __s64 move; /* bytes moved, or a negative errno */
};
#define SP_UFFDIO_MOVE   _IOWR(UFFDIO, 0x05, struct sp_uffdio_move)
#define SP_MOVE_DONTWAKE 1u

struct sp_page_region {
    __u64 start, end, categories;
};

struct sp_pm_scan_arg {
    __u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
    __u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SP_PAGEMAP_SCAN   _IOWR('f', 16, struct sp_pm_scan_arg)
#define SP_PM_WP_MATCHING 1u
#define SP_PAGE_WPALLOWED (1u << 0)
#define SP_PAGE_WRITTEN   (1u << 1)
#define SP_PAGE_FILE      (1u << 2)
#define SP_PAGE_PRESENT   (1u << 3)
#define SP_PAGE_SWAPPED   (1u << 4)
#define SP_PAGE_PFNZERO   (1u << 5)
#define SP_PAGE_HUGE      (1u << 6)

struct sp_procmap_query {
    __u64 size, flags, addr;
    __u64 start, end, vm_flags, page_size, offset, inode;
    __u32 dev_major, dev_minor, name_size, build_id_size;
    __u64 name, build_id;
};
#define SP_PROCMAP_QUERY   _IOWR('f', 17, struct sp_procmap_query) /* of /proc/PID/maps, 6.11 */
#define SP_PROCMAP_SHARED  (1u << 3)
#define SP_PROCMAP_OR_NEXT (1u << 4)
#define SP_PROCMAP_FILE    (1u << 5)

/* <linux/mempolicy.h>, whose enums are not all needed */
#define SP_MPOL_DEFAULT 0
#define SP_MPOL_F_ADDR  2

#define SP_MADV_POPULATE_READ  22
#define SP_MADV_POPULATE_WRITE 23
#define SP_MADV_DONTNEED_LOCKED 24 /* DONTNEED, also where memory is locked */

#endif
