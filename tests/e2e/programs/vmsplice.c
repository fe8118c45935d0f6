/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives part of its memory to a pipe by vmsplice() and writes to it afterwards: on anonymous memory
 * the pipe's reader sees what was written. usage: vmsplice ROW [libc|raw] [gift]
 *
 * Fills a region that is equal in every vmsplice, prints "ready ADDRESS BYTES" and reads lines from
 * stdin, as each row says; prints "ok" and exits 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pattern.h"

#define NPAGES     2048u
#define FIRST      600u /* of those that go into the pipe */
#define COUNT      16u  /* as many as it holds */
#define COST_CALLS 200000u

static char *region, *place;
static int ends[2], raw;
static unsigned flags;

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

static void listen_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(3);
}

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "vmsplice: %s (%s)\n", what, strerror(errno));
    exit(3);
}

static ssize_t splice_vector(const struct iovec *vector, size_t n)
{
    return raw ? syscall(SYS_vmsplice, ends[1], vector, n, flags)
               : vmsplice(ends[1], vector, n, flags);
}

/* In two parts, the first of which does not begin at a page unless it is a gift. */
static void splice_pages(void)
{
    unsigned skip = flags & SPLICE_F_GIFT ? 0 : 8;
    struct iovec vector[2] = {{place + skip, 4 * PAGE - skip},
                              {place + 4 * PAGE, (COUNT - 4) * PAGE}};

    must(splice_vector(vector, 2) == (ssize_t)(COUNT * PAGE - skip), "vmsplice was short");
}

static void read_pages(unsigned version, const char *when)
{
    unsigned first = flags & SPLICE_F_GIFT ? 0 : 1;
    static char got[COUNT * PAGE];
    size_t n = first * 8;

    while (n < sizeof(got)) {
        ssize_t now = read(ends[0], got + n, sizeof(got) - n);

        must(now > 0, "the pipe ended");
        n += (size_t)now;
    }
    pattern_check_from(got, first, FIRST, version, when);
    for (size_t i = 1; i < COUNT; i++)
        pattern_check(got + i * PAGE, FIRST + i, version, when);
}

static void write_pages(unsigned version)
{
    for (size_t i = 0; i < COUNT; i++)
        pattern_fill(place + i * PAGE, FIRST + i, version);
}

static void check_others(void)
{
    for (size_t i = 0; i < NPAGES; i++)
        if (i < FIRST || i >= FIRST + COUNT)
            pattern_check(region + i * PAGE, i, 0, "beside the spliced pages");
}

/* Spliced before anything is merged; the pages are written on the first line. */
static void row_before(void)
{
    splice_pages();
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    write_pages(1);
    read_pages(1, "read from the pipe");
    check_others();
}

/* Spliced on the first line, when all is merged; written on the second. */
static void row_after(void)
{
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    splice_pages();
    say("spliced");
    listen_line();
    write_pages(1);
    read_pages(1, "read from the pipe");
    check_others();
}

/* The same of pages that were zeros, and of which the kernel's own page of zeros took the place. */
static void row_zeros_after(void)
{
    memset(place, 0, COUNT * PAGE);
    printf("ready %p %zu\n", (void *)place, (size_t)COUNT * PAGE);
    fflush(stdout);
    listen_line();
    splice_pages();
    say("spliced");
    listen_line();
    write_pages(1);
    read_pages(1, "read from the pipe");
    check_others();
}

/* The pages that go into the pipe move. */
static void splice_and_move(void)
{
    char *to = region_map(NPAGES) + FIRST * PAGE; /* with neighbours: alone they are too few */

    splice_pages();
    must(mremap(place, COUNT * PAGE, COUNT * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
         "mremap failed");
    place = to;
}

/* They move between splicing and writing. */
static void row_move(void)
{
    splice_and_move();
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    write_pages(1);
    read_pages(1, "read from the pipe");
}

/* The same on the first line, when all is merged, and half of it written since; written on the second. */
static void row_move_after(void)
{
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    for (size_t i = 0; i < COUNT; i += 2)
        pattern_fill(place + i * PAGE, FIRST + i, 0);
    splice_and_move();
    say("spliced");
    listen_line();
    write_pages(1);
    read_pages(1, "read from the pipe");
    check_others();
}

/* What was dropped since is merged again. */
static void row_again(void)
{
    splice_pages();
    read_pages(0, "read from the pipe");
    must(!madvise(place, COUNT / 2 * PAGE, MADV_DONTNEED), "MADV_DONTNEED failed");
    must(mmap(place + COUNT / 2 * PAGE, COUNT / 2 * PAGE, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
         "mmap failed");
    madvise(place, COUNT * PAGE, MADV_NOHUGEPAGE);
    write_pages(0);
    printf("ready %p %zu\n", (void *)place, (size_t)COUNT * PAGE);
    fflush(stdout);
    listen_line();
    region_check(region, NPAGES, 0, "merged again");
}

static void must_fail(const void *vector, size_t n, int error, const char *what)
{
    errno = 0;
    must(splice_vector(vector, n) == -1 && errno == error, what);
}

/* Vectors that are none. */
static void row_garbage(void)
{
    char *hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec *edge = (struct iovec *)(hole + PAGE) - 1;
    struct iovec bad = {(void *)(uintptr_t) - (intptr_t)PAGE, 2 * PAGE};
    struct iovec huge = {region, (size_t)-1}, high = {(void *)(1ul << 60), PAGE};
    ssize_t n;

    must(hole != MAP_FAILED && !munmap(hole + PAGE, PAGE), "no hole");
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    must_fail((void *)8, 1, EFAULT, "a vector in the first page");
    must_fail((void *)-8, 1, EFAULT, "a vector at the end of addresses");
    must_fail((void *)(1ul << 60), 1, EFAULT, "a vector that is no address");
    must_fail(hole + PAGE, 1, EFAULT, "a vector in a hole");
    *edge = (struct iovec){region, PAGE};
    must_fail(edge, 2, EFAULT, "a vector that ends in a hole");
    must_fail(region, 2000, EINVAL, "a vector that is too long");
    must_fail(region, (size_t)-1, EINVAL, "a vector that is far too long");
    must_fail(&huge, 1, EINVAL, "a part that is too long");
    must_fail(&bad, 1, EFAULT, "a part in the kernel's addresses");
    must_fail(&high, 1, EFAULT, "a part that is no address");
    must(splice_vector(edge, 0) == 0, "an empty vector");
    n = splice_vector(edge, 1);
    must(n == PAGE, "a vector at the end of a page");
    region_check(region, NPAGES, 0, "after all that");
}

static int cleaned;

static void clean(void *arg)
{
    cleaned = *(int *)arg;
}

/* Blocks, because nobody reads. */
static void *splice_for_ever(void *arg)
{
    int seven = 7;

    (void)arg;
    pthread_cleanup_push(clean, &seven);
    for (;;)
        splice_pages();
    pthread_cleanup_pop(0);
    return NULL;
}

/* A thread that waits in vmsplice() can be cancelled, and merging goes on meanwhile. */
static void row_cancel(void)
{
    pthread_t thread;
    void *result;

    must(!pthread_create(&thread, NULL, splice_for_ever, NULL), "no thread");
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    must(!pthread_cancel(thread) && !pthread_join(thread, &result), "no cancelling");
    must(result == PTHREAD_CANCELED && cleaned == 7, "the cleanup handler did not run");
    check_others();
}

/* What a call costs whose pages were spliced before: nothing fits into the pipe. */
static void row_cost(void)
{
    struct iovec vector = {place, COUNT * PAGE};
    double start;

    splice_pages();
    flags |= SPLICE_F_NONBLOCK;
    printf("ready %p %zu\n", (void *)region, (size_t)NPAGES * PAGE);
    fflush(stdout);
    listen_line();
    start = seconds_now();
    for (unsigned i = 0; i < COST_CALLS; i++)
        must(splice_vector(&vector, 1) < 0, "the pipe is not full");
    printf("%.0f ns\n", (seconds_now() - start) / COST_CALLS * 1e9);
}

static const struct row {
    const char *name;
    void (*run)(void);
} rows[] = {
    {"before", row_before}, {"after", row_after},   {"zeros-after", row_zeros_after}, {"move", row_move},     {"move-after", row_move_after},
    {"again", row_again},   {"garbage", row_garbage}, {"cancel", row_cancel}, {"cost", row_cost},
};

int main(int argc, char **argv)
{
    const struct row *row = NULL;

    for (size_t i = 0; argc > 1 && i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!strcmp(argv[1], rows[i].name))
            row = &rows[i];
    if (!row || pipe(ends))
        return 2;
    raw = argc > 2 && !strcmp(argv[2], "raw");
    flags = argc > 3 && !strcmp(argv[3], "gift") ? SPLICE_F_GIFT : 0;
    region = region_map(NPAGES);
    region_fill(region, NPAGES, 0);
    place = region + FIRST * PAGE;
    row->run();
    say("ok");
    return 0;
}
