/* SPDX-License-Identifier: Apache-2.0 */
/* How loaded the machine is, from the kernel's account of one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "load.h"

static void waiting_is_compared_with_running(void **state)
{
    struct sp_load load = {0};

    sp_load_enter(&load, "10000000 5000000 12\n");
    assert_int_equal(load.stretch, 1);
    sp_load_enter(&load, "20000000 45000000 20\n");
    assert_int_equal(load.stretch, 4); /* 40 ms waited, nearly 4 times the 10 that it ran */
    sp_load_enter(&load, "21000000 945000000 30\n");
    assert_int_equal(load.stretch, SP_LOAD_STRETCH_MAX);
    sp_load_enter(&load, "31000000 945000000 40\n");
    assert_int_equal(load.stretch, 1);
}

static void too_little_says_nothing(void **state)
{
    struct sp_load load = {0};

    sp_load_enter(&load, "1000 9000 1\n");
    assert_int_equal(load.stretch, 9); /* there is nothing better yet */
    sp_load_enter(&load, "2000 9000 1\n");
    assert_int_equal(load.stretch, 9);
    sp_load_enter(&load, "5000000 9000 1\n"); /* since the last that counted */
    assert_int_equal(load.stretch, 1);
}

static void what_cannot_be_read_is_no_load(void **state)
{
    static const char *const texts[] = {"", "x 1 2", "10", "99999999 1 1"};

    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct sp_load load = {.ran = 5, .waited = 1000, .stretch = 7};

        sp_load_enter(&load, texts[i]);
        assert_int_equal(load.stretch, 1);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(waiting_is_compared_with_running),
        cmocka_unit_test(too_little_says_nothing),
        cmocka_unit_test(what_cannot_be_read_is_no_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
