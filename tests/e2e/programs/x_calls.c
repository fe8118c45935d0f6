/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of X that change, protect, advise or lock mappings, each with the results that the kernel
 * gave, so that they can be compared with those on memory that samepage never saw.
 *
 *   x_calls --list
 *   x_calls partner                 has what the areas of all rows are equal to
 *   x_calls plain NAME...           each row once
 *   x_calls merged NAME...          the same when the row's area is merged; a row that concerns the whole
 *                                   process is the only one
 *   x_calls expected NAME...        plain, without what only once tells
 *   x_calls moving ROUNDS FILE NAME...  each so often when its area begins to be merged, and as often when
 *                                   it begins to be un-merged, which it asks for; FILE has what to expect,
 *                                   as expected prints it
 *
 * A name with "-syscall" at its end: the row through syscall(2). Whatever goes wrong with bytes ends
 * the program at once, with a message.
 */
#include <malloc.h>

#include "x_calls.h"
#include "x_calls_madvise.h"
#include "x_calls_map.h"
#include "x_calls_mremap.h"
#include "x_calls_other.h"
#include "x_calls_protect.h"

#define MAX_RUNS  400u
#define MERGED_PAGES 55u /* of 65 that can be */
#define ANEW      5.0 /* seconds */
#define AT_ONCE   2.0
#define SYSCALL   "-syscall"

static const struct row rows[] = { MAP_ROWS, MREMAP_ROWS, PROTECT_ROWS, MADVISE_ROWS, OTHER_ROWS };
#define NROWS (sizeof(rows) / sizeof(rows[0]))

/* One row of the command line. */
struct run {
    const struct row *row;
    struct area area;
    const char *expected;
    unsigned rounds, partly; /* of them, begun while only part of the area was merged */
    unsigned now, before; /* pages that were merged at the last look, and at the one before */
    double made; /* when its area was */
    bool done;
};

static struct run runs[MAX_RUNS];
static size_t nruns;

/* What concerns the whole process, or the one heap, has the process to itself. */
static bool is_alone(const struct row *row)
{
    return row->heap || !strncmp(row->name, "mlockall", 8);
}

static const struct row *row_named(const char *name, size_t length)
{
    for (size_t i = 0; i < NROWS; i++)
        if (strlen(rows[i].name) == length && !memcmp(rows[i].name, name, length))
            return &rows[i];
    return NULL;
}

static void add_run(const char *name)
{
    size_t length = strlen(name), tail = sizeof(SYSCALL) - 1;
    bool raw = length > tail && !strcmp(name + length - tail, SYSCALL);
    const struct row *row = row_named(name, raw ? length - tail : length);

    must(row && nruns < MAX_RUNS, name);
    runs[nruns++] = (struct run){
        .row = row, .area = { .id = (unsigned)(row - rows), .raw = raw, .flags = row->flags }
    };
}

static const char *name_of(const struct run *run)
{
    static char name[128];

    snprintf(name, sizeof(name), "%s%s", run->row->name, run->area.raw ? SYSCALL : "");
    return name;
}

/*
 * Areas at the end of the heap.
 */

static void heap_make(struct area *a)
{
    a->at = (char *)(((uintptr_t)sbrk(0) + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    must(!brk(a->at + AREA_PAGES * PAGE), "brk");
    must(!madvise(a->at, AREA_PAGES * PAGE, MADV_NOHUGEPAGE) || errno == EINVAL, "MADV_NOHUGEPAGE");
    area_fill(a);
}

static void make(struct run *run)
{
    run->made = seconds_now();
    run->now = run->before = 0;
    if (run->row->heap)
        heap_make(&run->area);
    else
        area_make(&run->area);
}

static void drop_area(struct run *run)
{
    if (run->row->heap)
        must(!brk(run->area.at), "brk");
    else
        area_drop(&run->area);
}

/*
 * What is merged is what the kernel says to be a file's.
 */

struct page_region {
    uint64_t start, end, categories;
};

struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN_CALL _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_OF_FILE      (1u << 2)

static unsigned merged_pages(const struct area *a)
{
    static int pagemap = -1;
    struct page_region region[AREA_PAGES];
    struct pm_scan_arg arg = { .size = sizeof(arg), .start = (uintptr_t)a->at,
                               .end = (uintptr_t)place(a, AREA_PAGES), .vec = (uintptr_t)region,
                               .vec_len = AREA_PAGES, .category_mask = PAGE_OF_FILE,
                               .return_mask = PAGE_OF_FILE };
    unsigned pages = 0;
    long n;

    /* A frame that was not read since it was mapped is not there yet. */
    for (size_t i = 0; i < AREA_PAGES; i++)
        if (kind_of(i) != ABSENT)
            (void)*(volatile char *)place(a, i);
    if (pagemap < 0)
        pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    n = ioctl(pagemap, PAGEMAP_SCAN_CALL, &arg);
    must(n >= 0, "PAGEMAP_SCAN");
    for (long i = 0; i < n; i++)
        pages += (unsigned)((region[i].end - region[i].start) / PAGE);
    return pages;
}

/* Waits until next to all of the area is merged, where anything is. */
static void await_merged(const struct area *a)
{
    double until = seconds_now() + MERGED_IN;

    while (merging && merged_pages(a) < MERGED_PAGES) {
        if (seconds_now() > until) {
            fprintf(stderr, "x_calls: only %u of %u pages are merged\n", merged_pages(a), AREA_PAGES);
            exit(4);
        }
        pause_ms(2);
    }
}

/*
 * The modes.
 */

static void do_row(struct run *run)
{
    raw_calls = run->area.raw;
    transcript_length = 0;
    transcript[0] = 0;
    run->row->run(&run->area);
}

static void do_once(struct run *run)
{
    printf("begin %s\n", name_of(run));
    fflush(stdout);
    await_merged(&run->area);
    if (is_alone(run->row))
        ask("go"); /* others' turn may come first */
    area_touch(&run->area);
    do_row(run);
    printf("row %s\t%s\n", name_of(run), transcript);
    fflush(stdout);
    drop_area(run);
}

static void make_from(size_t first)
{
    for (size_t i = first; i < nruns; i++)
        make(&runs[i]);
}

/* What a store's frames were un-merged from is not merged again: the rows to come get other memory. */
static void begin_anew(size_t first)
{
    if (!all_unmerged || !getenv("SAMEPAGE_TEST_STORE"))
        return;
    for (size_t i = first; i < nruns; i++)
        drop_area(&runs[i]);
    make_from(first);
    all_unmerged = false;
}

static int once(bool on)
{
    merging = on;
    make_from(0);
    for (size_t i = 0; i < nruns; i++) {
        do_once(&runs[i]);
        begin_anew(i + 1);
    }
    return 0;
}

/*
 * Again and again.
 */

static void expect(const char *path)
{
    static char all[1 << 20];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, all, sizeof(all) - 1);
    char *save = NULL;

    must(n > 0, path);
    for (char *line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *tab = strchr(line, '\t');

        must(tab != NULL, line);
        *tab = 0;
        for (size_t i = 0; i < nruns; i++)
            if (!strcmp(line, name_of(&runs[i])))
                runs[i].expected = tab + 1;
    }
    close(fd);
}

/* Looks how much of the area is merged. What does not merge for long is left alone for longer and longer:
 * it begins anew. */
static void look(struct run *run)
{
    run->before = run->now;
    run->now = merged_pages(&run->area);
    if (!run->now && !run->before && seconds_now() > run->made + ANEW) {
        drop_area(run);
        make(run);
    }
}

/* Has its memory begun to be merged, or else, to be un-merged? */
static bool is_due(const struct run *run, bool merged)
{
    return merged ? run->now > 0 : run->now < run->before;
}

static void do_round(struct run *run)
{
    printf("begin %s\n", name_of(run));
    fflush(stdout);
    run->partly += run->now && run->now < MERGED_PAGES;
    if (run->rounds & 2) /* of both kinds */
        area_touch(&run->area);
    do_row(run);
    run->rounds++;
    run->done = true;
    if (!run->expected || strcmp(transcript, run->expected)) {
        printf("differs %s\t%s\n", name_of(run), transcript);
        fflush(stdout);
    }
    drop_area(run);
    make(run);
}

/* Every row that is not done, if its area comes so far within the time. Returns how many are left. */
static size_t do_some(bool merged, double seconds)
{
    double until = seconds_now() + seconds;
    size_t left;

    do {
        left = 0;
        for (size_t i = 0; i < nruns; i++) {
            if (runs[i].done)
                continue;
            look(&runs[i]);
            if (is_due(&runs[i], merged))
                do_round(&runs[i]);
            left += !runs[i].done;
        }
    } while (left && seconds_now() < until);
    return left;
}

static void none_done(void)
{
    for (size_t i = 0; i < nruns; i++)
        runs[i].done = false;
}

/* As many areas as can be in a while are merged: then they can be un-merged. */
static void await_some(void)
{
    double until = seconds_now() + AT_ONCE;
    bool all;

    do {
        pause_ms(2);
        all = true;
        for (size_t i = 0; i < nruns; i++) {
            if (!runs[i].done)
                look(&runs[i]);
            all &= runs[i].done || runs[i].now;
        }
    } while (!all && seconds_now() < until);
}

static int again_and_again(unsigned rounds)
{
    for (size_t i = 0; i < nruns; i++)
        make(&runs[i]);
    for (unsigned n = 0; n < rounds; n++) {
        none_done();
        while (do_some(true, AT_ONCE))
            ;
        none_done();
        do {
            await_some();
            puts("unmerge");
            fflush(stdout);
        } while (do_some(false, AT_ONCE));
    }
    for (size_t i = 0; i < nruns; i++)
        printf("stat %s\t%u %u\n", name_of(&runs[i]), runs[i].rounds, runs[i].partly);
    return 0;
}

static int partner(void)
{
    char *region = region_map(NROWS * AREA_PAGES), line[16];
    struct area a = { 0 };

    for (a.id = 0; a.id < NROWS; a.id++)
        for (size_t i = 0; i < AREA_PAGES; i++)
            if (kind_of(i) == SHARED || kind_of(i) == WRITTEN)
                pattern_fill(region + (a.id * AREA_PAGES + i) * PAGE, number_of(&a, i), 0);
    puts("ready");
    fflush(stdout);
    must(fgets(line, sizeof(line), stdin) != NULL, "stdin ended");
    for (a.id = 0; a.id < NROWS; a.id++)
        for (size_t i = 0; i < AREA_PAGES; i++) {
            char *page = region + (a.id * AREA_PAGES + i) * PAGE;
            int mode = -1;

            if (kind_of(i) == SHARED || kind_of(i) == WRITTEN)
                pattern_check(page, number_of(&a, i), 0, "in the partner");
            must(!syscall(SYS_get_mempolicy, &mode, NULL, 0, page, MPOL_F_ADDR) || errno == ENOSYS,
                 "get_mempolicy");
            must(mode <= 0, "the partner's memory has a policy");
        }
    puts("ok");
    return 0;
}

static int list(void)
{
    for (size_t i = 0; i < NROWS; i++)
        printf("%s\n%s" SYSCALL "\n", rows[i].name, rows[i].name);
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    struct sigaction action = { .sa_handler = on_fault };
    void *volatile heap;

    pattern_process = (uint64_t)getpid() << 32;
    mallopt(M_TOP_PAD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    heap = malloc(1000); /* so that later ones fit in */
    free(heap);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    moving = !strcmp(mode, "expected") || !strcmp(mode, "moving");
    for (int i = strcmp(mode, "moving") ? 2 : 4; i < argc; i++)
        add_run(argv[i]);
    if (!strcmp(mode, "--list"))
        return list();
    if (!strcmp(mode, "partner"))
        return partner();
    if (!strcmp(mode, "plain"))
        return once(false);
    if (!strcmp(mode, "merged"))
        return once(true);
    if (!strcmp(mode, "expected"))
        return once(false);
    if (!strcmp(mode, "moving") && argc > 4) {
        expect(argv[3]);
        return again_and_again((unsigned)atoi(argv[2]));
    }
    return 2;
}
