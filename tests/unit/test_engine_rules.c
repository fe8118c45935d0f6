/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules that need ops which not every outside has, or the calls that change what holds for all:
 * chains (K14), zero pages (K15), smart scan and advisor (K16), nodes (N), and what is left by run
 * 2 (T).
 */
#include "outside.h"

#include "advisor.h"

static void k14_a_frame_has_at_most_max_page_sharing_sites(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm[7];

    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 1), -EINVAL);
    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 3), 0);
    for (unsigned i = 0; i < 7; i++)
        mm[i] = fake_mm_new(world, 1, 5);
    fake_passes(world, 4);
    assert_int_equal(fake_counters(world).pages_shared, 2);
    assert_int_equal(fake_counters(world).pages_sharing, 4); /* the seventh waits for an eighth */
    assert_int_equal(fake_counters(world).stable_node_chains, 1);
    assert_int_equal(fake_counters(world).stable_node_dups, 2);
    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 4), -EBUSY);
    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 3), 0);
    fake_write(mm[0], 0, 900); /* its frame has room again: the seventh merges into it */
    fake_passes(world, 12);
    assert_int_equal(fake_counters(world).pages_sharing, 4);
    for (unsigned i = 0; i < 7; i++)
        fake_write(mm[i], 0, 1000 + i);
    fake_passes(world, 4);
    assert_int_equal(fake_counters(world).stable_node_chains, 0);
    assert_int_equal(fake_counters(world).stable_node_dups, 0);
    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 0), 0);
    fake_world_free(world);
}

static void k14_a_stretch_gets_as_many_frames_as_its_pages_need(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 300, 1);

    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 4), 0);
    for (uint32_t i = 0; i < 300; i++)
        fake_write(mm, i, 7);
    fake_passes(world, 20);
    assert_true(fake_counters(world).pages_shared >= 75);
    assert_true(fake_counters(world).pages_shared + fake_counters(world).pages_sharing >= 299);
    for (uint32_t f = 0; f < world->nframes; f++) {
        const struct sp_node *node =
            sp_stable_node(world->engine, SP_FRAME(f / FAKE_SEGMENT + 1, f % FAKE_SEGMENT));

        assert_true(!node || node->nsites <= 4);
    }
    fake_world_free(world);
}

static void k15_zero_pages_are_given_back_and_counted_apart(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 3, 0); /* page 0 holds zeros */
    struct sp_engine_ops all = outside_ops;

    outside_ops.zero = NULL;
    assert_int_equal(sp_engine_set_use_zero_pages(world->engine, true), -EOPNOTSUPP);
    outside_ops = all;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 0);
    assert_int_equal(sp_engine_set_use_zero_pages(world->engine, true), 0);
    outside.zero_result = SP_PINNED;
    fake_passes(world, 1);
    assert_int_equal(outside.zeros, 1);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 0);
    outside.zero_result = SP_MERGED;
    fake_write(mm, 0, 0);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 1);
    assert_int_equal(fake_counters(world).pages_shared, 0);
    fake_write(mm, 0, 17);
    fake_passes(world, 1);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 0);
    assert_int_equal(sp_engine_adopt_zero(world->engine, mm->mm, fake_addr(1), 2), 0);
    assert_int_equal(sp_engine_adopt_zero(world->engine, mm->mm, 1, 2), -EINVAL);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 2);
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 0);
    fake_world_free(world);
}

static void k16_without_smart_scan_every_pass_asks_for_every_page(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 5, 100);
    unsigned before;

    fake_passes(world, 3);
    before = mm->restarts;
    fake_passes(world, 5);
    assert_int_equal(mm->restarts, before);
    assert_int_equal(fake_counters(world).pages_skipped, 5 * 6); /* not in the pass that saw them */
    sp_engine_set_smart_scan(world->engine, false);
    fake_passes(world, 5);
    assert_int_equal(mm->restarts, before + 5);
    fake_world_free(world);
}

static void k16_the_advisor_says_pages_to_scan_itself(void **state)
{
    struct sp_advisor advisor;

    sp_advisor_init(&advisor, 100);
    sp_advisor_pass_done(&advisor, 1, 1);
    assert_int_equal(advisor.pages_to_scan, 100);
    assert_int_equal(sp_advisor_set_pages_to_scan(&advisor, 0), 0);
    assert_int_equal(sp_advisor_set_pages_to_scan(&advisor, 200), 0);
    assert_int_equal(sp_advisor_set_mode(&advisor, (enum sp_advisor_mode)7), -EINVAL);
    assert_int_equal(sp_advisor_set_mode(&advisor, SP_ADVISOR_SCAN_TIME), 0);
    assert_int_equal(advisor.pages_to_scan, 500);
    assert_int_equal(sp_advisor_set_pages_to_scan(&advisor, 200), -EINVAL);
    assert_int_equal(sp_advisor_set_limits(&advisor, 0, 70, 500, 30000), -EINVAL);
    assert_int_equal(sp_advisor_set_limits(&advisor, 1, 101, 500, 30000), -EINVAL);
    assert_int_equal(sp_advisor_set_limits(&advisor, 1, 70, 500, 400), -EINVAL);
    for (unsigned i = 0; i < 100; i++) /* 4 million pages, 20 ms of sleep, 200 s wanted */
        sp_advisor_pass_done(&advisor, 4000000 * 20 / advisor.pages_to_scan, 0);
    assert_in_range(advisor.pages_to_scan, 396, 510);
    for (unsigned i = 0; i < 100; i++) /* ever too slow: as many as the processor allows */
        sp_advisor_pass_done(&advisor, 1000000, 990000);
    assert_int_equal(advisor.pages_to_scan, 500);
    sp_advisor_pass_done(&advisor, 0, 5);
    assert_int_equal(sp_advisor_set_limits(&advisor, 200000, 70, 1000, 30000), 0);
    assert_int_equal(advisor.pages_to_scan, 1000);
    for (unsigned i = 0; i < 100; i++)
        sp_advisor_pass_done(&advisor, 1000000, 0);
    assert_int_equal(advisor.pages_to_scan, 30000);
}

static void n1_pages_merge_with_those_of_their_own_node(void **state)
{
    struct fake_world *world = outside_world_new();

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    for (unsigned i = 0; i < 4; i++) {
        (void)fake_mm_new(world, 8, 50);
        outside.elsewhere[i] = fake_mm_new(world, 8, 50);
    }
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_shared, 16);
    assert_int_equal(fake_counters(world).pages_sharing, 48);
    assert_int_equal(fake_counters(world).stable_node_chains, 0);
    /* N2 */
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, true), -EBUSY);
    /* T4 */
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, true), 0);
    sp_engine_set_run(world->engine, SP_RUN_MERGE);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_shared, 8);
    assert_int_equal(fake_counters(world).pages_sharing, 56);
    fake_world_free(world);
}

static void n3_a_frame_that_moved_is_filed_under_its_new_node(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm;
    sp_frame frame;

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    mm = fake_mm_new(world, 1, 50);
    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    frame = mm->page[0].frame;
    assert_int_not_equal(frame, 0);
    sp_engine_frame_moved(world->engine, frame, SP_NODES_MAX); /* no such node: ignored */
    sp_engine_frame_moved(world->engine, frame, 1);
    outside.elsewhere[0] = fake_mm_new(world, 1, 50);
    for (unsigned i = 0; i < 6; i++) {
        bool done;

        (void)sp_engine_step(world->engine, 100, &done);
    }
    assert_int_equal(outside.elsewhere[0]->page[0].frame, frame);
    assert_int_equal(fake_counters(world).pages_sharing, 2);
    sp_engine_frame_moved(world->engine, frame, 0);
    fake_world_free(world);
}

static void n3_without_memory_a_frame_that_moved_is_found_no_more(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm;

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    mm = fake_mm_new(world, 1, 50);
    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    world->engine->memory_limit = world->engine->memory_used;
    sp_engine_frame_moved(world->engine, mm->page[0].frame, 1);
    world->engine->memory_limit = 0;
    assert_true(sp_stable_node(world->engine, mm->page[0].frame)->lost);
    assert_int_equal(sp_stable_node(world->engine, mm->page[0].frame)->node, 1);
    outside.elsewhere[0] = fake_mm_new(world, 1, 50);
    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(outside.elsewhere[0]->page[0].frame, 0);
    assert_int_equal(fake_counters(world).pages_shared, 1);
    assert_int_equal(fake_counters(world).pages_sharing, 1);
    fake_world_free(world);
}

static void t2_a_frame_that_is_mapped_where_it_should_not_be_gives_ebusy(void **state)
{
    struct fake_world *world = outside_world_new();

    (void)fake_mm_new(world, 4, 50);
    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    outside.mapped = true;
    assert_int_equal(outside_unmerge_all(world), -EBUSY);
    assert_int_equal(fake_counters(world).frames, 4);
    assert_true(fake_counters(world).stale_mapped >= 4);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), -EBUSY);
    outside.mapped = false;
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_world_free(world);
}

static void n2_the_nodes_rule_changes_only_when_no_trace_is_left(void **state)
{
    struct fake_world *world = outside_world_new();

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, true), 0); /* as it is */
    (void)fake_mm_new(world, 4, 50);
    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), -EBUSY);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, true), 0);
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    fake_world_free(world);
}

static void n4_balancing_a_process_moves_no_frame(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50), *other;
    sp_frame frame;

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    other = fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    frame = mm->page[0].frame;
    outside.elsewhere[0] = mm; /* its own pages lie on node 1 from now on */
    fake_write(mm, 3, 53);
    fake_passes(world, 10);
    assert_int_equal(mm->page[0].frame, frame);
    assert_int_equal(other->page[0].frame, frame);
    assert_int_equal(sp_stable_node(world->engine, frame)->node, 0);
    assert_int_equal(mm->page[3].frame,
                     0); /* what it wrote is of that node, and merges there only */
    assert_int_equal(outside.migrates, 0);
    fake_check_exact(world);
    fake_world_free(world);
}

static void t1_run_2_removes_nodes_whose_frames_linger(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50), *other = fake_mm_new(world, 4, 50);

    fake_passes(world, 3);
    assert_int_equal(outside_reclaim(world, 2, 0).evicted, 2); /* two linger in the store */
    fake_write(mm, 3, 900);                                    /* one waits to be freed */
    fake_write(other, 3, 901);
    fake_passes(world, 1);
    assert_int_equal(fake_counters(world).frames, 4);
    assert_int_equal(fake_counters(world).pages_shared, 3);
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(world->forgotten, 4);
    fake_check_exact(world);
    fake_world_free(world);
}

/* The page maps the frame without a merge, as a forked child's does, and the engine is told. */
static void adopt(struct fake_mm *mm, uint32_t page, sp_frame frame)
{
    struct sp_hash hash = fake_hash(50 + page);

    assert_int_not_equal(frame, 0);
    mm->page[page].frame = frame;
    mm->page[page].dirty = 0;
    assert_int_equal(sp_engine_adopt(mm->world->engine, mm->mm, fake_addr(page), frame, 1, &hash),
                     0);
}

static void t3_what_is_forked_while_all_is_unmerged_is_reached(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *first, *last, *child;
    int more = 1;

    (void)fake_mm_new(world, 4, 50);
    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    world->mm[0]->unmerge_part = world->mm[1]->unmerge_part = 1;
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while (world->mm[0]->page[3].frame && world->mm[1]->page[3].frame) {
        assert_int_equal(more, 1);
        more = sp_engine_unmerge_step(world->engine);
    }
    first = world->mm[world->mm[0]->page[3].frame != 0];
    last = world->mm[world->mm[0]->page[3].frame == 0];
    child = fake_mm_new(world, 4, 50);
    adopt(child, 3, last->page[3].frame);
    adopt(first, 2, last->page[2].frame); /* behind the cursor */
    while (more == 1)
        more = sp_engine_unmerge_step(world->engine);
    assert_int_equal(more, 0);
    assert_int_equal(child->page[3].frame, 0);
    assert_int_equal(first->page[2].frame, 0);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_check_exact(world);
    fake_world_free(world);
}

static void t4_after_run_2_and_another_nodes_rule_there_is_no_trace(void **state)
{
    struct fake_world *world = outside_world_new();
    struct fake_mm *mm = fake_mm_new(world, 8, 50);

    outside.elsewhere[0] = fake_mm_new(world, 8, 50);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 8); /* across both nodes */
    assert_int_equal(outside_unmerge_all(world), 0);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    sp_engine_set_run(world->engine, SP_RUN_MERGE);
    fake_passes(world, 12);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(fake_counters(world).pages_unshared, 16); /* each waits on its own node */
    assert_int_equal(mm->page[0].frame, 0);
    assert_int_equal(world->forgotten, 8);
    fake_check_exact(world);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k14_a_frame_has_at_most_max_page_sharing_sites),
        cmocka_unit_test(k14_a_stretch_gets_as_many_frames_as_its_pages_need),
        cmocka_unit_test(k15_zero_pages_are_given_back_and_counted_apart),
        cmocka_unit_test(k16_without_smart_scan_every_pass_asks_for_every_page),
        cmocka_unit_test(k16_the_advisor_says_pages_to_scan_itself),
        cmocka_unit_test(n1_pages_merge_with_those_of_their_own_node),
        cmocka_unit_test(n2_the_nodes_rule_changes_only_when_no_trace_is_left),
        cmocka_unit_test(n3_a_frame_that_moved_is_filed_under_its_new_node),
        cmocka_unit_test(n3_without_memory_a_frame_that_moved_is_found_no_more),
        cmocka_unit_test(n4_balancing_a_process_moves_no_frame),
        cmocka_unit_test(t1_run_2_removes_nodes_whose_frames_linger),
        cmocka_unit_test(t2_a_frame_that_is_mapped_where_it_should_not_be_gives_ebusy),
        cmocka_unit_test(t3_what_is_forked_while_all_is_unmerged_is_reached),
        cmocka_unit_test(t4_after_run_2_and_another_nodes_rule_there_is_no_trace),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
