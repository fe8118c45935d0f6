/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that is linked with libsamepage, and checks its bytes.
 *
 * usage: linked MODE [MIB]; each prints what samepage answers, and exits 0:
 *   merge    merges now, writes every page, takes it back
 *   hold     merges now, then waits for a line
 *   constant says that its memory will not change; on a line changes it
 *   threads  merges now while four threads write in the range
 *   fork     a child merges what it inherits
 *   apart    merges now pages that need a mapping each; prints the statistics
 *   wrong    arguments that are wrong in any program
 *   late     merges with a limit of 50 milliseconds
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "pattern.h"
#include "samepage.h"

#define THREADS 4

static const char *const result[] = {"done", "not-merged", "not-in-time", "wrong-use"};
static size_t npages;
static char *region;

static void say(const char *what, int ret)
{
    printf("%s %s: %s\n", what, result[ret], samepage_why());
    fflush(stdout);
}

static void merge(int timeout_ms)
{
    struct samepage_merged m = {.size = sizeof(m)};
    int ret;

    errno = 4711;
    ret = samepage_merge_now(region, npages * PAGE, timeout_ms, &m);
    if (errno != 4711)
        die("errno is not as it was");
    printf("merged %llu of %llu %s: %s\n", (unsigned long long)m.pages_merged,
           (unsigned long long)m.pages, result[ret], samepage_why());
    fflush(stdout);
}

static void statistics(void)
{
    struct samepage_statistics s = {.size = sizeof(s)};
    int ret = samepage_statistics(&s);

    printf("statistics %s: tracked %llu merged %llu frames %llu sites %llu cpu %s\n", result[ret],
           (unsigned long long)s.pages_tracked, (unsigned long long)s.pages_merged,
           (unsigned long long)s.frames, (unsigned long long)s.frames_sites,
           s.cpu_seconds > 0 ? "some" : "none");
    printf("mappings %llu of %llu, %llu pages left\n", (unsigned long long)s.mappings,
           (unsigned long long)s.mappings_budget, (unsigned long long)s.pages_left);
    fflush(stdout);
}

static int wait_line(void)
{
    char line[16];

    return fgets(line, sizeof(line), stdin) != NULL;
}

static void merge_and_take_back(void)
{
    say("init", samepage_init());
    merge(-1);
    statistics();
    region_check(region, npages, 0, "merged");
    region_fill(region, npages, 1);
    merge(-1);
    region_check(region, npages, 1, "merged again");
    say("dont", samepage_advise(region, npages * PAGE, SAMEPAGE_DONT_MERGE));
    region_check(region, npages, 1, "taken back");
}

static _Atomic int stop;

static void *writer(void *arg)
{
    size_t first = (size_t)arg;
    uint64_t version = 1;

    for (; !stop; version++)
        for (size_t i = first; i < npages; i += 8 * THREADS) {
            pattern_fill(region + i * PAGE, i, version);
            pattern_check(region + i * PAGE, i, version, "by its thread");
        }
    return NULL;
}

static void merge_beside_threads(void)
{
    pthread_t thread[THREADS];

    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&thread[i], NULL, writer, (void *)i))
            die("pthread_create");
    merge(-1);
    stop = 1;
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (size_t i = 0; i < npages; i++)
        if (i % (8 * THREADS) >= THREADS)
            pattern_check(region + i * PAGE, i, 0, "beside the threads");
}

static int merge_in_child(void)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        region_fill(region, npages, 0);
        merge(-1);
        region_check(region, npages, 0, "in the child");
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 4;
}

static void wrong_uses(void)
{
    struct samepage_merged m = {.size = sizeof(m)};

    say("unaligned", samepage_advise(region + 1, PAGE, SAMEPAGE_MERGE));
    say("wraps", samepage_advise(region, SIZE_MAX, SAMEPAGE_MERGE));
    say("beyond", samepage_advise(region, SIZE_MAX - 2 * PAGE, SAMEPAGE_CONSTANT));
    say("advice", samepage_advise(region, PAGE, (enum samepage_advice)7));
    munmap(region + PAGE, PAGE);
    say("hole", samepage_merge_now(region, 3 * PAGE, -1, &m));
    say("nothing", samepage_advise(region, 0, SAMEPAGE_DONT_MERGE));
}

/* Every second page is like others, alone. */
static void merge_apart(void)
{
    for (size_t i = 0; i < npages; i++)
        pattern_fill(region + i * PAGE, i % 2 ? i / 32 % 8 : i + (uint64_t)getpid() * npages, 0);
    merge(-1);
    statistics();
    for (size_t i = 0; i < npages; i++)
        pattern_check(region + i * PAGE, i % 2 ? i / 32 % 8 : i + (uint64_t)getpid() * npages, 0,
                      "apart");
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "merge";

    npages = (size_t)(argc > 2 ? atoi(argv[2]) : 8) * 256;
    region = region_map(npages);
    region_fill(region, npages, 0);
    if (!strcmp(mode, "merge")) {
        merge_and_take_back();
    } else if (!strcmp(mode, "hold")) {
        merge(-1);
        printf("ready %p %zu\n", (void *)region, npages * PAGE);
        fflush(stdout);
        wait_line();
        region_check(region, npages, 0, "held");
    } else if (!strcmp(mode, "constant")) {
        say("constant", samepage_advise(region, npages * PAGE, SAMEPAGE_CONSTANT));
        merge(-1);
        region_check(region, npages, 0, "constant");
        region_fill(region, npages, 1);
        region_check(region, npages, 1, "not so constant");
    } else if (!strcmp(mode, "threads")) {
        merge_beside_threads();
    } else if (!strcmp(mode, "fork")) {
        return merge_in_child();
    } else if (!strcmp(mode, "apart")) {
        merge_apart();
    } else if (!strcmp(mode, "wrong")) {
        wrong_uses();
    } else if (!strcmp(mode, "late")) {
        wait_line();
        merge(50);
        region_check(region, npages, 0, "late");
    }
    return 0;
}
