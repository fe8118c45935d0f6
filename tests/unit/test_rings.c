/* SPDX-License-Identifier: Apache-2.0 */
/* X: what programs ask of their io_urings is found there (rings.c), and nothing else is taken for
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include <linux/io_uring.h>
#include <linux/mman.h>

#include "agent.h"
#include "maps.h"
#include "rings.h"

#define JOBS 8u

struct sp_agent sp_agent;

static struct io_uring_sqe jobs[JOBS];
static bool gone;

bool sp_peek_ring(uint64_t start, uint64_t end, bool *found)
{
    if (gone)
        return false;
    *found = sp_ring_advises((const uint64_t *)start, (const uint64_t *)end);
    return true;
}

static const struct sp_mapping *mapping(void)
{
    static struct sp_mapping m;

    m = (struct sp_mapping){.start = (uintptr_t)jobs,
                            .end = (uintptr_t)(jobs + JOBS),
                            .readable = true,
                            .shared = true,
                            .ring = true};
    return &m;
}

static int begin(void **state)
{
    (void)state;
    sp_agent = (struct sp_agent){0};
    memset(jobs, 0, sizeof(jobs));
    gone = false;
    sp_rings_read_begin();
    sp_rings_note(mapping());
    return 0;
}

static uint32_t look(void)
{
    sp_rings_look();
    return sp_agent.raw_calls;
}

/* MADV_GUARD_INSTALL is 102. */
static void x_advice_that_takes_pages(void **state)
{
    static const uint32_t advice[] = {MADV_DONTNEED,    MADV_FREE, MADV_REMOVE,
                                      MADV_UNMERGEABLE, 24,        102};

    (void)state;
    for (unsigned i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
        begin(NULL);
        jobs[JOBS - 1] = (struct io_uring_sqe){
            .opcode = IORING_OP_MADVISE, .addr = 4096, .len = 4096, .fadvise_advice = advice[i]};
        assert_int_equal(look(), SP_EXPLAINED_RING_ADVICE);
    }
}

static void x_advice_that_takes_none(void **state)
{
    (void)state;
    jobs[0] = (struct io_uring_sqe){.opcode = IORING_OP_MADVISE, .fadvise_advice = MADV_WILLNEED};
    assert_int_equal(look(), 0);
}

static void x_other_jobs(void **state)
{
    (void)state;
    for (unsigned i = 0; i < JOBS; i++)
        jobs[i] = (struct io_uring_sqe){.opcode = i % 2 ? IORING_OP_READ : IORING_OP_FADVISE,
                                        .flags = IORING_OP_MADVISE,
                                        .len = IORING_OP_MADVISE,
                                        .fadvise_advice = MADV_DONTNEED};
    assert_int_equal(look(), 0);
}

/* A ring that was unmapped since the mappings were read; one of another reading. */
static void x_rings_that_are_gone(void **state)
{
    (void)state;
    jobs[0] = (struct io_uring_sqe){.opcode = IORING_OP_MADVISE, .fadvise_advice = MADV_DONTNEED};
    gone = true;
    assert_int_equal(look(), 0);
    gone = false;
    sp_rings_read_begin();
    assert_int_equal(look(), 0);
}

/* More rings than are kept in mind: the others are looked at. */
static void x_many_rings(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        sp_rings_note(mapping());
    assert_int_equal(look(), 0);
    jobs[3] = (struct io_uring_sqe){.opcode = IORING_OP_MADVISE, .fadvise_advice = MADV_DONTNEED};
    assert_int_equal(look(), SP_EXPLAINED_RING_ADVICE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(x_advice_that_takes_pages, begin),
        cmocka_unit_test_setup(x_advice_that_takes_none, begin),
        cmocka_unit_test_setup(x_other_jobs, begin),
        cmocka_unit_test_setup(x_rings_that_are_gone, begin),
        cmocka_unit_test_setup(x_many_rings, begin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
