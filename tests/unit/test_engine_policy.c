/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's policy: neighbouring frames, ladders, budgets of mappings, retries, memory. */
#include "fake_world.h"

#define WORLD 8192u

static void neighbours_get_neighbouring_frames(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1000, 0);
    struct fake_mm *b = fake_mm_new(world, 1000, 0);
    struct fake_mm *c;

    fake_passes(world, 3);
    c = fake_mm_new(world, 1000, 0);
    fake_passes(world, 3);
    fake_check_exact(world);
    assert_int_equal(fake_mappings(a), 1); /* also across answers and fills */
    assert_int_equal(fake_mappings(b), 1);
    assert_int_equal(fake_mappings(c), 1);
    assert_int_equal(fake_counters(world).pages_sharing, 2000);
    fake_world_free(world);
}

static void short_allocations_still_merge(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 100, 0);

    (void)fake_mm_new(world, 100, 0);
    world->alloc_most = 7;
    fake_passes(world, 3);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_sharing, 100);
    assert_int_equal(fake_mappings(a), 1);
    fake_world_free(world);
}

static void repeated_content_gets_a_ladder(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1024, 0);
    struct fake_mm *b;

    for (uint32_t i = 0; i < 1024; i++)
        a->page[i].content = 9;
    fake_passes(world, 2);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).frames, 32);
    assert_int_equal(fake_counters(world).pages_sharing, 1024 - 32);
    assert_true(fake_mappings(a) <= 1024 / 32 + 8);
    b = fake_mm_new(world, 1024, 0);
    for (uint32_t i = 0; i < 1024; i++)
        b->page[i].content = 9;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).frames, 32); /* one that is as long is there */
    assert_true(fake_mappings(b) <= 1024 / 32 + 8);
    fake_world_free(world);
}

static void short_stretch_saves_pages_before_mappings(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 8, 0);

    for (uint32_t i = 0; i < 8; i++)
        a->page[i].content = 9;
    fake_passes(world, 2);
    assert_int_equal(fake_counters(world).frames, 2);
    assert_int_equal(fake_counters(world).pages_sharing, 6);
    assert_int_equal(fake_mappings(a), 4);
    fake_world_free(world);
}

static void ladder_takes_the_waiting_candidate(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 9);
    struct fake_mm *b;

    fake_passes(world, 2);
    b = fake_mm_new(world, 64, 0);
    for (uint32_t i = 0; i < 64; i++)
        b->page[i].content = 9;
    fake_passes(world, 3);
    assert_true(a->page[0].frame != 0);
    assert_int_equal(fake_counters(world).frames, 16);
    assert_int_equal(fake_counters(world).pages_sharing, 65 - 16);
    fake_world_free(world);
}

static void k10_ladder_keeps_to_the_limit(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 400, 0);

    for (uint32_t i = 0; i < 400; i++)
        a->page[i].content = 9;
    sp_engine_set_max_kernel_pages(world->engine, 3);
    fake_passes(world, 3);
    assert_true(fake_counters(world).frames <= 3);
    assert_true(fake_counters(world).pages_sharing >= 397);
    fake_world_free(world);
}

/* What a segment that is thinned out holds stays; who comes later gets frames of others. */
static void avoided_segment_gets_no_more_sites(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 64, 0);
    struct fake_mm *c, *d;
    uint32_t segment;

    (void)fake_mm_new(world, 64, 0);
    fake_passes(world, 3);
    segment = SP_FRAME_SEGMENT(a->page[0].frame);
    sp_engine_avoid(world->engine, segment, true);
    c = fake_mm_new(world, 64, 0);
    d = fake_mm_new(world, 64, 0);
    fake_passes(world, 4);
    fake_check_exact(world);
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_not_equal(c->page[i].frame, 0);
        assert_int_equal(c->page[i].frame, d->page[i].frame);
        assert_int_not_equal(c->page[i].frame, a->page[i].frame);
    }
    fake_world_free(world);
}

/* Two mms whose equal pages are runs of 1 and of 32. */
static void budget_make(struct fake_world *world, uint32_t budget)
{
    for (unsigned m = 0; m < 2; m++) {
        struct fake_mm *mm = fake_mm_new(world, 700, m * 100000);

        mm->mappings_budget = budget;
        for (uint32_t i = 0; i < 400; i += 2)
            mm->page[i].content = 500000 + i;
        for (uint32_t i = 0; i < 32; i++)
            mm->page[600 + i].content = 700000 + i;
    }
}

static void budget_is_spent_on_long_runs(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a, *b;

    budget_make(world, 100);
    a = world->mm[0];
    b = world->mm[1];
    fake_passes(world, 40);
    fake_check_exact(world);
    assert_true(a->page[610].frame && b->page[610].frame);
    assert_true(fake_mappings(a) <= 100 && fake_mappings(b) <= 100);
    a->mappings_budget = b->mappings_budget = 1000; /* what was passed over comes back */
    fake_passes(world, 160);
    assert_int_equal(fake_counters(world).pages_sharing, 232);
    fake_world_free(world);
}

static void budget_of_nothing_merges_nothing(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);

    budget_make(world, 0);
    fake_passes(world, 20);
    assert_int_equal(fake_counters(world).merges, 0);
    assert_int_equal(world->mm[0]->merge_calls + world->mm[1]->merge_calls, 0);
    fake_world_free(world);
}

static void partner_without_budget_makes_room_for_a_third(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *poor = fake_mm_new(world, 10, 0);
    struct fake_mm *b, *c;

    poor->mappings_budget = 0;
    fake_passes(world, 2);
    b = fake_mm_new(world, 10, 0);
    fake_passes(world, 3);
    c = fake_mm_new(world, 10, 0);
    fake_passes(world, 3);
    assert_int_equal(fake_mappings(poor), 0);
    assert_int_equal(b->page[5].frame, c->page[5].frame);
    assert_int_equal(fake_counters(world).pages_sharing, 10);
    fake_world_free(world);
}

static void retries_get_seldom_while_they_lead_to_nothing(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 4, 0);
    struct fake_mm *b = fake_mm_new(world, 4, 0);

    for (uint32_t i = 0; i < 4; i++)
        a->page[i].fault = b->page[i].fault = SP_PINNED;
    fake_passes(world, 130);
    assert_true(a->restarts >= 2 && a->restarts <= 7);
    fake_world_free(world);
}

/* One that cannot be asked now says nothing of what asking leads to: it is asked as often as before. */
static void retries_go_on_while_it_cannot_be_asked(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *c;

    (void)fake_mm_new(world, 4, 0);
    (void)fake_mm_new(world, 4, 0);
    fake_passes(world, 3);
    c = fake_mm_new(world, 4, 0);
    c->merge_error = -EHOSTDOWN;
    fake_passes(world, 130);
    assert_true(c->restarts >= 12);
    fake_world_free(world);
}

/* One page in the middle of a run is written. Where it lies in the run's mapping yet, to merge it takes two more;
 * where not, none. */
static bool page_within_run_is_merged(bool kept)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 30, 1000), *b;
    bool merged;

    for (uint32_t i = 11; i < 30; i += 2)
        a->page[i].present = false; /* runs of one */
    b = fake_mm_new(world, 30, 1000);
    fake_passes(world, 3);
    assert_true(b->page[5].frame && b->page[28].frame);
    b->mappings_budget = fake_mappings(b) + 2;
    b->page[5].kept = kept;
    fake_write(b, 5, 1020);
    fake_passes(world, 3);
    merged = b->page[5].frame == a->page[20].frame;
    assert_true(merged || !b->page[5].frame);
    fake_world_free(world);
    return merged;
}

static void written_page_within_a_mapping_costs_two(void **state)
{
    assert_true(page_within_run_is_merged(false));
    assert_false(page_within_run_is_merged(true));
}

static void figures_for(const char *name, unsigned mms, uint32_t npages, bool equal, uint64_t most)
{
    struct fake_world *world = fake_world_new(npages + FAKE_SEGMENT);
    struct sp_engine_counters counters;
    uint64_t fixed, used;

    for (unsigned m = 0; m < mms; m++)
        (void)fake_mm_new(world, npages, equal ? 0 : m * npages);
    fixed = sizeof(struct sp_engine);
    fake_passes(world, 5); /* the last ones find nothing to do */
    counters = fake_counters(world);
    used = counters.memory_bytes - fixed;
    print_message("%s: %.1f bytes a tracked page (%llu pages, %llu frames, %llu bytes fixed)\n",
                  name, (double)used / (double)counters.pages_tracked,
                  (unsigned long long)counters.pages_tracked, (unsigned long long)counters.frames,
                  (unsigned long long)fixed);
    assert_int_equal(counters.pages_sharing, equal ? (mms - 1) * npages : 0);
    assert_int_equal(counters.pages_unshared, equal ? 0 : mms * npages);
    assert_true(used <= most * counters.pages_tracked);
    fake_world_free(world);
}

/* Two equal mms are the worst: a frame's 16 bytes are shared by two pages only. */
static void bookkeeping_is_at_most_24_bytes_a_page(void **state)
{
    figures_for("all distinct", 1, 132000, false, 24);
    for (uint32_t npages = 60000; npages < 130000; npages += 13000) /* wherever the tables stand */
        figures_for("2 equal mms", 2, npages, true, 24);
    figures_for("4 equal mms", 4, 33000, true, 24);
}

static void memory_short_skips_work_and_comes_back(void **state)
{
    for (uint64_t more = 0; more < 60000; more += 2953) {
        struct fake_world *world = fake_world_new(WORLD);
        struct fake_mm *a = fake_mm_new(world, 1500, 0);
        struct fake_mm *b = fake_mm_new(world, 1500, 0);

        world->engine->memory_limit = world->engine->memory_used + more;
        fake_passes(world, 4);
        fake_check_exact(world);
        world->engine->memory_limit = 0;
        fake_passes(world, 60);
        fake_check_exact(world);
        assert_int_equal(fake_counters(world).pages_sharing, 1500);
        fake_mm_remove(a);
        fake_mm_remove(b);
        assert_int_equal(fake_counters(world).frames, 0);
        fake_world_free(world);
    }
}

static void pool_short_skips_work_and_comes_back(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 100, 0);
    struct fake_mm *b = fake_mm_new(world, 100, 0);

    world->alloc_fails = true;
    fake_passes(world, 4);
    assert_int_equal(fake_counters(world).frames, 0);
    world->alloc_fails = false;
    a->fill_error = b->fill_error = -ETIMEDOUT;
    fake_passes(world, 10);
    assert_int_equal(fake_counters(world).frames, 0);
    a->fill_error = b->fill_error = 0;
    fake_passes(world, 60);
    assert_int_equal(fake_counters(world).pages_sharing, 100);
    fake_world_free(world);
}

/* One page in each 2 MiB: a chunk for each would cost more than a merge saves. */
static void thin_pages_do_not_eat_the_daemon(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 512 * 1000, 0);

    for (uint32_t i = 0; i < a->npages; i++)
        a->page[i].present = i % 512 == 0;
    fake_passes(world, 3);
    assert_true(fake_counters(world).memory_bytes < 2u << 20);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_get_neighbouring_frames),
        cmocka_unit_test(short_allocations_still_merge),
        cmocka_unit_test(repeated_content_gets_a_ladder),
        cmocka_unit_test(short_stretch_saves_pages_before_mappings),
        cmocka_unit_test(ladder_takes_the_waiting_candidate),
        cmocka_unit_test(k10_ladder_keeps_to_the_limit),
        cmocka_unit_test(avoided_segment_gets_no_more_sites),
        cmocka_unit_test(budget_is_spent_on_long_runs),
        cmocka_unit_test(budget_of_nothing_merges_nothing),
        cmocka_unit_test(retries_go_on_while_it_cannot_be_asked),
        cmocka_unit_test(written_page_within_a_mapping_costs_two),
        cmocka_unit_test(partner_without_budget_makes_room_for_a_third),
        cmocka_unit_test(retries_get_seldom_while_they_lead_to_nothing),
        cmocka_unit_test(bookkeeping_is_at_most_24_bytes_a_page),
        cmocka_unit_test(memory_short_skips_work_and_comes_back),
        cmocka_unit_test(pool_short_skips_work_and_comes_back),
        cmocka_unit_test(thin_pages_do_not_eat_the_daemon),
    };

    return cmocka_run_group_tests_name("engine policy", tests, NULL, NULL);
}
