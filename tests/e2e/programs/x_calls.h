/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rows of x_calls.c are made of: an area whose every page checks itself, the calls through
 * libc or through syscall(2), and a transcript of all that a row was told by the kernel.
 *
 * An area has pages that the partner program has too (they are merged), pages that are this program's
 * own (never merged), pages that were written after they were merged, and pages that were never
 * touched. Around it lies memory that nobody may touch, so that nothing of it joins with anything.
 */
#ifndef SP_E2E_X_CALLS_H
#define SP_E2E_X_CALLS_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define AREA_PAGES 80u
#define ROOM_PAGES 512u /* that nobody may touch, on each side of an area */
#define MERGED_IN  60.0 /* seconds */
#define CYCLE      16u  /* pages, after which the kinds of pages begin again */

struct area {
    char *at; /* page 0 */
    unsigned id; /* whose contents: the row's number */
    int flags; /* of its mmap */
    bool raw; /* of the row through syscall(2) */
    bool touched; /* the written pages are */
};

enum kind { SHARED, OWN, WRITTEN, ABSENT };

static bool raw_calls; /* through syscall(2) */
static bool merging; /* areas are merged, sooner or later */
static bool moving;  /* and un-merged again, all the time: what mappings there are is not told */
static char transcript[8192];
static size_t transcript_length;

static inline enum kind kind_of(size_t page)
{
    switch (page % CYCLE) {
    case 5:
    case 6:
        return OWN;
    case 9:
        return WRITTEN;
    case 12:
        return ABSENT;
    }
    return SHARED;
}

static inline uint64_t number_of(const struct area *a, size_t page)
{
    uint64_t number = a->id * 1000u + page;

    return kind_of(page) == OWN ? (number + a->raw * 500u) | PATTERN_OWN : number;
}

/* Makes what a row does fail where it stands. */
static inline void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "x_calls: %s: %s\n", what, strerror(errno));
    abort();
}

/*
 * The transcript: equal on merged memory and on memory that samepage never saw. "skip WHY": the
 * machine cannot do the row.
 */

__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...)
{
    size_t left = sizeof(transcript) - transcript_length;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(transcript + transcript_length, left, format, args);
    va_end(args);
    must(n > 0 && (size_t)n < left, "a transcript is too long");
    transcript_length += (size_t)n;
}

/* What a call returned: its value, or the name of its errno. */
static inline long told(const char *call, long ret)
{
    if (ret == -1)
        note("%s=%s ", call, strerrorname_np(errno));
    else
        note("%s=%ld ", call, ret);
    return ret;
}

/* What a call returned that returns a place: relative to the area. */
static inline char *told_place(const struct area *a, const char *call, long ret)
{
    long pages = (ret - (long)a->at) / (long)PAGE;

    if (ret == -1)
        told(call, ret);
    else if (labs(pages) <= (long)(ROOM_PAGES + AREA_PAGES))
        note("%s=page%+ld ", call, pages);
    else
        note("%s=elsewhere ", call);
    return (char *)ret;
}

/*
 * Calls.
 */

#define CALL(name, ...)                                                                            \
    told(#name, raw_calls ? syscall(SYS_##name, __VA_ARGS__) : (long)name(__VA_ARGS__))
/* For what libc has no function of the same name for. */
#define RAW(name, ...) told(#name, syscall(SYS_##name, __VA_ARGS__))

static inline char *place(const struct area *a, size_t page)
{
    return a->at + page * PAGE;
}

static inline char *call_mmap(const struct area *a, void *at, size_t length, int prot, int flags,
                              int fd)
{
    long ret = raw_calls ? syscall(SYS_mmap, at, length, prot, flags, fd, 0)
                         : (long)mmap(at, length, prot, flags, fd, 0);

    return told_place(a, "mmap", ret);
}

static inline char *call_mremap(const struct area *a, void *old, size_t length, size_t new_length,
                                int flags, void *to)
{
    long ret = raw_calls ? syscall(SYS_mremap, old, length, new_length, flags, to)
                         : (long)mremap(old, length, new_length, flags, to);

    return told_place(a, "mremap", ret);
}

/*
 * Areas.
 */

static inline void area_fill(struct area *a)
{
    for (size_t i = 0; i < AREA_PAGES; i++)
        if (kind_of(i) != ABSENT)
            pattern_fill(place(a, i), number_of(a, i), 0);
    a->touched = false;
}

/* The pages that are written after they were merged. */
static inline void area_touch(struct area *a)
{
    for (size_t i = 0; i < AREA_PAGES; i++)
        if (kind_of(i) == WRITTEN)
            pattern_fill(place(a, i), number_of(a, i), 1);
    a->touched = true;
}

static inline void area_make(struct area *a)
{
    size_t all = (2 * ROOM_PAGES + AREA_PAGES) * PAGE;
    char *room = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    must(room != MAP_FAILED, "no room for an area");
    a->at = mmap(room + ROOM_PAGES * PAGE, AREA_PAGES * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | a->flags, -1, 0);
    must(a->at != MAP_FAILED, "no area");
    must(!madvise(a->at, AREA_PAGES * PAGE, MADV_NOHUGEPAGE) || errno == EINVAL, "MADV_NOHUGEPAGE");
    area_fill(a);
}

static inline void area_drop(struct area *a)
{
    munmap(a->at - ROOM_PAGES * PAGE, (2 * ROOM_PAGES + AREA_PAGES) * PAGE);
    a->at = NULL;
}

/* The pages above the area are free: it can grow. */
static inline void area_room(const struct area *a)
{
    must(!munmap(place(a, AREA_PAGES), ROOM_PAGES * PAGE), "munmap of the room above");
}

/* Pages first to first + n of the area, which lie at p now, hold their own bytes. */
static inline void same_at(const char *p, const struct area *a, size_t first, size_t n,
                           const char *when)
{
    for (size_t i = 0; i < n; i++, p += PAGE) {
        size_t page = first + i;

        if (kind_of(page) == ABSENT)
            region_zero(p, 1, when);
        else
            pattern_check(p, number_of(a, page), kind_of(page) == WRITTEN && a->touched, when);
    }
}

static inline void same(const struct area *a, size_t first, size_t n, const char *when)
{
    same_at(place(a, first), a, first, n, when);
}

static inline void zero(const struct area *a, size_t first, size_t n, const char *when)
{
    region_zero(place(a, first), n, when);
}

/* Zeros, or the old bytes, page by page. */
static inline void same_or_zero(const struct area *a, size_t first, size_t n, const char *when)
{
    static const char zeros[PAGE];

    for (size_t i = first; i < first + n; i++)
        if (memcmp(place(a, i), zeros, PAGE))
            same(a, i, 1, when);
}

/* Writes to n pages at p, and finds what it wrote. */
static inline void usable_at(char *p, size_t n, const char *when)
{
    region_fill(p, n, 77);
    region_check(p, n, 77, when);
}

static inline void usable(const struct area *a, size_t first, size_t n, const char *when)
{
    usable_at(place(a, first), n, when);
}

/*
 * What is in force.
 */

static sigjmp_buf fault_jump;
static volatile sig_atomic_t fault_expected;
static int fault_key; /* what it forbids a handler's end would not bring back: 0, none */

static inline void on_fault(int sig)
{
    if (!fault_expected)
        signal(sig, SIG_DFL);
    else
        siglongjmp(fault_jump, 1);
}

static inline bool can_touch(char *p, bool write)
{
    volatile char *byte = p;
    bool can = false;

    fault_expected = 1;
    if (!sigsetjmp(fault_jump, 1)) {
        char value = *byte;

        if (write)
            __atomic_compare_exchange_n(byte, &value, value, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST);
        can = true;
    }
    fault_expected = 0;
    if (fault_key)
        pkey_set(fault_key, PKEY_DISABLE_WRITE);
    return can;
}

/* How many pages at p can be read, and written. */
static inline void told_access(char *p, size_t n)
{
    size_t reads = 0, writes = 0;

    for (size_t i = 0; i < n; i++) {
        reads += can_touch(p + i * PAGE, false);
        writes += can_touch(p + i * PAGE, true);
    }
    note("access=%zu,%zu ", reads, writes);
}

/* How many pages at p are mapped. */
static inline void told_mapped(char *p, size_t n)
{
    size_t mapped = 0;

    for (size_t i = 0; i < n; i++)
        mapped += !msync(p + i * PAGE, PAGE, MS_ASYNC);
    note("mapped=%zu ", mapped);
}

/* The flags of a mapping that a program gave it. The kernel's own bookkeeping is none of them. */
static inline void flags_of(const char *line, char *out)
{
    static const char *const given[] = { "lo", "dc", "dd", "wf", "sl", "sr", "rr", "gd", "ht", "lf" };

    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++)
        if (strstr(line, given[i]))
            out += sprintf(out, ",%s", given[i]);
}

/* Those that only memory of no file has: which are there at all. */
static inline unsigned anonymous_flags(const char *line)
{
    return (strstr(line, " hg") ? 2 : strstr(line, " nh") ? 4 : 1) | (strstr(line, " nr") ? 8 : 0);
}

/* Protection and flags of n pages at p; neighbours that have the same are one, whatever mappings
 * they lie in. */
static inline void told_smaps(char *p, size_t n)
{
    unsigned long start = 0, end = 0, from = (unsigned long)p, to = from + n * PAGE, run = from;
    char line[512], perms[8] = "", now[128], last[128] = "";
    unsigned long low, high, inode = 0;
    unsigned anonymous = 0;
    FILE *smaps;

    if (moving)
        return;
    smaps = fopen("/proc/self/smaps", "r");
    must(smaps != NULL, "/proc/self/smaps");
    note("smaps=");
    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &low, &high, perms, &inode) == 4) {
            start = low;
            end = high;
            continue;
        }
        if (strncmp(line, "VmFlags:", 8) || end <= from || start >= to)
            continue;
        if (start < from)
            start = from;
        anonymous |= inode ? 0 : anonymous_flags(line);
        flags_of(line, now + sprintf(now, "%s", perms));
        if (start > run)
            note("%s+%ld/none+%ld/", last, (long)((run - from) / PAGE),
                 (long)((start - from) / PAGE));
        else if (*last && strcmp(last, now))
            note("%s+%ld/", last, (long)((start - from) / PAGE));
        strcpy(last, now);
        run = end < to ? end : to;
    }
    fclose(smaps);
    note("%s+%ld%s anonymous=%u ", last, (long)((run - from) / PAGE), run < to ? "/none" : "",
         anonymous);
}

/* What the kernel counts as locked of this process. */
static inline void told_locked(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    long kib = -1;
    char line[256];

    must(status != NULL, "/proc/self/status");
    while (fgets(line, sizeof(line), status))
        sscanf(line, "VmLck: %ld", &kib);
    fclose(status);
    note("VmLck=%ld ", kib);
}

/* Has the test do something now: "unmerge" the program until the row's end, "merge" whatever can be
 * merged, or nothing ("go"). */
static bool all_unmerged; /* was that asked for? */

static inline void ask(const char *what)
{
    char line[64];

    if (moving)
        return;
    all_unmerged = all_unmerged || !strcmp(what, "unmerge");
    printf("ask %s\n", what);
    fflush(stdout);
    must(fgets(line, sizeof(line), stdin) != NULL, "stdin ended");
}

static inline bool is_tracked(char *p)
{
    unsigned long start, end, at = (unsigned long)p;
    bool here = false, tracked = false;
    char line[512];
    FILE *smaps = fopen("/proc/self/smaps", "r");

    must(smaps != NULL, "/proc/self/smaps");
    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            here = start <= at && at < end;
        else if (here && !strncmp(line, "VmFlags:", 8))
            tracked = strstr(line, " uw") != NULL;
    }
    fclose(smaps);
    return tracked;
}

/* Waits until the page is tracked, where anything is. */
static inline void await_tracked(char *p)
{
    double until = seconds_now() + MERGED_IN;

    while (merging && !is_tracked(p)) {
        must(seconds_now() < until, "a page is not tracked");
        pause_ms(2);
    }
}

/* What a child of fork ends with, which check() runs in. */
static inline void in_child(void (*check)(struct area *a), struct area *a)
{
    int status = -1;
    pid_t child = fork();

    must(child >= 0, "fork");
    if (!child) {
        check(a);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child, "waitpid");
    note("child=%d ", status);
}

struct row {
    const char *name;
    void (*run)(struct area *a);
    int flags; /* of the area's mmap */
    bool heap; /* the area is the end of the heap */
};

#endif
