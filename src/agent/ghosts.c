/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes of threads that will never leave the gate (gate.h): a handler jumped out of the call, or
 * the thread was cancelled in it.
 *
 * A thread that ended is gone. A pass lies on its thread's stack, and nobody writes to it while the thread is inside but the
 * thread itself. So if the word that says that it lives is not there any more, or there is no page
 * at all, its place is used for other things now. The opposite proves nothing: until its stack is
 * used again a ghost looks alive, and nothing is merged.
 */
#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "sys.h"

/* What is neither present nor in swap was never written, or was given back. */
static bool has_page(uint64_t addr)
{
    uint64_t entry = 0;
    long n = sp_sys(__NR_pread64, sp_agent.pagemap, &entry, sizeof(entry),
                    (addr >> sp_agent.page_shift) * sizeof(entry));

    return n != sizeof(entry) || entry >> 62 != 0;
}

/* The kernel clears a word of the thread's control block when it ends; pthread_join() makes it -1. (The slot's owner may be the one
 * before for a moment: a thread that is just taking it looks at the gate afterwards.) */
bool sp_thread_has_ended(uint64_t owner)
{
    uint64_t tid = owner + (uint64_t)sp_gate.tid_offset, word;

    if (!sp_gate.tid_offset || sp_gate.tid_unknown)
        return false;
    return !has_page(tid) || (sp_peek_word(tid & ~7ull, &word) &&
                              (int32_t)(word >> (tid & 4 ? 32 : 0)) <= 0);
}

bool sp_pass_is_ghost(uint64_t pass, uint64_t owner)
{
    uint64_t word;

    return !has_page(pass) || (sp_peek_word(pass, &word) && word != (SP_GATE_ALIVE ^ pass)) ||
           sp_thread_has_ended(owner);
}
