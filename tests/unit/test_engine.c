/* SPDX-License-Identifier: Apache-2.0 */
/* The engine by its rules, on a small world: K2 to K12, T3. */
#include "fake_world.h"

#define WORLD 4096u

static void k2_new_mm_is_reached_last(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 600, 0);
    struct fake_mm *b, *c;
    bool done;

    fake_passes(world, 1);
    b = fake_mm_new(world, 10, 5000);
    assert_ptr_equal(world->engine->cursor, a->mm); /* b is behind: next pass only */
    (void)sp_engine_step(world->engine, 100, &done);
    c = fake_mm_new(world, 10, 6000);
    fake_passes(world, 1);
    assert_int_equal(b->scans + c->scans, 0);
    fake_passes(world, 1);
    assert_true(b->scans && c->scans && b->first_from_zero && c->first_from_zero);
    fake_world_free(world);
}

static void k2_no_mm_is_a_pass_of_its_own(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    bool done = false;

    assert_int_equal(sp_engine_step(world->engine, 100, &done), 0);
    assert_true(done);
    assert_int_equal(fake_counters(world).full_scans, 1);
    fake_world_free(world);
}

static void k2_failing_mm_holds_nobody_up(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 50, 0);
    struct fake_mm *b = fake_mm_new(world, 50, 0);
    struct fake_mm *c = fake_mm_new(world, 50, 0);

    b->scan_error = -ETIMEDOUT;
    fake_passes(world, 4);
    assert_int_equal(b->scans, 0);
    assert_int_equal(fake_counters(world).pages_sharing, 50);
    assert_true(a->page[0].frame && a->page[0].frame == c->page[0].frame);
    b->scan_error = 0;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 100);
    fake_world_free(world);
}

static void k3_changing_page_is_never_a_candidate(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 10, 0);

    for (uint32_t pass = 0; pass < 6; pass++) {
        fake_write(a, 3, 1000 + pass);
        fake_passes(world, 1);
    }
    assert_int_equal(fake_counters(world).pages_unshared, 9);
    assert_int_equal(fake_counters(world).pages_volatile, 1);
    fake_world_free(world);
}

static void k4_stable_nodes_come_first(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);
    struct fake_mm *c;
    sp_frame frame;

    fake_passes(world, 3);
    frame = a->page[0].frame;
    assert_true(frame && b->page[0].frame == frame);
    c = fake_mm_new(world, 1, 7);
    fake_passes(world, 3);
    assert_int_equal(c->page[0].frame, frame);
    assert_int_equal(fake_counters(world).frames, 1);
    assert_int_equal(fake_counters(world).pages_sharing, 2);
    fake_world_free(world);
}

/* Other bytes than a frame's under its fingerprint: one failed merge for each report, no more. */
static void k6_lookalike_of_a_frame_is_asked_once(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 3, 7);
    struct fake_mm *b = fake_mm_new(world, 3, 7);
    struct fake_mm *c;

    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 3);
    c = fake_mm_new(world, 3, 7);
    c->page[1].content = 8 | FAKE_LOOKALIKE;
    fake_passes(world, 100);
    fake_check_exact(world);
    assert_true(c->page[0].frame && !c->page[1].frame && c->page[2].frame);
    assert_int_equal(fake_counters(world).merge_changed, 1);
    assert_int_equal(c->merge_calls, 1);
    assert_int_equal(c->restarts, 1);
    fake_write(c, 1, 8);
    fake_passes(world, 3);
    assert_int_equal(c->page[1].frame, a->page[1].frame);
    assert_int_equal(a->page[1].frame, b->page[1].frame);
    fake_world_free(world);
}

/* The same where both wait for a partner. */
static void k6_lookalike_candidates_do_not_merge(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7 | FAKE_LOOKALIKE);

    fake_passes(world, 100);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(fake_counters(world).merges, 0);
    assert_true(a->merge_calls + b->merge_calls <= 2);
    fake_world_free(world);
}

static void k5_stale_candidate_is_replaced(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b, *c;

    fake_passes(world, 2);
    assert_int_equal(fake_counters(world).pages_unshared, 1);
    a->page[0].content = 8; /* written, but nobody has looked yet */
    b = fake_mm_new(world, 1, 7);
    a->scan_error = -EAGAIN;
    fake_passes(world, 3);
    assert_int_equal(b->page[0].frame, 0);
    assert_int_equal(fake_counters(world).merge_changed, 1);
    assert_int_equal(fake_counters(world).pages_unshared, 1); /* b's */
    c = fake_mm_new(world, 1, 7);
    fake_passes(world, 3);
    assert_true(c->page[0].frame && c->page[0].frame == b->page[0].frame);
    fake_world_free(world);
}

static void k5_equal_pages_of_one_answer_merge(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 40, 0);

    for (uint32_t i = 0; i < 20; i++)
        a->page[20 + i].content = i;
    fake_passes(world, 2);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_shared, 20);
    assert_int_equal(fake_counters(world).pages_sharing, 20);
    assert_int_equal(fake_mappings(a), 2); /* neighbours got neighbours */
    fake_world_free(world);
}

static void k6_pinned_page_is_left_alone_and_tried_later(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);

    a->page[0].fault = SP_PINNED;
    b->page[0].fault = SP_PINNED;
    fake_passes(world, 7);
    assert_true(fake_counters(world).merge_pinned <= 2);
    assert_int_equal(fake_counters(world).pages_shared, 0);
    a->page[0].fault = b->page[0].fault = 0;
    fake_passes(world, 20);
    assert_int_equal(fake_counters(world).pages_sharing, 1);
    fake_world_free(world);
}

static void k6_equal_hash_is_not_trusted(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);

    fake_passes(world, 1);
    (void)b;
    a->page[0].fault = SP_CHANGED; /* the agent's compare says no */
    fake_passes(world, 5);
    assert_int_equal(a->page[0].frame, 0);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(world->freed_unused, 1);
    fake_world_free(world);
}

static void k7_failed_second_merge_undoes_first(void **state)
{
    static const enum sp_result fault[] = {SP_CHANGED,    SP_PINNED,          SP_GONE,
                                           SP_ATTRIBUTES, SP_OUT_OF_MAPPINGS, SP_OUT_OF_MEMORY};

    for (unsigned i = 0; i < sizeof(fault) / sizeof(fault[0]); i++) {
        struct fake_world *world = fake_world_new(WORLD);
        struct fake_mm *a = fake_mm_new(world, 3, 7);
        struct fake_mm *b;

        fake_passes(world, 2);
        b = fake_mm_new(world, 3, 7);
        for (unsigned k = 0; k < 3; k++)
            b->page[k].fault = fault[i];
        fake_passes(world, 3);
        assert_int_equal(fake_counters(world).undone, 3);
        assert_int_equal(fake_counters(world).frames, 0);
        assert_int_equal(world->forgotten, 3); /* mapped once: never filled again */
        assert_int_equal(a->page[0].frame, 0);
        assert_int_equal(fake_counters(world).pages_unshared, 3); /* as before */
        fake_world_free(world);
    }
}

static void k7_undo_that_fails_keeps_the_site(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b;

    fake_passes(world, 2);
    b = fake_mm_new(world, 1, 7);
    b->page[0].fault = SP_PINNED;
    a->unmerge_error = -ENOMEM;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_shared, 1);
    assert_int_equal(fake_counters(world).pages_sharing, 0);
    assert_int_equal(world->forgotten, 0);
    fake_check_exact(world);
    fake_world_free(world);
}

static void k7_lost_answer_never_reuses_the_frame(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);
    sp_frame frame;
    struct sp_hash hash;

    fake_passes(world, 1);
    a->merge_error = b->merge_error = -ETIMEDOUT;
    a->lose_answer = b->lose_answer = true;
    a->unmerge_error = b->unmerge_error = -ETIMEDOUT;
    fake_passes(world, 2);
    frame = a->page[0].frame ? a->page[0].frame : b->page[0].frame;
    assert_true(frame != 0);
    assert_int_equal(world->freed_unused, 0);
    assert_true(sp_engine_frame_known(world->engine, frame, &hash));
    assert_int_equal(hash.lo, fake_hash(7).lo);
    fake_world_free(world);
}

/* An mm that cannot be asked now maps nothing: a frame that was made for it costs no memory. */
static void k7_frame_of_an_mm_that_was_not_asked_goes_back(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);

    fake_passes(world, 2);
    a->merge_error = -EHOSTDOWN;
    fake_mm_new(world, 1, 7);
    fake_passes(world, 3);
    assert_true(world->fills > 0);
    assert_int_equal(world->freed_unused, world->fills);
    assert_int_equal(fake_counters(world).frames, 0);
    a->merge_error = 0;
    fake_passes(world, 70);
    assert_int_equal(fake_counters(world).pages_sharing, 1);
    fake_check_exact(world);
    fake_world_free(world);
}

static void k8_pages_that_only_fork_shares_stay(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 5, 7);
    struct fake_mm *b = fake_mm_new(world, 5, 7);

    for (unsigned i = 0; i < 5; i++)
        a->page[i].fault = b->page[i].fault = SP_SHARED_BY_FORK;
    fake_passes(world, 5);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(fake_counters(world).undone, 0);
    assert_int_equal(fake_counters(world).merge_fork, 10); /* once each, no busy loop */
    fake_world_free(world);
}

static void k8_fork_with_different_relatives_is_broken(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 5, 7);
    struct fake_mm *b = fake_mm_new(world, 5, 6); /* equal pages lie one page apart */

    for (unsigned i = 0; i < 5; i++)
        a->page[i].fault = b->page[i].fault = SP_SHARED_BY_FORK;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 4);
    fake_check_exact(world);
    fake_world_free(world);
}

static void k8_fork_is_broken_for_a_frame_with_a_site(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);
    struct fake_mm *c;

    a->page[0].fault = SP_SHARED_BY_FORK;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 1); /* b's page was not shared */
    c = fake_mm_new(world, 1, 7);
    c->page[0].fault = SP_SHARED_BY_FORK;
    fake_passes(world, 3);
    assert_int_equal(c->page[0].frame, b->page[0].frame);
    fake_world_free(world);
}

static void k8_adopted_sites_are_counted_once(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 8, 0);
    struct fake_mm *b = fake_mm_new(world, 8, 0);
    struct fake_mm *child;
    struct sp_hash hash[8];

    (void)b;
    fake_passes(world, 3);
    child = fake_mm_new(world, 8, 0);
    for (unsigned i = 0; i < 8; i++) {
        child->page[i].frame = a->page[i].frame;
        child->page[i].dirty = 0;
        hash[i] = fake_hash(i);
    }
    for (unsigned k = 0; k < 2; k++)
        assert_int_equal(
            sp_engine_adopt(world->engine, child->mm, FAKE_BASE, a->page[0].frame, 8, hash), 0);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_sharing, 16);
    assert_int_equal(sp_engine_adopt(world->engine, child->mm, FAKE_BASE + 1, 65536, 1, hash),
                     -EINVAL);
    assert_int_equal(sp_engine_adopt(world->engine, child->mm, FAKE_BASE, 7, 1, hash), -EINVAL);
    fake_world_free(world);
}

static void d1_new_engine_adopts_frames_it_never_made(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 2, 7);
    struct fake_mm *b;
    struct sp_hash hash[2] = {fake_hash(7), fake_hash(8)};
    sp_frame first = SP_FRAME(1, 100);

    for (unsigned i = 0; i < 2; i++) {
        world->frame[100 + i] = (struct fake_frame){.content = 7 + i, .state = FAKE_FILLED};
        a->page[i].frame = first + i;
        a->page[i].dirty = 0;
    }
    assert_int_equal(sp_engine_adopt(world->engine, a->mm, FAKE_BASE, first, 2, hash), 0);
    b = fake_mm_new(world, 2, 7);
    fake_passes(world, 3);
    assert_int_equal(b->page[1].frame, first + 1);
    fake_check_exact(world);
    fake_world_free(world);
}

static void k9_node_without_sites_is_found_then_swept(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 1, 7);
    struct fake_mm *b = fake_mm_new(world, 1, 7);
    sp_frame frame;

    fake_passes(world, 3);
    frame = a->page[0].frame;
    fake_write(a, 0, 100);
    fake_write(b, 0, 101);
    fake_passes(world, 1);
    assert_int_equal(fake_counters(world).frames, 1);
    assert_int_equal(fake_counters(world).pages_shared, 0);
    fake_write(a, 0, 7); /* quiet in the pass after the next */
    a->page[0].dirty = 0;
    a->page[0].reported = 0;
    fake_passes(world, 1);
    assert_int_equal(a->page[0].frame, frame);
    fake_write(a, 0, 102);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(world->forgotten, 1);
    fake_world_free(world);
}

static void k10_limit_stops_new_frames_only(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 100, 0);
    struct fake_mm *b = fake_mm_new(world, 100, 0);
    struct fake_mm *c;

    sp_engine_set_max_kernel_pages(world->engine, 30);
    fake_passes(world, 4);
    assert_int_equal(fake_counters(world).frames, 30);
    c = fake_mm_new(world, 100, 0);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).frames, 30);
    assert_int_equal(fake_counters(world).pages_sharing, 60);
    sp_engine_set_max_kernel_pages(world->engine, 0);
    fake_passes(world, 20);
    assert_int_equal(fake_counters(world).pages_sharing, 200);
    (void)a, (void)b, (void)c;
    fake_world_free(world);
}

static void k10_limit_keeps_chains_short(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 5000, 0);

    for (uint32_t i = 0; i < a->npages; i++)
        a->page[i].content = 1;
    sp_engine_set_max_kernel_pages(world->engine, 1);
    world->alloc_fails = true;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_unshared, 1);
    assert_int_equal(fake_counters(world).pages_volatile, 4999);
    fake_world_free(world);
}

static void k11_written_site_is_forgotten_and_others_stay(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 4, 7);
    struct fake_mm *b = fake_mm_new(world, 4, 7);

    fake_passes(world, 3);
    fake_write(a, 1, 500);
    fake_passes(world, 1);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_shared, 4);
    assert_int_equal(fake_counters(world).pages_sharing, 3);
    assert_true(b->page[1].frame != 0);
    fake_write(a, 1, 8); /* the same again: merges into the frame with one site */
    fake_passes(world, 2);
    assert_int_equal(a->page[1].frame, b->page[1].frame);
    a->page[2].present = 0;
    a->page[2].frame = 0;
    a->page[2].left = 1;
    fake_passes(world, 1);
    fake_check_exact(world);
    fake_world_free(world);
}

static void k12_counters_add_up(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 700, 0);
    struct fake_mm *b = fake_mm_new(world, 700, 350);
    struct sp_engine_counters counters;
    struct sp_mm_counters mm;

    fake_passes(world, 4);
    fake_check_exact(world);
    counters = fake_counters(world);
    assert_int_equal(counters.pages_tracked, 1400);
    assert_int_equal(counters.pages_shared, 350);
    assert_int_equal(counters.pages_sharing, 350);
    assert_int_equal(counters.pages_unshared, 700);
    assert_int_equal(counters.pages_volatile, 0);
    assert_int_equal(counters.full_scans, 4);
    assert_int_equal(counters.pages_scanned, 2800); /* two looks at each page, then none */
    assert_int_equal(counters.merges, 700);
    sp_engine_mm_counters(a->mm, &mm);
    assert_int_equal(mm.sites, 350);
    assert_int_equal(mm.candidates, 350);
    fake_passes(world, 3);
    assert_true(fake_counters(world).quiet_passes >= 3);
    (void)fake_mm_new(world, 700, 9000);
    fake_passes(world, 2);
    assert_int_equal(fake_counters(world).quiet_passes, 0);
    fake_mm_remove(b);
    fake_check(world);
    fake_passes(world, 2);
    fake_write(a, 400, 1);
    assert_int_equal(fake_counters(world).pages_sharing, 0);
    fake_world_free(world);
}

static void k13_unmerge_leaves_nothing_and_run_merges_again(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 200, 0);
    struct fake_mm *b = fake_mm_new(world, 200, 0);
    struct fake_mm *late;
    bool done;
    int status;

    a->unmerge_part = b->unmerge_part = 64;
    fake_passes(world, 3);
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    assert_int_equal(sp_engine_unmerge_step(world->engine), 1);
    assert_int_equal(sp_engine_step(world->engine, 10, &done), 0);
    late = fake_mm_new(world, 200, 0); /* T3: forked while everything is un-merged */
    for (uint32_t i = 0; i < 200; i++) {
        struct sp_hash hash = fake_hash(i);

        late->page[i].dirty = 0;
        late->page[i].frame = a->page[i].frame;
        assert_int_equal(
            sp_engine_adopt(world->engine, late->mm, fake_addr(i), a->page[i].frame, 1, &hash), 0);
    }
    while ((status = sp_engine_unmerge_step(world->engine)) == 1)
        fake_check(world);
    assert_int_equal(status, 0);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).frames, 0);
    assert_int_equal(fake_counters(world).pages_unshared, 0);
    assert_int_equal(fake_counters(world).pages_tracked, 0);
    assert_int_equal(fake_counters(world).pages_volatile, 0);
    assert_int_equal(fake_counters(world).bookkeeping_bytes, 0);
    assert_int_equal(world->forgotten, 200);
    assert_int_equal(fake_mappings(late), 0);
    sp_engine_set_run(world->engine, SP_RUN_MERGE);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 400);
    fake_world_free(world);
}

static void k12_a_pass_that_leaves_an_mm_out_is_no_full_scan(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 20, 0);

    (void)fake_mm_new(world, 20, 0);
    fake_passes(world, 2);
    assert_int_equal(fake_counters(world).full_scans, 2);
    a->scan_error = -ETIMEDOUT;
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).full_scans, 2);
    a->scan_error = 0;
    fake_passes(world, 1);
    assert_int_equal(fake_counters(world).full_scans, 3);
    fake_world_free(world);
}

static void k13_unmerge_short_of_memory_stops_and_loses_nothing(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 200, 0);
    struct fake_mm *b = fake_mm_new(world, 200, 0);

    fake_passes(world, 3);
    b->unmerge_error = -ENOMEM;
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while (sp_engine_unmerge_step(world->engine) == 1)
        ;
    assert_int_equal(sp_engine_run(world->engine), SP_RUN_STOP);
    assert_int_equal(fake_mappings(b), 1);
    fake_check_exact(world);
    b->unmerge_error = 0;
    sp_engine_set_run(world->engine, SP_RUN_MERGE);
    fake_passes(world, 3);
    assert_int_equal(fake_counters(world).pages_sharing, 200);
    (void)a;
    fake_world_free(world);
}

static void one_mm_is_short(unsigned which)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *mm[] = {fake_mm_new(world, 200, 0), fake_mm_new(world, 200, 0),
                            fake_mm_new(world, 200, 0)};
    int status;

    fake_passes(world, 3);
    mm[which]->unmerge_error = -ENOMEM;
    mm[(which + 1) % 3]->unmerge_part = 7;
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while ((status = sp_engine_unmerge_step(world->engine)) == 1)
        assert_int_equal(sp_engine_run(world->engine), SP_RUN_UNMERGE);
    assert_int_equal(status, -ENOMEM);
    assert_int_equal(sp_engine_run(world->engine), SP_RUN_STOP);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fake_mappings(mm[i]), i == which);
    assert_int_equal(fake_counters(world).frames, 200);
    fake_check_exact(world);
    mm[which]->unmerge_error = 0;
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while ((status = sp_engine_unmerge_step(world->engine)) == 1)
        ;
    assert_int_equal(status, 0);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_world_free(world);
}

/* Whether it is so or a lie, and whichever is asked first. */
static void k13_one_mm_short_of_memory_holds_up_no_other(void **state)
{
    for (unsigned i = 0; i < 3; i++)
        one_mm_is_short(i);
}

static void t2_mm_that_cannot_be_asked_gives_busy(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 20, 0);
    struct fake_mm *b = fake_mm_new(world, 20, 0);
    int status;

    fake_passes(world, 3);
    a->unmerge_error = -ETIMEDOUT;
    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    while ((status = sp_engine_unmerge_step(world->engine)) == 1)
        ;
    assert_int_equal(status, -EBUSY);
    assert_int_equal(fake_counters(world).frames, 20);
    assert_int_equal(fake_mappings(b), 0);
    fake_mm_remove(a);
    assert_int_equal(sp_engine_unmerge_step(world->engine), -EBUSY);
    assert_int_equal(fake_counters(world).frames, 0);
    fake_world_free(world);
}

static void k13_unmerge_of_one_mm(void **state)
{
    struct fake_world *world = fake_world_new(WORLD);
    struct fake_mm *a = fake_mm_new(world, 200, 0);
    struct fake_mm *b = fake_mm_new(world, 200, 0);

    b->unmerge_part = 10;
    fake_passes(world, 3);
    assert_int_equal(sp_engine_unmerge_mm(world->engine, b->mm), 0);
    fake_check_exact(world);
    assert_int_equal(fake_counters(world).pages_shared, 200);
    assert_int_equal(fake_counters(world).pages_sharing, 0);
    assert_int_equal(fake_mappings(a), 1);
    fake_mm_remove(b);
    fake_mm_remove(a);
    assert_int_equal(fake_counters(world).frames, 0); /* at once with the last mm */
    assert_int_equal(world->forgotten, 200);
    fake_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k2_new_mm_is_reached_last),
        cmocka_unit_test(k2_no_mm_is_a_pass_of_its_own),
        cmocka_unit_test(k2_failing_mm_holds_nobody_up),
        cmocka_unit_test(k3_changing_page_is_never_a_candidate),
        cmocka_unit_test(k4_stable_nodes_come_first),
        cmocka_unit_test(k6_lookalike_of_a_frame_is_asked_once),
        cmocka_unit_test(k6_lookalike_candidates_do_not_merge),
        cmocka_unit_test(k5_stale_candidate_is_replaced),
        cmocka_unit_test(k5_equal_pages_of_one_answer_merge),
        cmocka_unit_test(k6_pinned_page_is_left_alone_and_tried_later),
        cmocka_unit_test(k6_equal_hash_is_not_trusted),
        cmocka_unit_test(k7_failed_second_merge_undoes_first),
        cmocka_unit_test(k7_undo_that_fails_keeps_the_site),
        cmocka_unit_test(k7_lost_answer_never_reuses_the_frame),
        cmocka_unit_test(k7_frame_of_an_mm_that_was_not_asked_goes_back),
        cmocka_unit_test(k8_pages_that_only_fork_shares_stay),
        cmocka_unit_test(k8_fork_with_different_relatives_is_broken),
        cmocka_unit_test(k8_fork_is_broken_for_a_frame_with_a_site),
        cmocka_unit_test(k8_adopted_sites_are_counted_once),
        cmocka_unit_test(d1_new_engine_adopts_frames_it_never_made),
        cmocka_unit_test(k9_node_without_sites_is_found_then_swept),
        cmocka_unit_test(k10_limit_stops_new_frames_only),
        cmocka_unit_test(k10_limit_keeps_chains_short),
        cmocka_unit_test(k11_written_site_is_forgotten_and_others_stay),
        cmocka_unit_test(k12_counters_add_up),
        cmocka_unit_test(k12_a_pass_that_leaves_an_mm_out_is_no_full_scan),
        cmocka_unit_test(k13_unmerge_leaves_nothing_and_run_merges_again),
        cmocka_unit_test(k13_unmerge_short_of_memory_stops_and_loses_nothing),
        cmocka_unit_test(k13_one_mm_short_of_memory_holds_up_no_other),
        cmocka_unit_test(t2_mm_that_cannot_be_asked_gives_busy),
        cmocka_unit_test(k13_unmerge_of_one_mm),
    };

    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
