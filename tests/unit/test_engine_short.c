/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory is short at any allocation of the engine, one after the other: nothing breaks, nothing is
 * lost, and what could not be done is left out. Linked so that the C library's allocations come
 * through here (--wrap).
 */
#include "outside.h"

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

static uint64_t until_failure; /* allocations; 0: none fails */

static bool fails(void)
{
    return until_failure && --until_failure == 0;
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return fails() ? NULL : __real_realloc(memory, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, size);
}

static void no_engine_and_no_mm_without_memory(void **state)
{
    struct fake_world *world = outside_world_new();
    struct sp_engine_config config = {.ops = &outside_ops, .ctx = world, .page_size = FAKE_PAGE};

    until_failure = 1;
    assert_null(sp_engine_new(&config));
    until_failure = 1;
    assert_null(sp_engine_mm_add(world->engine, world));
    assert_int_equal(until_failure, 0);
    fake_check(world);
    fake_world_free(world);
}

/* Of each five pages: one stretch of equal ones, one that others have, on two nodes. */
static void fill(struct fake_mm *mm, uint32_t own)
{
    for (uint32_t i = 0; i < mm->npages; i++)
        if (i % 64 < 20)
            fake_write(mm, i, 7);
        else if (i % 5 == 0)
            fake_write(mm, i, own + i);
}

static void steps(struct fake_world *world, unsigned passes)
{
    bool done;

    while (passes) {
        (void)sp_engine_step(world->engine, 200, &done);
        passes -= done;
    }
}

static void move_frames(struct fake_world *world)
{
    for (uint32_t f = 0; f < world->nframes; f += 3) {
        sp_frame frame = SP_FRAME(f / FAKE_SEGMENT + 1, f % FAKE_SEGMENT);

        if (sp_stable_node(world->engine, frame))
            sp_engine_frame_moved(world->engine, frame, f % 2);
    }
}

static void drain(struct fake_world *world)
{
    world->next_frame = FAKE_SEGMENT;
    if (sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1) == 0 &&
        sp_engine_drain_step(world->engine) == 0)
        (void)sp_engine_drain_end(world->engine, false);
}

/* What programs and the engine do, with memory short once. Returns whether it was. */
static bool scenario(uint64_t failure)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm[4];
    bool failed;

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 3), 0);
    for (unsigned i = 0; i < 4; i++) {
        mm[i] = fake_mm_new(world, 256, 100);
        fill(mm[i], 1000 * (i + 1));
    }
    outside.elsewhere[0] = mm[3];
    until_failure = failure;
    steps(world, 4);
    move_frames(world);
    drain(world);
    fill(mm[1], 9000);
    steps(world, 3);
    for (uint32_t i = 0; i < 256; i += 2)
        (void)sp_engine_adopt_zero(world->engine, mm[2]->mm, fake_addr(i) + (UINT64_C(1) << 40), 1);
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while (sp_engine_unmerge_step(world->engine) == 1)
        ;
    sp_engine_set_run(world->engine, SP_RUN_MERGE);
    steps(world, 3);
    failed = until_failure == 0;
    until_failure = 0;
    fake_check(world);
    fake_passes(world, 12);
    assert_true(fake_counters(world).pages_sharing > 300);
    fake_world_free(world);
    return failed;
}

static void any_allocation_may_fail(void **state)
{
    uint64_t failure = 1;

    while (scenario(failure))
        failure++;
    assert_true(failure > 50); /* so many it makes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_engine_and_no_mm_without_memory),
        cmocka_unit_test(any_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
