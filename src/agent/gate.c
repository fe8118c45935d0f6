/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate itself: passes, waiting, requests, marks, rings; what the program's threads do. What the agent
 * does is in gate_close.c.
 *
 * Entering is an atomic exchange and two loads, leaving a store; entering and closing use sequentially
 * consistent accesses, of which at least one must see the other's (gate.h). All else in here is on slow
 * paths.
 */
#include "gate.h"

#include <errno.h>

#include "attributes.h"
#include "fault.h"
#include "gate_inside.h"
#include "sitemap.h"
#include "sys.h"
#include "wire.h"

struct sp_gate sp_gate;
uint32_t sp_gate_agent_tid = 1, sp_gate_agent_known;
bool sp_gate_no_ksm;
uint64_t sp_gate_brk;

/* Counts forks from the first process to this one. */
static uint32_t generation;

uint32_t sp_gate_generation(void)
{
    return sp_load(&generation);
}

/* Is the agent dead, though no daemon has it that could say so? Without a daemon it has lifted nothing. */
static bool died_alone(void)
{
    return !sp_load(&sp_gate_agent_tid) && !sp_load(&sp_gate_agent_known);
}

/* Is something put in place for an agent that may be dead? It ends with the agent. */
static bool is_put(void)
{
    uint32_t putter = sp_load(&sp_gate.putter);

    return putter && sp_sys(__NR_kill, putter, 0) != -ESRCH;
}

/* Touches the wait page, which blocks while it is missing. False: the agent is dead (D2), and the
 * gate is open for good. */
static bool wait_a_little(void)
{
    uint32_t there = SP_GATE_AGENT;

    if ((*sp_gate.wait_page != SP_WAIT_PAGE_ABANDONED && !died_alone()) || is_put()) {
        sp_relax();
        return true;
    }
    /* One that left because of a filter said so. */
    __atomic_compare_exchange_n(&sp_gate.agent, &there, SP_GATE_NO_AGENT, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    sp_store(&sp_gate.closed, 0);
    return false;
}

/* Counts a waiter; the result goes to stop_waiting(). A handler may fork while this thread waits:
 * the child's counters then began anew, and what is stopped there was never counted. */
static uint32_t start_waiting(void)
{
    __atomic_fetch_add(&sp_gate.waiters, 1, __ATOMIC_SEQ_CST);
    return sp_load(&generation);
}

static void stop_waiting(uint32_t since)
{
    if (since == sp_load(&generation))
        __atomic_fetch_sub(&sp_gate.waiters, 1, __ATOMIC_SEQ_CST);
}

static void wait_until_open(void)
{
    uint32_t since = start_waiting();

    while (sp_load(&sp_gate.closed) && wait_a_little())
        ;
    stop_waiting(since);
}

/*
 * Passes.
 */

static uint64_t alive(const struct sp_gate_pass *pass)
{
    return SP_GATE_ALIVE ^ (uint64_t)pass;
}

static uint64_t this_thread(void)
{
#if defined(__x86_64__)
    uint64_t pointer;

    __asm__("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
#else
    return (uint64_t)__builtin_thread_pointer();
#endif
}

/* Stacks lie far apart, and a thread's calls near each other. */
static uint32_t first_slot(const struct sp_gate_pass *pass)
{
    return (uint32_t)(((uint64_t)pass >> 12) * 0x9e3779b97f4a7c15u >> 32) % SP_GATE_SLOTS;
}

/* Takes a slot for the pass, with a full barrier. A slot that has this very pass in it was left by a
 * jump: no two passes are at one place. */
static void take_slot(struct sp_gate_pass *pass)
{
    uint32_t i = first_slot(pass);

    for (uint32_t n = 0; n < SP_GATE_SLOTS; n++, i = (i + 1) % SP_GATE_SLOTS) {
        uint64_t there = 0;

        if (__atomic_compare_exchange_n(&sp_gate.slot[i].pass, &there, (uint64_t)pass, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
            (there == (uint64_t)pass &&
             __atomic_compare_exchange_n(&sp_gate.slot[i].pass, &there, there, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))) {
            sp_gate.slot[i].held = 0;
            __atomic_store_n(&sp_gate.slot[i].owner, this_thread(), __ATOMIC_RELEASE);
            pass->slot = i;
            return;
        }
    }
    __atomic_fetch_add(&sp_gate.counted, 1, __ATOMIC_SEQ_CST);
    pass->slot = SP_GATE_SLOTS;
}

/* Never below 0: a handler that forks in the middle of a fork leaves a child that began anew. */
static void uncount(void)
{
    uint32_t n = sp_load(&sp_gate.counted);

    while (n && !__atomic_compare_exchange_n(&sp_gate.counted, &n, n - 1, false, __ATOMIC_SEQ_CST,
                                             __ATOMIC_SEQ_CST))
        ;
}

/* Also of a pass that did not get in: then the agent may have taken it for a ghost's, and another
 * one may have the slot. */
static void give_up_slot(struct sp_gate_pass *pass)
{
    uint64_t there = (uint64_t)pass;

    if (pass->generation != sp_load(&generation))
        return;
    if (pass->slot == SP_GATE_SLOTS)
        uncount();
    else
        __atomic_compare_exchange_n(&sp_gate.slot[pass->slot].pass, &there, 0, false,
                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static bool has_slot(const struct sp_gate_pass *pass)
{
    return pass->slot == SP_GATE_SLOTS ||
           __atomic_load_n(&sp_gate.slot[pass->slot].pass, __ATOMIC_SEQ_CST) == (uint64_t)pass;
}

/* Is the gate open, with the pass in it? The agent may empty the slot of a ghost whose place this
 * pass has, but only while it is closed; so in this order. */
static bool is_in(const struct sp_gate_pass *pass)
{
    return !sp_load(&sp_gate.closed) && has_slot(pass);
}

/* Another pass of this thread; SP_GATE_SLOTS: there is none. */
static uint32_t outer_slot(const struct sp_gate_pass *pass)
{
    uint64_t me = this_thread();
    uint32_t i;

    for (i = 0; i < SP_GATE_SLOTS; i++)
        if (i != pass->slot && __atomic_load_n(&sp_gate.slot[i].pass, __ATOMIC_SEQ_CST) &&
            __atomic_load_n(&sp_gate.slot[i].owner, __ATOMIC_SEQ_CST) == me)
            break;
    return i;
}

#define SET_MASK   2      /* of rt_sigprocmask */
#define HELD_SPINS 20000u /* until the agent marked the outer pass; more than it takes */

/* Is the pass nested in one that this closing waits for? Should that be a ghost that nobody knows
 * yet, the closing fails (nobody_inside). */
static bool is_nested(const struct sp_gate_pass *pass)
{
    uint32_t closing = sp_load(&sp_gate.closed), outer = outer_slot(pass);

    for (unsigned n = 0; n < HELD_SPINS && outer < SP_GATE_SLOTS; n++) {
        if (sp_load(&sp_gate.closed) != closing || !closing)
            return is_in(pass);
        if (sp_load(&sp_gate.slot[outer].held) == closing)
            return has_slot(pass) && sp_load(&sp_gate.closed) == closing;
        sp_relax();
    }
    return false;
}

/* Empties the slot if it is this owner's. Both at once: a pass that just took it has another owner
 * when it looks whether it is in. */
static void empty_of(struct sp_gate_slot *slot, uint64_t pass, uint64_t owner)
{
#if defined(__x86_64__)
    uint64_t low = pass, high = owner;

    __asm__ volatile("lock cmpxchg16b %0"
                     : "+m"(*slot), "+a"(low), "+d"(high)
                     : "b"(0ull), "c"(0ull)
                     : "cc", "memory");
#else
    (void)slot;
    (void)pass;
    (void)owner;
#endif
}

void sp_gate_thread_begins(uint64_t tls, uint64_t tid)
{
    int64_t offset = (int64_t)(tid - tls), none = 0;

    if (tls == this_thread()) {
        sp_store(&sp_gate.shares_tls, true);
        return;
    }
    if (!tid || (!__atomic_compare_exchange_n(&sp_gate.tid_offset, &none, offset, false,
                                              __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) &&
                 none != offset))
        sp_store(&sp_gate.tid_unknown, true);
    for (uint32_t i = 0; i < SP_GATE_SLOTS; i++) {
        uint64_t pass = __atomic_load_n(&sp_gate.slot[i].pass, __ATOMIC_SEQ_CST);

        if (pass && __atomic_load_n(&sp_gate.slot[i].owner, __ATOMIC_SEQ_CST) == tls)
            empty_of(&sp_gate.slot[i], pass, tls);
    }
}

static void enter(struct sp_gate_pass *pass)
{
    for (;;) {
        pass->generation = sp_load(&generation);
        take_slot(pass);
        if (is_in(pass) || is_nested(pass))
            return;
        give_up_slot(pass);
        wait_until_open();
    }
}

void sp_gate_enter(struct sp_gate_pass *pass)
{
    __atomic_store_n(&pass->alive, alive(pass), __ATOMIC_RELEASE);
    enter(pass);
}

/* A handler may have forked while it interrupted this thread in the gate: in the child all slots
 * began anew. What is inside with the gate open keeps its slot, so a plain store gives it up. */
static void leave(struct sp_gate_pass *pass)
{
    if (pass->generation != sp_load(&generation))
        return;
    if (pass->slot == SP_GATE_SLOTS)
        uncount();
    else
        __atomic_store_n(&sp_gate.slot[pass->slot].pass, 0, __ATOMIC_RELEASE);
}

void sp_gate_leave(struct sp_gate_pass *pass)
{
    leave(pass);
    __atomic_store_n(&pass->alive, 0, __ATOMIC_RELAXED);
}

void sp_gate_enter_counted(void)
{
    for (;;) {
        __atomic_fetch_add(&sp_gate.counted, 1, __ATOMIC_SEQ_CST);
        if (!sp_load(&sp_gate.closed))
            return;
        uncount();
        wait_until_open();
    }
}

void sp_gate_leave_counted(void)
{
    uncount();
}

void sp_gate_reset(void)
{
    generation++;
    sp_store(&sp_gate.closed, 0);
    sp_store(&sp_gate.putter, 0);
    sp_store(&sp_gate.waiters, 0);
    sp_store(&sp_gate.counted, 0);
    sp_store(&sp_gate.moving, 0);
    sp_store(&sp_gate.protecting, 0);
    sp_removals_reset();
    sp_store(&sp_gate.locks_future, 0); /* which the kernel does not hand on */
    for (unsigned i = 0; i < SP_GATE_SLOTS; i++)
        __atomic_store_n(&sp_gate.slot[i].pass, 0, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < SP_GATE_REQUESTS; i++)
        sp_store(&sp_gate.request[i].state, SP_REQUEST_FREE);
}

/* What changed. Written inside the gate, so that under the closed gate nobody is about to. */

static void mark(uint32_t *of, uint32_t epoch)
{
    if (sp_load(of) != epoch)
        sp_store(of, epoch);
}

void sp_gate_note(uint64_t addr, uint64_t end)
{
    uint64_t first = addr >> SP_GATE_MARK_SHIFT, last = (end - 1) >> SP_GATE_MARK_SHIFT;
    uint32_t epoch = sp_load(&sp_gate.epoch);

    if (end <= addr)
        return;
    mark(&sp_gate.changed, epoch);
    if (last - first >= SP_GATE_MARKS)
        mark(&sp_gate.changed_all, epoch);
    else
        for (uint64_t n = first; n <= last; n++) {
            mark(&sp_gate.mark[n % SP_GATE_MARKS], epoch);
            mark(&sp_gate.mark_odd[n % SP_GATE_MARKS_ODD], epoch);
        }
}

void sp_gate_begin_epoch(void)
{
    sp_store(&sp_gate.epoch, sp_load(&sp_gate.epoch) + 1);
}

bool sp_gate_changed_any(void)
{
    return sp_load(&sp_gate.changed) == sp_load(&sp_gate.epoch);
}

bool sp_gate_changed_from(uint32_t epoch, uint64_t addr, uint64_t end)
{
    uint64_t first = addr >> SP_GATE_MARK_SHIFT, last = (end - 1) >> SP_GATE_MARK_SHIFT;

    if (sp_load(&sp_gate.changed) < epoch)
        return false;
    if (sp_load(&sp_gate.changed_all) >= epoch || last - first >= SP_GATE_MARKS)
        return true;
    for (uint64_t n = first; n <= last; n++)
        if (sp_load(&sp_gate.mark[n % SP_GATE_MARKS]) >= epoch &&
            sp_load(&sp_gate.mark_odd[n % SP_GATE_MARKS_ODD]) >= epoch)
            return true;
    return false;
}

bool sp_gate_changed(uint64_t addr, uint64_t end)
{
    return sp_gate_changed_from(sp_load(&sp_gate.epoch), addr, end);
}

void sp_gate_tell_attributes(uint32_t attributes)
{
    if (!sp_load(&sp_gate.attributes))
        sp_store(&sp_gate.attributes, attributes | SP_RANGE_RW);
    else if (sp_load(&sp_gate.attributes) != (attributes | SP_RANGE_RW))
        sp_store(&sp_gate.mixed, 1);
}

/* Rings. */

void sp_gate_note_advice(uint64_t addr, uint64_t end, enum sp_gate_word word)
{
    uint64_t n = __atomic_fetch_add(&sp_gate.advise_seq, 1, __ATOMIC_SEQ_CST);

    sp_gate.advice[n % SP_GATE_ADVICE] = (struct sp_gate_advice){.addr = addr, .end = end, .word = word};
}

enum sp_gate_word sp_gate_advice_at(uint64_t addr, uint64_t *end)
{
    uint64_t seq = __atomic_load_n(&sp_gate.advise_seq, __ATOMIC_ACQUIRE);
    uint64_t oldest = seq > SP_GATE_ADVICE ? seq - SP_GATE_ADVICE : 0;

    while (seq > oldest) {
        const struct sp_gate_advice *a = &sp_gate.advice[--seq % SP_GATE_ADVICE];
        uint64_t from = __atomic_load_n(&a->addr, __ATOMIC_RELAXED);
        uint64_t to = __atomic_load_n(&a->end, __ATOMIC_RELAXED);

        if (from >= to || addr >= to)
            continue;
        if (from > addr) {
            *end = from < *end ? from : *end;
            continue;
        }
        *end = to < *end ? to : *end;
        return a->word;
    }
    return SP_WORD_NONE;
}

/* Threads that unmap what adjoins may do so at once: what is said of less never becomes more. */
static void at_least(uint64_t *word, uint64_t value)
{
    uint64_t now = __atomic_load_n(word, __ATOMIC_SEQ_CST);

    while (now < value &&
           !__atomic_compare_exchange_n(word, &now, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static void at_most(uint64_t *word, uint64_t value)
{
    uint64_t now = __atomic_load_n(word, __ATOMIC_SEQ_CST);

    while (now > value &&
           !__atomic_compare_exchange_n(word, &now, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static bool is_advised_any(uint64_t addr, uint64_t end)
{
    uint64_t stop;

    for (; addr < end; addr = stop) {
        stop = end;
        if (sp_gate_advice_at(addr, &stop) != SP_WORD_NONE)
            return true;
    }
    return false;
}

/* What a word says of other memory, too, becomes less; only one that goes on at both sides takes a new word. */
void sp_gate_forget_advice(uint64_t addr, uint64_t end)
{
    uint64_t n = __atomic_load_n(&sp_gate.advise_seq, __ATOMIC_SEQ_CST);

    if (n > SP_GATE_ADVICE)
        n = SP_GATE_ADVICE;
    if (!n || !is_advised_any(addr, end))
        return;
    for (uint64_t i = 0; i < n; i++) {
        struct sp_gate_advice *a = &sp_gate.advice[i];
        uint64_t from = __atomic_load_n(&a->addr, __ATOMIC_RELAXED);
        uint64_t to = __atomic_load_n(&a->end, __ATOMIC_RELAXED);

        if (from >= to || to <= addr || from >= end)
            continue;
        if (to <= end)
            at_most(&a->end, from < addr ? addr : from);
        else if (from >= addr)
            at_least(&a->addr, end);
    }
    if (is_advised_any(addr, end))
        sp_gate_note_advice(addr, end, SP_WORD_NONE);
}

void sp_gate_move_advice(uint64_t addr, uint64_t end, uint64_t to, uint64_t length, bool kept)
{
    uint64_t at = to == addr && length > end - addr ? end - sp_gate.page_size : addr, stop;
    uint64_t last = length < end - addr ? addr + length : end;

    if (!__atomic_load_n(&sp_gate.advise_seq, __ATOMIC_SEQ_CST))
        return;
    if (to != addr)
        sp_gate_forget_advice(to, to + length);
    /* In place it is only what grew that is new. */
    for (; at < last && (to != addr || length > end - addr); at = stop) {
        enum sp_gate_word word;

        stop = last;
        word = sp_gate_advice_at(at, &stop);
        if (word != SP_WORD_NONE)
            sp_gate_note_advice(to + (at - addr), to + (stop == last ? length : stop - addr), word);
    }
    if (!kept)
        sp_gate_forget_advice(to == addr ? addr + length : addr, end);
}

/* A ring of addresses: sp_gate.tcb, sp_gate.thread. */
static uint64_t known(const uint64_t *seq)
{
    uint64_t n = __atomic_load_n(seq, __ATOMIC_SEQ_CST);

    return n < SP_GATE_TCBS ? n : SP_GATE_TCBS;
}

static void note_in(uint64_t *ring, uint64_t *seq, uint64_t value)
{
    uint64_t n = known(seq);

    /* Stacks are used again and again: what is known costs no new entry. */
    for (uint64_t i = 0; i < n; i++)
        if (__atomic_load_n(&ring[i], __ATOMIC_SEQ_CST) == value)
            return;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t none = 0;

        if (__atomic_compare_exchange_n(&ring[i], &none, value, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return;
    }
    n = __atomic_fetch_add(seq, 1, __ATOMIC_SEQ_CST);
    if (n < SP_GATE_TCBS)
        __atomic_store_n(&ring[n], value, __ATOMIC_SEQ_CST);
}

static void forget_in(uint64_t *ring, const uint64_t *seq, uint64_t addr, uint64_t end)
{
    uint64_t n = known(seq);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t value = __atomic_load_n(&ring[i], __ATOMIC_SEQ_CST);

        if (value && value >= addr && value < end)
            __atomic_compare_exchange_n(&ring[i], &value, 0, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST);
    }
}

void sp_gate_note_tcb(uint64_t addr)
{
    note_in(sp_gate.tcb, &sp_gate.tcb_seq, addr & ~((uint64_t)sp_gate.page_size - 1));
}

/* From a little below the thread pointer, where glibc keeps thread-local variables that lie next to
 * the control block, to behind struct pthread (0x900 bytes in glibc 2.36). */
#define TCB_BELOW 256u
#define TCB_ABOVE 0x900u

void sp_gate_note_thread(uint64_t tls)
{
    uint64_t page = (tls - TCB_BELOW) & ~((uint64_t)sp_gate.page_size - 1);

    note_in(sp_gate.thread, &sp_gate.thread_seq, tls);
    for (; page < tls + TCB_ABOVE; page += sp_gate.page_size)
        sp_gate_note_tcb(page);
}

void sp_gate_forget_tcb(uint64_t addr, uint64_t end)
{
    forget_in(sp_gate.tcb, &sp_gate.tcb_seq, addr, end);
    forget_in(sp_gate.thread, &sp_gate.thread_seq, addr, end);
}

bool sp_gate_tcb_in(uint64_t addr, uint64_t end)
{
    uint64_t n = known(&sp_gate.tcb_seq);

    if (__atomic_load_n(&sp_gate.tcb_seq, __ATOMIC_SEQ_CST) > SP_GATE_TCBS)
        return true;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t page = __atomic_load_n(&sp_gate.tcb[i], __ATOMIC_SEQ_CST);

        if (page && page < end && addr < page + sp_gate.page_size)
            return true;
    }
    return false;
}

uint64_t sp_gate_threads(const uint64_t **thread)
{
    *thread = sp_gate.thread;
    return __atomic_load_n(&sp_gate.thread_seq, __ATOMIC_SEQ_CST);
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

/* One that was killed before any daemon knew it leaves the wait page to nobody: the word that the kernel
 * clears tells. */
static bool agent_there(void)
{
    uint32_t there = SP_GATE_AGENT;

    if (!sp_load(&sp_gate_agent_tid))
        __atomic_compare_exchange_n(&sp_gate.agent, &there, SP_GATE_NO_AGENT, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
    return sp_load(&sp_gate.agent) == SP_GATE_AGENT;
}

/* Waits for the answer, with which the request stays DONE. If the agent ended meanwhile, takes it
 * back; in the child of a fork that a handler made meanwhile, it is gone: then *taken is NULL. */
static long await_answer(struct sp_gate_request **taken, uint32_t since)
{
    struct sp_gate_request *request = *taken;
    uint32_t posted = SP_REQUEST_POSTED;

    while (sp_load(&request->state) != SP_REQUEST_DONE) {
        if (since != sp_load(&generation))
            goto gone;
        if (agent_there() && wait_a_little())
            continue;
        if (__atomic_compare_exchange_n(&request->state, &posted, SP_REQUEST_FREE, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            goto gone;
        posted = SP_REQUEST_POSTED;
    }
    return request->status;
gone:
    *taken = NULL;
    return -ESRCH;
}

static long ask_and_wait(const struct sp_gate_pass *pass, const struct sp_gate_request *what,
                         uint32_t since, struct sp_gate_request **taken)
{
    struct sp_gate_request *request;

    while (!(*taken = request = take_request()))
        if (!agent_there() || !wait_a_little())
            return -ESRCH;
    request->kind = what->kind;
    request->addr = what->addr;
    request->end = what->end;
    request->copy = what->copy;
    request->attributes = what->attributes;
    request->quiet = what->quiet;
    request->status = 0;
    request->pass = (uint64_t)pass;
    request->owner = this_thread();
    sp_fault_point("gate-asks");
    sp_store(&request->state, SP_REQUEST_POSTED);
    return await_answer(taken, since);
}

static long ask(struct sp_gate_pass *pass, const struct sp_gate_request *what)
{
    struct sp_gate_request *request = NULL;
    uint32_t since;
    long status;

    if (!agent_there())
        return -ESRCH;
    __atomic_fetch_add(&sp_gate.asks, 1, __ATOMIC_SEQ_CST);
    leave(pass);
    since = start_waiting();
    status = ask_and_wait(pass, what, since, &request);
    stop_waiting(since);
    enter(pass);
    /* Only now: no lift was in the range meanwhile, nor will be while this thread is inside. */
    if (request && since == sp_load(&generation))
        sp_store(&request->state, SP_REQUEST_FREE);
    __atomic_fetch_add(&sp_gate.asks, 1, __ATOMIC_SEQ_CST);
    return status;
}

/* Is memory replaced for it that somebody may be writing to meanwhile? */
static bool needs_quiet(uint32_t kind)
{
    uint32_t stored = sp_load(&sp_gate.stored);

    if (kind == SP_GATE_UNMERGE_WRITTEN || kind == SP_GATE_UNMERGE_INTO || kind == SP_GATE_RELEASE)
        return stored != SP_NOT_STORED;
    /* What a forked child has of its parent's stall is nothing before the daemon knows it; and the agent says
     * whether this is the only thread. */
    if (kind == SP_GATE_FILTER)
        return true;
    return stored == SP_STORED && kind == SP_GATE_UNMERGE;
}

/* Where nobody can be held off while pages are copied, the agent may do it if nobody is there: then not even a
 * handler of this thread may run. */
static long ask_quietly(struct sp_gate_pass *pass, struct sp_gate_request *what)
{
    uint64_t all = ~(uint64_t)0, old = 0;
    long status;

    if (!needs_quiet(what->kind) || !agent_there())
        return ask(pass, what);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    what->quiet = true;
    status = ask(pass, what);
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
    return status;
}

long sp_gate_ask(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr, uint64_t end)
{
    return ask_quietly(pass, &(struct sp_gate_request){.kind = kind, .addr = addr, .end = end});
}

long sp_gate_ask_into(struct sp_gate_pass *pass, uint64_t addr, uint64_t end, uint64_t copy,
                      uint32_t attributes)
{
    return ask_quietly(pass, &(struct sp_gate_request){.kind = SP_GATE_UNMERGE_INTO, .addr = addr, .end = end,
                                                       .copy = copy, .attributes = attributes});
}
