/* SPDX-License-Identifier: Apache-2.0 */
/* samepage estimate: which memory counts (K17), and what merging would make of it (K4 to K8). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "estimate.h"

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))
#define BASE UINT64_C(0x700000000000)
#define ZERO UINT64_C(0x123456789) /* what a page of zeros hashes to here */
#define MANY 16384u                /* mappings */

/* A process with one run of n pages at addr, with contents first, first + step, ... */
static struct sp_estimate_process process(uid_t uid, uint64_t addr, uint64_t n, uint64_t first,
                                          uint64_t step)
{
    struct sp_estimate_process p = {.uid = uid, .npages = n, .nruns = 1, .mappings_budget = MANY};

    p.run = calloc(1, sizeof(*p.run));
    p.hash = calloc(n, sizeof(*p.hash));
    assert_non_null(p.run);
    assert_non_null(p.hash);
    p.run[0] = (struct sp_estimate_run){addr, 0, n};
    for (uint64_t i = 0; i < n; i++)
        p.hash[i] = ((first + i * step) * UINT64_C(0x9e3779b97f4a7c15)) & SP_ESTIMATE_HASH;
    return p;
}

static struct sp_estimate_sum tally(struct sp_estimate_process *p, size_t n)
{
    struct sp_estimate_sum sum;

    assert_int_equal(sp_estimate_tally(p, n, ZERO, &sum), 0);
    for (size_t i = 0; i < n; i++)
        sp_estimate_process_free(&p[i]);
    return sum;
}

static void equal_programs_share_all_but_one(void **state)
{
    struct sp_estimate_process p[3];
    struct sp_estimate_sum sum;

    for (unsigned i = 0; i < 3; i++)
        p[i] = process(1, BASE + i * PAGE * 7, 1000, 5, 1);
    sum = tally(p, 3);
    assert_int_equal(sum.pages, 3000);
    assert_int_equal(sum.pages_shared, 1000);
    assert_int_equal(sum.pages_sharing, 2000);
    assert_int_equal(sum.mappings, 6); /* one run each, counted twice */
    assert_int_equal(p[0].sites, 1000);
    assert_true(p[0].pages_sharing > 666 && p[0].pages_sharing < 667);
    assert_int_equal(sum.bytes_saved, 2000 * (int64_t)PAGE - (int64_t)sum.own_bytes);
}

static void users_share_nothing(void **state)
{
    struct sp_estimate_process p[2] = {process(1, BASE, 500, 5, 1), process(2, BASE, 500, 5, 1)};
    struct sp_estimate_sum sum = tally(p, 2);

    assert_int_equal(sum.pages_sharing, 0);
    assert_int_equal(sum.nusers, 2);
    assert_true(sum.bytes_saved < 0); /* samepage itself needs some */
}

static void zeros_are_told_apart(void **state)
{
    struct sp_estimate_process p = process(1, BASE, 600, 5, 1);
    struct sp_estimate_sum sum;

    for (unsigned i = 100; i < 500; i++)
        p.hash[i] = ZERO;
    sum = tally(&p, 1);
    assert_int_equal(sum.zero_pages, 400);
    assert_true(sum.pages_sharing >= 300 && sum.pages_sharing < 400); /* a ladder of frames */
    assert_true(sum.mappings < 100);
}

static void every_second_page_stops_at_the_budget(void **state)
{
    struct sp_estimate_process p[2] = {process(1, BASE, 4000, 5, 1),
                                       process(1, BASE, 4000, 100005, 1)};
    struct sp_estimate_sum sum;

    for (unsigned i = 0; i < 4000; i += 2)
        p[1].hash[i] = p[0].hash[i];
    p[0].mappings_budget = p[1].mappings_budget = 1000;
    sum = tally(p, 2);
    assert_true(sum.pages_sharing >= 200 && sum.pages_sharing <= 500); /* of 2000 */
    assert_true(p[0].mappings <= 1000 && p[1].mappings <= 1000);
}

static void volatile_pages_are_left_out(void **state)
{
    struct sp_estimate_process p[2] = {process(1, BASE, 100, 5, 1), process(1, BASE, 100, 5, 1)};

    for (unsigned i = 0; i < 30; i++)
        p[0].hash[i] |= SP_ESTIMATE_APART;
    assert_int_equal(tally(p, 2).pages_sharing, 70);
}

/* K8: parent and child have the same page at the same address, once in memory. */
static void what_fork_shares_is_not_saved_again(void **state)
{
    struct sp_estimate_process p[3] = {process(1, BASE, 100, 5, 1), process(1, BASE, 100, 5, 1),
                                       process(1, BASE + 4096 * PAGE, 100, 5, 1)};
    struct sp_estimate_sum sum;

    for (unsigned i = 0; i < 100; i++) {
        p[0].hash[i] |= SP_ESTIMATE_FORK;
        p[1].hash[i] |= SP_ESTIMATE_FORK;
    }
    sum = tally(p, 3);
    assert_true(sum.pages_saved > 99 && sum.pages_saved < 101);

    p[0] = process(1, BASE, 100, 5, 1);
    p[1] = process(1, BASE, 100, 5, 1);
    for (unsigned i = 0; i < 100; i++) {
        p[0].hash[i] |= SP_ESTIMATE_FORK;
        p[1].hash[i] |= SP_ESTIMATE_FORK;
    }
    sum = tally(p, 2);
    assert_true(sum.pages_saved < 1 && sum.pages_saved > -1);
}

static void nothing_at_all(void **state)
{
    struct sp_estimate_process p = {.uid = 1};
    struct sp_estimate_sum sum = tally(&p, 1);

    assert_int_equal(sum.pages, 0);
    assert_int_equal(tally(NULL, 0).pages_sharing, 0);
}

/* ---- smaps ---- */

#define PLAIN "VmFlags: rd wr mr mw me ac \n"

static struct sp_estimate_ranges read_text(const char *text, bool all, const uint64_t *stack,
                                           size_t nstacks)
{
    struct sp_estimate_ranges ranges;
    FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");

    assert_non_null(f);
    assert_int_equal(sp_estimate_read_smaps(f, all, stack, nstacks, &ranges), 0);
    fclose(f);
    return ranges;
}

static size_t count_ranges(const char *text, bool all)
{
    struct sp_estimate_ranges ranges = read_text(text, all, NULL, 0);

    free(ranges.range);
    return ranges.n;
}

static void k17_only_what_loses_nothing_counts(void **state)
{
    static const char *const left_alone[] = {
        "10000000-20000000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dd ac \n",
        "10000000-20000000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me wf ac \n",
        "10000000-20000000 rw-p 00000000 00:00 0 \nProtectionKey:         3\n" PLAIN,
        "10000000-20000000 rwxp 00000000 00:00 0 \n" PLAIN,
        "10000000-20000000 r--p 00000000 00:00 0 \n" PLAIN,
        "10000000-20000000 rw-s 00000000 00:00 0 \n" PLAIN,
        "10000000-20000000 rw-p 00000000 08:01 77   /usr/lib/x.so\n" PLAIN,
        "10000000-20000000 rw-p 00000000 00:00 0    [stack]\n" PLAIN,
        "10000000-10030000 rw-p 00000000 00:00 0 \n" PLAIN,       /* 48 pages */
        "10000000-20000000 rw-p 00000000 00:00 0 \nSize: 4 kB\n", /* no flags: nothing is known */
    };

    assert_int_equal(
        count_ranges("10000000-20000000 rw-p 00000000 00:00 0  [heap]\nProtectionKey: 0\n" PLAIN,
                     true),
        1);
    for (size_t i = 0; i < sizeof(left_alone) / sizeof(left_alone[0]); i++)
        assert_int_equal(count_ranges(left_alone[i], true), 0);
}

static void only_advised_memory_counts_without_all(void **state)
{
    assert_int_equal(count_ranges("10000000-20000000 rw-p 00000000 00:00 0 \n" PLAIN, false), 0);
    assert_int_equal(count_ranges("10000000-10001000 rw-p 00000000 00:00 0 \n"
                                  "VmFlags: rd wr mr mw me ac mg \n",
                                  false),
                     1);
    assert_int_equal(count_ranges("10000000-20000000 rw-p 00000000 00:00 0 \n"
                                  "VmFlags: rd wr mr mw me dc ac hg mg \n",
                                  false),
                     1); /* the memory of QEMU's guests */
}

static void merged_pages_do_not_make_a_range_small(void **state)
{
    struct sp_estimate_ranges ranges =
        read_text("10000000-10010000 rw-p 00000000 00:00 0 \n" PLAIN
                  "10010000-10020000 rw-p 00003000 00:2a 2   /1\n" PLAIN
                  "10020000-10030000 rw-p 00000000 00:00 0 \n" PLAIN
                  "30000000-31000000 r--s 00000000 00:2a 2   /1\nVmFlags: rd mr me ms \n",
                  true, NULL, 0);

    assert_int_equal(ranges.n, 3);
    assert_true(!ranges.range[0].pool && ranges.range[1].pool && !ranges.range[2].pool);
    assert_int_equal(ranges.mappings, 4);
    assert_int_equal(ranges.pool_mappings, 1);
    free(ranges.range);
}

static void stacks_of_threads_are_left_alone(void **state)
{
    static const char text[] = "10000000-10001000 ---p 00000000 00:00 0 \nVmFlags: mr mw me \n"
                               "10001000-10801000 rw-p 00000000 00:00 0 \n" PLAIN;
    const uint64_t stack = 0x10800f00, elsewhere = 0x20000000;
    struct sp_estimate_ranges ranges = read_text(text, true, &stack, 1);

    assert_int_equal(ranges.n, 0);
    free(ranges.range);
    ranges = read_text(text, true, &elsewhere, 1);
    assert_int_equal(ranges.n, 1);
    free(ranges.range);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_programs_share_all_but_one),
        cmocka_unit_test(users_share_nothing),
        cmocka_unit_test(zeros_are_told_apart),
        cmocka_unit_test(every_second_page_stops_at_the_budget),
        cmocka_unit_test(volatile_pages_are_left_out),
        cmocka_unit_test(what_fork_shares_is_not_saved_again),
        cmocka_unit_test(nothing_at_all),
        cmocka_unit_test(k17_only_what_loses_nothing_counts),
        cmocka_unit_test(only_advised_memory_counts_without_all),
        cmocka_unit_test(merged_pages_do_not_make_a_range_small),
        cmocka_unit_test(stacks_of_threads_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
