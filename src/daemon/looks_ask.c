/* SPDX-License-Identifier: Apache-2.0 */
/* The asker's own process (looks_ask.h). */
#include "looks_ask.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECONDS     120u /* then it ends, whatever it waits for */
#define BUSY_TRIES  50u
#define BUSY_USECS  40000
#define AT_ONCE     512u /* entries of a pagemap */
#define ENTRY_THERE (UINT64_C(1) << 63)
#define ENTRY_FILE  (UINT64_C(1) << 61)
#define ENTRY_PFN   ((UINT64_C(1) << 55) - 1)
#define KEEPS       (1u << CAP_SYS_PTRACE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_SYS_ADMIN)

struct pages {
    struct sp_look_page *page;
    size_t n, room;
    bool short_of_memory;
};

struct mapping {
    uint64_t start, end;
    uint32_t segment, index; /* of its first page */
};

/* ---- where frames lie ---- */

static void add(struct pages *to, uint32_t segment, uint32_t index, uint64_t pfn)
{
    if (to->n == to->room) {
        size_t room = to->room ? to->room * 2 : 4096;
        struct sp_look_page *more = realloc(to->page, room * sizeof(*more));

        if (!more) {
            to->short_of_memory = true;
            return;
        }
        to->page = more;
        to->room = room;
    }
    to->page[to->n++] = (struct sp_look_page){.pfn = pfn, .segment = segment, .index = index};
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Pages of a file that are in memory; what a program wrote is its own. */
static void read_mapping(struct sp_look_paper *paper, int pagemap, const struct mapping *m,
                         uint64_t page_size, struct pages *to)
{
    size_t n = (m->end - m->start) / page_size;
    uint64_t entry[AT_ONCE];

    n = least(n, SP_POOL_SEGMENT_PAGES - m->index);
    for (size_t i = 0, some; i < n; i += some) {
        off_t at = (off_t)((m->start / page_size + i) * sizeof(*entry));

        some = least(n - i, AT_ONCE);
        if (pread(pagemap, entry, some * sizeof(*entry), at) != (ssize_t)(some * sizeof(*entry)))
            return;
        for (size_t k = 0; k < some; k++) {
            uint32_t index = m->index + (uint32_t)(i + k);
            uint8_t *known = &paper->frame[(size_t)m->segment * SP_POOL_SEGMENT_PAGES + index];

            if (*known || !(entry[k] & ENTRY_THERE) || !(entry[k] & ENTRY_FILE) ||
                !(entry[k] & ENTRY_PFN))
                continue;
            *known = SP_LOOK_USED;
            add(to, m->segment, index, entry[k] & ENTRY_PFN);
        }
    }
}

/* A line of /proc/PID/maps: is it a mapping of frames? */
static bool is_of_frames(const struct sp_look_paper *paper, const char *line, uint64_t page_size,
                         struct mapping *m)
{
    unsigned long long start, end, offset, inode;
    unsigned dev_major, dev_minor;

    if (sscanf(line, "%llx-%llx %*4s %llx %x:%x %llu", &start, &end, &offset, &dev_major,
               &dev_minor, &inode) != 6)
        return false;
    if (dev_major != paper->dev_major || dev_minor != paper->dev_minor || inode < 2 ||
        inode > SP_STORE_SEGMENTS || offset / page_size >= SP_POOL_SEGMENT_PAGES)
        return false;
    /* As store_fuse.c numbers them: the mount itself is 1. */
    *m = (struct mapping){start, end, (uint32_t)inode - 1, (uint32_t)(offset / page_size)};
    return true;
}

static void read_process(struct sp_look_paper *paper, int32_t pid, struct pages *to)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    char path[40], line[512];
    FILE *maps;
    int pagemap;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    pagemap = open(path, O_RDONLY | O_CLOEXEC);
    while (maps && pagemap >= 0 && fgets(line, sizeof(line), maps)) {
        struct mapping m;

        if (is_of_frames(paper, line, page_size, &m))
            read_mapping(paper, pagemap, &m, page_size, to);
    }
    if (pagemap >= 0)
        close(pagemap);
    if (maps)
        fclose(maps);
}

/* ---- the look ---- */

static int by_pfn(const void *a, const void *b)
{
    const struct sp_look_page *x = a, *y = b;

    return x->pfn < y->pfn ? -1 : x->pfn > y->pfn;
}

static void ask(struct sp_look_paper *paper, struct pages *pages)
{
    paper->how = SP_LOOK_DAMON;
    for (unsigned i = 0; i < BUSY_TRIES; i++) { /* another samepaged has it, and soon no longer */
        paper->error = sp_look_damon(pages->page, pages->n);
        if (paper->error != -EBUSY)
            break;
        usleep(BUSY_USECS);
    }
    if (paper->error)
        paper->how = SP_LOOK_NOHOW;
}

static void look(struct sp_look_paper *paper)
{
    struct pages pages = {0};

    for (uint32_t i = 0; i < paper->npids && i < SP_LOOKS_PIDS; i++)
        read_process(paper, paper->pid[i], &pages);
    if (pages.n)
        qsort(pages.page, pages.n, sizeof(*pages.page), by_pfn);
    if (pages.short_of_memory)
        paper->error = -ENOMEM;
    else
        ask(paper, &pages);
    for (size_t i = 0; i < pages.n; i++) {
        const struct sp_look_page *p = &pages.page[i];

        paper->frame[(size_t)p->segment * SP_POOL_SEGMENT_PAGES + p->index] =
            p->used ? SP_LOOK_USED : SP_LOOK_IDLE;
        sp_store_set_bit(paper->segment, p->segment, true);
    }
    free(pages.page);
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &head, data))
        return;
    data[0].permitted &= KEEPS;
    data[0].effective = data[0].permitted;
    data[0].inheritable = 0;
    memset(&data[1], 0, sizeof(data[1]));
    (void)!syscall(SYS_capset, &head, data);
}

/* It does not end with the daemon: what it has begun in the kernel it ends itself. */
static void settle(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
    close_range(SP_LOOKS_FD + 1, ~0u, 0);
    prctl(PR_SET_NAME, "samepage-looks");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    drop_capabilities();
    alarm(SECONDS);
}

int sp_looks_main(int argc, char **argv)
{
    struct sp_look_paper *paper;

    if (argc != 2 || strcmp(argv[1], "--looks") != 0)
        return -1;
    settle();
    paper = mmap(NULL, sizeof(*paper), PROT_READ | PROT_WRITE, MAP_SHARED, SP_LOOKS_FD, 0);
    if (paper == MAP_FAILED || chdir("/"))
        return 1;
    look(paper);
    return 0;
}
