/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advised memory that a userfaultfd of the program's own has for some time. usage: uffd_gone
 * missing|protect. Prints "ready", and where the memory is; then by line of stdin:
 *
 *   register    registers all of it: "register 0"
 *   unregister  takes it away again: "unregister 0"
 *   close       closes the userfaultfd instead: "close 0"
 *   check       all pages hold what they held: "ok"
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "pattern.h"

#define PAGES 1024u

static char *region;
static int uffd = -1;

static int open_uffd(uint64_t mode)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    struct uffdio_register reg = {.range = {(uintptr_t)region, PAGES * PAGE}, .mode = mode};

    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
        die("userfaultfd");
    return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static void obey(const char *word, uint64_t mode)
{
    struct uffdio_range range = {(uintptr_t)region, PAGES * PAGE};

    if (!strcmp(word, "register")) {
        printf("register %d\n", open_uffd(mode));
    } else if (!strcmp(word, "unregister")) {
        printf("unregister %d\n", ioctl(uffd, UFFDIO_UNREGISTER, &range));
    } else if (!strcmp(word, "close")) {
        printf("close %d\n", close(uffd));
    } else if (!strcmp(word, "check")) {
        region_check(region, PAGES, 0, "with a userfaultfd");
        puts("ok");
    } else {
        exit(2);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bool missing = argc == 2 && !strcmp(argv[1], "missing");
    char word[16];

    region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        die("mmap");
    madvise(region, PAGES * PAGE, MADV_NOHUGEPAGE);
    madvise(region, PAGES * PAGE, MADV_MERGEABLE);
    region_fill(region, PAGES, 0);
    printf("ready %lx %u\n", (unsigned long)region, PAGES * PAGE);
    fflush(stdout);
    while (scanf("%15s", word) == 1)
        obey(word, missing ? UFFDIO_REGISTER_MODE_MISSING : UFFDIO_REGISTER_MODE_WP);
    return 0;
}
