/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules that need ops which not every outside has: chains (K14), zero pages (K15), smart scan
 * and advisor (K16), nodes (N), eviction (S), drains (H), and what is left by run 2 (T). The test
 * is the outside: it sets what an op answers.
 */
#include "fake_world.h"

#include "advisor.h"

#define WORLD 8192u

static struct sp_engine_ops plain, ops;
static struct {
    bool mapped, locked, referenced;
    enum sp_evicted evict;
    int bring_back, move, migrate;
    unsigned evicts, bring_backs, moves, migrates, zeros, groups;
    uint8_t zero_result;
    struct fake_mm *elsewhere[4]; /* their pages lie on node 1 */
    struct fake_world *world;
} outside;

static bool on_node_1(const void *mm)
{
    for (unsigned i = 0; i < 4; i++)
        if (mm == outside.elsewhere[i])
            return true;
    return false;
}

static int scan_by_node(void *ctx, void *mm, struct sp_scan *scan)
{
    int status = plain.scan(ctx, mm, scan);

    for (uint32_t i = 0; i < scan->npages; i++)
        scan->page[i].node = on_node_1(mm);
    return status;
}

static bool frame_mapped(void *ctx, sp_frame frame)
{
    return outside.mapped;
}

static int zero(void *ctx, void *mm, struct sp_merge_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].result = outside.zero_result;
    outside.zeros += n;
    return 0;
}

static int frame_migrate(void *ctx, sp_frame frame, unsigned *node)
{
    outside.migrates++;
    *node = 2;
    return outside.migrate;
}

/* As the pool would: every page that maps it maps the other. */
static int frame_move(void *ctx, sp_frame from, sp_frame to)
{
    struct fake_world *world = ctx;
    struct fake_frame *old =
        &world->frame[(SP_FRAME_SEGMENT(from) - 1) * FAKE_SEGMENT + SP_FRAME_INDEX(from)];

    if (outside.move)
        return outside.move;
    outside.moves++;
    world->frame[(SP_FRAME_SEGMENT(to) - 1) * FAKE_SEGMENT + SP_FRAME_INDEX(to)] = *old;
    old->state = FAKE_FREE;
    for (unsigned m = 0; m < world->nmms; m++)
        for (uint32_t i = 0; i < world->mm[m]->npages; i++)
            if (world->mm[m]->page[i].frame == from)
                world->mm[m]->page[i].frame = to;
    return 0;
}

static bool frame_referenced(void *ctx, sp_frame frame, uint32_t group)
{
    outside.groups += group;
    return outside.referenced;
}

static bool frame_locked(void *ctx, sp_frame frame)
{
    return outside.locked;
}

static enum sp_evicted frame_evict(void *ctx, sp_frame frame)
{
    outside.evicts++;
    return outside.evict;
}

static int frame_bring_back(void *ctx, sp_frame frame, unsigned *node)
{
    outside.bring_backs++;
    return outside.bring_back;
}

static struct fake_world *world_new(void)
{
    struct fake_world *world = fake_world_new(WORLD);

    memset(&outside, 0, sizeof(outside));
    plain = ops = *world->engine->ops;
    ops.scan = scan_by_node;
    ops.frame_mapped = frame_mapped;
    ops.zero = zero;
    ops.frame_migrate = frame_migrate;
    ops.frame_move = frame_move;
    ops.frame_referenced = frame_referenced;
    ops.frame_locked = frame_locked;
    ops.frame_evict = frame_evict;
    ops.frame_bring_back = frame_bring_back;
    world->engine->ops = &ops;
    world->engine->zero_hash = fake_hash(0);
    return outside.world = world;
}

static int unmerge_all(struct fake_world *world)
{
    int more;

    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    do
        more = sp_engine_unmerge_step(world->engine);
    while (more == 1);
    return more;
}

static void k14_a_frame_has_at_most_max_page_sharing_sites(void **state)
{
    struct fake_world *world = world_new();
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
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 300, 1);

    assert_int_equal(sp_engine_set_max_page_sharing(world->engine, 4), 0);
    for (uint32_t i = 0; i < 300; i++)
        fake_write(mm, i, 7);
    fake_passes(world, 20);
    assert_true(fake_counters(world).pages_shared >= 75);
    assert_true(fake_counters(world).pages_shared + fake_counters(world).pages_sharing >= 299);
    for (uint32_t f = 0; f < WORLD; f++) {
        const struct sp_node *node =
            sp_stable_node(world->engine, SP_FRAME(f / FAKE_SEGMENT + 1, f % FAKE_SEGMENT));

        assert_true(!node || node->nsites <= 4);
    }
    fake_world_free(world);
}

static void k15_zero_pages_are_given_back_and_counted_apart(void **state)
{
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 3, 0); /* page 0 holds zeros */

    ops.zero = NULL;
    assert_int_equal(sp_engine_set_use_zero_pages(world->engine, true), -EOPNOTSUPP);
    ops.zero = zero;
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
    assert_int_equal(unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).ksm_zero_pages, 0);
    fake_world_free(world);
}

static void k16_without_smart_scan_every_pass_asks_for_every_page(void **state)
{
    struct fake_world *world = world_new();
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
    assert_int_equal(sp_advisor_set_pages_to_scan(&advisor, 0), -EINVAL);
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
    struct fake_world *world = world_new();

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
    assert_int_equal(unmerge_all(world), 0);
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
    struct fake_world *world = world_new();
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
    struct fake_world *world = world_new();
    struct fake_mm *mm;

    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), 0);
    mm = fake_mm_new(world, 1, 50);
    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    world->engine->memory_limit = world->engine->memory_used;
    sp_engine_frame_moved(world->engine, mm->page[0].frame, 1);
    world->engine->memory_limit = 0;
    assert_true(sp_stable_node(world->engine, mm->page[0].frame)->lost);
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
    struct fake_world *world = world_new();

    (void)fake_mm_new(world, 4, 50);
    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    outside.mapped = true;
    assert_int_equal(unmerge_all(world), -EBUSY);
    assert_int_equal(fake_counters(world).frames, 4);
    assert_true(fake_counters(world).stale_mapped >= 4);
    assert_int_equal(sp_engine_set_merge_across_nodes(world->engine, false), -EBUSY);
    outside.mapped = false;
    assert_int_equal(unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_world_free(world);
}

static void h2_a_drain_locks_out_scanning_and_unmerging(void **state)
{
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 4, 50);
    struct sp_reclaimed out;
    uint64_t scans;
    bool done;

    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    assert_int_equal(sp_engine_drain_step(world->engine), -EINVAL);
    assert_int_equal(sp_engine_drain_end(world->engine, true), -EINVAL);
    ops.frame_move = NULL;
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_SEGMENT, 1), -EOPNOTSUPP);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 0), 0);
    assert_int_equal(sp_engine_drain_begin(world->engine, SP_DRAIN_NODE, 1), -EBUSY);
    scans = mm->scans;
    assert_int_equal(sp_engine_step(world->engine, 100, &done), 0);
    assert_true(done);
    assert_int_equal(mm->scans, scans);
    assert_int_equal(sp_engine_unmerge_mm(world->engine, mm->mm), -EAGAIN);
    assert_int_equal(sp_engine_reclaim(world->engine, 1, 0, &out), -EAGAIN);
    assert_int_equal(unmerge_all(world), -EAGAIN);
    assert_int_equal(sp_engine_drain_end(world->engine, false), 0); /* cancelled: both are free */
    assert_int_equal(unmerge_all(world), 0);
    fake_world_free(world);
}

static void h3_frames_of_a_node_keep_number_contents_and_sites(void **state)
{
    struct fake_world *world = world_new();
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
    struct fake_world *world = world_new();
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

static struct sp_reclaimed reclaim(struct fake_world *world, uint32_t want, uint32_t group)
{
    struct sp_reclaimed out;

    assert_int_equal(sp_engine_reclaim(world->engine, want, group, &out), 0);
    return out;
}

static void s2_s3_s4_what_is_used_locked_or_held_stays(void **state)
{
    struct fake_world *world = world_new();
    struct sp_reclaimed out;

    (void)fake_mm_new(world, 4, 50);
    (void)fake_mm_new(world, 4, 50);
    fake_passes(world, 3);
    ops.frame_evict = NULL;
    assert_int_equal(sp_engine_reclaim(world->engine, 1, 0, &out), -EOPNOTSUPP);
    ops.frame_evict = frame_evict;
    outside.referenced = true;
    assert_int_equal(reclaim(world, 9, 3).referenced, 4); /* S2, S5: asked for group 3, once each */
    assert_int_equal(outside.groups, 4 * 3);
    outside.referenced = false;
    outside.locked = true;
    assert_int_equal(reclaim(world, 9, 0).locked, 4); /* S4 */
    assert_int_equal(outside.evicts, 0);
    outside.locked = false;
    outside.evict = SP_EVICTED_AGAIN;
    assert_int_equal(reclaim(world, 9, 0).again, 4); /* S3 */
    outside.evict = SP_EVICTED_CANNOT;
    assert_int_equal(reclaim(world, 9, 0).cannot, 4);
    assert_int_equal(fake_counters(world).frames_evicted, 0);
    outside.evict = SP_EVICTED_DONE;
    outside.evicts = 0;
    assert_int_equal(reclaim(world, 1, 0).evicted, 1); /* S1; the hand goes on from there */
    assert_int_equal(reclaim(world, 2, 0).evicted, 2);
    assert_int_equal(reclaim(world, 9, 0).evicted, 1);
    assert_int_equal(reclaim(world, 9, 0).evicted, 0);
    assert_int_equal(outside.evicts, 4);
    assert_int_equal(fake_counters(world).frames_evicted, 4);
    assert_int_equal(fake_counters(world).pages_sharing, 4); /* still shared (S6) */
    fake_world_free(world);
}

static void s9_a_page_that_equals_an_evicted_frame_merges_into_it(void **state)
{
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50), *late;

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(reclaim(world, 9, 0).evicted, 1);
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
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50), *late[2];

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    assert_int_equal(reclaim(world, 9, 0).evicted, 1);
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
    struct fake_world *world = world_new();
    struct fake_mm *mm = fake_mm_new(world, 1, 50);
    sp_frame frame;

    (void)fake_mm_new(world, 1, 50);
    fake_passes(world, 3);
    frame = mm->page[0].frame;
    assert_int_equal(reclaim(world, 9, 0).evicted, 1);
    assert_true(sp_engine_frame_returns_shared(world->engine, frame));
    assert_false(sp_engine_frame_returns_shared(world->engine, frame + 1));
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    assert_false(sp_engine_frame_returns_shared(world->engine, frame));
    assert_int_equal(unmerge_all(world), 0);
    assert_int_equal(fake_counters(world).frames_evicted, 0); /* T1, S10 */
    assert_false(sp_engine_frame_returns_shared(world->engine, frame));
    sp_engine_frame_back(world->engine, frame, 0); /* news of frames that are forgotten */
    sp_engine_frame_out(world->engine, frame);
    sp_engine_frame_lost(world->engine, frame);
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
        cmocka_unit_test(n3_a_frame_that_moved_is_filed_under_its_new_node),
        cmocka_unit_test(n3_without_memory_a_frame_that_moved_is_found_no_more),
        cmocka_unit_test(t2_a_frame_that_is_mapped_where_it_should_not_be_gives_ebusy),
        cmocka_unit_test(h2_a_drain_locks_out_scanning_and_unmerging),
        cmocka_unit_test(h3_frames_of_a_node_keep_number_contents_and_sites),
        cmocka_unit_test(h3_frames_of_a_segment_move_with_their_sites),
        cmocka_unit_test(s2_s3_s4_what_is_used_locked_or_held_stays),
        cmocka_unit_test(s9_a_page_that_equals_an_evicted_frame_merges_into_it),
        cmocka_unit_test(s8_a_frame_that_cannot_be_read_takes_no_sites),
        cmocka_unit_test(s11_what_comes_back_while_all_is_unmerged_is_a_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
