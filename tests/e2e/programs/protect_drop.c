/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes a right away from its memory and then drops it, as programs do that give memory back for a
 * while. Of the merged pages some were written after their merge.
 * usage: protect_drop none|read|exec|write [dontfork]: mprotect to none, PROT_READ, that and PROT_EXEC, or not
 *
 * "ready ADDRESS BYTES", a word on stdin, the work, "ok".
 */
#include <errno.h>
#include <stdbool.h>

#include "pattern.h"

#define PAGES  2048u
#define ROUNDS 3u

static char *region;
static int protection;

/* Whether the kernel lets itself be asked to write there: the protection that is in force. */
static bool writable(const char *page)
{
    static int ends[2];

    if (!ends[1] && pipe(ends))
        die("pipe");
    if (write(ends[1], "x", 1) != 1)
        die("write");
    if (read(ends[0], (void *)page, 1) == 1)
        return true;
    if (errno != EFAULT)
        die("read");
    if (read(ends[0], &(char){ 0 }, 1) != 1)
        die("read");
    return false;
}

static void check_protection(const char *when)
{
    if (protection & PROT_WRITE)
        return;
    for (unsigned i = 0; i < PAGES; i++) {
        if (writable(region + i * PAGE)) {
            fprintf(stderr, "WRONG BYTES: page %u can be written %s\n", i, when);
            abort();
        }
    }
}

static void work(uint64_t version)
{
    for (unsigned i = 0; i < PAGES; i += 1 + i % 5)
        pattern_fill(region + i * PAGE, i, version + 1);
    if (mprotect(region, PAGES * PAGE, protection))
        die("mprotect");
    check_protection("before it was dropped");
    if (madvise(region, PAGES * PAGE, MADV_DONTNEED))
        die("madvise");
    check_protection("after it was dropped");
    if (protection & PROT_READ)
        region_zero(region, PAGES, "dropped");
    if (mprotect(region, PAGES * PAGE, PROT_READ | PROT_WRITE))
        die("mprotect");
    region_zero(region, PAGES, "writable again");
    region_fill(region, PAGES, 0);
    region_check(region, PAGES, 0, "filled again");
}

int main(int argc, char **argv)
{
    char line[16];

    protection = argc > 1 && argv[1][0] == 'n'   ? PROT_NONE
                 : argc > 1 && argv[1][0] == 'r' ? PROT_READ
                 : argc > 1 && argv[1][0] == 'e' ? PROT_READ | PROT_EXEC
                                                 : PROT_READ | PROT_WRITE;
    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    if (argc > 2 && madvise(region, PAGES * PAGE, MADV_DONTFORK))
        die("madvise");
    for (unsigned round = 0; round < ROUNDS; round++) {
        printf("ready %p %u\n", (void *)region, PAGES * PAGE);
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin))
            return 3;
        work(round);
        printf("ok\n");
        fflush(stdout);
    }
    return 0;
}
