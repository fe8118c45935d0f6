/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a known number of address-space calls on memory that nobody merges, between two marks on
 * standard error; holds memory that is merged meanwhile. */
#include <pthread.h>

#include "pattern.h"

#define PAGES  2048u
#define ROUNDS 100u

static void mark(const char *text)
{
    if (write(2, text, strlen(text)) < 0)
        exit(4);
}

static void *thread_main(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED || mprotect(p, PAGE, PROT_READ) || madvise(p, PAGE, MADV_DONTNEED) ||
            mlock(p, PAGE) || munlock(p, PAGE) || mprotect(p, PAGE, PROT_READ | PROT_WRITE) ||
            mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
            die("call");
        p = mremap(p + PAGE, 3 * PAGE, 5 * PAGE, MREMAP_MAYMOVE);
        if (p == MAP_FAILED || munmap(p, 5 * PAGE) || !munmap(p + 1, PAGE))
            die("mremap");
    }
    return arg;
}

int main(void)
{
    char *region = region_map(PAGES), line[64];
    pthread_t thread;

    region_fill(region, PAGES, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 4;
    mark("begin\n");
    thread_main(NULL);
    for (unsigned i = 0; i < 4; i++)
        if (pthread_create(&thread, NULL, thread_main, NULL) || pthread_join(thread, NULL))
            die("pthread_create");
    if (brk(sbrk(0)) || sbrk(PAGE) == (void *)-1 || sbrk(-(long)PAGE) == (void *)-1)
        die("brk");
    mark("end\n");
    region_check(region, PAGES, 0, "at the end");
    puts("ok");
    return 0;
}
