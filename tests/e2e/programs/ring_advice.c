/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives advice about its memory by an io_uring.
 *
 * usage: ring_advice early|late. Says "ready ADDRESS BYTES"; early: after it dropped memory of its
 * own so. At "go" late drops such memory, too; both say "done". At the next "go" half of the region
 * is dropped so, and it looks whether that reads as zeros, and the rest as before; then it says
 * "ok". Or "skip WHY".
 */
#include "x_table.h"
#include "x_uring.h"

#define PAGES 2048u
#define OTHER 16u

static void drop(char *at, uint32_t npages)
{
    long ret = uring_advise(at, npages * PAGE, MADV_DONTNEED);

    errno = ret < 0 ? (int)-ret : 0;
    if (ret == -EINVAL)
        x_skip("this kernel's io_uring gives no advice");
    x_must(ret == 0, "IORING_OP_MADVISE");
}

static void read_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(4);
}

static void say(const char *what)
{
    puts(what);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct x_row row = {.name = "ring_advice"};
    bool early = argc == 2 && !strcmp(argv[1], "early");
    char *region = region_map(PAGES), *other = region_map(OTHER);

    x_row = &row;
    if (argc != 2)
        return 2;
    region_fill(region, PAGES, 0);
    region_fill(other, OTHER, 0);
    uring_open();
    if (early)
        drop(other, OTHER);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    read_line();
    if (!early)
        drop(other, OTHER);
    say("done");
    read_line();
    drop(region, PAGES / 2);
    region_zero(region, PAGES / 2, "after IORING_OP_MADVISE");
    for (size_t i = PAGES / 2; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, 0, "beside it");
    say("ok");
    return 0;
}
