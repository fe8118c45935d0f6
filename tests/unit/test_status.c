/* SPDX-License-Identifier: Apache-2.0 */
/* X: what stands behind thousands of groups in /proc/PID/status is read, too (status.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "status.h"

#define GROUPS 20000u

static char text[1u << 20];
static const char *const names[] = {"Uid", "Groups", "CoreDumping", "Seccomp"};

struct seen {
    char line[4][1u << 18];
    size_t length[4];
};

static struct seen seen;

static void take(void *arg, unsigned which, char c)
{
    struct seen *s = arg;

    assert_in_range(which, 0, 3);
    s->line[which][s->length[which]++] = c;
}

static int file_of(size_t size)
{
    int fd = memfd_create("status", MFD_CLOEXEC);

    assert_true(fd >= 0 && write(fd, text, size) == (ssize_t)size);
    return fd;
}

/* Lines before and behind the groups, of which some begin as others do. */
static size_t make(unsigned groups, char *want)
{
    char *p = text + sprintf(text, "Name:\tUid: Groups:\nUid:\t1\t2\nUidX:\t9\nGroups:\t"), *g = p;

    for (unsigned i = 0; i < groups; i++)
        p += sprintf(p, "%u ", 100000 + i);
    memcpy(want, g - 1, (size_t)(p - g) + 1);
    want[p - g + 1] = 0;
    p += sprintf(p, "\nVmPeak:\t 7 kB\nCoreDumping:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n");
    return (size_t)(p - text);
}

static void x_lines_of_any_length(void **state)
{
    static char want[1u << 18];
    static const unsigned groups[] = {0, 1, 580, 581, 582, 583, 584, 585, GROUPS};

    (void)state;
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        int fd = file_of(make(groups[i], want));

        for (unsigned n = 0; n < 2; n++) { /* it begins anew each time */
            memset(&seen, 0, sizeof(seen));
            assert_int_equal(sp_status_read(fd, names, 4, take, &seen), 0);
            assert_string_equal(seen.line[0], "\t1\t2\n");
            assert_memory_equal(seen.line[1], want, strlen(want));
            assert_int_equal(seen.length[1], strlen(want) + 1);
            assert_string_equal(seen.line[2], "\t1\n");
            assert_string_equal(seen.line[3], "\t2\n");
        }
        close(fd);
    }
}

/* A name longer than any that is asked for, and no end. */
static void x_names_without_end(void **state)
{
    int fd;

    (void)state;
    memset(text, 'U', 9000);
    memcpy(text + 9000, ":1\nUid:5", 8);
    fd = file_of(9008);
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(sp_status_read(fd, names, 4, take, &seen), 0);
    assert_string_equal(seen.line[0], "5");
    close(fd);
}

static void x_the_kernels_own(void **state)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256] = "";

    (void)state;
    assert_non_null(f);
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(sp_status_read(fileno(f), names, 4, take, &seen), 0);
    rewind(f);
    while (strncmp(line, "Uid:", 4))
        assert_non_null(fgets(line, sizeof(line), f));
    assert_string_equal(seen.line[0], line + 4);
    fclose(f);
}

static void x_what_cannot_be_read(void **state)
{
    (void)state;
    assert_true(sp_status_read(-1, names, 4, take, &seen) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(x_lines_of_any_length),
        cmocka_unit_test(x_names_without_end),
        cmocka_unit_test(x_the_kernels_own),
        cmocka_unit_test(x_what_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
