/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merged memory that is bound to nodes: bound MODE, where MODE is a mode of mbind ("bind", "static",
 * "preferred", "local", "interleave", "default"), and "left" after it if the program does not
 * advise it. "ready", and where it is; then by line of stdin:
 *
 *   tell      "policy", the mode and the first nodes that get_mempolicy answers for every page;
 *             "mixed" if not for all the same
 *   maps      "maps", and the policies that numa_maps names for the area, without those of files
 *   check     all pages hold what they held: "ok"
 *   some      writes some of the pages
 *   drop      MADV_DONTNEED of the first quarter, which reads zeros then, and fills it again
 *   move      mremap of all to another place, and back
 *   grow      mremap to twice the size and back
 *   protect   mprotect to read-only, looks, and back
 *   fork      a child finds the bytes and the policy, writes, and finds the policy again
 *   other     mbind of the second quarter to another mode, which is in force there, and back
 *   lock      mlock of all
 *   map       maps a page somewhere else
 *   advised   how many pages lie in mappings that are MADV_MERGEABLE
 *   home      mbind, and set_mempolicy_home_node, of all
 *   race      a thread calls mbind for the area, this one and another mode, while others write and
 *             look, for 300 rounds, in between which some pages are merged ten times at least
 *
 * All that has no word of its own answers with the word and 0, or the errno, or -1 where something
 * was wrong. Exit status 77: the kernel knows no policies, or not this one.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node 450
#endif

#define PAGES  1024u
#define STEP   16u /* pages from one that is written to the next */
#define ROUNDS 300u
#define MERGED 30u /* rounds after which it waits until some pages are merged */
#define NODES  1024u

struct policy {
    int mode;
    unsigned long nodes[NODES / 64];
};

static char *region;
static unsigned version; /* of those */
static struct policy mine;

static int bind_pages(unsigned first, unsigned n, const struct policy *p)
{
    bool none = p->mode == MPOL_DEFAULT || p->mode == MPOL_LOCAL;

    return syscall(SYS_mbind, region + first * PAGE, n * PAGE, p->mode, none ? NULL : p->nodes,
                   none ? 0 : NODES + 1, 0)
               ? errno
               : 0;
}

static struct policy of(const char *page)
{
    struct policy got = {.mode = -1};

    if (syscall(SYS_get_mempolicy, &got.mode, got.nodes, NODES + 1, page, MPOL_F_ADDR))
        die("get_mempolicy");
    return got;
}

static bool same(const struct policy *a, const struct policy *b)
{
    return a->mode == b->mode && !memcmp(a->nodes, b->nodes, sizeof(a->nodes));
}

static bool have(unsigned first, unsigned n, const struct policy *p)
{
    for (unsigned i = first; i < first + n; i++) {
        struct policy got = of(region + i * PAGE);

        if (!same(&got, p))
            return false;
    }
    return true;
}

static void check(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, i % STEP ? 0 : version, "bound");
}

static void tell(void)
{
    struct policy p = of(region);

    if (have(0, PAGES, &p))
        printf("policy %x %lx\n", (unsigned)p.mode, p.nodes[0]);
    else
        puts("mixed");
}

static void maps(void)
{
    unsigned long start, low = (unsigned long)region, high = low + PAGES * PAGE;
    FILE *file = fopen("/proc/self/numa_maps", "r");
    char line[1024], policy[128], last[128] = "";

    if (!file)
        die("numa_maps");
    printf("maps");
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx %127s", &start, policy) != 2 || start < low || start >= high ||
            strstr(line, "file=") || !strcmp(policy, last))
            continue;
        printf(" %s", policy);
        strcpy(last, policy);
    }
    puts("");
    fclose(file);
}

static void write_pages(void)
{
    version++;
    for (unsigned i = 0; i < PAGES; i += STEP)
        pattern_fill(region + i * PAGE, i, version);
}

static int write_some(void)
{
    write_pages();
    return have(0, PAGES, &mine) ? 0 : -1;
}

static int drop(void)
{
    if (madvise(region, PAGES / 4 * PAGE, MADV_DONTNEED))
        return errno;
    region_zero(region, PAGES / 4, "dropped");
    for (unsigned i = 0; i < PAGES / 4; i++)
        pattern_fill(region + i * PAGE, i, i % STEP ? 0 : version);
    return have(0, PAGES, &mine) ? 0 : -1;
}

static int move_and_back(void)
{
    char *old = region,
         *place = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    region = mremap(old, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    if (region == MAP_FAILED)
        return errno;
    check();
    if (!have(0, PAGES, &mine))
        return -1;
    region = mremap(region, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old);
    return region == MAP_FAILED ? errno : have(0, PAGES, &mine) ? 0 : -1;
}

static int grow_and_back(void)
{
    region = mremap(region, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
    if (region == MAP_FAILED)
        return errno;
    region_zero(region + PAGES * PAGE, PAGES, "what mremap added");
    if (!have(0, 2 * PAGES, &mine))
        return -1;
    return mremap(region, 2 * PAGES * PAGE, PAGES * PAGE, 0) == MAP_FAILED ? errno : 0;
}

static int protect_and_back(void)
{
    if (mprotect(region, PAGES * PAGE, PROT_READ))
        return errno;
    check();
    if (!have(0, PAGES, &mine))
        return -1;
    return mprotect(region, PAGES * PAGE, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int look_in_child(void)
{
    int status = 0;

    if (fork() == 0) {
        check();
        if (!have(0, PAGES, &mine) || write_some())
            _exit(1);
        check();
        _exit(grow_and_back() || drop());
    }
    wait(&status);
    return status;
}

/* What the policy is not. */
static struct policy another(void)
{
    struct policy p = {.mode = mine.mode == MPOL_BIND ? MPOL_INTERLEAVE : MPOL_BIND, .nodes = {1}};

    return p;
}

static int bind_other(void)
{
    struct policy p = another();
    int error = bind_pages(PAGES / 4, PAGES / 4, &p);

    if (error)
        return error;
    if (!have(PAGES / 4, PAGES / 4, &p) || !have(0, PAGES / 4, &mine) ||
        !have(PAGES / 2, PAGES / 2, &mine))
        return -1;
    error = bind_pages(PAGES / 4, PAGES / 4, &mine);
    return error ? error : have(0, PAGES, &mine) ? 0 : -1;
}

static int lock(void)
{
    return mlock(region, PAGES * PAGE) ? errno : have(0, PAGES, &mine) ? 0 : -1;
}

static int map_one(void)
{
    return mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
}

static int advised(void)
{
    unsigned long start, end, from = 0, to = 0, low = (unsigned long)region, high = low + PAGES * PAGE;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    int pages = 0;
    char line[512];

    if (!smaps)
        die("smaps");
    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            from = start < low ? low : start;
            to = end > high ? high : end;
        } else if (!strncmp(line, "VmFlags:", 8) && to > from && strstr(line, " mg")) {
            pages += (int)((to - from) / PAGE);
        }
    }
    fclose(smaps);
    return pages;
}

static int give_home(void)
{
    struct policy p = {.mode = MPOL_BIND, .nodes = {1}};
    int error = bind_pages(0, PAGES, &p);

    if (error || syscall(SYS_set_mempolicy_home_node, region, PAGES * PAGE, 0, 0))
        return error ? error : errno;
    mine = p;
    return have(0, PAGES, &p) ? 0 : -1;
}

static atomic_bool stop;
static atomic_int wrong;

static void *write_always(void *arg)
{
    while (!stop)
        write_pages();
    return arg;
}

static void *look_always(void *arg)
{
    struct policy other = another();

    while (!stop)
        for (unsigned i = 0; i < PAGES; i++) {
            struct policy got = of(region + i * PAGE);

            if (!same(&got, &mine) && !same(&got, &other))
                wrong = -1;
            if (i % STEP)
                pattern_check(region + i * PAGE, i, 0, "while it is bound");
        }
    return arg;
}

/* A page of a file, in pagemap, is one of the pool. */
static bool some_merged(int pagemap)
{
    static uint64_t entry[PAGES];

    if (pread(pagemap, entry, sizeof(entry), (off_t)((unsigned long)region / PAGE * 8)) !=
        (ssize_t)sizeof(entry))
        die("pagemap");
    for (unsigned i = 0; i < PAGES; i++)
        if (entry[i] >> 63 && entry[i] >> 61 & 1)
            return true;
    return false;
}

static void wait_merged(void)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (pagemap < 0)
        die("pagemap");
    while (!wrong && !some_merged(pagemap))
        sched_yield();
    close(pagemap);
}

static int race(void)
{
    struct policy other = another();
    pthread_t writer, looker;

    if (pthread_create(&writer, NULL, write_always, NULL) ||
        pthread_create(&looker, NULL, look_always, NULL))
        die("pthread_create");
    for (unsigned n = 0; n < ROUNDS && !wrong; n++) {
        if (n % MERGED == 0)
            wait_merged();
        wrong = bind_pages(0, PAGES, &other);
        if (!wrong && !have(0, PAGES, &other))
            wrong = -1;
        if (!wrong)
            wrong = bind_pages(0, PAGES, &mine);
        if (!wrong && !have(0, PAGES, &mine))
            wrong = -1;
    }
    stop = true;
    pthread_join(writer, NULL);
    pthread_join(looker, NULL);
    return wrong;
}

static void obey(const char *word)
{
    static const struct {
        const char *word;
        int (*does)(void);
    } words[] = {
        {"some", write_some},
        {"drop", drop},
        {"move", move_and_back},
        {"grow", grow_and_back},
        {"protect", protect_and_back},
        {"fork", look_in_child},
        {"other", bind_other},
        {"home", give_home},
        {"race", race},
        {"lock", lock},
        {"map", map_one},
        {"advised", advised},
    };

    if (!strcmp(word, "tell")) {
        tell();
    } else if (!strcmp(word, "maps")) {
        maps();
    } else if (!strcmp(word, "check")) {
        check();
        puts("ok");
    } else {
        for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
            if (!strcmp(word, words[i].word))
                printf("%s %d\n", word, words[i].does());
    }
    fflush(stdout);
}

static void choose(const char *mode)
{
    static const struct {
        const char *name;
        int mode;
    } modes[] = {
        {"bind", MPOL_BIND},
        {"static", MPOL_BIND | MPOL_F_STATIC_NODES},
        {"preferred", MPOL_PREFERRED},
        {"local", MPOL_LOCAL},
        {"interleave", MPOL_INTERLEAVE},
        {"default", MPOL_DEFAULT},
    };

    for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (!strcmp(mode, modes[i].name))
            mine.mode = modes[i].mode;
    mine.nodes[0] = mine.mode != MPOL_DEFAULT && mine.mode != MPOL_LOCAL;
}

int main(int argc, char **argv)
{
    char word[32];

    region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || argc < 2)
        die("mmap");
    madvise(region, PAGES * PAGE, MADV_NOHUGEPAGE);
    if (argc < 3)
        madvise(region, PAGES * PAGE, MADV_MERGEABLE);
    choose(argv[1]);
    if (bind_pages(0, PAGES, &mine))
        exit(77);
    for (unsigned i = 0; i < PAGES; i++)
        pattern_fill(region + i * PAGE, i, 0);
    printf("ready %lx %u\n", (unsigned long)region, PAGES * PAGE);
    fflush(stdout);
    while (scanf("%31s", word) == 1)
        obey(word);
    return 0;
}
