/* SPDX-License-Identifier: Apache-2.0 */
/*
 * K17, X: memory that is MADV_DONTFORK and that the program itself wants merged, as QEMU has it, is
 * merged and stays what it is: a forked child is without it.
 *
 * Maps two halves, both advised, the first DONTFORK. "ready ADDRESS BYTES", then for each word on
 * standard input an answer "ok": fork (looks at both halves in a child), drop (MADV_DONTNEED on a
 * part of each half), dofork (lets a quarter of the first half be copied by fork again).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  4096ul
#define HALF  (2048 * PAGE)
#define PART  (256 * PAGE)  /* that is dropped, at the begin of each half */
#define SPOT  (1024 * PAGE) /* where a child maps a file, in the first half */
#define AGAIN (1536 * PAGE) /* from here on dofork */
#define TAKEN 9             /* status of a child whose agent mapped something where we look */

static unsigned char *area;
static int dropped, dofork;

static void check(int truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "WRONG BYTES: %s\n", what);
    _exit(1);
}

static unsigned char byte_at(unsigned long i)
{
    return (unsigned char)((i / PAGE * 2654435761u >> 7) ^ (i % PAGE));
}

static int is_mapped(const unsigned char *at, size_t length)
{
    return msync((void *)at, length, MS_ASYNC) == 0;
}

/* The agent's views of the pool are shared mappings, and our memory is not; its other areas have its name. */
static int is_agents(const unsigned char *at)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], kind = 0;
    unsigned long start, end;
    int agents = 0;

    while (maps && fgets(line, sizeof(line), maps))
        if (sscanf(line, "%lx-%lx %*3c%c", &start, &end, &kind) == 3 && start <= (unsigned long)at &&
            (unsigned long)at < end)
            agents = kind == 's' || strstr(line, "[anon:samepage]") != NULL;
    if (maps)
        fclose(maps);
    return agents;
}

static void check_absent(const unsigned char *at)
{
    if (!is_mapped(at, PAGE)) {
        check(errno == ENOMEM, "msync");
        return;
    }
    if (is_agents(at))
        _exit(TAKEN);
    check(0, "the child has DONTFORK memory");
}

static void check_half(unsigned long half, unsigned long from, unsigned long to)
{
    for (unsigned long i = from; i < to; i += 64)
        check(area[half + i] == (dropped && i < PART ? 0 : byte_at(half + i)), "content");
}

/* A file where the parent has merged memory: nothing may take it for that. */
static void check_file(void)
{
    unsigned char *at = area + SPOT, begin[PAGE];
    int fd = open("/proc/self/exe", O_RDONLY);
    void *file = mmap(at, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);

    if (file != at && is_agents(at))
        _exit(TAKEN);
    check(file == at && pread(fd, begin, PAGE, 0) == (ssize_t)PAGE, "the file is not mapped");
    check(madvise(file, PAGE, MADV_DONTNEED) == 0, "DONTNEED of the file");
    check(memcmp(file, begin, PAGE) == 0, "the file");
}

static void look(void)
{
    for (unsigned long i = 0; i < (dofork ? AGAIN : HALF); i += PAGE)
        check_absent(area + i);
    if (dofork)
        check_half(0, AGAIN, HALF);
    check_half(HALF, 0, HALF);
    check_file();
}

/* In another child where one was so slow that its agent took the place. */
static void look_in_child(void)
{
    int status, tries = 0;

    do {
        pid_t child = fork();

        check(child >= 0, "fork");
        if (child == 0) {
            look();
            _exit(0);
        }
        check(waitpid(child, &status, 0) == child, "waitpid");
    } while (status == TAKEN << 8 && tries++ < 500);
    check(status == 0, "the child");
}

int main(void)
{
    char word[32];

    area = mmap(NULL, 2 * HALF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(area != MAP_FAILED && madvise(area, 2 * HALF, MADV_MERGEABLE) == 0 &&
              madvise(area, HALF, MADV_DONTFORK) == 0,
          "setting up");
    for (unsigned long i = 0; i < 2 * HALF; i++)
        area[i] = byte_at(i);
    printf("ready %lx %lu\n", (unsigned long)area, 2 * HALF);
    fflush(stdout);
    while (scanf("%31s", word) == 1) {
        if (strcmp(word, "fork") == 0) {
            look_in_child();
        } else if (strcmp(word, "drop") == 0) {
            check(madvise(area, PART, MADV_DONTNEED) == 0, "drop");
            check(madvise(area + HALF, PART, MADV_DONTNEED) == 0, "drop");
            dropped = 1;
        } else if (strcmp(word, "dofork") == 0) {
            check(madvise(area + AGAIN, HALF - AGAIN, MADV_DOFORK) == 0, "dofork");
            dofork = 1;
        }
        check_half(0, 0, HALF);
        check_half(HALF, 0, HALF);
        puts("ok");
        fflush(stdout);
    }
    return 0;
}
