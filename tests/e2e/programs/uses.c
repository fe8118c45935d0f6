/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uses PAGES: has pages that are the same in each program of this kind, and uses some of them all the time.
 *
 * Prints "ready ADDRESS BYTES". Then a line of stdin each, answered by "done 0":
 *   read I N    a thread reads the N pages from I on, over and over; answered when it did so once
 *   child I N   so does a child
 *   stop        that ends
 *   lock I N, unlock I N   mlock, munlock
 *   check       all pages are right
 */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "pattern.h"

#define PAUSE_USECS 500

static char *region;
static unsigned npages;
static volatile int stopping;
static unsigned first, many;
static int begun[2];

static unsigned read_once(void)
{
    unsigned sum = 0;

    for (unsigned i = first; i < first + many; i++)
        sum += *(volatile unsigned char *)(region + (size_t)i * PAGE);
    return sum;
}

static void *read_on(void *arg)
{
    (void)arg;
    read_once();
    if (write(begun[1], "", 1) != 1)
        return NULL;
    while (!stopping) {
        read_once();
        usleep(PAUSE_USECS);
    }
    return NULL;
}

static pid_t child;
static pthread_t thread;
static int reads;

static void begin(int in_child)
{
    char byte;

    stopping = 0;
    if (in_child) {
        child = fork();
        if (child < 0)
            die("fork");
        if (child == 0) {
            read_on(NULL);
            _exit(0);
        }
    } else {
        if (pthread_create(&thread, NULL, read_on, NULL))
            die("pthread_create");
        reads = 1;
    }
    if (read(begun[0], &byte, 1) != 1)
        die("read");
}

static void end(void)
{
    stopping = 1;
    if (child) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    child = 0;
    if (reads)
        pthread_join(thread, NULL);
    reads = 0;
}

static void obey(const char *line)
{
    unsigned at, n;

    if (sscanf(line, "read %u %u", &first, &many) == 2)
        begin(0);
    else if (sscanf(line, "child %u %u", &first, &many) == 2)
        begin(1);
    else if (!strncmp(line, "stop", 4))
        end();
    else if (sscanf(line, "lock %u %u", &at, &n) == 2) {
        if (mlock(region + (size_t)at * PAGE, (size_t)n * PAGE))
            die("mlock");
    } else if (sscanf(line, "unlock %u %u", &at, &n) == 2) {
        if (munlock(region + (size_t)at * PAGE, (size_t)n * PAGE))
            die("munlock");
    } else
        for (unsigned i = 0; i < npages; i++)
            pattern_check(region + (size_t)i * PAGE, i, 0, "uses");
}

int main(int argc, char **argv)
{
    char line[128];

    npages = argc > 1 ? (unsigned)atoi(argv[1]) : 1024;
    if (pipe(begun))
        die("pipe");
    region = mmap(NULL, (size_t)npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        die("mmap");
    madvise(region, (size_t)npages * PAGE, MADV_MERGEABLE); /* or locked memory is left alone */
    for (unsigned i = 0; i < npages; i++)
        pattern_fill(region + (size_t)i * PAGE, i, 0);
    printf("ready %lx %lu\n", (unsigned long)region, (unsigned long)npages * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        obey(line);
        puts("done 0");
        fflush(stdout);
    }
    return 0;
}
