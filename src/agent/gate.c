/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate itself: counters, waiting, requests, marks, rings.
 *
 * Entering is an atomic addition and a load; both sides use sequentially consistent accesses, of
 * which at least one must see the other's (gate.h). All else in here is on slow paths.
 */
#include "gate.h"

#include <errno.h>
#include <linux/time.h>

#include "gate_inside.h"
#include "sitemap.h"
#include "sys.h"
#include "wire.h"

struct sp_gate sp_gate;
bool sp_gate_no_ksm;
uint64_t sp_gate_brk;

/* Counts forks from the first process to this one. */
static uint32_t generation;

static void relax(void)
{
#if defined(__x86_64__)
    __asm__ volatile("pause" ::: "memory");
#else
    __asm__ volatile("yield" ::: "memory");
#endif
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Touches the wait page, which blocks while it is missing. False: the agent is dead (D2), and the
 * gate is open for good. */
static bool wait_a_little(void)
{
    if (*sp_gate.wait_page != SP_WAIT_PAGE_ABANDONED) {
        relax();
        return true;
    }
    store(&sp_gate.agent, SP_GATE_NO_AGENT);
    store(&sp_gate.closed, 0);
    return false;
}

/* Counts a waiter; the result goes to stop_waiting(). A handler may fork while this thread waits:
 * the child's counters then began anew, and what is stopped there was never counted. */
static uint32_t start_waiting(void)
{
    __atomic_fetch_add(&sp_gate.waiters, 1, __ATOMIC_SEQ_CST);
    return load(&generation);
}

static void stop_waiting(uint32_t since)
{
    if (since == load(&generation))
        __atomic_fetch_sub(&sp_gate.waiters, 1, __ATOMIC_SEQ_CST);
}

static void wait_until_open(void)
{
    uint32_t since = start_waiting();

    while (load(&sp_gate.closed) && wait_a_little())
        ;
    stop_waiting(since);
}

void sp_gate_same_pass(struct sp_gate_pass *pass, uint64_t sp)
{
    pass->slot = (uint32_t)((sp >> 13) ^ (sp >> 21)) % SP_GATE_SLOTS;
    pass->generation = load(&generation);
}

void sp_gate_enter(struct sp_gate_pass *pass, uint64_t sp)
{
    sp_gate_same_pass(pass, sp);
    for (;;) {
        __atomic_fetch_add(&sp_gate.slot[pass->slot].inside, 1, __ATOMIC_SEQ_CST);
        if (!load(&sp_gate.closed))
            return;
        sp_gate_leave(pass);
        wait_until_open();
        pass->generation = load(&generation);
    }
}

void sp_gate_leave(const struct sp_gate_pass *pass)
{
    /* A handler may have forked while it interrupted this thread in the gate: in the child the
     * counters began anew. */
    if (pass->generation == load(&generation))
        __atomic_fetch_sub(&sp_gate.slot[pass->slot].inside, 1, __ATOMIC_SEQ_CST);
}

void sp_gate_reset(void)
{
    generation++;
    store(&sp_gate.closed, 0);
    store(&sp_gate.waiters, 0);
    store(&sp_gate.posted, 0);
    for (unsigned i = 0; i < SP_GATE_SLOTS; i++)
        store(&sp_gate.slot[i].inside, 0);
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++)
        store(&sp_gate.request[i].state, SP_REQUEST_FREE);
}

/* What changed. Written inside the gate, so that under the closed gate nobody is about to. */

static void mark(uint32_t *of, uint32_t epoch)
{
    if (load(of) != epoch)
        store(of, epoch);
}

void sp_gate_note(uint64_t addr, uint64_t end)
{
    uint64_t first = addr >> SP_GATE_MARK_SHIFT, last = (end - 1) >> SP_GATE_MARK_SHIFT;
    uint32_t epoch = load(&sp_gate.epoch);

    if (end <= addr)
        return;
    mark(&sp_gate.changed, epoch);
    if (last - first >= SP_GATE_MARKS)
        mark(&sp_gate.changed_all, epoch);
    else
        for (uint64_t n = first; n <= last; n++)
            mark(&sp_gate.mark[n % SP_GATE_MARKS], epoch);
}

void sp_gate_begin_epoch(void)
{
    store(&sp_gate.epoch, load(&sp_gate.epoch) + 1);
}

bool sp_gate_changed_any(void)
{
    return load(&sp_gate.changed) == load(&sp_gate.epoch);
}

bool sp_gate_changed(uint64_t addr, uint64_t end)
{
    uint64_t first = addr >> SP_GATE_MARK_SHIFT, last = (end - 1) >> SP_GATE_MARK_SHIFT;
    uint32_t epoch = load(&sp_gate.epoch);

    if (load(&sp_gate.changed) != epoch)
        return false;
    if (load(&sp_gate.changed_all) == epoch || last - first >= SP_GATE_MARKS)
        return true;
    for (uint64_t n = first; n <= last; n++)
        if (load(&sp_gate.mark[n % SP_GATE_MARKS]) == epoch)
            return true;
    return false;
}

/* Rings. */

void sp_gate_note_advice(uint64_t addr, uint64_t end, bool mergeable)
{
    uint64_t n = __atomic_fetch_add(&sp_gate.advise_seq, 1, __ATOMIC_SEQ_CST);

    sp_gate.advice[n % SP_GATE_ADVICE] =
        (struct sp_gate_advice){.addr = addr, .end = end, .mergeable = mergeable};
}

static uint64_t known_tcbs(void)
{
    uint64_t n = __atomic_load_n(&sp_gate.tcb_seq, __ATOMIC_SEQ_CST);

    return n < SP_GATE_TCBS ? n : SP_GATE_TCBS;
}

void sp_gate_note_tcb(uint64_t addr)
{
    uint64_t page = addr & ~((uint64_t)sp_gate.page_size - 1);
    uint64_t n = known_tcbs();

    /* Stacks are used again and again: a page that is known costs no new entry. */
    for (uint64_t i = 0; i < n; i++)
        if (__atomic_load_n(&sp_gate.tcb[i], __ATOMIC_SEQ_CST) == page)
            return;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t none = 0;

        if (__atomic_compare_exchange_n(&sp_gate.tcb[i], &none, page, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return;
    }
    n = __atomic_fetch_add(&sp_gate.tcb_seq, 1, __ATOMIC_SEQ_CST);
    if (n < SP_GATE_TCBS)
        __atomic_store_n(&sp_gate.tcb[n], page, __ATOMIC_SEQ_CST);
}

/* From a little below the thread pointer, where glibc keeps thread-local variables that lie next to
 * the control block, to behind struct pthread (0x900 bytes in glibc 2.36). */
#define TCB_BELOW 256u
#define TCB_ABOVE 0x900u

void sp_gate_note_thread(uint64_t tls)
{
    uint64_t page = (tls - TCB_BELOW) & ~((uint64_t)sp_gate.page_size - 1);

    for (; page < tls + TCB_ABOVE; page += sp_gate.page_size)
        sp_gate_note_tcb(page);
}

void sp_gate_forget_tcb(uint64_t addr, uint64_t end)
{
    uint64_t n = known_tcbs();

    for (uint64_t i = 0; i < n; i++) {
        uint64_t page = __atomic_load_n(&sp_gate.tcb[i], __ATOMIC_SEQ_CST);

        if (page && page >= addr && page < end)
            __atomic_compare_exchange_n(&sp_gate.tcb[i], &page, 0, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST);
    }
}

bool sp_gate_tcb_in(uint64_t addr, uint64_t end)
{
    uint64_t n = known_tcbs();

    if (__atomic_load_n(&sp_gate.tcb_seq, __ATOMIC_SEQ_CST) > SP_GATE_TCBS)
        return true;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t page = __atomic_load_n(&sp_gate.tcb[i], __ATOMIC_SEQ_CST);

        if (page && page < end && addr < page + sp_gate.page_size)
            return true;
    }
    return false;
}

/*
 * Requests: the thread's side.
 */

static struct sp_gate_request *take_request(void)
{
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++) {
        uint32_t state = SP_REQUEST_FREE;

        if (__atomic_compare_exchange_n(&sp_gate.request[i].state, &state, SP_REQUEST_TAKEN, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return &sp_gate.request[i];
    }
    return NULL;
}

static bool agent_there(void)
{
    return load(&sp_gate.agent) == SP_GATE_AGENT;
}

/* Waits for the answer; if the agent ended meanwhile, takes the request back. In the child of a
 * fork that a handler made meanwhile, the request is gone. */
static long await_answer(struct sp_gate_request *request, uint32_t since)
{
    uint32_t posted = SP_REQUEST_POSTED;
    long status;

    while (load(&request->state) != SP_REQUEST_DONE) {
        if (since != load(&generation))
            return -ESRCH;
        if (agent_there() && wait_a_little())
            continue;
        if (__atomic_compare_exchange_n(&request->state, &posted, SP_REQUEST_FREE, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            __atomic_fetch_sub(&sp_gate.posted, 1, __ATOMIC_SEQ_CST);
            return -ESRCH;
        }
        posted = SP_REQUEST_POSTED;
    }
    status = request->status;
    store(&request->state, SP_REQUEST_FREE);
    return status;
}

static long ask_and_wait(uint32_t kind, uint64_t addr, uint64_t end, uint32_t since)
{
    struct sp_gate_request *request;

    while (!(request = take_request()))
        if (!agent_there() || !wait_a_little())
            return -ESRCH;
    request->kind = kind;
    request->addr = addr;
    request->end = end;
    request->status = 0;
    __atomic_fetch_add(&sp_gate.posted, 1, __ATOMIC_SEQ_CST);
    store(&request->state, SP_REQUEST_POSTED);
    return await_answer(request, since);
}

long sp_gate_ask(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr, uint64_t end)
{
    uint64_t sp = (uint64_t)pass; /* on this thread's stack: as good as the call's own */
    uint32_t since;
    long status;

    if (!agent_there())
        return -ESRCH;
    sp_gate_leave(pass);
    since = start_waiting();
    status = ask_and_wait(kind, addr, end, since);
    stop_waiting(since);
    sp_gate_enter(pass, sp);
    return status;
}

/*
 * The agent's side.
 */

static bool nobody_inside(void)
{
    for (unsigned i = 0; i < SP_GATE_SLOTS; i++)
        if (load(&sp_gate.slot[i].inside))
            return false;
    return true;
}

static uint64_t now_us(void)
{
    struct timespec ts = {0};

    sp_sys(__NR_clock_gettime, CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

#define SPINS 200u /* before giving the processor to the thread that is waited for */

bool sp_gate_close(unsigned spin_us)
{
    uint64_t until = 0;

    store(&sp_gate.closed, 1);
    for (unsigned spins = 1; !nobody_inside(); spins++) {
        if (spins < SPINS) {
            relax();
            continue;
        }
        sp_sys(__NR_sched_yield);
        if (!until)
            until = now_us() + spin_us;
        if (now_us() >= until) {
            store(&sp_gate.closed, 0);
            return false;
        }
    }
    return true;
}

bool sp_gate_open(void)
{
    store(&sp_gate.closed, 0);
    return load(&sp_gate.waiters) != 0;
}

struct sp_gate_request *sp_gate_next_request(void)
{
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++)
        if (load(&sp_gate.request[i].state) == SP_REQUEST_POSTED)
            return &sp_gate.request[i];
    return NULL;
}

void sp_gate_request_done(struct sp_gate_request *request, int64_t status)
{
    request->status = status;
    __atomic_fetch_sub(&sp_gate.posted, 1, __ATOMIC_SEQ_CST);
    store(&request->state, SP_REQUEST_DONE);
}
