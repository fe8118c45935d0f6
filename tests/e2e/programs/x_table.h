/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of the programs that do the rows of X, one named row each.
 *
 * usage: PROGRAM --list | PROGRAM ROW [loop]. A program holds a region that is equal in all of
 * them, prints "ready ADDRESS BYTES", waits for a line, and does the row on a **window** of that
 * region. What the row sees (results, errors, counts) it notes; the notes of a merged program must
 * be those of a plain one. It checks every byte of the region, prints "ok". With "loop" it does so
 * again and again, on one window after the other and without notes, until the next line comes, and
 * prints "ok ROUNDS". Where the machine cannot do a row it prints "skip WHY".
 */
#ifndef SP_E2E_X_TABLE_H
#define SP_E2E_X_TABLE_H

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define X_PAGES  2048u /* so many that each window rests for a while: then it is merged again */
#define X_SOME   16u   /* rounds after which all of the region is checked */
#define X_WINDOW 16u   /* pages; what a pipe holds */
#define X_BYTES  (X_WINDOW * PAGE)

struct x_row {
    const char *name;
    void (*run)(void);
    void (*prepare)(void); /* before there is a region; may be NULL */
};

static char *x_region, *x_window, *x_copy; /* x_copy: a buffer that is never merged */
static size_t x_first;                     /* the window's first page */
static bool x_looping;
static unsigned x_round;
static const struct x_row *x_row;

__attribute__((format(printf, 1, 2), unused)) static void x_note(const char *format, ...)
{
    va_list args;

    if (x_looping)
        return;
    va_start(args, format);
    fputs("= ", stdout);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

static inline void x_must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s, round %u: %s (%s)\n", x_row->name, x_round, what, strerror(errno));
    exit(3);
}

static inline void x_skip(const char *why)
{
    printf("skip %s\n", why);
    fflush(stdout);
    exit(0);
}

/* Notes what a call returned, and its error. */
static inline void x_result(const char *call, long result)
{
    x_note("%s %ld %s", call, result, result < 0 ? strerror(errno) : "");
}

static inline void x_check_pages(const char *at, size_t first, size_t n, uint64_t version,
                                 const char *when)
{
    for (size_t i = 0; i < n; i++)
        pattern_check(at + i * PAGE, first + i, version, when);
}

static inline void x_fill_pages(char *at, size_t first, size_t n, uint64_t version)
{
    for (size_t i = 0; i < n; i++)
        pattern_fill(at + i * PAGE, first + i, version);
}

static inline void x_check_copy(uint64_t version, const char *when)
{
    x_check_pages(x_copy, x_first, X_WINDOW, version, when);
}

static inline void x_check_window(uint64_t version, const char *when)
{
    x_check_pages(x_window, x_first, X_WINDOW, version, when);
}

/* Fresh memory with the bytes that the others have: it can be merged again. */
static inline void x_renew(size_t first, size_t n)
{
    char *at = x_region + first * PAGE;

    x_must(mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                0) == at,
           "no fresh memory");
    madvise(at, n * PAGE, MADV_NOHUGEPAGE);
    x_fill_pages(at, first, n, 0);
}

static inline void x_renew_window(void)
{
    x_renew(x_first, X_WINDOW);
}

static inline void x_wait_child(pid_t child, const char *what)
{
    int status = -1;

    x_must(child > 0 && waitpid(child, &status, __WALL) == child, "no child");
    if (status)
        fprintf(stderr, "child's status: %x\n", status);
    x_must(status == 0, what);
}

static inline void x_check_all(const char *when)
{
    x_check_pages(x_region, 0, X_PAGES, 0, when);
}

static inline bool x_line_came(void)
{
    struct pollfd in = {0, POLLIN, 0};

    return poll(&in, 1, 0) == 1;
}

static inline void x_listen(void)
{
    char line[16];

    if (read(0, line, sizeof(line)) <= 0)
        exit(3);
}

static inline void x_do_round(void)
{
    x_first = (X_PAGES / 2 + x_round * X_WINDOW) % X_PAGES;
    x_window = x_region + x_first * PAGE;
    x_row->run();
    if (!x_looping || x_round % X_SOME == 0)
        x_check_all("after the row");
    else
        x_check_window(0, "after the row");
}

static inline void x_say_ready(void)
{
    printf("ready %p %zu\n", (void *)x_region, (size_t)X_PAGES * PAGE);
    fflush(stdout);
}

/* The region, with nothing mapped behind it, and the copy, which a lock keeps from being merged. */
static inline void x_map(void)
{
    x_region = region_map(X_PAGES + 1);
    munmap(x_region + X_PAGES * PAGE, PAGE);
    region_fill(x_region, X_PAGES, 0);
    x_copy = region_map(X_WINDOW);
}

static inline int x_main(int argc, char **argv, const struct x_row *rows, size_t nrows)
{
    for (size_t i = 0; argc == 2 && !strcmp(argv[1], "--list") && i < nrows; i++)
        puts(rows[i].name);
    for (size_t i = 0; argc > 1 && i < nrows; i++)
        if (!strcmp(argv[1], rows[i].name))
            x_row = &rows[i];
    if (!x_row)
        return argc == 2 && !strcmp(argv[1], "--list") ? 0 : 2;
    x_looping = argc > 2;
    if (x_row->prepare)
        x_row->prepare();
    x_map();
    x_say_ready();
    x_listen();
    do {
        x_do_round();
        x_round++;
        if (x_looping)
            pause_ms(1);
    } while (x_looping && !x_line_came());
    x_check_all("at the end");
    if (x_looping)
        printf("ok %u\n", x_round);
    else
        puts("ok");
    return 0;
}

#endif
