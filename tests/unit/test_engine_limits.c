/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds that no client can go beyond, whatever it says.
 */
#include "outside.h"

static int adopt(struct fake_mm *mm, uint64_t page, sp_frame frame, uint32_t content)
{
    struct sp_hash hash = fake_hash(content);

    return sp_engine_adopt(mm->world->engine, mm->mm, FAKE_BASE + page * FAKE_PAGE, frame, 1,
                           &hash);
}

/* K14: more than the engine can count. They are told to the caller, and the count stays right. */
static void a_frame_has_no_more_sites_than_can_be_counted(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 1);
    const struct sp_node *node;

    for (uint64_t i = 0; i < SP_SITES_MAX; i++)
        if (adopt(mm, i, SP_FRAME(1, 0), 7) != 0)
            fail_msg("site %ju is refused", (uintmax_t)i);
    assert_int_equal(adopt(mm, SP_SITES_MAX, SP_FRAME(1, 0), 7), -ENOSPC);
    node = sp_stable_node(world->engine, SP_FRAME(1, 0));
    assert_int_equal(node->nsites, SP_SITES_MAX);
    assert_int_equal(fake_counters(world).pages_sharing, SP_SITES_MAX - 1);
    assert_int_equal(adopt(mm, SP_SITES_MAX, SP_FRAME(1, 1), 8), 0);
    fake_world_free(world);
}

/* Frames of one content that are looked through have an end; one beyond it is not taken over. */
static void a_content_has_no_more_frames_than_can_be_looked_through(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 1);
    uint32_t frames = 0;

    while (adopt(mm, frames, SP_FRAME(1, frames), 7) == 0)
        assert_in_range(++frames, 1, 1000);
    assert_int_equal(frames, 512);
    assert_int_equal(adopt(mm, frames, SP_FRAME(1, frames), 7), -ENOMEM);
    assert_int_equal(fake_counters(world).frames, frames);
    assert_int_equal(fake_counters(world).stable_node_dups, frames);
    assert_int_equal(adopt(mm, frames, SP_FRAME(1, frames), 8), 0);
    fake_world_free(world);
}

static unsigned answers;

/* One page each time, whatever is asked for. */
static int unmerge_without_end(void *ctx, void *mm, uint64_t start, uint64_t end, uint64_t *next,
                               uint64_t *npages)
{
    answers++;
    *next = start + FAKE_PAGE;
    *npages = 1;
    return 0;
}

/* K13: a client whose un-merge never ends holds nobody up. */
static void an_unmerge_that_never_ends_is_given_up(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50);
    struct sp_engine_ops all = outside_ops;

    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    outside_ops.unmerge = unmerge_without_end;
    assert_int_equal(sp_engine_unmerge_mm(world->engine, mm->mm), -EBUSY);
    assert_in_range(answers, 4, 2000);
    assert_int_equal(outside_unmerge_all(world), -EBUSY);
    outside_ops = all;
    assert_int_equal(outside_unmerge_all(world), 0);
    fake_check_exact(world);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_has_no_more_sites_than_can_be_counted),
        cmocka_unit_test(a_content_has_no_more_frames_than_can_be_looked_through),
        cmocka_unit_test(an_unmerge_that_never_ends_is_given_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
