/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drops its memory when it is under a filter of its own, part of which it may not write: all of it is zeros then.
 *
 * usage: drop_filtered PROTECTION HOW. PROTECTION: none, read or exec is what the second half of the region is given.
 * HOW: `here`; `forked`: a child does it, at once; `threads`: the same, but the rights were taken before, with another
 * thread running; `after`: under the filter; `inside`: here, while a thread stays in a call that locks memory, so that no page is given back, and
 * only what may be written is dropped. Says "ready ADDRESS BYTES"; at "go" writes to some pages, takes the rights,
 * puts a filter on itself that allows everything, drops, looks at all pages, and says "ok".
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define PAGES 2048u
#define HALF  (PAGES / 2)

static char *region;

static bool is_written(size_t i)
{
    return i % 3 == 1;
}

static void filter(void)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("prctl");
}

static void write_some(uint64_t version)
{
    for (size_t i = 0; i < PAGES; i++)
        if (is_written(i))
            pattern_fill(region + i * PAGE, i, version);
}

static void protect_half(int protection)
{
    if (mprotect(region + HALF * PAGE, HALF * PAGE, protection))
        die("mprotect");
}

/* What was written is not zeros because it was dropped once, whatever is done to its rights. */
static void change_rights_and_check(void)
{
    static const int rights[] = {PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE, PROT_WRITE,
                                 PROT_READ | PROT_WRITE};
    char *half = region + HALF * PAGE;

    if (mprotect(half, HALF * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) || madvise(half, HALF * PAGE, MADV_DONTNEED))
        die("write and execute");
    region_fill(region, PAGES, 8);
    for (size_t i = 0; i < sizeof(rights) / sizeof(rights[0]); i++)
        if (mprotect(half, HALF * PAGE, rights[i]))
            die("mprotect");
    region_check(region, PAGES, 8, "after its rights changed");
    if (mprotect(half, HALF * PAGE, PROT_READ) || madvise(half, HALF * PAGE, MADV_DONTNEED) || munmap(half, HALF * PAGE))
        die("unmap what was dropped");
    if (mremap(region, HALF * PAGE, HALF * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, half) != half ||
        mprotect(half, HALF * PAGE, PROT_READ | PROT_WRITE))
        die("move to where it was");
    region_check(half, HALF, 8, "moved to what had been dropped");
    region = half;
}

/* Where sites were moved to, it is not forgotten that they may not be written. */
static void move_and_drop(int protection)
{
    char *to = mmap(NULL, HALF * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (to == MAP_FAILED || mprotect(region, HALF * PAGE, protection) ||
        mremap(region, HALF * PAGE, HALF * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to ||
        madvise(to, HALF * PAGE, MADV_DONTNEED) || mprotect(to, HALF * PAGE, PROT_READ | PROT_WRITE))
        die("drop what was moved");
    region = to;
    region_fill(region, HALF, 9);
    region_check(region, HALF, 9, "at the end");
}

static void drop_under_filter(int protection, bool all)
{
    size_t readable = protection & PROT_READ ? PAGES : HALF;

    filter();
    for (size_t i = 0; i < readable; i++)
        pattern_check(region + i * PAGE, i, is_written(i), "under the filter");
    if (madvise(region, HALF * PAGE, MADV_DONTNEED))
        die("madvise");
    region_zero(region, HALF, "dropped");
    if (!all)
        return;
    protect_half(protection);
    if (madvise(region + HALF * PAGE, HALF * PAGE, MADV_DONTNEED))
        die("madvise");
    if (mprotect(region + HALF * PAGE, HALF * PAGE, PROT_READ | PROT_WRITE))
        die("mprotect");
    region_zero(region, PAGES, "dropped while it was not to be written");
    region_fill(region, PAGES, 7);
    region_check(region, PAGES, 7, "written after that");
    change_rights_and_check();
    move_and_drop(protection);
}

static void *stay(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void with_a_thread(int protection)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, stay, NULL))
        die("pthread_create");
    protect_half(protection);
}

static void *lock_page(void *page)
{
    mlock(page, PAGE);
    return NULL;
}

/* It waits for a page that nobody gives, and can be seen to do so. */
static void with_a_thread_inside(int protection)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffd_msg event;
    pthread_t thread;

    range.range.start = (uintptr_t)page;
    range.range.len = PAGE;
    if (fd < 0 || page == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("userfaultfd");
    protect_half(protection);
    if (pthread_create(&thread, NULL, lock_page, page) || read(fd, &event, sizeof(event)) != sizeof(event))
        die("a page that is missing");
}

static void in_child(int protection, bool before)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    if (pid == 0) {
        if (!before)
            protect_half(protection);
        drop_under_filter(protection, true);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status)
        exit(5);
    for (size_t i = 0; i < (before ? HALF : PAGES); i++)
        pattern_check(region + i * PAGE, i, is_written(i), "of the parent");
}

int main(int argc, char **argv)
{
    char line[16];
    int protection;

    if (argc < 3)
        return 2;
    protection = argv[1][0] == 'n' ? PROT_NONE : argv[1][0] == 'r' ? PROT_READ : PROT_READ | PROT_EXEC;
    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return 3;
    write_some(1);
    if (argv[2][0] == 't')
        with_a_thread(protection);
    else if (argv[2][0] == 'h')
        protect_half(protection);
    if (argv[2][0] == 'i')
        with_a_thread_inside(protection);
    if (argv[2][0] == 'h' || argv[2][0] == 'a' || argv[2][0] == 'i')
        drop_under_filter(protection, argv[2][0] != 'i');
    else
        in_child(protection, argv[2][0] == 't');
    puts("ok");
    return 0;
}
