/* SPDX-License-Identifier: Apache-2.0 */
/* Reading memory that vanishes: the reader comes back, every time, with its stack as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "agent.h"

#define PAGE  4096u
#define TIMES 200000u

struct sp_agent sp_agent = {.page_size = PAGE, .page_shift = 12};

static struct sp_hash128 sum(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *p = data;
    struct sp_hash128 h = {seed, 0};

    for (size_t i = 0; i < size; i++)
        h.lo = h.lo * 31 + p[i];
    return h;
}

static void d4_fault_is_survived_again_and_again(void **state)
{
    uint64_t gone = (uint64_t)mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static char page[PAGE], copy[PAGE];
    uint64_t before = (uint64_t)__builtin_frame_address(0);
    struct sp_hash128 h;
    bool equal = true;

    sp_agent.hash = sum;
    sp_peek_init();
    for (unsigned i = 0; i < TIMES; i++) {
        assert_false(sp_peek_equal(gone, page, &equal));
        assert_false(sp_peek_copy(copy, gone));
        assert_false(sp_peek_hash(gone, &h));
    }
    assert_int_equal((uint64_t)__builtin_frame_address(0), before);
}

static void k6_compare_sees_every_byte(void **state)
{
    static char a[PAGE], b[PAGE];
    bool equal;

    for (unsigned i = 0; i < PAGE; i++) {
        assert_true(sp_peek_equal((uint64_t)a, b, &equal));
        assert_true(equal);
        b[i] = 1;
        assert_true(sp_peek_equal((uint64_t)a, b, &equal));
        assert_false(equal);
        b[i] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k6_compare_sees_every_byte),
        cmocka_unit_test(d4_fault_is_survived_again_and_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
