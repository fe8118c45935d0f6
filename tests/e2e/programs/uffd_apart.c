/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two stretches of memory with userfaultfds of the program's own, and memory between them. usage:
 * uffd_apart missing|protect
 *
 * Registers the first and the last part of a region, fills all of it and prints "ready ADDRESS BYTES",
 * the part between them. On a line it has a fault in each
 * outer part, and names them, "below" and "above". On the next one it maps the lower one anew: "ready".
 * Then it checks all pages, prints "ok" and ends with status 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "pattern.h"

#define OUTER 256u /* pages of each outer part */
#define INNER 1536u
#define ALL   (2 * OUTER + INNER)

static char *region, source[PAGE];
static bool missing;
static int uffd;

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "uffd_apart: %s (%s)\n", what, strerror(errno));
    exit(3);
}

static void listen_line(void)
{
    char line[16];

    if (!fgets(line, sizeof(line), stdin))
        exit(3);
}

static void say(const char *word, size_t first, size_t n)
{
    printf("%s %p %zu\n", word, (void *)(region + first * PAGE), n * PAGE);
    fflush(stdout);
}

static void keep(size_t first)
{
    struct uffdio_register reg = {
        .range = {(uintptr_t)region + first * PAGE, OUTER * PAGE},
        .mode = missing ? UFFDIO_REGISTER_MODE_MISSING : UFFDIO_REGISTER_MODE_WP};

    must(!ioctl(uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
}

/* Answers one fault. */
static void *serve(void *arg)
{
    uintptr_t at = (uintptr_t)arg;
    struct uffdio_copy copy = {.dst = at, .src = (uintptr_t)source, .len = PAGE};
    struct uffdio_writeprotect off = {.range = {at, PAGE}};
    struct uffd_msg msg;

    must(read(uffd, &msg, sizeof(msg)) == sizeof(msg), "no fault is reported");
    must(msg.arg.pagefault.address == at, "another fault is reported");
    must(!(missing ? ioctl(uffd, UFFDIO_COPY, &copy) : ioctl(uffd, UFFDIO_WRITEPROTECT, &off)),
         "the fault cannot be answered");
    return NULL;
}

/* A page is missing, or protected, and touched. */
static void fault(size_t page)
{
    char *at = region + page * PAGE;
    struct uffdio_writeprotect on = {.range = {(uintptr_t)at, PAGE},
                                     .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    pthread_t thread;

    pattern_fill(source, page, 0);
    if (missing)
        must(!madvise(at, PAGE, MADV_DONTNEED), "MADV_DONTNEED");
    else
        must(!ioctl(uffd, UFFDIO_WRITEPROTECT, &on), "UFFDIO_WRITEPROTECT");
    must(!pthread_create(&thread, NULL, serve, at), "no thread");
    *(volatile char *)at = source[0];
    must(!pthread_join(thread, NULL), "no thread");
    pattern_check(at, page, 0, "after a fault");
}

int main(int argc, char **argv)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};

    missing = argc == 2 && !strcmp(argv[1], "missing");
    if (!missing && (argc != 2 || strcmp(argv[1], "protect") != 0))
        return 2;
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    must(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api), "no userfaultfd");
    region = region_map(ALL);
    region_fill(region, ALL, 0);
    keep(0);
    keep(ALL - OUTER);
    say("ready", OUTER, INNER);
    listen_line();
    fault(OUTER / 2);
    fault(ALL - OUTER / 2);
    say("below", 0, OUTER);
    say("above", ALL - OUTER, OUTER);
    listen_line();
    must(mmap(region, OUTER * PAGE, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == region,
         "mmap");
    madvise(region, OUTER * PAGE, MADV_NOHUGEPAGE);
    region_fill(region, OUTER, 0);
    say("ready", 0, OUTER);
    listen_line();
    region_check(region, ALL, 0, "at the end");
    puts("ok");
    return 0;
}
