/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Robust mutexes (X): when a thread ends, the kernel marks those that it holds, and wakes who waits. It
 * does not wait itself: at a page where a write must wait it gives up, and the others wait for ever. So such
 * a page is not made to wait.
 *
 * Which they are stands in the thread's own memory, in a list from a head at a fixed distance from the
 * thread pointer (set_robust_list(2)), with the one that is just being taken or given back beside it. Threads
 * change it while we look: what we read is a hint of where to look next, and never followed for long. Who
 * takes a mutex first notes it beside the list, then writes to it, then lists it, and the other way round
 * when giving it back: so what is beside is read before the list and after it.
 */
#include "agent.h"
#include "gate.h"

struct list { /* where these stand, from the head on */
    uint64_t first, offset, beside;
};

static void add(struct sp_robust *robust, uint64_t word)
{
    if (robust->n < SP_ROBUST_MAX)
        robust->word[robust->n++] = word;
    else
        robust->all = true;
}

/* The lowest bit of an entry says that it is one with priority inheritance. */
static uint64_t entry_at(uint64_t at)
{
    uint64_t entry = 0;

    return (at & 7) || !sp_peek_word(at, &entry) ? 0 : entry & ~1ull;
}

static void add_beside(struct sp_robust *robust, const struct list *list, uint64_t offset)
{
    uint64_t entry = entry_at(list->beside);

    if (entry)
        add(robust, entry + offset);
}

static void find_of_thread(struct sp_robust *robust, uint64_t head)
{
    struct list list = {head, head + 8, head + 16};
    uint64_t offset, entry;

    if ((head & 7) || !sp_peek_word(list.offset, &offset))
        return; /* its memory is gone, and so is the thread */
    add_beside(robust, &list, offset);
    for (entry = entry_at(list.first); entry && entry != head && !robust->all;
         entry = entry_at(entry))
        add(robust, entry + offset);
    add_beside(robust, &list, offset);
}

void sp_robust_find(struct sp_robust *robust)
{
    const uint64_t *thread;
    uint64_t n = sp_gate_threads(&thread);

    robust->n = 0;
    robust->all = n > SP_GATE_TCBS || !sp_gate.robust_offset;
    for (uint64_t i = 0; i < n && !robust->all; i++) {
        uint64_t tls = __atomic_load_n(&thread[i], __ATOMIC_SEQ_CST);

        if (tls && !sp_thread_has_ended(tls))
            find_of_thread(robust, tls + (uint64_t)sp_gate.robust_offset);
    }
}

bool sp_robust_in(const struct sp_robust *robust, uint64_t addr, uint64_t end)
{
    for (uint32_t i = 0; i < robust->n; i++)
        if (robust->word[i] < end && robust->word[i] + 4 > addr)
            return true;
    return robust->all;
}
