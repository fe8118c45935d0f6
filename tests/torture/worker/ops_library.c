/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsamepage, where the worker is linked with it (torture-linked): memory is merged at once while
 * other threads write it, said to be constant and changed all the same, and taken back.
 */
#include <errno.h>
#include <stdio.h>

#include "worker.h"

/* Somebody else is always linked: if nobody does it, it counts as never done. */
#ifndef TORTURE_LINKED

OP(op_library_merge_now)
{
    return NOT_NOW;
}

OP(op_library_advise)
{
    return NOT_NOW;
}

OP(op_library_statistics)
{
    return NOT_NOW;
}

#else

#include <samepage.h>

#define PLACE 4711 /* errno must be as it was */

struct adder {
    struct block *b;
    uint32_t first, n;
    volatile bool enough;
};

static void *add(void *arg)
{
    struct adder *adder = arg;

    for (uint32_t k = 0; !adder->enough; k++) {
        uint32_t i = adder->first + k % adder->n;

        page_add(page_at(adder->b, i), &adder->b->page[i]);
        page_check(page_at(adder->b, i), &adder->b->page[i], false, "library-merge-now");
        if (k % 16 == 0)
            pause_ms(1);
    }
    return arg;
}

/* What a call answered. A range that is there is only wrong where no mapping is left to advise it.
 */
static void answered(int result, const char *what)
{
    if (result == SAMEPAGE_WRONG_USE && !options.enomem_ok)
        wrong(samepage_why(), what);
    if (errno != PLACE)
        wrong("errno is not as it was", what);
    if (result != SAMEPAGE_DONE && !samepage_why()[0])
        wrong("no reason is given", what);
}

/* Another thread writes a part of the range meanwhile, so that it can never be merged as a whole;
 * and whoever else holds the block shared. */
OP(op_library_merge_now)
{
    static const int timeouts[] = {0, 5, 50, 500, 2000};
    struct samepage_merged merged = {.size = sizeof(merged)};
    struct adder adder = {.b = b};
    uint32_t first = 0, n = b->npages;
    pthread_t thread;
    int result;

    if (chance(state) % 2)
        block_stretch(b, state, b->npages, &first, &n);
    adder.first = first;
    adder.n = n < 64 ? n : 64;
    if (pthread_create(&thread, NULL, add, &adder))
        return NOT_NOW;
    errno = PLACE;
    result = samepage_merge_now(page_at(b, first), (size_t)n * PAGE, timeouts[chance(state) % 5],
                                &merged);
    answered(result, "library-merge-now");
    adder.enough = true;
    pthread_join(thread, NULL);
    if (result != SAMEPAGE_WRONG_USE && (merged.pages != n || merged.pages_merged > n))
        wrong("not so many pages were asked for", "library-merge-now");
    for (uint32_t i = first; i < first + n; i += 1 + n / 256)
        page_check(page_at(b, i), &b->page[i], false, "library-merge-now");
    return result == SAMEPAGE_DONE || result == SAMEPAGE_NOT_IN_TIME ? DONE : NOT_NOW;
}

OP(op_library_advise)
{
    uint32_t first, n;
    int result;

    block_stretch(b, state, 512, &first, &n);
    errno = PLACE;
    result = samepage_advise(page_at(b, first), (size_t)n * PAGE, SAMEPAGE_CONSTANT);
    answered(result, "library-advise: constant");
    pause_ms((unsigned)chance(state) % 8);
    block_check(b, first, n, "library-advise: constant");
    block_refill(b, first, 1 + n / 8, state);
    errno = PLACE;
    answered(samepage_advise(page_at(b, first), (size_t)n * PAGE, SAMEPAGE_DONT_MERGE),
             "library-advise: dont-merge");
    block_check(b, first, n, "library-advise: dont-merge");
    errno = PLACE;
    answered(samepage_advise(page_at(b, first), (size_t)n * PAGE, SAMEPAGE_MERGE),
             "library-advise: merge");
    return result == SAMEPAGE_DONE ? DONE : NOT_NOW;
}

OP(op_library_statistics)
{
    struct samepage_statistics s = {.size = sizeof(s)};
    int result;

    errno = PLACE;
    result = samepage_statistics(&s);
    answered(result, "library-statistics");
    if (result == SAMEPAGE_DONE && s.frames > s.frames_sites)
        wrong("a frame without a site", "library-statistics");
    return result == SAMEPAGE_DONE ? DONE : NOT_NOW;
}

#endif
