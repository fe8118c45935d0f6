/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture-worker: see worker.h. Started by torture.py, never by hand but to look at something.
 *
 * TERM ends it: each thread finishes its operation, all memory is checked once more, "ok" is
 * printed, exit status 0. A wrong byte ends it by SIGABRT, with wrong-PID-* in its directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

#define SELF_HEAP   (8 << 20) /* malloc's, taken at once: the heap's end is op_brk's from then on */
#define FIRST_PAUSE 500       /* microseconds: else whoever is new leaves merging no processor */

struct options options = {.threads = 3, .mib = 32, .directory = "/tmp"};
struct stats *stats;
volatile int stopping;

static void on_term(int sig)
{
    stopping = 1;
}

static void map_stats(void)
{
    int fd = options.stats ? open(options.stats, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;

    if (options.stats && (fd < 0 || ftruncate(fd, sizeof(*stats))))
        fatal(options.stats);
    stats = mmap(NULL, sizeof(*stats), PROT_READ | PROT_WRITE,
                 MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (stats == MAP_FAILED)
        fatal("no stats");
    if (fd >= 0)
        close(fd);
    stats->pause_us = FIRST_PAUSE;
    stats->agent_killed = getenv("SAMEPAGE_FAULT") != NULL; /* the agent will do it itself */
    stats->nops = ops_count();
    stats->nthreads = options.threads;
    __atomic_store_n(&stats->magic, STATS_MAGIC, __ATOMIC_RELEASE);
}

static void pause_as_told(void)
{
    uint64_t us = __atomic_load_n(&stats->pause_us, __ATOMIC_RELAXED);
    struct timespec left = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};

    if (us)
        nanosleep(&left, NULL);
    while (__atomic_load_n(&stats->wrong, __ATOMIC_RELAXED) == 1)
        pause();
}

/* So that one sees that it is found: a wrong byte, behind the record, in the last block. */
static void plant(void)
{
    struct block *b = &block[nblocks - 1];
    uint32_t i = b->npages / 2;

    pthread_rwlock_wrlock(&b->lock);
    printf("planted at page %p, %u of block %u\n", (void *)page_at(b, i), i, nblocks - 1);
    fflush(stdout);
    page_at(b, i)[PAGE / 2] ^= 1;
    pthread_rwlock_unlock(&b->lock);
}

static void *walk(void *arg)
{
    struct actor *a = arg;

    while (!stopping) {
        actor_step(a);
        if (!a->index && options.plant && a->stats->steps == options.plant)
            plant();
        pause_as_told();
    }
    actor_finish(a);
    return NULL;
}

static void run(void)
{
    static struct actor actor[MAX_THREADS];
    pthread_t thread[MAX_THREADS];

    for (uint32_t i = 0; i < options.threads; i++)
        if (!actor_init(&actor[i], i))
            fatal("a thread's buffers and files");
    for (uint32_t i = 0; i < options.threads; i++)
        if (pthread_create(&thread[i], NULL, walk, &actor[i]))
            fatal("pthread_create");
    printf("ready\n");
    fflush(stdout);
    for (uint32_t i = 0; i < options.threads; i++)
        pthread_join(thread[i], NULL);
    for (uint32_t i = 0; i < nblocks; i++)
        block_check(&block[i], 0, block[i].npages, "at the end");
    for (uint32_t i = 0; i < options.threads; i++)
        advised_check(&actor[i], "at the end, advised memory");
    printf("ok\n");
}

static int print_ops(void)
{
    for (uint32_t i = 0; i < ops_count(); i++)
        puts(op_table[i].name);
    return 0;
}

static const struct option long_options[] = {
    {"seed", required_argument, NULL, 's'},
    {"id", required_argument, NULL, 'i'},
    {"threads", required_argument, NULL, 't'},
    {"mib", required_argument, NULL, 'm'},
    {"mappings", required_argument, NULL, 'n'},
    {"directory", required_argument, NULL, 'd'},
    {"stats", required_argument, NULL, 'f'},
    {"advise", no_argument, NULL, 'a'},
    {"short", no_argument, NULL, 'e'},
    {"store", no_argument, NULL, 'r'},
    {"brief", required_argument, NULL, 'b'},
    {"without", required_argument, NULL, 'w'},
    {"ops", no_argument, NULL, 'o'},
    {"only", required_argument, NULL, 'l'},
    {"plant", required_argument, NULL, 'p'},
    {0},
};

static int usage(void)
{
    fprintf(stderr, "usage: torture-worker --seed S --id N --threads N --mib N --directory DIR\n"
                    "         --stats FILE [--only OP,...] [--without OP,...] [--mappings N] "
                    "[--advise] [--short]\n"
                    "         [--store] [--plant STEPS]\n"
                    "       torture-worker --ops | --brief S\n");
    return 2;
}

/* -1: go on. */
static int parse(int argc, char **argv)
{
    int opt;

    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        uint64_t n = optarg ? strtoull(optarg, NULL, 10) : 0;

        switch (opt) {
        case 's':
            options.seed = n;
            break;
        case 'i':
            options.id = (uint32_t)n;
            break;
        case 't':
            options.threads = (uint32_t)n;
            break;
        case 'm':
            options.mib = (uint32_t)n;
            break;
        case 'n':
            options.mappings = (uint32_t)n;
            break;
        case 'd':
            options.directory = optarg;
            break;
        case 'f':
            options.stats = optarg;
            break;
        case 'a':
            options.advise = true;
            break;
        case 'e':
            options.enomem_ok = true;
            break;
        case 'r':
            options.store = true;
            break;
        case 'b':
            return brief(n);
        case 'l':
            options.only = optarg;
            break;
        case 'p':
            options.plant = n;
            break;
        case 'w':
            options.without = optarg;
            break;
        case 'o':
            return print_ops();
        default:
            return usage();
        }
    }
    if (optind < argc || !options.threads || options.threads > MAX_THREADS || options.mib < 4 ||
        !ops_choose(options.only, options.without))
        return usage();
    return -1;
}

int main(int argc, char **argv)
{
    struct sigaction term = {.sa_handler = on_term, .sa_flags = SA_RESTART};
    int status;

    mallopt(M_TOP_PAD, SELF_HEAP);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    status = parse(argc, argv);
    if (status >= 0)
        return status;
    free(malloc(SELF_HEAP / 2));
    map_stats();
    sigaction(SIGTERM, &term, NULL);
    signals_init();
    if (!protect_init())
        fatal("sigaction");
    blocks_make();
    run();
    return 0;
}
