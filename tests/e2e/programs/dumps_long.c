/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dumps_long: a program whose core dump takes the kernel half a minute or so, though it has little memory.
 *
 * Prints "ready ADDRESS BYTES" of memory that is the same in each of them; ends with its stdin. Besides it has so
 * much address space without memory that the kernel looks at it for long, page by page.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE  4096ul
#define PAGES 1024ul
#define EMPTY (1ul << 43) /* a core file of less than ext4's largest */

static uint64_t *map(size_t bytes)
{
    uint64_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

int main(void)
{
    uint64_t *area = map(PAGES * PAGE), *empty = map(EMPTY);
    char byte;

    for (uint64_t i = 0; i < PAGES * PAGE / 8; i++)
        area[i] = (i + 1) * 0x9e3779b97f4a7c15u;
    /* A dump leaves out what was never written to. */
    madvise(empty, EMPTY, MADV_NOHUGEPAGE);
    empty[0] = 1;
    if (mprotect(empty, EMPTY, PROT_READ)) {
        perror("mprotect");
        return 1;
    }
    printf("ready %p %lu\n", (void *)area, PAGES * PAGE);
    fflush(stdout);
    return read(0, &byte, 1) < 0;
}
