/* SPDX-License-Identifier: Apache-2.0 */
/* ksmfs: what a path names, and what written bytes mean (src/ksmfs/path.c). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ksmfs.h"

static void paths_name_places(void **state)
{
    static const struct {
        const char *path;
        enum ksmfs_kind kind;
    } good[] = {
        {"/", KSMFS_ROOT},
        {"/run", KSMFS_SETTING},
        {"/general_profit", KSMFS_SETTING},
        {"/domains", KSMFS_DOMAINS},
        {"/domains/u1000:web", KSMFS_DOMAIN},
        {"/domains/u1000:web/run", KSMFS_SETTING},
        {"/domains/u1000:..", KSMFS_DOMAIN},
        {"/proc", KSMFS_PROC},
        {"/proc/4194304", KSMFS_PID},
        {"/proc/1/ksm_stat", KSMFS_STAT},
        {"/proc/1/ksm_merging_pages", KSMFS_MERGING},
    };
    struct ksmfs_place place;

    (void)state;
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(ksmfs_place_of(good[i].path, &place), 0);
        assert_int_equal(place.kind, good[i].kind);
    }
    assert_int_equal(ksmfs_place_of("/domains/u1000:web/run", &place), 0);
    assert_string_equal(place.domain, "u1000:web");
    assert_string_equal(place.setting->key, "run");
    assert_int_equal(ksmfs_place_of("/proc/812/ksm_stat", &place), 0);
    assert_int_equal(place.pid, 812);
}

static void other_paths_name_nothing(void **state)
{
    static const char *const bad[] = {
        "/nosuch",
        "/max_mappings",
        "/run/",
        "/run/x",
        "/RUN",
        "/domainsx",
        "/domains/",
        "/domains//run",
        "/domains/a%2fb",
        "/domains/a b",
        "/domains/u0/nosuch",
        "/domains/u0/run/x",
        "/domains/u0/",
        "/domains/\xff",
        "/procx",
        "/proc/",
        "/proc/0",
        "/proc/01",
        "/proc/-1",
        "/proc/1x",
        "/proc/self",
        "/proc/41943040",
        "/proc/1/",
        "/proc/1/stat",
        "/proc/1/ksm_stat/",
        "/proc//ksm_stat",
        "/pages_shared\n",
    };
    char path[300] = "/domains/";
    struct ksmfs_place place;

    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(ksmfs_place_of(bad[i], &place), -ENOENT);
    memset(path + strlen(path), 'x', 255);
    assert_int_equal(ksmfs_place_of(path, &place), -ENOENT);
    path[strlen("/domains/") + KSMFS_DOMAIN_SIZE - 1] = 0; /* the longest that fits */
    assert_int_equal(ksmfs_place_of(path, &place), 0);
}

/* The bytes lie at the end of what was allocated for them: sanitizers see one read too many. */
static int written(const char *key, const char *data, size_t size, char text[SP_SETTING_TEXT_SIZE])
{
    char *copy = malloc(size ? size : 1);
    int ret;

    assert_non_null(copy);
    memcpy(copy, data, size);
    ret = ksmfs_written(sp_setting_find(key), copy, size, text);
    free(copy);
    return ret;
}

#define WRITTEN(key, data, text) written(key, data, sizeof(data) - 1, text)

static void written_bytes_become_values(void **state)
{
    char text[SP_SETTING_TEXT_SIZE], zeros[KSMFS_WRITE_MAX + 1];

    (void)state;
    assert_int_equal(WRITTEN("sleep_millisecs", "+007\n", text), 0);
    assert_string_equal(text, "7");
    assert_int_equal(WRITTEN("sleep_millisecs", "8\n\0x", text), 0);
    assert_string_equal(text, "8");
    assert_int_equal(WRITTEN("max_kernel_pages", "18446744073709551615", text), 0);
    assert_string_equal(text, "18446744073709551615");
    assert_int_equal(WRITTEN("smart_scan", "off\n", text), 0);
    assert_string_equal(text, "0");
    assert_int_equal(WRITTEN("advisor_mode", "scan-time\n", text), 0);
    assert_string_equal(text, "scan-time");
    /* What is beyond 4096 bytes is of the next write. */
    memset(zeros, '0', sizeof(zeros));
    zeros[KSMFS_WRITE_MAX - 1] = '6';
    zeros[KSMFS_WRITE_MAX] = '5';
    assert_int_equal(written("sleep_millisecs", zeros, sizeof(zeros), text), 0);
    assert_string_equal(text, "6");
}

static void other_bytes_are_refused(void **state)
{
    static const char *const bad[] = {"x", " 1", "1 ", "1\n\n", "\n", "-1", "0x1", "4294967296"};
    char text[SP_SETTING_TEXT_SIZE];

    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(written("sleep_millisecs", bad[i], strlen(bad[i]), text), -EINVAL);
    assert_int_equal(written("sleep_millisecs", "", 0, text), -EINVAL);
    assert_int_equal(WRITTEN("sleep_millisecs", "\0007", text), -EINVAL);
    assert_int_equal(WRITTEN("advisor_mode", "[none]", text), -EINVAL);
    assert_int_equal(WRITTEN("max_page_sharing", "2147483648", text), -ERANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_name_places),
        cmocka_unit_test(other_paths_name_nothing),
        cmocka_unit_test(written_bytes_become_values),
        cmocka_unit_test(other_bytes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
