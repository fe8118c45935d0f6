/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs whose calls do not all go through the gate, told by memory that is gone (code_watch.c): what a
 * gated call did is never taken for something else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "agent.h"
#include "code_known.h"
#include "gate.h"
#include "maps.h"

#define START 0x10000000ull
#define END   0x10100000ull

struct sp_agent sp_agent;
struct sp_gate sp_gate;

static bool still_mapped, still_range;
static uint32_t changed_in; /* epoch of the last gated call there */
static const struct sp_range old = {.start = START, .end = END};

bool sp_code_has(uint64_t start, uint64_t end, uint64_t inode)
{
    (void)start, (void)end, (void)inode;
    return true;
}

void sp_code_add(uint64_t start, uint64_t end, uint64_t inode)
{
    (void)start, (void)end, (void)inode;
}

bool sp_peek_raw_call(uint64_t start, uint64_t end, uint64_t *found)
{
    (void)start, (void)end;
    *found = 0;
    return true;
}

int sp_maps_read(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg)
{
    struct sp_mapping m = {.start = START, .end = END};

    if (still_mapped)
        fn(arg, &m);
    return 0;
}

const struct sp_range *sp_range_of(uint64_t addr, uint64_t end)
{
    (void)addr, (void)end;
    return still_range ? &old : NULL;
}

bool sp_gate_changed_from(uint32_t epoch, uint64_t addr, uint64_t end)
{
    (void)addr, (void)end;
    return changed_in >= epoch;
}

static int begin(void **state)
{
    (void)state;
    sp_agent = (struct sp_agent){.running = true};
    sp_gate = (struct sp_gate){.epoch = 7};
    still_mapped = still_range = false;
    changed_in = 0;
    sp_code_look_begin();
    sp_code_look_end(sp_gate.epoch, NULL, 0);
    return 0;
}

/* A reading of the mappings, of which the range was among those of the reading before. */
static uint32_t look(void)
{
    uint32_t epoch = sp_gate.epoch++;

    sp_code_look_begin();
    sp_code_look_end(epoch, &old, 1);
    return sp_agent.raw_calls;
}

static void x_memory_gone_without_a_call(void **state)
{
    (void)state;
    assert_int_equal(look(), SP_EXPLAINED_RAW_CHANGE);
}

static void x_memory_gone_by_a_gated_call(void **state)
{
    (void)state;
    changed_in = sp_gate.epoch;
    assert_int_equal(look(), 0);
}

static void x_memory_that_is_still_there(void **state)
{
    (void)state;
    still_mapped = true; /* a range no more: it has other flags now */
    assert_int_equal(look(), 0);
    still_range = true;
    assert_int_equal(look(), 0);
}

/* It said what it changes in an epoch, asked the agent, and did it in the next, in which it said nothing. */
static void x_memory_gone_by_a_call_that_asked(void **state)
{
    (void)state;
    changed_in = sp_gate.epoch - 1;
    sp_gate.asks += 2; /* begun, and ended */
    assert_int_equal(look(), 0);
}

/* Also if it began to ask before one reading, and did its work after that one. */
static void x_memory_gone_by_a_call_that_asks_for_long(void **state)
{
    (void)state;
    sp_gate.asks++;
    still_mapped = still_range = true;
    assert_int_equal(look(), 0);
    sp_gate.asks++;
    still_mapped = still_range = false;
    assert_int_equal(look(), 0);
}

/* A call that asked long ago says nothing of what is gone now. */
static void x_memory_gone_after_a_call_that_asked(void **state)
{
    (void)state;
    sp_gate.asks += 2;
    still_mapped = still_range = true;
    assert_int_equal(look(), 0);
    still_mapped = still_range = false;
    assert_int_equal(look(), SP_EXPLAINED_RAW_CHANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(x_memory_gone_without_a_call, begin),
        cmocka_unit_test_setup(x_memory_gone_by_a_gated_call, begin),
        cmocka_unit_test_setup(x_memory_that_is_still_there, begin),
        cmocka_unit_test_setup(x_memory_gone_by_a_call_that_asked, begin),
        cmocka_unit_test_setup(x_memory_gone_by_a_call_that_asks_for_long, begin),
        cmocka_unit_test_setup(x_memory_gone_after_a_call_that_asked, begin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
