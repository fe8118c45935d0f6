/* SPDX-License-Identifier: Apache-2.0 */
/* K13 to K16: what KSM's files take, and what they refuse with which errno, as the kernel's own did when they
 * were asked (Linux 6.18). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "settings.h"

static int as_kernel(enum sp_key key, const char *text, uint64_t *value)
{
    return sp_setting_read_as_kernel(&sp_settings[key], text, value);
}

static void takes(enum sp_key key, const char *text, uint64_t value)
{
    uint64_t got = ~value;

    if (as_kernel(key, text, &got) || got != value)
        fail_msg("%s: \"%s\" is %llu", sp_settings[key].key, text, (unsigned long long)got);
}

static void refuses(enum sp_key key, const char *text, int err)
{
    uint64_t value;
    int got = as_kernel(key, text, &value);

    if (got != err)
        fail_msg("%s: \"%s\" is refused with %d", sp_settings[key].key, text, got);
}

static void numbers_are_read_as_the_kernel_does(void **state)
{
    static const char *const wrong[] = {"", "-1", " 1", "1 ", "0x1", "y", "1foo", "++1", "+", "1\n"};

    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        refuses(SP_KEY_RUN, wrong[i], -EINVAL);
        refuses(SP_KEY_SLEEP_MILLISECS, wrong[i], -EINVAL);
        refuses(SP_KEY_MAX_PAGE_SHARING, wrong[i], -EINVAL);
        refuses(SP_KEY_ADVISOR_MODE, wrong[i], -EINVAL);
    }
    takes(SP_KEY_SLEEP_MILLISECS, "+3", 3);
    takes(SP_KEY_SLEEP_MILLISECS, "4294967295", UINT32_MAX);
    refuses(SP_KEY_SLEEP_MILLISECS, "4294967296", -EINVAL);
    takes(SP_KEY_ADVISOR_MAX_PAGES, "18446744073709551615", UINT64_MAX);
    refuses(SP_KEY_ADVISOR_MAX_PAGES, "18446744073709551616", -EINVAL);
    takes(SP_KEY_ADVISOR_MAX_CPU, "0", 0);
    refuses(SP_KEY_ADVISOR_SCAN_TIME, "0", -EINVAL);
    refuses(SP_KEY_RUN, "3", -EINVAL);
    refuses(SP_KEY_PAGES_SHARED, "1", -EINVAL);
}

static void two_files_say_that_a_number_is_too_large(void **state)
{
    refuses(SP_KEY_MAX_PAGE_SHARING, "0", -EINVAL);
    refuses(SP_KEY_MAX_PAGE_SHARING, "1", -EINVAL);
    takes(SP_KEY_MAX_PAGE_SHARING, "2", 2);
    refuses(SP_KEY_MAX_PAGE_SHARING, "2147483648", -ERANGE);
    refuses(SP_KEY_MAX_PAGE_SHARING, "18446744073709551616", -ERANGE);
    refuses(SP_KEY_MERGE_ACROSS_NODES, "2", -EINVAL);
    refuses(SP_KEY_MERGE_ACROSS_NODES, "18446744073709551615", -EINVAL);
    refuses(SP_KEY_MERGE_ACROSS_NODES, "18446744073709551616", -ERANGE);
}

static void switches_take_words(void **state)
{
    static const char *const on[] = {"1", "1foo", "1 ", "y", "Yes", "on", "ON", "true", "t", "e"};
    static const char *const off[] = {"0", "0x1", "n", "No", "off", "OFF", "false", "d"};
    static const char *const neither[] = {"", "2", "+1", "-1", " 1", "o", "ox", "w"};

    for (unsigned i = 0; i < sizeof(on) / sizeof(on[0]); i++)
        takes(SP_KEY_SMART_SCAN, on[i], 1);
    for (unsigned i = 0; i < sizeof(off) / sizeof(off[0]); i++)
        takes(SP_KEY_USE_ZERO_PAGES, off[i], 0);
    for (unsigned i = 0; i < sizeof(neither) / sizeof(neither[0]); i++)
        refuses(SP_KEY_USE_ZERO_PAGES, neither[i], -EINVAL);
}

/* The commands and the configuration take no such words. */
static void plain_reading_takes_digits_only(void **state)
{
    uint64_t value;

    assert_int_equal(sp_setting_read(&sp_settings[SP_KEY_SMART_SCAN], "y", &value), -EINVAL);
    assert_int_equal(sp_setting_read(&sp_settings[SP_KEY_RUN], "+1", &value), -EINVAL);
    assert_int_equal(sp_setting_read(&sp_settings[SP_KEY_RUN], "1", &value), 0);
    assert_int_equal(value, 1);
    assert_int_equal(sp_setting_read(&sp_settings[SP_KEY_ADVISOR_MODE], "scan-time", &value), 0);
    assert_int_equal(value, 1);
}

static void values_are_shown_as_the_files_do(void **state)
{
    char text[SP_SETTING_TEXT_SIZE];

    sp_setting_show(&sp_settings[SP_KEY_ADVISOR_MODE], 0, text);
    assert_string_equal(text, "[none] scan-time");
    sp_setting_show(&sp_settings[SP_KEY_ADVISOR_MODE], 1, text);
    assert_string_equal(text, "none [scan-time]");
    sp_setting_show(&sp_settings[SP_KEY_GENERAL_PROFIT], (uint64_t)-4096, text);
    assert_string_equal(text, "-4096");
    sp_setting_show(&sp_settings[SP_KEY_MAX_KERNEL_PAGES], UINT64_MAX, text);
    assert_string_equal(text, "18446744073709551615");
}

static void counters_are_found_but_are_no_settings(void **state)
{
    for (unsigned i = 0; i < SP_KEYS; i++) {
        assert_ptr_equal(sp_key_find(sp_settings[i].key), &sp_settings[i]);
        assert_true((sp_setting_find(sp_settings[i].key) != NULL) == (i < SP_SETTINGS));
    }
    assert_null(sp_key_find("nosuch"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_as_the_kernel_does),
        cmocka_unit_test(two_files_say_that_a_number_is_too_large),
        cmocka_unit_test(switches_take_words),
        cmocka_unit_test(plain_reading_takes_digits_only),
        cmocka_unit_test(values_are_shown_as_the_files_do),
        cmocka_unit_test(counters_are_found_but_are_no_settings),
    };

    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
