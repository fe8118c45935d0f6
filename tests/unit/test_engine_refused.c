/* SPDX-License-Identifier: Apache-2.0 */
/* Why pages are not merged, page by page: the reasons that explain counts. */
#include "fake_world.h"

#define WORLD 4096u
#define PAGES 3u

static struct sp_mm_counters counters_of(const struct fake_mm *mm)
{
    struct sp_mm_counters c;

    sp_engine_mm_counters(mm->mm, &c);
    return c;
}

static uint64_t refused_in_all(const struct sp_mm_counters *c)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < SP_REFUSALS; i++)
        sum += c->refused[i];
    return sum;
}

/* All pages of mm are refused, and for this reason only. */
static void assert_refused(const struct fake_mm *mm, enum sp_refusal why, uint64_t pages)
{
    struct sp_mm_counters c = counters_of(mm);

    assert_int_equal(c.refused[why], pages);
    assert_int_equal(refused_in_all(&c), pages);
    assert_true(c.sites + c.candidates + refused_in_all(&c) <= c.tracked);
}

static void merge_refused_for(uint8_t fault, enum sp_refusal why)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7), *b;

    fake_passes(world, 2);
    assert_int_equal(counters_of(a).candidates, PAGES);
    assert_int_equal(counters_of(a).met, 0); /* no partner so far */
    b = fake_mm_new(world, PAGES, 7);
    for (uint32_t i = 0; i < PAGES; i++)
        b->page[i].fault = fault;
    fake_passes(world, 3);
    assert_refused(b, why, PAGES);
    assert_int_equal(counters_of(a).met, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        b->page[i].fault = 0;
        fake_write(b, i, 7 + i);
    }
    fake_passes(world, 1);
    assert_refused(b, why, 0); /* written: nothing is known of them */
    fake_passes(world, 2);
    assert_int_equal(counters_of(b).sites, PAGES);
    assert_int_equal(counters_of(a).met, 0);
    fake_world_free(world);
}

static void each_answer_to_a_merge_is_a_reason(void **state)
{
    merge_refused_for(SP_CHANGED, SP_REFUSED_CHANGED);
    merge_refused_for(SP_PINNED, SP_REFUSED_PINNED);
    merge_refused_for(SP_GONE, SP_REFUSED_GONE);
    merge_refused_for(SP_ATTRIBUTES, SP_REFUSED_ATTRIBUTES);
    merge_refused_for(SP_OUT_OF_MAPPINGS, SP_REFUSED_MAPPINGS);
    merge_refused_for(SP_OUT_OF_MEMORY, SP_REFUSED_MEMORY);
}

/* Two that fork shares with one another: the one stays a candidate, the other says why. */
static void k8_shared_by_fork_is_a_reason(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7);
    struct fake_mm *b = fake_mm_new(world, PAGES, 7);

    for (uint32_t i = 0; i < PAGES; i++)
        a->page[i].fault = b->page[i].fault = SP_SHARED_BY_FORK;
    fake_passes(world, 4);
    assert_int_equal(counters_of(a).refused[SP_REFUSED_FORK] +
                         counters_of(b).refused[SP_REFUSED_FORK],
                     2 * PAGES);
    fake_world_free(world);
}

static void refused_page_that_is_tried_again_is_refused_once(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7), *b;

    fake_passes(world, 2);
    b = fake_mm_new(world, PAGES, 7);
    for (uint32_t i = 0; i < PAGES; i++)
        b->page[i].fault = SP_PINNED;
    fake_passes(world, 40);
    assert_true(b->restarts > 1);
    assert_refused(b, SP_REFUSED_PINNED, PAGES);
    for (uint32_t i = 0; i < PAGES; i++)
        b->page[i].fault = 0;
    fake_passes(world, 70);
    assert_int_equal(counters_of(b).sites, PAGES);
    assert_refused(a, SP_REFUSED_PINNED, 0);
    assert_refused(b, SP_REFUSED_PINNED, 0);
    fake_world_free(world);
}

/* After a lift that failed the agent reports the page again, as quiet: that is no reason to lift it
 * again and again, and to keep the passes from becoming quiet. */
static void k6_pinned_page_rests_between_retries(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 200, 7), *b;

    fake_passes(world, 2);
    b = fake_mm_new(world, 200, 7);
    for (uint32_t i = 0; i < 200; i++)
        b->page[i].fault = SP_PINNED;
    fake_passes(world, 130);
    assert_true(fake_counters(world).merge_pinned <= 200 * (1 + b->restarts));
    assert_true(b->restarts >= 2 && b->restarts <= 7);
    assert_true(fake_counters(world).quiet_passes > 0);
    assert_refused(b, SP_REFUSED_PINNED, 200);
    fake_write(b, 3, 10); /* told as changed: it is looked at anew at once */
    b->page[3].fault = 0;
    fake_passes(world, 2);
    assert_int_equal(counters_of(b).sites, 1);
    assert_int_equal(b->page[3].frame, a->page[3].frame);
    fake_world_free(world);
}

static void budget_used_up_and_run_too_short_are_two_reasons(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 20, 100), *none, *few;

    fake_passes(world, 2);
    none = fake_mm_new(world, 20, 100);
    none->mappings_budget = 0;
    fake_passes(world, 3);
    assert_refused(none, SP_REFUSED_MAPPINGS, 20);
    assert_int_equal(counters_of(a).met, 20);
    few = fake_mm_new(world, 20, 100);
    few->mappings_budget = 4;
    for (uint32_t i = 1; i < 20; i += 2)
        few->page[i].content = 1000 + i; /* equal pages lie alone */
    fake_passes(world, 3);
    assert_true(counters_of(few).sites > 0);
    assert_true(counters_of(few).refused[SP_REFUSED_SHORT_RUN] > 0);
    assert_int_equal(counters_of(few).refused[SP_REFUSED_MAPPINGS], 0);
    assert_int_equal(counters_of(few).met, 0); /* the odd ones met nobody */
    assert_int_equal(counters_of(few).candidates, 10);
    fake_world_free(world);
}

static void partner_without_budget_says_so(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *poor = fake_mm_new(world, PAGES, 7), *b;

    poor->mappings_budget = 0;
    fake_passes(world, 2);
    b = fake_mm_new(world, PAGES, 7);
    fake_passes(world, 3);
    assert_refused(poor, SP_REFUSED_MAPPINGS, PAGES);
    assert_int_equal(counters_of(b).met, PAGES);
    fake_world_free(world);
}

static void k10_limit_is_a_reason(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7), *b;

    sp_engine_set_max_kernel_pages(world->engine, 1);
    fake_passes(world, 2);
    b = fake_mm_new(world, PAGES, 7);
    fake_passes(world, 3);
    assert_int_equal(counters_of(b).sites, 1);
    assert_refused(b, SP_REFUSED_LIMIT, PAGES - 1);
    assert_int_equal(counters_of(a).met, PAGES - 1);
    fake_world_free(world);
}

static void pool_without_frames_is_a_reason(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7), *b;

    world->alloc_fails = true;
    fake_passes(world, 2);
    b = fake_mm_new(world, PAGES, 7);
    fake_passes(world, 3);
    assert_refused(b, SP_REFUSED_MEMORY, PAGES);
    assert_int_equal(counters_of(a).met, PAGES);
    sp_engine_set_max_kernel_pages(world->engine, 100); /* the limit is the daemon's, */
    fake_write(b, 0, 7); /* one for all engines */
    fake_passes(world, 2);
    assert_int_equal(counters_of(b).refused[SP_REFUSED_LIMIT], 1);
    fake_world_free(world);
}

static void t4_un_merging_everything_leaves_no_reason(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, PAGES, 7);
    struct fake_mm *b = fake_mm_new(world, PAGES, 7);

    b->page[0].fault = b->page[1].fault = SP_PINNED;
    fake_passes(world, 4);
    assert_int_equal(counters_of(b).refused[SP_REFUSED_PINNED], 2);
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while (sp_engine_unmerge_step(world->engine) == 1)
        ;
    fake_check(world);
    assert_int_equal(counters_of(a).candidates + counters_of(b).candidates, 0);
    assert_int_equal(counters_of(b).refused[SP_REFUSED_PINNED], 0);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_answer_to_a_merge_is_a_reason),
        cmocka_unit_test(k8_shared_by_fork_is_a_reason),
        cmocka_unit_test(refused_page_that_is_tried_again_is_refused_once),
        cmocka_unit_test(k6_pinned_page_rests_between_retries),
        cmocka_unit_test(budget_used_up_and_run_too_short_are_two_reasons),
        cmocka_unit_test(partner_without_budget_says_so),
        cmocka_unit_test(k10_limit_is_a_reason),
        cmocka_unit_test(pool_without_frames_is_a_reason),
        cmocka_unit_test(t4_un_merging_everything_leaves_no_reason),
    };

    return cmocka_run_group_tests_name("engine refused", tests, NULL, NULL);
}
