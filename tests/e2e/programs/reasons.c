/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is equal in every such program, but for what keeps part of it from being merged.
 *
 * usage: reasons PAGES WHAT
 *   equal      nothing
 *   uring      the first quarter is a registered buffer of io_uring
 *   written    a thread writes the first quarter all the time
 *   alone      the first quarter has a content of its own in every program
 *   scattered  every second page has
 *   kept       the first quarter is written once, when a line is read
 *   bound      the first quarter is bound to node 0; the second is, when a line is read
 *
 * Prints "ready ADDRESS BYTES", and "again ADDRESS BYTES" after a line was read; when stdin ends it
 * checks all bytes and prints "ok". Exit status 77: this kernel does not have what is needed.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pattern.h"

#define MPOL_BIND 2

static char *region;
static size_t npages, part;
static const char *what;
static volatile bool stop;

static uint64_t number_of(size_t page)
{
    bool own = (!strcmp(what, "alone") && page < part) || (!strcmp(what, "scattered") && page % 2);

    return own ? page | PATTERN_OWN : page;
}

static uint64_t version_of(size_t page, bool again)
{
    return again && !strcmp(what, "kept") && page < part;
}

static void must(bool done, const char *name)
{
    if (done)
        return;
    perror(name);
    exit(errno == ENOSYS || errno == EPERM ? 77 : 3);
}

static void register_buffer(void)
{
    struct io_uring_params params = {0};
    struct iovec buffer = {region, part * PAGE};
    int ring = (int)syscall(__NR_io_uring_setup, 1, &params);

    must(ring >= 0, "io_uring_setup");
    must(!syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1), "register");
}

static void bind_part(size_t first)
{
    unsigned long nodes = 1;

    must(!syscall(__NR_mbind, region + first * PAGE, part * PAGE, MPOL_BIND, &nodes, 8, 0),
         "mbind");
}

/* Rewrites the same bytes: volatile, though never another content. */
static void *write_always(void *arg)
{
    while (!stop)
        for (size_t i = 0; i < part; i++) {
            volatile uint64_t *word = (uint64_t *)(region + i * PAGE);

            *word = *word;
        }
    return arg;
}

static void say(const char *word)
{
    printf("%s %p %zu\n", word, (void *)region, npages * PAGE);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    pthread_t thread = 0;
    bool again = false;

    if (argc != 3)
        return 2;
    npages = strtoul(argv[1], NULL, 10);
    part = npages / 4;
    what = argv[2];
    pattern_process = pattern_mix((uint64_t)getpid());
    region = region_map(npages);
    if (!strcmp(what, "bound"))
        bind_part(0);
    for (size_t i = 0; i < npages; i++)
        pattern_fill(region + i * PAGE, number_of(i), 0);
    if (!strcmp(what, "uring"))
        register_buffer();
    if (!strcmp(what, "written") && pthread_create(&thread, NULL, write_always, NULL))
        return 3;
    say("ready");
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n' || again)
            continue;
        again = true;
        if (!strcmp(what, "bound"))
            bind_part(part);
        for (size_t i = 0; i < part && !strcmp(what, "kept"); i++)
            pattern_fill(region + i * PAGE, number_of(i), 1);
        say("again");
    }
    stop = true;
    if (thread)
        pthread_join(thread, NULL);
    for (size_t i = 0; i < npages; i++)
        pattern_check(region + i * PAGE, number_of(i), version_of(i, again), "at the end");
    puts("ok");
    return 0;
}
