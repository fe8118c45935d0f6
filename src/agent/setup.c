/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent needs before it can work: memory, userfaultfds, files of /proc. */
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/time_types.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "sys.h"

#define CLOCK_MONOTONIC_ID 1
#define CLOCK_PROCESS_CPU_ID 2
#define O_CLOEXEC_FLAG 02000000
#define O_NONBLOCK_FLAG 04000
#define AT_CWD (-100)
#define STACK_PAGES 32u
#define MADV_NOHUGEPAGE_ADVICE 15

static uint64_t clock_us(int id)
{
    struct __kernel_timespec t = {0};

    sp_sys(__NR_clock_gettime, id, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t sp_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC_ID);
}

uint64_t sp_cpu_us(void)
{
    return clock_us(CLOCK_PROCESS_CPU_ID);
}

int sp_setup_arena(void)
{
    uint64_t page = sp_agent.page_size, lists = 2 * SP_AGENT_RANGES * sizeof(struct sp_range);
    uint64_t track = (sp_track_bytes() + page - 1) & ~(page - 1);
    uint64_t bytes = page * (SP_LIFT_PAGES + 2 + 4 * STACK_PAGES + 4) + lists + track + sp_seed_bytes();
    uint64_t at;
    long ret = sp_sys(__NR_mmap, 0, bytes, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (sp_is_err(ret))
        return (int)ret;
    sp_sys(__NR_madvise, ret, bytes, MADV_NOHUGEPAGE_ADVICE);
    sp_sys(__NR_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, ret, bytes, "samepage");
    sp_agent.arena = at = (uint64_t)ret;
    sp_agent.arena_end = at + bytes;
    sp_agent.staging = at;
    at += page * SP_LIFT_PAGES;
    /* A page of its own on each side keeps the registrations apart. */
    sp_gate.wait_page = (volatile uint32_t *)(at + page);
    at += 3 * page;
    sp_agent.aside_stack_top = at += page * STACK_PAGES;
    sp_agent.helper_stack_top = at += page * STACK_PAGES;
    sp_agent.putter_stack_top = at += page * STACK_PAGES;
    sp_agent.stack_top = at += page * STACK_PAGES;
    sp_agent.range = (struct sp_range *)(at += page);
    at += lists;
    sp_agent.track_area = at;
    sp_agent.seed_area = at + track;
    return 0;
}

/* From the device if there is one (-1: none), else from the kernel. */
static int open_uffd(int device, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    long fd, ret;

    if (device >= 0)
        fd = sp_sys(__NR_ioctl, device, SP_USERFAULTFD_NEW, O_CLOEXEC_FLAG | O_NONBLOCK_FLAG);
    else
        fd = sp_sys(__NR_userfaultfd, O_CLOEXEC_FLAG | O_NONBLOCK_FLAG);
    if (sp_is_err(fd))
        return (int)fd;
    ret = sp_sys(__NR_ioctl, fd, UFFDIO_API, &api);
    if (sp_is_err(ret)) {
        sp_sys(__NR_close, fd);
        return -95; /* EOPNOTSUPP: the kernel lacks a feature */
    }
    return (int)fd;
}

/*
 * Where userfaultfds come from: the kernel (-1), /dev/userfaultfd, or the same device from the
 * daemon, if its configuration says so. The descriptor, or below -1 a negative errno.
 */
static int own_source(void)
{
    long fd = sp_sys(__NR_userfaultfd, O_CLOEXEC_FLAG | O_NONBLOCK_FLAG);

    if (!sp_is_err(fd)) {
        sp_sys(__NR_close, fd);
        return -1;
    }
    return (int)sp_sys(__NR_openat, AT_CWD, "/dev/userfaultfd", O_CLOEXEC_FLAG | 02);
}

static int setup_uffds(int device, char *why, size_t why_size)
{
    struct sp_text text;
    uint64_t features = SP_UFFD_MOVE | SP_UFFD_WP_ASYNC | SP_UFFD_WP_UNPOPULATED;

    sp_text_init(&text, why, why_size);
#ifdef SP_FAULT_POINTS
    if (sp_agent.test_features)
        features |= 1ull << 62; /* a feature that no kernel has */
#endif
    sp_agent.uffd = open_uffd(device, features);
    if (sp_agent.uffd == -95) {
        sp_text_str(&text, "this kernel's userfaultfd cannot move pages (UFFDIO_MOVE); samepage "
                           "needs Linux 6.8 or later");
        return -95;
    }
    if (sp_agent.uffd < 0) {
        sp_text_str(&text, "the kernel makes no userfaultfd for it (too many open files?)");
        return sp_agent.uffd;
    }
    sp_agent.uffd_sync = open_uffd(device, SP_UFFD_WP_SHMEM | SP_UFFD_WP_UNPOPULATED);
    if (sp_agent.uffd_sync < 0)
        sp_text_str(&text, "this kernel's userfaultfd cannot write-protect shared memory; samepage "
                           "needs Linux 6.8 or later");
    return sp_agent.uffd_sync < 0 ? sp_agent.uffd_sync : 0;
}

/* From this device, which is closed: the program is not to make any of its own with it. */
static int setup_from(int device, char *why, size_t why_size)
{
    int ret;

    if (device < -1)
        return device;
    ret = setup_uffds(device, why, why_size);
    if (device >= 0)
        sp_sys(__NR_close, device);
    return ret;
}

int sp_setup_uffd_own(void)
{
    char why[256];

    return setup_from(own_source(), why, sizeof(why));
}

int sp_setup_uffd_passed(char *why, size_t why_size)
{
    return setup_from(sp_link_want_uffd(why, why_size), why, why_size);
}

int sp_setup_uffd(char *why, size_t why_size)
{
    int device = own_source();

    return device < -1 ? sp_setup_uffd_passed(why, why_size) : setup_from(device, why, why_size);
}

static int open_proc(uint64_t pid, const char *name)
{
    char path[64];
    struct sp_text text;

    sp_text_init(&text, path, sizeof(path));
    sp_text_str(&text, "/proc/");
    sp_text_dec(&text, pid);
    sp_text_str(&text, "/");
    sp_text_str(&text, name);
    return (int)sp_sys(__NR_openat, AT_CWD, path, O_CLOEXEC_FLAG);
}

static bool pagemap_scan_works(void)
{
    struct sp_page_region region;
    struct sp_pm_scan_arg arg = {.size = sizeof(arg),
                                 .start = sp_agent.arena,
                                 .end = sp_agent.arena + sp_agent.page_size,
                                 .vec = (uintptr_t)&region,
                                 .vec_len = 1,
                                 .category_mask = SP_PAGE_PRESENT,
                                 .return_mask = SP_PAGE_PRESENT};

    return !sp_is_err(sp_sys(__NR_ioctl, sp_agent.pagemap, SP_PAGEMAP_SCAN, &arg));
}

static uint32_t read_max_map_count(void)
{
    char buf[32];
    const char *p = buf;
    long fd = sp_sys(__NR_openat, AT_CWD, "/proc/sys/vm/max_map_count", O_CLOEXEC_FLAG), n;

    if (sp_is_err(fd))
        return 65530;
    n = sp_sys(__NR_read, fd, buf, sizeof(buf));
    sp_sys(__NR_close, fd);
    return n > 0 ? (uint32_t)sp_parse_dec(&p, buf + n) : 65530;
}

int sp_setup_proc(char *why, size_t why_size)
{
    uint64_t pid = (uint64_t)sp_agent.program_pid;
    struct sp_text text;

    sp_text_init(&text, why, why_size);
    sp_agent.pagemap = open_proc(pid, "pagemap");
    sp_agent.smaps = open_proc(pid, "smaps");
    sp_agent.program_status = open_proc(pid, "status");
    sp_agent.program_statm = open_proc(pid, "statm");
    sp_agent.program_stat = open_proc(pid, "stat");
    sp_agent.pidfd = (int)sp_sys(__NR_pidfd_open, pid, 0);
    sp_agent.maps = open_proc(pid, "maps");
    sp_agent.max_map_count = read_max_map_count();
    if (sp_agent.pagemap < 0 || sp_agent.smaps < 0 || sp_agent.program_status < 0 ||
        sp_agent.program_statm < 0 || sp_agent.program_stat < 0 || sp_agent.pidfd < 0) {
        sp_text_str(&text, "it cannot read its own files in /proc; mount /proc, and do not make it "
                           "non-dumpable");
        return -13;
    }
    if (!pagemap_scan_works()) {
        sp_text_str(&text, "this kernel has no PAGEMAP_SCAN; samepage needs Linux 6.8 or later");
        return -95;
    }
    return 0;
}

int sp_setup_areas(void)
{
    struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    uint64_t wait = (uint64_t)sp_gate.wait_page;
    long ret;

    sp_sys(__NR_madvise, wait, sp_agent.page_size, 4);
    sp_sys(__NR_madvise, sp_agent.staging, SP_LIFT_PAGES << sp_agent.page_shift, 4);
    reg.range.start = wait;
    reg.range.len = sp_agent.page_size;
    ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
    if (sp_is_err(ret))
        return (int)ret;
    reg.range.start = sp_agent.staging;
    reg.range.len = (uint64_t)SP_LIFT_PAGES << sp_agent.page_shift;
    ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);
    return sp_is_err(ret) ? (int)ret : 0;
}
