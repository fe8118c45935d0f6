/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames whose memory goes: to the store and back (S), or with a node or a segment (H).
 */
#include "outside.h"

static void h2_a_drain_locks_out_scanning_and_unmerging(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50);
    struct sp_reclaimed out;
    uint64_t scans;
    bool done;

    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    assert_int_equal(sp_engine_drain_step(world->engine), -EINVAL);
    assert_int_equal(sp_engine_drain_end(world->engine, true), -EINVAL);
    outside_ops.frame_move = NULL;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), -EOPNOTSUPP);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 1), -EBUSY);
    scans = mm->scans;
    assert_int_equal(sp_engine_step(world->engine, 100, &done), 0);
    assert_true(done);
    assert_int_equal(mm->scans, scans);
    assert_int_equal(sp_engine_unmerge_mm(world->engine, mm->mm), -EAGAIN);
    assert_int_equal(sp_engine_reclaim(world->engine, 1, 0, &out), -EAGAIN);
    assert_int_equal(outside_unmerge_all(world), -EAGAIN);
    assert_int_equal(sp_engine_drain_end(world->engine, false), 0); /* cancelled: both are free */
    assert_int_equal(outside_unmerge_all(world), 0);
    fake_world_free(world);
}

static void h3_frames_of_a_node_keep_number_contents_and_sites(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50);
    int more;

    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    outside.migrate = -ENOMEM; /* H5: no room */
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    while ((more = sp_engine_drain_step(world->engine)) == 1)
        ;
    assert_int_equal(more, -ENOMEM);
    outside.migrate = 0;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    assert_int_equal(sp_engine_drain_end(world->engine, true), -EBUSY); /* sites are there still */
    while ((more = sp_engine_drain_step(world->engine)) == 1)
        ;
    assert_int_equal(more, 0);
    assert_int_equal(outside.migrates, 1 + 4);
    assert_int_equal(sp_engine_drain_end(world->engine, true), 0);
    assert_int_equal(sp_stable_node(world->engine, mm->page[0].frame)->node, 2);
    fake_check_exact(world);
    fake_world_free(world);
}

static void h3_frames_of_a_segment_move_with_their_sites(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50);
    struct fake_mm *other = fake_mm_new(world, 4, 50);

    fake_passes(world, 3);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), 0);
    assert_int_equal(sp_engine_drain_step(world->engine),
                     -ENOMEM); /* the pool gave one of it: H5 */
    fake_check_exact(world);
    world->next_frame = FAKE_SEGMENT;
    world->alloc_fails = true;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), 0);
    assert_int_equal(sp_engine_drain_step(world->engine), -ENOMEM);
    world->alloc_fails = false;
    outside.move = -EBUSY;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), 0);
    assert_int_equal(sp_engine_drain_step(world->engine), -EBUSY);
    outside.move = 0;
    world->engine->memory_limit = world->engine->memory_used;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), 0);
    assert_int_equal(sp_engine_drain_step(world->engine), -ENOMEM);
    world->engine->memory_limit = 0;
    for (uint32_t i = 0; i < 2; i++) { /* H4: a frame without sites is not moved */
        fake_write(mm, i, 700 + i);
        fake_write(other, i, 800 + i);
    }
    fake_passes(world, 1);
    world->next_frame = FAKE_SEGMENT;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), 0);
    assert_int_equal(sp_engine_drain_step(world->engine), 0);
    assert_int_equal(outside.moves, 2);
    assert_int_equal(SP_FRAME_SEGMENT(mm->page[3].frame), 2);
    assert_int_equal(mm->page[3].frame, other->page[3].frame);
    assert_int_equal(sp_engine_drain_end(world->engine, true), 0);
    assert_int_equal(fake_counters(world).frames_pruned, 2);
    for (uint32_t f = 0; f < FAKE_SEGMENT; f++)
        world->frame[f].state = FAKE_FREE;
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_sharing, 2);
    fake_world_free(world);
}

static void s9_a_page_that_equals_an_evicted_frame_merges_into_it(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50), *late;

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 1);
    outside.bring_back = -ENOMEM;
    late = fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(late->page[0].frame, 0);
    assert_int_equal(fake_counters(world).frames_evicted, 1);
    outside.bring_back = 0;
    fake_passes(world, 10);
    assert_int_equal(late->page[0].frame, mm->page[0].frame);
    assert_int_equal(fake_counters(world).frames, 1);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    fake_world_free(world);
}

static void s8_a_frame_that_cannot_be_read_takes_no_sites(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50), *late[2];

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 1);
    outside.bring_back = -EIO;
    late[0] = fake_mm_new(world, 1, 50);
    late[1] = fake_mm_new(world, 1, 50);
    fake_passes(world, 12);
    assert_int_equal(outside.bring_backs, 1); /* asked once */
    assert_int_equal(fake_counters(world).store_errors, 1);
    assert_int_not_equal(late[0]->page[0].frame, 0); /* they found one another */
    assert_int_not_equal(late[0]->page[0].frame, mm->page[0].frame);
    assert_int_equal(late[0]->page[0].frame, late[1]->page[0].frame);
    fake_world_free(world);
}

static void s11_what_comes_back_while_all_is_unmerged_is_a_copy(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50);
    sp_frame frame;

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    frame = mm->page[0].frame;
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 1);
    assert_true(sp_engine_frame_returns_shared(world->engine, frame));
    assert_false(sp_engine_frame_returns_shared(world->engine, frame + 1));
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    assert_false(sp_engine_frame_returns_shared(world->engine, frame));
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames_evicted, 0); /* T1, S10 */
    assert_false(sp_engine_frame_returns_shared(world->engine, frame));
    sp_engine_frame_back(world->engine, frame, 0); /* news of frames that are forgotten */
    sp_engine_frame_out(world->engine, frame);
    sp_engine_frame_lost(world->engine, frame);
    fake_world_free(world);
}

/* Two processes with the same n pages, which are merged. */
static struct fake_world *merged_world_new(uint32_t n)
{
    struct fake_world *world = outside_world_new();

    (void)fake_mm_new(world, n, 50);
    (void)fake_mm_new(world, n, 50);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, n);
    return world;
}

static void s1_a_frame_is_evicted_and_stays_shared(void **state)
{
    struct fake_world *world = merged_world_new(4);
    struct sp_engine_ops all = outside_ops;
    struct sp_reclaimed out;

    outside_ops.frame_evict = NULL;
    assert_int_equal(sp_engine_reclaim(world->engine, 1, 0, &out), -EOPNOTSUPP);
    outside_ops = all;
    assert_int_equal(outside_reclaim(world, 1, 0).evicted, 1); /* the hand goes on from there */
    assert_int_equal(outside_reclaim(world, 2, 0).evicted, 2);
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 1);
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 0);
    assert_int_equal(outside.evicts, 4);
    assert_int_equal(fake_counters(world).frames_evicted, 4);
    assert_int_equal(fake_counters(world).evictions, 4);
    assert_int_equal(fake_counters(world).pages_sharing, 4);
    fake_check_exact(world);
    fake_world_free(world);
}

static void s2_a_frame_that_any_site_used_gets_a_second_chance(void **state)
{
    struct fake_world *world = merged_world_new(4);

    outside.referenced = true;
    assert_int_equal(outside_reclaim(world, 9, 0).referenced, 4); /* once each */
    assert_int_equal(outside.evicts, 0);
    assert_int_equal(fake_counters(world).second_chances, 4);
    outside.referenced = false;
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    fake_world_free(world);
}

static void s2_a_frame_whose_turn_is_later_has_no_chance_used_up(void **state)
{
    struct fake_world *world = merged_world_new(4);
    struct sp_reclaimed got;

    outside.later = true;
    got = outside_reclaim(world, 9, 0);
    assert_int_equal(got.referenced + got.evicted, 0);
    assert_int_equal(outside.evicts, 0);
    assert_int_equal(fake_counters(world).second_chances, 0);
    outside.later = false;
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    fake_world_free(world);
}

static void s3_a_frame_that_a_site_cannot_let_go_stays_whole(void **state)
{
    struct fake_world *world = merged_world_new(4);

    outside.evict = SP_EVICTED_AGAIN;
    assert_int_equal(outside_reclaim(world, 9, 0).again, 4);
    outside.evict = SP_EVICTED_CANNOT;
    assert_int_equal(outside_reclaim(world, 9, 0).cannot, 4);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    fake_check_exact(world);
    outside.evict = SP_EVICTED_DONE;
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4); /* tried later */
    fake_world_free(world);
}

/* Those that leave together are as many as were wanted, and out only when that is said. */
static void s3_frames_that_leave_later(void **state)
{
    struct fake_world *world = merged_world_new(4);
    sp_frame frame = 0;

    (void)state;
    outside.evict = SP_EVICTED_LATER;
    assert_int_equal(outside_reclaim(world, 3, 0).later, 3);
    assert_int_equal(outside.evicts, 3);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    assert_int_equal(outside_reclaim(world, 9, 0).later, 4);
    for (uint32_t i = 0; i < SP_SEGMENT_PAGES_MAX && !frame; i++)
        if (sp_engine_frame_known(world->engine, SP_FRAME(1, i), &(struct sp_hash){0}))
            frame = SP_FRAME(1, i);
    sp_engine_frame_left(world->engine, frame);
    sp_engine_frames_spared(world->engine, 2);
    assert_true(sp_engine_frame_is_out(world->engine, frame));
    assert_int_equal(fake_counters(world).frames_evicted, 1);
    assert_int_equal(fake_counters(world).evictions, 1);
    assert_int_equal(fake_counters(world).second_chances, 2);
    sp_engine_frame_returned(world->engine, frame);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    fake_check_exact(world);
    fake_world_free(world);
}

static void s4_a_frame_with_a_locked_site_is_never_evicted(void **state)
{
    struct fake_world *world = merged_world_new(4);

    outside.locked = true;
    assert_int_equal(outside_reclaim(world, 9, 0).locked, 4);
    assert_int_equal(outside.evicts, 0);
    outside.locked = false;
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    fake_world_free(world);
}

static void s5_reclaim_for_a_group_asks_for_its_references_only(void **state)
{
    struct fake_world *world = merged_world_new(4);

    outside.referenced = true;
    outside.used_by = 3;
    assert_int_equal(outside_reclaim(world, 9, 3).referenced, 4);
    assert_int_equal(outside.groups, 4 * 3);
    assert_int_equal(outside_reclaim(world, 9, 0).referenced, 4);
    assert_int_equal(outside_reclaim(world, 9, 2).evicted, 4);
    fake_world_free(world);
}

static void s6_a_frame_that_comes_back_is_shared_as_before(void **state)
{
    struct fake_world *world = merged_world_new(4);
    struct fake_mm *mm = world->mm[0], *other = world->mm[1];
    sp_frame frame = mm->page[2].frame;

    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    assert_true(sp_engine_frame_returns_shared(world->engine, frame));
    sp_engine_frame_back(world->engine, frame, 1); /* somebody touched it */
    assert_int_equal(fake_counters(world).frames_evicted, 3);
    assert_int_equal(sp_stable_node(world->engine, frame)->node, 1);
    fake_check_exact(world);
    fake_write(mm, 1, 51); /* sharing could not be kept: a copy with the right bytes */
    fake_passes(world, 4);
    assert_int_equal(mm->page[1].frame, other->page[1].frame); /* a later pass merged it again */
    assert_int_equal(outside.bring_backs, 1);
    fake_check_exact(world);
    fake_world_free(world);
}

static void s7_a_page_that_was_written_is_untouched_by_the_eviction(void **state)
{
    struct fake_world *world = merged_world_new(4);
    struct fake_mm *mm = world->mm[0], *other = world->mm[1];

    fake_write(mm, 0, 700);
    fake_passes(world, 1);
    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    fake_write(mm, 1, 701); /* and one that was evicted is the writer's own then */
    fake_passes(world, 3);
    assert_int_equal(mm->page[0].content, 700);
    assert_int_equal(mm->page[0].frame, 0);
    assert_int_not_equal(other->page[0].frame, 0);
    assert_int_not_equal(other->page[1].frame, 0);
    assert_int_equal(fake_counters(world).frames_evicted, 4);
    assert_int_equal(outside.bring_backs, 0);
    fake_check_exact(world);
    fake_world_free(world);
}

static void s10_a_frame_in_the_store_goes_with_its_last_user(void **state)
{
    struct fake_world *world = merged_world_new(4);
    struct fake_mm *mm = world->mm[0], *other = world->mm[1];

    assert_int_equal(outside_reclaim(world, 9, 0).evicted, 4);
    fake_write(mm, 0, 700);
    fake_passes(world, 3);
    assert_int_equal(world->forgotten, 0);
    fake_write(other, 0, 701);
    fake_passes(world, 3);
    assert_int_equal(world->forgotten, 1);
    assert_int_equal(fake_counters(world).frames_evicted, 3);
    fake_mm_remove(other); /* exit */
    fake_passes(world, 3);
    assert_int_equal(world->forgotten, 1); /* the first has them still */
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(world->forgotten, 4);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_world_free(world);
}

/* No pointer to a frame is there to go bad: a number that nobody gave out is as good. */
static void h1_nodes_name_their_frame_by_number(void **state)
{
    struct fake_world *world = merged_world_new(1);
    struct sp_hash hash = fake_hash(7), known;
    struct fake_mm *mm = world->mm[0];
    sp_frame frame = SP_FRAME(0xffff, 0xfffe);

    assert_false(sp_engine_frame_known(world->engine, frame, &known));
    assert_int_equal(sp_engine_adopt(world->engine, mm->mm, fake_addr(0), frame, 1, &hash), 0);
    assert_true(sp_engine_frame_known(world->engine, frame, &known));
    assert_int_equal(known.lo, hash.lo);
    assert_false(sp_engine_frame_known(world->engine, frame - 1, NULL));
    assert_int_equal(sp_item_frame(mm->mm, fake_addr(0)), frame);
    assert_int_equal(sp_engine_adopt(world->engine, mm->mm, fake_addr(0), frame + 1, 1, &hash),
                     -EINVAL); /* it would be "none" */
    assert_int_equal(sp_engine_adopt(world->engine, mm->mm, fake_addr(0), SP_FRAME(0, 1), 1, &hash),
                     -EINVAL);
    fake_world_free(world);
}

/* What cannot be entered for want of memory is said, and is adopted when there is some. */
static void d1_adoption_without_memory_changes_nothing(void **state)
{
    struct fake_world *world = merged_world_new(1);
    struct fake_mm *mm = world->mm[0];
    struct sp_hash hash = fake_hash(7);
    uint64_t far = fake_addr(0) + (UINT64_C(1) << 30), before = world->engine->memory_used;
    sp_frame frame = SP_FRAME(0xffff, 0xfffe);

    world->engine->memory_limit = before;
    assert_int_equal(sp_engine_adopt(world->engine, mm->mm, far, frame, 1, &hash), -ENOMEM);
    assert_false(sp_engine_frame_known(world->engine, frame, NULL));
    assert_int_equal(world->engine->memory_used, before);
    world->engine->memory_limit = 0;
    assert_int_equal(sp_engine_adopt(world->engine, mm->mm, far, frame, 1, &hash), 0);
    assert_int_equal(sp_item_frame(mm->mm, far), frame);
    fake_world_free(world);
}

static void h4_nodes_whose_frames_vanished_are_pruned_by_number(void **state)
{
    struct fake_world *world = merged_world_new(4);
    int more;

    for (unsigned m = 0; m < 2; m++)
        fake_write(world->mm[m], 0, 700 + m); /* its frame has no site, so it is not moved */
    fake_passes(world, 1);
    assert_int_equal(fake_counters(world).frames, 4);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    do
        more = sp_engine_drain_step(world->engine);
    while (more == 1);
    assert_int_equal(more, 0);
    assert_int_equal(outside.migrates, 3);
    assert_int_equal(sp_engine_drain_end(world->engine, true), 0);
    assert_int_equal(fake_counters(world).frames, 3);
    assert_int_equal(fake_counters(world).frames_pruned, 1);
    assert_int_equal(world->forgotten, 0); /* the pool knows: it took the memory */
    fake_world_free(world);
}

static void h5_a_drain_without_room_leaves_all_as_it_was(void **state)
{
    struct fake_world *world = merged_world_new(4);
    sp_frame frame = world->mm[0]->page[3].frame;
    int more;

    outside.migrate = -ENOMEM;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    do
        more = sp_engine_drain_step(world->engine);
    while (more == 1);
    assert_int_equal(more, -ENOMEM);
    assert_int_equal(world->mm[0]->page[3].frame, frame);
    assert_int_equal(sp_stable_node(world->engine, frame)->node, 0);
    assert_int_equal(sp_engine_drain_end(world->engine, false), -EINVAL); /* it is over */
    fake_check_exact(world);
    fake_write(world->mm[0], 3, 53);
    fake_passes(world, 4); /* nothing is locked out any more */
    assert_int_equal(world->mm[0]->page[3].frame, frame);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s1_a_frame_is_evicted_and_stays_shared),
        cmocka_unit_test(s2_a_frame_that_any_site_used_gets_a_second_chance),
        cmocka_unit_test(s2_a_frame_whose_turn_is_later_has_no_chance_used_up),
        cmocka_unit_test(s3_a_frame_that_a_site_cannot_let_go_stays_whole),
        cmocka_unit_test(s3_frames_that_leave_later),
        cmocka_unit_test(s4_a_frame_with_a_locked_site_is_never_evicted),
        cmocka_unit_test(s5_reclaim_for_a_group_asks_for_its_references_only),
        cmocka_unit_test(s6_a_frame_that_comes_back_is_shared_as_before),
        cmocka_unit_test(s7_a_page_that_was_written_is_untouched_by_the_eviction),
        cmocka_unit_test(s8_a_frame_that_cannot_be_read_takes_no_sites),
        cmocka_unit_test(s9_a_page_that_equals_an_evicted_frame_merges_into_it),
        cmocka_unit_test(s10_a_frame_in_the_store_goes_with_its_last_user),
        cmocka_unit_test(s11_what_comes_back_while_all_is_unmerged_is_a_copy),
        cmocka_unit_test(h1_nodes_name_their_frame_by_number),
        cmocka_unit_test(h2_a_drain_locks_out_scanning_and_unmerging),
        cmocka_unit_test(h3_frames_of_a_node_keep_number_contents_and_sites),
        cmocka_unit_test(h3_frames_of_a_segment_move_with_their_sites),
        cmocka_unit_test(d1_adoption_without_memory_changes_nothing),
        cmocka_unit_test(h4_nodes_whose_frames_vanished_are_pruned_by_number),
        cmocka_unit_test(h5_a_drain_without_room_leaves_all_as_it_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
