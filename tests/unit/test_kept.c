/* SPDX-License-Identifier: Apache-2.0 */
/* K11: pages that were written after their merge, and how they are found at rest (kept.c), with contents and a
 * clock of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "blocks.h"

#define AGE     UINT64_C(2200000) /* us: another one has begun */
#define GIB     (UINT64_C(1) << 30)
#define ADDRESS (UINT64_C(7) << 40)
#define PAGES   3u

struct sp_agent sp_agent;
uint64_t sp_track_pass;

static uint64_t now;
static struct sp_block block;
static uint64_t content[PAGES]; /* of the page so many GiB above */

uint64_t sp_now_us(void)
{
    return now;
}

struct sp_block *sp_block_find(uint64_t addr, bool make)
{
    (void)make;
    return addr >= ADDRESS ? &block : NULL;
}

bool sp_peek_hash(uint64_t addr, struct sp_hash128 *hash)
{
    *hash = (struct sp_hash128){content[(addr - ADDRESS) / GIB], 0};
    return true;
}

/* Page k, and its place in the one block of this test. */
static uint64_t page(unsigned k)
{
    return ADDRESS + k * GIB + ((uint64_t)k << 12);
}

static uint64_t rival(unsigned k)
{
    return ADDRESS + k * GIB;
}

static int setup(void **state)
{
    (void)state;
    memset(&block, 0, sizeof(block));
    sp_agent.page_size = 4096;
    sp_agent.page_shift = 12;
    now = 1000000000;
    for (unsigned k = 0; k < PAGES; k++)
        content[k] = 100 + k;
    sp_lasting_init();
    sp_kept_init();
    return 0;
}

static void age(void)
{
    now += AGE;
    sp_lasting_pass();
    sp_lasting_pass_looks();
}

/* Is it told to the daemon? */
static bool is_told(unsigned k, uint64_t addr)
{
    struct sp_hash128 hash;
    bool changed;

    return sp_lasting_kept_is_due(&block, k) && sp_kept_is_quiet(&block, k, addr, &hash, &changed);
}

static void is_told_once_when_it_is_at_rest(void **state)
{
    (void)state;
    sp_kept_add(&block, 1);
    age();
    assert_false(is_told(1, page(1)));
    content[1]++;
    age();
    assert_false(is_told(1, page(1)));
    age();
    assert_true(is_told(1, page(1)));
    for (unsigned ages = 0; ages < 10; ages++) {
        age();
        assert_false(is_told(1, page(1)));
    }
}

static void is_told_again_when_it_was_not_merged(void **state)
{
    (void)state;
    sp_kept_add(&block, 1);
    age();
    assert_false(is_told(1, page(1)));
    age();
    assert_true(is_told(1, page(1)));
    sp_kept_report_again(page(1), page(1) + 4096);
    age();
    assert_true(is_told(1, page(1)));
}

/* Nobody else may have its like for ever: it is not hashed in each age. */
static void what_was_told_is_looked_at_less_often(void **state)
{
    unsigned looks = 0;

    (void)state;
    sp_kept_add(&block, 1);
    age();
    is_told(1, page(1));
    age();
    assert_true(is_told(1, page(1)));
    for (unsigned ages = 0; ages < 16; ages++) {
        age();
        looks += sp_lasting_kept_is_due(&block, 1);
    }
    assert_in_range(looks, 3, 5);
}

/* Each gets its turn, however many are a whole number of GiB apart. */
static void pages_of_one_place_are_all_told(void **state)
{
    bool told[PAGES] = {false};

    (void)state;
    for (unsigned k = 0; k < PAGES; k++)
        sp_kept_add(&block, k);
    for (unsigned ages = 0; ages < 12; ages++) {
        age();
        for (unsigned k = 0; k < PAGES; k++) {
            if (told[k])
                continue;
            told[k] = is_told(k, rival(k));
            if (told[k])
                sp_kept_remove(&block, k); /* merged */
        }
    }
    for (unsigned k = 0; k < PAGES; k++)
        assert_true(told[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(is_told_once_when_it_is_at_rest, setup),
        cmocka_unit_test_setup(is_told_again_when_it_was_not_merged, setup),
        cmocka_unit_test_setup(what_was_told_is_looked_at_less_often, setup),
        cmocka_unit_test_setup(pages_of_one_place_are_all_told, setup),
    };

    return cmocka_run_group_tests_name("kept", tests, NULL, NULL);
}
