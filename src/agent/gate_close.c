/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate as the agent has it: closing, opening, and answering requests (gate.h).
 */
#include "gate.h"

#include <linux/time.h>

#include "gate_inside.h"
#include "sys.h"

bool (*sp_gate_is_ghost)(uint64_t pass, uint64_t owner);

static bool is_ghost(const struct sp_gate_slot *slot, uint64_t pass)
{
    return sp_gate_is_ghost &&
           sp_gate_is_ghost(pass, __atomic_load_n(&slot->owner, __ATOMIC_SEQ_CST));
}

uint64_t sp_gate_parked;

/* The pass in a slot, 0: none. Those of the thread that waits for what is done now do not move. */
static uint64_t pass_in(const struct sp_gate_slot *slot)
{
    uint64_t pass = __atomic_load_n(&slot->pass, __ATOMIC_SEQ_CST);

    if (pass && sp_gate_parked && !sp_load(&sp_gate.shares_tls) &&
        __atomic_load_n(&slot->owner, __ATOMIC_SEQ_CST) == sp_gate_parked)
        return 0;
    return pass;
}

enum inside { NOBODY, SOMEBODY, A_NEW_GHOST };

static enum inside who_is_inside(void)
{
    if (sp_load(&sp_gate.counted))
        return SOMEBODY;
    for (unsigned i = 0; i < SP_GATE_SLOTS; i++)
        if (pass_in(&sp_gate.slot[i]))
            return SOMEBODY;
    return NOBODY;
}

/* The same without ghosts, for which system calls are needed. Marks the passes that are waited for;
 * one that turns out to be a ghost afterwards may have let others in: this closing must fail. */
static enum inside who_lives_inside(uint32_t closing)
{
    enum inside found = sp_load(&sp_gate.counted) ? SOMEBODY : NOBODY;

    for (unsigned i = 0; i < SP_GATE_SLOTS; i++) {
        struct sp_gate_slot *slot = &sp_gate.slot[i];
        uint64_t pass = pass_in(slot);

        if (!pass)
            continue;
        if (!is_ghost(slot, pass)) {
            sp_store(&slot->held, closing);
            found = SOMEBODY;
        } else if (sp_load(&slot->held) == closing) {
            return A_NEW_GHOST;
        }
    }
    return found;
}

/* With the gate closed and nobody inside: what has no life in it now is a ghost, or a pass of a thread
 * in whose place one was, which looks again whether it has its slot. */
static void empty_slots(void)
{
    for (unsigned i = 0; i < SP_GATE_SLOTS; i++) {
        uint64_t pass = __atomic_load_n(&sp_gate.slot[i].pass, __ATOMIC_SEQ_CST);

        if (pass && is_ghost(&sp_gate.slot[i], pass))
            __atomic_compare_exchange_n(&sp_gate.slot[i].pass, &pass, 0, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST);
    }
}

static uint64_t now_us(void)
{
    struct timespec ts = {0};

    sp_sys(__NR_clock_gettime, CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

#define SPINS 200u   /* before giving the processor to the thread that is waited for */
#define YIELDS 100u  /* before sleeping: it may be one of many that want a processor */
#define NAP_NS 50000
#define MERGE_US 10000u /* that merging keeps the program's calls waiting at most, */
#define MERGE_REST 4u   /* and then rests so many times as long */

static void nap(unsigned n)
{
    struct timespec ts = {.tv_nsec = NAP_NS};

    if (n < SPINS)
        sp_relax();
    else if (n < SPINS + YIELDS)
        sp_sys(__NR_sched_yield);
    else
        sp_sys(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0, &ts, 0);
}

/* Waits until nobody is inside. Two looks: who is nested came in while somebody else was there, and
 * might be in a slot that the first look had passed by then. */
static bool wait_until_empty(uint32_t closing, unsigned spin_us)
{
    uint64_t until = 0;

    for (unsigned n = 1; who_is_inside() != NOBODY || who_is_inside() != NOBODY; n++) {
        enum inside who;

        nap(n);
        if (n < SPINS)
            continue;
        who = who_lives_inside(closing);
        if (who == NOBODY && who_lives_inside(closing) == NOBODY) {
            empty_slots();
            return true;
        }
        if (!until)
            until = now_us() + spin_us;
        if (who == A_NEW_GHOST || now_us() >= until)
            return false;
    }
    return true;
}

bool sp_gate_close(unsigned spin_us)
{
    uint32_t closings = sp_gate.closings;
    bool empty;

    closings += closings == UINT32_MAX ? 2 : 1;
    sp_store(&sp_gate.closed, closings);
    sp_store(&sp_gate.closings, closings);
    empty = wait_until_empty(closings, spin_us);
    if (!empty)
        sp_store(&sp_gate.closed, 0);
    return empty;
}

bool sp_gate_close_to_merge(bool now)
{
    static uint64_t rest_until;
    uint64_t begun = now_us(), parked = sp_gate_parked;
    bool closed;

    if (!now && begun < rest_until)
        return false;
    sp_gate_parked = 0;
    closed = sp_gate_close(MERGE_US);
    sp_gate_parked = parked;
    if (!closed)
        rest_until = begun + (now_us() - begun) * (1 + MERGE_REST);
    return closed;
}

bool sp_gate_open(void)
{
    sp_store(&sp_gate.closed, 0);
    return sp_load(&sp_gate.waiters) != 0;
}

bool sp_gate_asked_for(uint64_t addr, uint64_t end)
{
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++) {
        const struct sp_gate_request *request = &sp_gate.request[i];
        uint32_t state = sp_load(&request->state);

        if ((state == SP_REQUEST_POSTED || state == SP_REQUEST_DONE) && request->addr < end &&
            request->end > addr)
            return true;
    }
    return false;
}

struct sp_gate_request *sp_gate_next_request(void)
{
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++)
        if (sp_load(&sp_gate.request[i].state) == SP_REQUEST_POSTED)
            return &sp_gate.request[i];
    return NULL;
}

void sp_gate_request_done(struct sp_gate_request *request, int64_t status)
{
    request->status = status;
    sp_store(&request->state, SP_REQUEST_DONE);
}

void sp_gate_bury_requests(void)
{
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++) {
        struct sp_gate_request *request = &sp_gate.request[i];
        uint32_t state = SP_REQUEST_DONE;

        /* Nobody but the agent makes a request done: while it looks, none becomes so anew. */
        if (sp_load(&request->state) == SP_REQUEST_DONE && sp_gate_is_ghost &&
            sp_gate_is_ghost(request->pass, request->owner))
            __atomic_compare_exchange_n(&request->state, &state, SP_REQUEST_FREE, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}
