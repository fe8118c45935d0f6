/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads one process from outside: which of its pages are in memory (PAGEMAP_SCAN), which of these
 * fork shares (pagemap), and their bytes (mem), of which only a hash is kept.
 *
 * Not process_vm_readv: it pins the pages that it reads, and before that the kernel gives the
 * process a copy of its own of every page that fork or KSM shares.
 */
#include "estimate.h"
#include "kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef static_assert
#define static_assert _Static_assert /* xxhash.h, all inline, means C11's <assert.h> */
#endif
#include <xxhash.h>

/* Bits of an entry of pagemap. */
#define PAGEMAP_EXCLUSIVE (UINT64_C(1) << 56) /* mapped here only */
#define PAGEMAP_FILE      (UINT64_C(1) << 61)
#define PAGEMAP_THERE     (UINT64_C(3) << 62) /* in memory or in swap */

#define REGIONS      512u
#define BATCH        128u  /* pages read at once */
#define THREADS_MAX  4096u /* whose stack pointers are asked for */
#define BATCH_WINDOW ((uint64_t)1 << 34)

struct reader {
    const struct sp_estimate_scan *scan;
    struct sp_estimate_process *process;
    int pagemap, mem;
    bool gone; /* it has no memory any more */
    size_t page_size;
    uint64_t zero; /* hash of a page of zeros */
    char *buffer;  /* BATCH pages */
    struct sp_page_region region[REGIONS];
};

void sp_estimate_process_free(struct sp_estimate_process *process)
{
    free(process->run);
    free(process->hash);
    free(process->frame);
    process->run = NULL;
    process->hash = NULL;
    process->frame = NULL;
}

static uint64_t hash_page(const void *page, size_t size, uint64_t seed)
{
    return XXH3_128bits_withSeed(page, size, seed).low64 & SP_ESTIMATE_HASH;
}

uint64_t sp_estimate_zero_hash(uint64_t seed)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    char *page = calloc(1, size);
    uint64_t hash = page ? hash_page(page, size, seed) : 0;

    free(page);
    return hash;
}

static int open_of(pid_t pid, const char *name)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* ---- stack pointers ---- */

/* "nr arguments... sp pc", "-1 sp pc" or "running" */
static bool stack_pointer(int task, const char *tid, uint64_t *sp)
{
    char path[300], text[256], *last;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "%s/syscall", tid);
    fd = openat(task, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    last = strrchr(text, ' ');
    if (!last)
        return false;
    *last = 0;
    last = strrchr(text, ' ');
    *sp = last ? strtoull(last + 1, NULL, 16) : 0;
    return *sp != 0;
}

/* The stack pointers of the threads that wait for something, at most THREADS_MAX of them. What
 * cannot be found out is not known: a few pages more are looked at. */
static size_t read_stacks(pid_t pid, uint64_t *stack)
{
    int fd = open_of(pid, "task");
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    size_t n = 0;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while (n < THREADS_MAX && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && stack_pointer(fd, entry->d_name, &stack[n]))
            n++;
    closedir(dir);
    return n;
}

static int read_ranges(const struct sp_estimate_scan *scan, pid_t pid,
                       struct sp_estimate_ranges *ranges)
{
    uint64_t *stack = calloc(THREADS_MAX, sizeof(*stack));
    int err = stack ? 0 : -ENOMEM, fd = -1;
    FILE *f = NULL;

    memset(ranges, 0, sizeof(*ranges));
    if (!err) {
        fd = open_of(pid, "smaps");
        err = fd < 0 ? fd : 0;
    }
    if (!err) {
        f = fdopen(fd, "r");
        err = f ? 0 : -ENOMEM;
    }
    if (!err)
        err = sp_estimate_read_smaps(f, scan->all, stack, read_stacks(pid, stack), ranges);
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    free(stack);
    return err;
}

/* ---- pages ---- */

static int room_for(struct sp_estimate_process *p, uint64_t npages)
{
    if (p->npages + npages > p->page_room) {
        uint64_t room = p->page_room + p->page_room / 2 + npages + 1024;
        uint64_t *more = reallocarray(p->hash, room, sizeof(*more));

        if (!more)
            return -ENOMEM;
        p->hash = more;
        p->page_room = room;
    }
    if (p->nruns == p->run_room) {
        size_t room = p->run_room ? p->run_room * 2 : 256;
        struct sp_estimate_run *more = reallocarray(p->run, room, sizeof(*more));

        if (!more)
            return -ENOMEM;
        p->run = more;
        p->run_room = room;
    }
    return 0;
}

/* Makes a page the process' last. There is room for it. */
static void add_page(struct sp_estimate_process *p, uint64_t addr, uint64_t hash, size_t page_size)
{
    struct sp_estimate_run *last = p->nruns ? &p->run[p->nruns - 1] : NULL;

    if (last && last->addr + last->npages * page_size == addr)
        last->npages++;
    else
        p->run[p->nruns++] = (struct sp_estimate_run){addr, p->npages, 1};
    p->hash[p->npages++] = hash;
}

/* Reads n neighbouring pages into the buffer; returns how many came, up to the first that cannot be
 * read. */
static size_t read_pages(struct reader *r, uint64_t addr, size_t n)
{
    ssize_t got = pread(r->mem, r->buffer, n * r->page_size, (off_t)addr);

    r->gone |= got == 0;
    return got > 0 ? (size_t)got / r->page_size : 0;
}

/* Entries of pagemap; what cannot be read counts as the process' own. */
static void read_entries(const struct reader *r, uint64_t addr, size_t n, uint64_t *entry)
{
    ssize_t got = pread(r->pagemap, entry, n * 8, (off_t)(addr / r->page_size * 8));

    for (size_t i = got > 0 ? (size_t)got / 8 : 0; i < n; i++)
        entry[i] = PAGEMAP_EXCLUSIVE;
}

/* A page that maps no frame any more, because it was written after it was merged: it merges as any
 * other does, where nothing can have it pinned. */
static bool is_private_copy(uint64_t entry)
{
    return (entry & PAGEMAP_THERE) && !(entry & PAGEMAP_FILE);
}

/* A batch of neighbouring pages that are in memory. pool: they map frames already. */
static int look_at_batch(struct reader *r, uint64_t addr, size_t n, bool pool)
{
    struct sp_estimate_process *p = r->process;
    uint64_t entry[BATCH];
    size_t got;

    read_entries(r, addr, n, entry);
    got = read_pages(r, addr, n);
    for (size_t i = 0; i < got; i++) {
        uint64_t hash = hash_page(r->buffer + i * r->page_size, r->page_size, r->scan->seed);
        bool site = pool && !is_private_copy(entry[i]);
        bool fork = !site && !(entry[i] & PAGEMAP_EXCLUSIVE);
        int err = room_for(p, 1);

        if (err)
            return err;
        p->zero_pages += hash == r->zero;
        p->merged_pages += site;
        add_page(p, addr + i * r->page_size, hash | (fork ? SP_ESTIMATE_FORK : 0), r->page_size);
    }
    if (r->scan->progress)
        r->scan->progress(r->scan->arg, n);
    return 0;
}

static int look_at_region(struct reader *r, const struct sp_page_region *region, bool pool)
{
    uint64_t addr = region->start;
    int err = 0;

    if (region->categories & SP_PAGE_SWAPPED) {
        r->process->swapped += (region->end - addr) / r->page_size;
        return 0;
    }
    while (!err && addr < region->end && !r->gone && !*r->scan->stop) {
        uint64_t n = (region->end - addr) / r->page_size;

        if (n > BATCH)
            n = BATCH;
        err = look_at_batch(r, addr, n, pool);
        addr += n * r->page_size;
    }
    return err;
}

/* The process' own pages in [start, end), not the kernel's page of zeros. */
static int look_at_plain(struct reader *r, uint64_t start, uint64_t end)
{
    int err = 0;

    while (!err && start < end && !r->gone && !*r->scan->stop) {
        struct sp_pm_scan_arg arg = {
            .size = sizeof(arg),
            .start = start,
            .end = end - start > BATCH_WINDOW ? start + BATCH_WINDOW : end,
            .vec = (uintptr_t)r->region,
            .vec_len = REGIONS,
            .category_mask = SP_PAGE_FILE | SP_PAGE_PFNZERO,
            .category_inverted = SP_PAGE_FILE | SP_PAGE_PFNZERO,
            .category_anyof_mask = SP_PAGE_PRESENT | SP_PAGE_SWAPPED,
            .return_mask = SP_PAGE_SWAPPED,
        };
        int n = ioctl(r->pagemap, SP_PAGEMAP_SCAN, &arg);

        if (n < 0)
            return errno == ESRCH ? 0 : -errno;
        for (int i = 0; !err && i < n; i++)
            err = look_at_region(r, &r->region[i], false);
        if (arg.walk_end <= start)
            break;
        start = arg.walk_end;
    }
    return err;
}

/* Frames are in memory whether the process touched them since or not. */
static int look_at_range(struct reader *r, const struct sp_estimate_range *range)
{
    const struct sp_page_region all = {.start = range->start, .end = range->end};

    return range->pool ? look_at_region(r, &all, true) : look_at_plain(r, range->start, range->end);
}

static uint32_t budget(const struct sp_estimate_scan *scan, uint32_t own_mappings)
{
    uint32_t max = scan->max_map_count, quarter = max / 4;
    uint32_t most = scan->all ? quarter : quarter * 3, room = max - quarter;

    room = room > own_mappings ? room - own_mappings : 0;
    return most < room ? most : room;
}

static void free_reader(struct reader *r)
{
    if (!r)
        return;
    if (r->pagemap >= 0)
        close(r->pagemap);
    if (r->mem >= 0)
        close(r->mem);
    free(r->buffer);
    free(r);
}

static int new_reader(const struct sp_estimate_scan *scan, struct sp_estimate_process *process,
                      struct reader **out)
{
    struct reader *r = calloc(1, sizeof(*r));
    int err;

    if (!r)
        return -ENOMEM;
    r->scan = scan;
    r->process = process;
    r->page_size = (size_t)sysconf(_SC_PAGESIZE);
    r->zero = sp_estimate_zero_hash(scan->seed);
    r->pagemap = open_of(process->pid, "pagemap");
    r->mem = open_of(process->pid, "mem");
    r->buffer = malloc(BATCH * r->page_size);
    err = r->buffer ? 0 : -ENOMEM;
    if (r->pagemap < 0)
        err = r->pagemap;
    else if (r->mem < 0)
        err = r->mem;
    if (err) {
        free_reader(r);
        return err;
    }
    *out = r;
    return 0;
}

int sp_estimate_scan(const struct sp_estimate_scan *scan, struct sp_estimate_process *process)
{
    struct sp_estimate_ranges ranges;
    struct reader *r = NULL;
    uint32_t merging;
    int err = read_ranges(scan, process->pid, &ranges);

    if (!err)
        err = new_reader(scan, process, &r);
    merging = ranges.pool_mappings + ranges.pool_stretches; /* src/agent/ranges.c */
    process->own_mappings =
        ranges.mappings > merging ? ranges.mappings - merging : ranges.mappings / 2;
    process->mappings_budget = budget(scan, process->own_mappings);
    for (size_t i = 0; !err && i < ranges.n && !r->gone && !*scan->stop; i++)
        err = look_at_range(r, &ranges.range[i]);
    if (!err && r->gone && process->npages == 0)
        err = -ESRCH;
    free_reader(r);
    free(ranges.range);
    return err;
}

/* ---- the second look ---- */

static void compare_batch(struct reader *r, uint64_t addr, uint64_t first, size_t n)
{
    struct sp_estimate_process *p = r->process;
    size_t got = read_pages(r, addr, n);

    for (size_t i = 0; i < n && !r->gone; i++) {
        uint64_t *hash = &p->hash[first + i];
        const char *page = r->buffer + i * r->page_size;

        if (i < got && hash_page(page, r->page_size, r->scan->seed) == (*hash & SP_ESTIMATE_HASH))
            continue;
        p->zero_pages -= (*hash & SP_ESTIMATE_HASH) == r->zero;
        *hash |= SP_ESTIMATE_APART;
        p->volatile_pages++;
    }
}

int sp_estimate_scan_again(const struct sp_estimate_scan *scan, struct sp_estimate_process *process)
{
    struct reader *r = NULL;
    int err = new_reader(scan, process, &r);

    if (err == -ENOENT || err == -ESRCH)
        return 0;
    for (size_t i = 0; !err && i < process->nruns && !r->gone && !*scan->stop; i++) {
        const struct sp_estimate_run *run = &process->run[i];

        for (uint64_t k = 0; k < run->npages && !r->gone && !*scan->stop; k += BATCH) {
            size_t n = run->npages - k < BATCH ? (size_t)(run->npages - k) : BATCH;

            compare_batch(r, run->addr + k * r->page_size, run->first + k, n);
            if (scan->progress)
                scan->progress(scan->arg, n);
        }
    }
    free_reader(r);
    return err;
}
