/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd_often: gives the first pages of a mapping to a userfaultfd of its own, and takes them back,
 * again and again from when the mapping is made.
 *
 * Prints "ready ADDRESS BYTES" of the rest, whose bytes are the same in every such program. With a
 * line of stdin it looks at all, and prints "ok".
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE  4096u
#define GIVEN 16u
#define PAGES 2048u

static char *area;
static volatile uint64_t rounds;
static volatile int stopping;

static void *come_and_go(void *arg)
{
    struct uffdio_register reg = {.range = {(uintptr_t)area, GIVEN * PAGE},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    int fd = *(int *)arg;

    for (; !stopping; rounds++)
        if (ioctl(fd, UFFDIO_REGISTER, &reg) || ioctl(fd, UFFDIO_UNREGISTER, &reg.range)) {
            perror("userfaultfd");
            exit(1);
        }
    return NULL;
}

static uint64_t word(uint64_t i)
{
    return (i + 1) * 0x9e3779b97f4a7c15u;
}

int main(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    uint64_t words = PAGES * PAGE / sizeof(uint64_t);
    pthread_t thread;
    char line[16];

    area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || area == MAP_FAILED ||
        pthread_create(&thread, NULL, come_and_go, &fd)) {
        perror("userfaultfd");
        return 1;
    }
    while (rounds < 3)
        usleep(100);
    for (uint64_t i = 0; i < words; i++)
        ((volatile uint64_t *)area)[i] = word(i);
    printf("ready %lx %u\n", (unsigned long)(uintptr_t)area + GIVEN * PAGE, (PAGES - GIVEN) * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 1;
    stopping = 1;
    pthread_join(thread, NULL);
    for (uint64_t i = 0; i < words; i++)
        if (((volatile uint64_t *)area)[i] != word(i)) {
            printf("WRONG BYTES\n");
            return 1;
        }
    printf("ok\n");
    return 0;
}
