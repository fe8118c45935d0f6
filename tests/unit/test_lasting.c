/* SPDX-License-Identifier: Apache-2.0 */
/* K3: pages whose merges do not last are merged ever more seldom (lasting.c), on a clock of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "blocks.h"

#define SECOND UINT64_C(1000000)

struct sp_agent sp_agent;
uint64_t sp_track_pass;

static uint64_t now;
static struct sp_block block;

uint64_t sp_now_us(void)
{
    return now;
}

static int setup(void **state)
{
    (void)state;
    memset(&block, 0, sizeof(block));
    now = 1000 * SECOND;
    sp_lasting_init();
    sp_lasting_pass();
    sp_lasting_pass_looks();
    return 0;
}

static bool pass_after(uint64_t us)
{
    bool must_look;

    now += us;
    must_look = sp_lasting_pass();
    sp_lasting_pass_looks();
    return must_look;
}

static void merge(uint32_t i)
{
    sp_lasting_merged(&block, i / 64, 1ull << i % 64);
    sp_bit_set(block.site, i);
}

static void write_to(uint32_t i)
{
    sp_lasting_written(&block, i);
    sp_bit_clear(block.site, i);
}

static void short_life(uint32_t i)
{
    merge(i);
    write_to(i);
}

static void two_short_lives_are_forgiven(void **state)
{
    (void)state;
    for (unsigned lives = 0; lives < 3; lives++) {
        assert_int_equal(sp_lasting_must_rest(&block, 70), lives == 2);
        short_life(70);
    }
    assert_true(sp_lasting_must_rest(&block, 70));
    assert_false(sp_lasting_must_rest(&block, 71));
}

static void long_lives_let_it_rise(void **state)
{
    (void)state;
    for (unsigned lives = 0; lives < 9; lives++)
        short_life(5);
    for (unsigned lives = 0; lives < 2; lives++) {
        assert_true(sp_lasting_must_rest(&block, 5));
        merge(5);
        pass_after(20 * SECOND);
        write_to(5);
    }
    assert_false(sp_lasting_must_rest(&block, 5));
    short_life(5);
    assert_true(sp_lasting_must_rest(&block, 5)); /* not as if nothing had been */
}

/* Seconds of passes until what was written just now is pending. */
static unsigned rest_of(uint32_t i)
{
    unsigned seconds = 0;

    sp_bit_set(block.fresh, i);
    for (unsigned w = 0; w < BLOCK_WORDS; w++)
        sp_lasting_roll(&block, w);
    for (; !sp_bit(block.pending, i) && seconds < 100; seconds++) {
        pass_after(SECOND);
        sp_lasting_look(&block, i);
    }
    sp_bit_clear(block.pending, i);
    return seconds;
}

static void rests_longer_the_shorter_it_lasts(void **state)
{
    unsigned seconds[4];

    (void)state;
    for (unsigned lives = 0; lives < 4; lives++) {
        seconds[lives] = rest_of(64);
        merge(64);
        write_to(64);
    }
    assert_int_equal(seconds[0], 0);
    assert_int_equal(seconds[1], 0);
    assert_in_range(seconds[2], 2, 5);
    assert_in_range(seconds[3], 8, 17);
}

static void what_is_written_meanwhile_begins_again(void **state)
{
    (void)state;
    for (unsigned lives = 0; lives < 9; lives++)
        short_life(8);
    for (unsigned n = 0; n < 20; n++) {
        sp_bit_set(block.fresh, 8);
        sp_lasting_roll(&block, 0);
        pass_after(6 * SECOND);
        sp_lasting_look(&block, 8);
        assert_false(sp_bit(block.pending, 8));
        block.slow[0] = 0; /* as track.c does */
    }
}

static void a_pass_must_look_when_one_rests(void **state)
{
    (void)state;
    assert_false(pass_after(9 * SECOND));
    sp_lasting_kept_is_due(&block, 1);
    assert_true(pass_after(5 * SECOND));
    assert_false(pass_after(5 * SECOND)); /* nobody said that it still rests */
    for (unsigned lives = 0; lives < 9; lives++)
        short_life(1);
    sp_bit_set(block.fresh, 1);
    sp_lasting_roll(&block, 0);
    assert_true(pass_after(9 * SECOND));
}

/* Seconds of passes, one each, until the page was looked at twice. */
static unsigned kept_rest_of(uint32_t i)
{
    unsigned seconds = 0;

    for (unsigned looks = 0; looks < 2 && seconds < 100; seconds++) {
        pass_after(SECOND);
        looks += sp_lasting_kept_is_due(&block, i);
    }
    return seconds;
}

static void what_lies_in_a_mapping_of_the_pool_rests_at_once(void **state)
{
    (void)state;
    merge(9);
    pass_after(20 * SECOND);
    write_to(9);
    assert_in_range(kept_rest_of(9), 2, 5);
    for (unsigned lives = 0; lives < 2; lives++)
        short_life(9);
    assert_in_range(kept_rest_of(9), 8, 17);
}

/* An age is at least 200 times as long as looking took. */
static void an_age_is_longer_where_looking_takes_long(void **state)
{
    (void)state;
    assert_false(pass_after(5 * SECOND));
    sp_lasting_cost(SECOND / 10);
    for (unsigned seconds = 0; seconds < 19; seconds++) {
        sp_lasting_kept_is_due(&block, 1);
        assert_false(pass_after(SECOND));
    }
    sp_lasting_kept_is_due(&block, 1);
    assert_true(pass_after(2 * SECOND));
    sp_lasting_kept_is_due(&block, 1);
    assert_true(pass_after(5 * SECOND));
}

/* Seconds from the beginning of an age to that of the next, while so many pages are written in each second. */
static unsigned age_of(unsigned written)
{
    unsigned seconds = 0;

    do {
        for (unsigned n = 0; n < written; n++)
            short_life(n % BLOCK_PAGES);
        sp_bit_clear(block.rank[1], 1);
        sp_lasting_kept_is_due(&block, 1);
        seconds++;
    } while (!pass_after(SECOND) && seconds < 100);
    return seconds;
}

static void ages_are_longer_while_much_is_written(void **state)
{
    (void)state;
    sp_agent.tracked = 800;
    assert_in_range(age_of(0), 1, 3);
    assert_in_range(age_of(30), 2, 3);
    for (unsigned n = 0; n < 5; n++)
        age_of(100);
    assert_in_range(age_of(100), 16, 18);
    /* Although more is written in such an age than in a short one of before. */
    for (unsigned n = 0; n < 4; n++)
        age_of(30);
    assert_in_range(age_of(30), 2, 3);
    sp_agent.tracked = 0;
}

static void pages_of_an_older_era_are_not_young(void **state)
{
    (void)state;
    merge(3);
    pass_after(20 * SECOND);
    merge(4); /* the era of the block is the present one now */
    write_to(3);
    write_to(4);
    short_life(3);
    short_life(4);
    assert_false(sp_lasting_must_rest(&block, 3));
    assert_true(sp_lasting_must_rest(&block, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(two_short_lives_are_forgiven, setup),
        cmocka_unit_test_setup(long_lives_let_it_rise, setup),
        cmocka_unit_test_setup(rests_longer_the_shorter_it_lasts, setup),
        cmocka_unit_test_setup(what_is_written_meanwhile_begins_again, setup),
        cmocka_unit_test_setup(a_pass_must_look_when_one_rests, setup),
        cmocka_unit_test_setup(what_lies_in_a_mapping_of_the_pool_rests_at_once, setup),
        cmocka_unit_test_setup(an_age_is_longer_where_looking_takes_long, setup),
        cmocka_unit_test_setup(ages_are_longer_while_much_is_written, setup),
        cmocka_unit_test_setup(pages_of_an_older_era_are_not_young, setup),
    };

    return cmocka_run_group_tests_name("lasting", tests, NULL, NULL);
}
