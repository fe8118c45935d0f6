/* SPDX-License-Identifier: Apache-2.0 */
/* X: which addresses the kernel may write to when a thread ends (robust.c), with threads of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent.h"
#include "gate.h"

#define OFFSET  64
#define THREADS 2u

struct sp_gate sp_gate;

struct thread {
    uint64_t pointer[OFFSET / 8];
    uint64_t first, offset, beside;
};

struct mutex {
    uint64_t word, next;
};

static struct thread thread[THREADS];
static struct mutex mutex[2 * SP_ROBUST_MAX];
static uint64_t pointer[THREADS], nthreads;
static bool ended[THREADS];

uint64_t sp_gate_threads(const uint64_t **list)
{
    *list = pointer;
    return nthreads;
}

bool sp_thread_has_ended(uint64_t owner)
{
    for (unsigned t = 0; t < THREADS; t++)
        if (owner == pointer[t])
            return ended[t];
    return false;
}

bool sp_peek_word(uint64_t addr, uint64_t *word)
{
    if (addr < 4096)
        return false;
    *word = *(uint64_t *)(uintptr_t)addr;
    return true;
}

static uint64_t entry(const struct mutex *m)
{
    return (uint64_t)(uintptr_t)&m->next;
}

static int setup(void **state)
{
    (void)state;
    sp_gate.robust_offset = OFFSET;
    nthreads = THREADS;
    memset(mutex, 0, sizeof(mutex));
    for (unsigned t = 0; t < THREADS; t++) {
        pointer[t] = (uint64_t)(uintptr_t)&thread[t];
        ended[t] = false;
        thread[t].first = (uint64_t)(uintptr_t)&thread[t].first;
        thread[t].offset = (uint64_t)-8;
        thread[t].beside = 0;
    }
    return 0;
}

static void hold(unsigned t, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        mutex[i].next = thread[t].first;
        thread[t].first = entry(&mutex[i]);
    }
}

static bool found(const struct mutex *m)
{
    static struct sp_robust robust;
    uint64_t word = (uint64_t)(uintptr_t)&m->word;

    sp_robust_find(&robust);
    return sp_robust_in(&robust, word, word + 4);
}

static void all_that_a_thread_holds_are_found(void **state)
{
    (void)state;
    assert_false(found(&mutex[0]));
    hold(1, 3);
    assert_true(found(&mutex[0]));
    assert_true(found(&mutex[2]));
    assert_false(found(&mutex[3]));
    ended[1] = true;
    assert_false(found(&mutex[0]));
}

static void one_that_is_just_being_taken_is_found(void **state)
{
    (void)state;
    thread[0].beside = entry(&mutex[7]) | 1; /* with priority inheritance */
    assert_true(found(&mutex[7]));
    assert_false(found(&mutex[6]));
}

static void a_page_that_holds_one_is_found(void **state)
{
    static struct sp_robust robust;
    uint64_t word = (uint64_t)(uintptr_t)&mutex[4].word;

    (void)state;
    hold(0, 5);
    sp_robust_find(&robust);
    assert_true(sp_robust_in(&robust, word - 4092, word + 4));
    assert_false(sp_robust_in(&robust, word + 4, word + 8));
}

/* What cannot be known may be anywhere: more than are looked through, a list without end, more threads than
 * are known, a C library that keeps the list elsewhere. */
static void what_is_not_known_is_everywhere(void **state)
{
    (void)state;
    hold(0, SP_ROBUST_MAX + 1);
    assert_true(found(&mutex[2 * SP_ROBUST_MAX - 1]));
    setup(state);
    mutex[0].next = entry(&mutex[0]);
    thread[0].first = entry(&mutex[0]);
    assert_true(found(&mutex[9]));
    setup(state);
    nthreads = SP_GATE_TCBS + 1;
    assert_true(found(&mutex[9]));
    setup(state);
    sp_gate.robust_offset = 0;
    assert_true(found(&mutex[9]));
}

static void what_is_no_list_is_not_followed(void **state)
{
    (void)state;
    thread[0].first = 8; /* nothing is there */
    thread[1].first = entry(&mutex[0]) + 1 + 2;
    assert_false(found(&mutex[9]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(all_that_a_thread_holds_are_found, setup),
        cmocka_unit_test_setup(one_that_is_just_being_taken_is_found, setup),
        cmocka_unit_test_setup(a_page_that_holds_one_is_found, setup),
        cmocka_unit_test_setup(what_is_not_known_is_everywhere, setup),
        cmocka_unit_test_setup(what_is_no_list_is_not_followed, setup),
    };

    return cmocka_run_group_tests_name("robust", tests, NULL, NULL);
}
