/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rewrites PAGES [N]: has pages of version 1, at first N of them (all), writes them anew as it is told, and keeps them under its eyes.
 *
 * Prints "ready ADDRESS BYTES". Then a line of stdin each, answered by "done N" (N: how many pages
 * had wrong bytes):
 *   write V          gives every page the contents of version V
 *   write V I N      only the N pages from I on
 *   own V I N        the same, but with contents that no other process has
 *   check            looks at every page
 *   lost             looks at every page; N: how many raise SIGBUS, the others must be right
 *   which            the same, and first a line with their numbers
 *   hold WHAT        opens something that may pin memory: direct, uring, aio, device
 *   drop             closes it again
 *   touch I N        a thread reads the N pages from I on, over and over
 *   touched I N      the same by a child that is forked by the system call
 *   threads T        T threads write a word of theirs in each page, over and over, and look whether it
 *                    is still there the next time
 *   stop             ends them
 *   robust I         a thread takes a robust mutex in page I, in the threads' words
 *   die              it ends: 0 if that is told to who wants the mutex next
 *   leave            another thread goes on, and the first one ends
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE    4096u
#define WORDS   (PAGE / 8u)
#define THREADS 8u

static uint64_t *area;
static uint64_t *version; /* of each page */
static uint64_t npages;

static int held = -1;
static aio_context_t context;
static char outside[PAGE];
static char path[] = "/var/tmp/samepage-rewrites-XXXXXX";

static pthread_t thread[THREADS];
static unsigned nthreads;
static volatile int stopping;
static uint64_t wrong_of[THREADS];

static uint64_t word_of(uint64_t page, uint64_t v, uint64_t i)
{
    return (page * 0x9e3779b97f4a7c15u) ^ (v * 0xc2b2ae3d27d4eb4fu) ^ (i << 48) ^ i;
}

/* Word t of a page is thread t's, once there are any. */
static void write_page(uint64_t page, uint64_t v)
{
    version[page] = v;
    for (uint64_t i = THREADS; i < WORDS; i++)
        area[page * WORDS + i] = word_of(page, v, i);
}

static uint64_t check_page(uint64_t page)
{
    for (uint64_t i = THREADS; i < WORDS; i++)
        if (area[page * WORDS + i] != word_of(page, version[page], i)) {
            fprintf(stderr, "WRONG BYTES in page %llu\n", (unsigned long long)page);
            return 1;
        }
    return 0;
}

static uint64_t check(void)
{
    uint64_t wrong = 0;

    for (uint64_t page = 0; page < npages; page++)
        wrong += check_page(page);
    return wrong;
}

static sigjmp_buf at_bus;

static void on_bus(int number)
{
    (void)number;
    siglongjmp(at_bus, 1);
}

static uint64_t count_lost(int say)
{
    struct sigaction action = {.sa_handler = on_bus}, old;
    volatile uint64_t lost = 0;

    sigaction(SIGBUS, &action, &old);
    for (volatile uint64_t page = 0; page < npages; page++) {
        if (sigsetjmp(at_bus, 1)) {
            lost++;
            if (say)
                printf("%llu ", (unsigned long long)page);
        } else {
            check_page(page);
        }
    }
    sigaction(SIGBUS, &old, NULL);
    if (say)
        printf("\n");
    return lost;
}

#define OTHER_PAGES 8192u /* more than a processor has translations of at hand */

/* With other pages between, so that each touch goes through the page tables. */
static void *touch_on(void *arg)
{
    const uint64_t *range = arg;
    volatile char *other = mmap(NULL, OTHER_PAGES * PAGE, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if ((char *)other == MAP_FAILED)
        return NULL;
    for (;;) {
        for (uint64_t page = range[0]; page < range[0] + range[1]; page++)
            (void)*(volatile uint64_t *)&area[page * WORDS + THREADS];
        for (unsigned page = 0; page < OTHER_PAGES; page++)
            (void)other[page * PAGE];
        usleep(1000);
    }
    return NULL;
}

static uint64_t touch(uint64_t first, uint64_t n, int by_child)
{
    static uint64_t range[2];
    pthread_t toucher;
    pid_t parent = getpid();
    long pid;

    range[0] = first;
    range[1] = n;
    if (!by_child)
        return pthread_create(&toucher, NULL, touch_on, range) != 0;
    pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid)
        return pid < 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        touch_on(range);
    _exit(0);
}

#define STRIPES 128u

/* In each round the words of every 128th page count up: so a page rests for half a second, and is the
 * other program's like for most of it. What was written is there the next time. */
static void *write_on(void *arg)
{
    unsigned t = (unsigned)(uintptr_t)arg;

    for (uint64_t round = 0; !stopping; round++) {
        for (uint64_t page = round % STRIPES; page < npages; page += STRIPES) {
            volatile uint64_t *word = &area[page * WORDS + t];

            if (*word != round / STRIPES)
                wrong_of[t]++;
            *word = round / STRIPES + 1;
        }
        usleep(4000);
    }
    return NULL;
}

static uint64_t stop_threads(void)
{
    uint64_t wrong = 0;

    stopping = 1;
    for (unsigned t = 0; t < nthreads; t++) {
        pthread_join(thread[t], NULL);
        wrong += wrong_of[t];
    }
    if (wrong)
        fprintf(stderr, "WRONG BYTES: %llu words were not what was written\n",
                (unsigned long long)wrong);
    nthreads = 0;
    return wrong;
}

static void start_threads(unsigned n)
{
    stopping = 0;
    for (uint64_t page = 0; page < npages; page++)
        memset(&area[page * WORDS], 0, THREADS * 8);
    for (nthreads = 0; nthreads < n && nthreads < THREADS; nthreads++) {
        wrong_of[nthreads] = 0;
        pthread_create(&thread[nthreads], NULL, write_on, (void *)(uintptr_t)nthreads);
    }
}

static int hold(const char *what)
{
    if (!strcmp(what, "direct")) {
        held = mkostemp(path, O_DIRECT);
        if (held >= 0)
            unlink(path);
        return held < 0;
    }
    if (!strcmp(what, "uring")) {
        struct io_uring_params p = {0};
        struct iovec buffer = {outside, PAGE}; /* of area it would be un-merged first */

        held = (int)syscall(__NR_io_uring_setup, 4, &p);
        return held < 0 || syscall(__NR_io_uring_register, held, IORING_REGISTER_BUFFERS, &buffer, 1);
    }
    if (!strcmp(what, "aio"))
        return (int)syscall(__NR_io_setup, 8, &context);
    held = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
    return held < 0;
}

static void drop(void)
{
    if (context)
        syscall(__NR_io_destroy, context);
    if (held >= 0)
        close(held);
    held = -1;
    context = 0;
}

static pthread_mutex_t *robust;
static pthread_t holder;
static int begin[2], end[2];

static void *hold_robust(void *arg)
{
    char byte = (char)pthread_mutex_lock(robust);

    (void)arg;
    if (write(begin[1], &byte, 1) == 1 && read(end[0], &byte, 1) == 1)
        return NULL;
    return NULL;
}

static uint64_t take_robust(uint64_t page)
{
    pthread_mutexattr_t attr;
    char byte = 1;

    robust = (pthread_mutex_t *)&area[page * WORDS];
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (sizeof(*robust) > THREADS * 8 || pthread_mutex_init(robust, &attr) || pipe(begin) || pipe(end) ||
        pthread_create(&holder, NULL, hold_robust, NULL))
        return 1;
    return read(begin[0], &byte, 1) != 1 || byte;
}

static uint64_t end_holder(void)
{
    struct timespec limit;
    int ret;

    if (write(end[1], "", 1) != 1 || pthread_join(holder, NULL))
        return 1;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 30;
    ret = pthread_mutex_timedlock(robust, &limit);
    if (ret == EOWNERDEAD && (pthread_mutex_consistent(robust) || pthread_mutex_unlock(robust)))
        return 1;
    memset(robust, 0, THREADS * 8);
    return ret != EOWNERDEAD;
}

static uint64_t obey(const char *line)
{
    unsigned long long v, first = 0, n = npages;
    char word[16];
    unsigned t;

    if (sscanf(line, "write %llu %llu %llu", &v, &first, &n) >= 1)
        for (uint64_t page = first; page < first + n; page++)
            write_page(page, v);
    else if (sscanf(line, "own %llu %llu %llu", &v, &first, &n) == 3)
        for (uint64_t page = first; page < first + n; page++)
            write_page(page, v << 32 | (uint64_t)getpid());
    else if (sscanf(line, "hold %15s", word) == 1)
        return (uint64_t)hold(word);
    else if (sscanf(line, "touch %llu %llu", &first, &n) == 2)
        return touch(first, n, 0);
    else if (sscanf(line, "touched %llu %llu", &first, &n) == 2)
        return touch(first, n, 1);
    else if (sscanf(line, "threads %u", &t) == 1)
        start_threads(t);
    else if (sscanf(line, "robust %llu", &v) == 1)
        return take_robust(v);
    else if (!strncmp(line, "die", 3))
        return end_holder();
    else if (!strncmp(line, "stop", 4))
        return stop_threads();
    else if (!strncmp(line, "lost", 4))
        return count_lost(0);
    else if (!strncmp(line, "which", 5))
        return count_lost(1);
    else if (!strncmp(line, "drop", 4))
        drop();
    else
        return check();
    return 0;
}

static void *serve(void *arg)
{
    char line[128];
    pthread_t other;
    int leaves = 0;

    (void)arg;
    while (!leaves && fgets(line, sizeof(line), stdin)) {
        leaves = !strncmp(line, "leave", 5);
        printf("done %llu\n", (unsigned long long)(leaves ? 0 : obey(line)));
        fflush(stdout);
    }
    if (leaves && !pthread_create(&other, NULL, serve, NULL))
        pthread_exit(NULL);
    exit(check() ? 1 : 0);
}

int main(int argc, char **argv)
{
    npages = argc > 1 ? strtoull(argv[1], NULL, 10) : 4096;
    version = calloc(npages, sizeof(*version));
    /* Reserved memory around it keeps it apart from what the program needs besides. */
    area = mmap(NULL, (npages + 32) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED || !version)
        return 1;
    area += 16 * WORDS;
    if (mprotect(area, npages * PAGE, PROT_READ | PROT_WRITE))
        return 1;
    for (uint64_t page = 0; page < (argc > 2 ? strtoull(argv[2], NULL, 10) : npages); page++)
        write_page(page, 1);
    printf("ready %llx %llu\n", (unsigned long long)(uintptr_t)area,
           (unsigned long long)npages * PAGE);
    fflush(stdout);
    serve(NULL);
}
