/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent process: waits for questions, for threads at the gate, and for the end of the program.
 */
#include <linux/poll.h>
#include <linux/time_types.h>

#include "agent.h"
#include "attributes.h"
#include "gate.h"
#include "kernel.h"
#include "maps.h"
#include "mem.h"
#include "rings.h"
#include "sitemap.h"
#include "sys.h"

#define LOOK_US 200000u   /* between two looks whether the program is still there */
#define LEAVE_TRIES   200u
#define LEAVE_WAIT_MS 10u
#define UNMERGE_PART 16384u    /* pages */
#define FILTER_CPU_US 100000u  /* that who puts itself under a filter waits for, at most */
#define GUARD_TRIES 20u
#define CLEAN_US 2000u    /* between two tries to clean what mlockall() filled */
#define REJOIN_US 500000u /* between two tries to find a daemon */
#define PATIENCE_MS 10000u /* that a forked child's agent waits for a daemon's userfaultfd */
#define SETTLE_MS 24u     /* that a forked child may take to exec before its agent does anything */

static uint8_t packet[SP_WIRE_MAX];

/* From one state to another; false: it was in none such. What a thread wrote that put itself under a filter stays. */
static bool change_gate_agent(enum sp_gate_agent from, enum sp_gate_agent to)
{
    uint32_t state = from;

    return __atomic_compare_exchange_n(&sp_gate.agent, &state, to, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/*
 * The end, in order: nothing is in the air, the gate is open. Whoever waits for a request is told
 * that nobody serves it any more, by a wait page that stays.
 */
__attribute__((noreturn)) static void leave(enum sp_gate_agent state)
{
    uint64_t wait = (uint64_t)sp_gate.wait_page;
    struct uffdio_copy copy = {.dst = wait, .src = sp_agent.staging, .len = sp_agent.page_size};

    if (state == SP_GATE_FILTERED)
        __atomic_store_n(&sp_gate.agent, state, __ATOMIC_SEQ_CST);
    else
        change_gate_agent(SP_GATE_AGENT, state);
    if (sp_agent.uffd >= 0) {
        struct uffdio_range staging = {sp_agent.staging, SP_LIFT_PAGES << sp_agent.page_shift};

        sp_serve_gate();
        sp_link_drop(); /* and with it the views of all frames, which the program has, too */
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &staging);
        *(volatile uint32_t *)sp_agent.staging = SP_WAIT_PAGE_ABANDONED;
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_COPY, &copy);
    }
    sp_sys(__NR_exit_group, 0);
    __builtin_unreachable();
}

static void serve_packet(void)
{
    struct sp_msg *msg = (struct sp_msg *)packet;
    int fd = -1;
    long n = sp_link_receive(packet, sizeof(packet), &fd);

    if (n == -EINTR || n == -11)
        return;
    if (n < (long)sizeof(*msg) || msg->magic != SP_WIRE_MAGIC || msg->version != SP_WIRE_VERSION ||
        msg->length != (uint64_t)n - sizeof(*msg)) {
        if (fd >= 0)
            sp_sys(__NR_close, fd);
        sp_link_drop(); /* the daemon is gone, or not one that we know: look for another */
        return;
    }
    sp_serve(msg, packet + sizeof(*msg), fd);
}

static void rejoin(void)
{
    char why[256];

    if (sp_link_join(SP_HELLO_REJOIN, why, sizeof(why)) == 0)
        sp_track_restart();
}

/* Waits so long, or until the program is dead: then this ends too. True at once when fd can be read. */
static bool wait_for(int fd, uint32_t ms)
{
    struct pollfd p[2] = {{.fd = sp_agent.pidfd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    struct __kernel_timespec t = {.tv_nsec = ms * 1000000ll};

    if (sp_sys(__NR_ppoll, p, 2, &t, 0, 8) > 0 && p[0].revents)
        sp_sys(__NR_exit_group, 0);
    return p[1].revents;
}

static void wait_ms(uint32_t ms)
{
    wait_for(-1, ms);
}

/* One try, with so much CPU, about. 0, or a negative errno: something is merged still. */
static int unmerge_once(uint64_t cpu_us)
{
    uint64_t began = sp_cpu_us(), next = 0, npages;
    int ret;

    do {
        if (sp_cpu_us() - began > cpu_us)
            return -EAGAIN;
        ret = sp_unmerge(next, ~0ull, UNMERGE_PART, &next, &npages);
    } while (!ret && next);
    return ret ? ret : sp_unmerge_zeros(0, ~0ull, ~0ull, &next, &npages);
}

/* A thread that is in one call after another keeps the gate open for as long as it likes, and memory
 * may be short for a while: the program is left with frames only when all tries are used up. */
static void unmerge_all(void)
{
    for (unsigned tries = 0; tries < LEAVE_TRIES; tries++) {
        sp_ranges_refresh(true);
        if (!unmerge_once(~0ull))
            break;
        sp_serve_gate();
        wait_ms(LEAVE_WAIT_MS);
    }
}

struct guards {
    bool any, locked;
};

static bool note_guarded(void *arg, const struct sp_mapping *m)
{
    struct guards *guards = arg;
    bool locked;

    if (m->shared || !sp_view_is_pool(m))
        return true;
    locked = sp_gate.locked && sp_is_locked(m->start, m->end - m->start);
    if (m->readable && m->writable && !locked)
        return true;
    sp_guarded_add(m->start, m->end);
    guards->any = true;
    guards->locked |= locked;
    return true;
}

/*
 * What stays in mappings of the pool, because it was written, shows its frame once the program drops it:
 * the gate must write zeros then. Under a filter it can only do so where it knows, without a call, that
 * that may be written, and is not locked.
 */
static void forget_guards(void)
{
    struct guards guards = {0};
    bool closed = false;

    for (unsigned tries = 0; sp_gate.guarded && !closed && tries < GUARD_TRIES; tries++) {
        closed = sp_gate_close(CLEAN_US);
        if (!closed)
            sp_serve_gate();
    }
    if (!closed)
        return;
    sp_guarded_forget();
    if (sp_maps_read(note_guarded, &guards) < 0) {
        sp_guarded_add(0, ~0ull);
        guards = (struct guards){true, sp_gate.locked};
    }
    sp_gate.guarded = guards.any;
    sp_gate.locked = guards.locked;
    if (sp_gate_open())
        sp_serve_gate();
}

/*
 * A program that forbids looking into it (prctl(PR_SET_DUMPABLE, 0)) has secrets: what was merged
 * before becomes its own again, and nothing is merged any more (K17). One that asked for merging
 * itself knows what it does.
 */
static void respect_dumpable(void)
{
    if (!sp_agent.all || sp_gate.advise_all || !sp_program_forbids())
        return;
    unmerge_all();
    forget_guards();
    leave(SP_GATE_NO_AGENT);
}

/* What is tracked the kernel moves only alone: of many mappings it moves those before it, and then refuses.
 * The daemon, too, holds the userfaultfd, and closes it when it comes to that. */
static void end_tracking(void)
{
    for (uint32_t i = 0; i < sp_agent.nranges; i++)
        sp_range_untrack(sp_agent.range[i].start, sp_agent.range[i].end);
}

/*
 * The program changed its rights: what it shares with others of its user, or could do through us, may be
 * more than it is to have now. It gets its pages back, and no way to the frames stays open. From then on
 * its calls are the kernel's alone.
 */
__attribute__((noreturn)) static void leave_changed(void)
{
    unmerge_all();
    forget_guards();
    end_tracking();
    leave(SP_GATE_FILTERED);
}

/*
 * Whoever waits for this is not kept waiting for a thread that stays inside, nor for much memory, which a forked child
 * that execs at once would only have copied to drop it: then the filter comes first, and what the
 * gate does is from now on what it does under one.
 *
 * The gate's state is not changed before the request is done: who waits and sees it takes its request back,
 * and another thread's, which has the place then, would be told that it is done. Who asked writes the state
 * when it has the answer, so before its filter is there; what other threads begin until then they do as without
 * one. The agent writes it, too, when the request is done (sp_serve_gate()), should a handler have jumped out
 * of the waiting, and serves no other request from here on: so whoever takes one back takes one that nobody is at.
 */
int64_t sp_agent_before_filter(void)
{
    sp_ranges_refresh(true);
    if (!unmerge_once(FILTER_CPU_US))
        leave_changed();
    forget_guards(); /* and again when all is given back, with the filter on */
    sp_agent.stay_unmerged = sp_agent.filtered = true;
    return sp_agent.alone ? -EAGAIN : -EBUSY;
}

/* A program whose calls go round the gate gets its pages back, as soon as there is memory for them. Its
 * ranges are those that were read last: what new memory is given stands in them. */
static void give_back_unprotected(void)
{
    uint64_t next = 0, npages;
    int ret;

    do
        ret = sp_unmerge(next, ~0ull, ~0ull, &next, &npages);
    while (!ret && next);
    sp_agent.raw_done = !ret;
}

static void look_after_program(void)
{
    if (sp_agent.mappings)
        sp_coredump_hold_merged(); /* the program may have set the filter, too */
    sp_rings_look();
    sp_gate_bury_requests();
    respect_dumpable();
    if (sp_program_changed())
        leave_changed();
    if (!sp_program_here())
        leave(SP_GATE_NO_AGENT);
}

/* Not before the call that filled it is through: the gate closes only then. */
static void clean_arena(void)
{
    if (!sp_gate_close(CLEAN_US)) {
        sp_serve_gate();
        return;
    }
    sp_arena_clean();
    if (sp_gate_open())
        sp_serve_gate();
}

__attribute__((noreturn)) static void loop(void)
{
    uint64_t looked = 0, joined = sp_now_us();
    uint32_t execs = sp_gate.execs;

    for (;;) {
        struct pollfd p[4] = {{.fd = sp_agent.pidfd, .events = POLLIN},
                              {.fd = sp_agent.uffd, .events = POLLIN},
                              {.fd = sp_agent.sock, .events = POLLIN},
                              {.fd = sp_again_since() ? sp_agent.uffd_sync : -1, .events = POLLIN}};
        struct __kernel_timespec limit = {
            .tv_nsec = (sp_agent.arena_filled ? CLEAN_US : LOOK_US) * 1000ll};
        uint64_t now;

        if (sp_agent.filtered)
            leave_changed();
        sp_sys(__NR_ppoll, p, 4, &limit, 0, 8);
        if (p[0].revents)
            sp_sys(__NR_exit_group, 0); /* the program is dead (D4) */
        if (p[1].revents || p[3].revents || sp_gate.waiters || sp_gate_next_request())
            sp_serve_gate();
        if (sp_agent.arena_filled)
            clean_arena();
        if (sp_agent.raw_calls && !sp_agent.raw_done)
            give_back_unprotected();
        now = sp_now_us();
        if (sp_again_since() && (sp_agent.sock < 0 || (!p[2].revents &&
                                                       now - sp_again_since() >= SP_HOLD_MSECS * 1000)))
            sp_again_release(); /* the daemon is busy elsewhere, or gone */
        if (now - looked >= LOOK_US || execs != sp_gate.execs) {
            execs = sp_gate.execs;
            looked = now;
            look_after_program();
        }
        if (sp_agent.sock >= 0 && p[2].revents)
            serve_packet();
        if (sp_agent.leave)
            leave(SP_GATE_NO_AGENT);
        if (sp_agent.sock < 0 && now - joined >= REJOIN_US) {
            joined = now;
            rejoin();
        }
    }
}

/* What a forked child's agent does first: nothing, for a moment, unless it is asked. Most children exec
 * at once, and then all of this would be for nothing. */
static void settle(void)
{
    uint32_t execs = sp_gate.execs;

    for (uint32_t ms = 1; ms < SETTLE_MS && !wait_for(sp_agent.uffd, ms) && !sp_gate_next_request();
         ms *= 2)
        if (sp_gate.execs != execs && !sp_program_here())
            sp_sys(__NR_exit_group, 0);
    if (!sp_program_here())
        sp_sys(__NR_exit_group, 0);
}

static int own_statm(void)
{
    return (int)sp_sys(__NR_openat, -100, "/proc/self/statm", 02000000);
}

/* Before it is confined there is no way back but to end. */
__attribute__((noreturn)) static void give_up(void)
{
    sp_agent_spawned();
    sp_sys(__NR_exit_group, 0);
    __builtin_unreachable();
}

/* What needs the rights that the program has: fast, for the program waits in fork. */
static void acquire_forked(void)
{
    char why[256];

    sp_agent.sock = sp_agent.uffd = sp_agent.uffd_sync = -1;
    if (sp_setup_proc(why, sizeof(why)))
        give_up();
    if (sp_setup_uffd_own())
        sp_agent.uffd = -1;
    else if (sp_setup_areas())
        give_up();
    if (sp_agent.address)
        return;
    if (sp_agent.uffd < 0 && (sp_setup_uffd_passed(why, sizeof(why)) || sp_setup_areas()))
        give_up();
    if (sp_link_dial())
        sp_link_drop();
}

/* From now on the program's threads may ask; unless one put itself under a filter, while there was no agent. */
static void begin_serving(void)
{
    sp_gate_is_ghost = sp_pass_is_ghost;
    sp_agent.running = true;
    change_gate_agent(SP_GATE_NO_AGENT, SP_GATE_AGENT);
    if (__atomic_load_n(&sp_gate.agent, __ATOMIC_SEQ_CST) == SP_GATE_FILTERED)
        sp_agent.stay_unmerged = sp_agent.filtered = true;
}

/* Where the daemon must give the userfaultfd, and none is there now, one may come (D1). Meanwhile nobody
 * waits for what may never come. */
static void wait_uffd(void)
{
    char why[256];
    int ret = sp_setup_uffd_passed(why, sizeof(why));

    if (ret)
        change_gate_agent(SP_GATE_AGENT, SP_GATE_NO_AGENT);
    for (uint32_t ms = 0; ret == -11 && ms < PATIENCE_MS; ms += REJOIN_US / 1000) {
        wait_ms(REJOIN_US / 1000);
        if (!sp_program_here())
            sp_sys(__NR_exit_group, 0);
        ret = sp_setup_uffd_passed(why, sizeof(why));
    }
    if (ret || sp_setup_areas())
        leave(SP_GATE_NO_AGENT);
    begin_serving();
}

static void start_forked(void)
{
    char why[256];

    settle();
    if (sp_agent.uffd < 0)
        wait_uffd();
    sp_track_init();
    if (sp_agent.filtered || sp_program_changed())
        leave_changed(); /* it gave up what we still have */
    sp_serve_gate(); /* who asked already does not wait for the daemon, too */
    sp_link_join(SP_HELLO_FORKED, why, sizeof(why)); /* without a daemon: tried again in the loop */
}

/* What the parent's agent left in the state that the child inherited. */
static void forget_parent(void)
{
    sp_agent.shm = 0;
    sp_agent.stall = -1;
    if (sp_gate.stored)
        sp_gate.stored = SP_STORED;
    sp_gate_agent_known = 0;
    sp_views_forget();
    sp_agent.nranges = 0;
    sp_agent.ranges_at_us = 0;
    sp_agent.leave = false;
    sp_agent.arena_filled = false;
    sp_agent.raw_done = sp_agent.filtered = false;
    sp_seeds_forget();
    sp_again_forget();
    sp_useless_forget();
    /* The parent's agent may have been at it, with the gate open, when the program forked. */
    sp_agent.serving = sp_agent.daemon_unmerges = sp_agent.alone = false;
    sp_gate_parked = 0;
    sp_fault_set("");
}

void sp_agent_main(bool forked)
{
    int confined;

    if (forked) {
        forget_parent();
        acquire_forked();
    }
    sp_agent.own_statm = own_statm();
    sp_coredump_open();
    sp_note_rights();
    sp_peek_init();
    confined = sp_confine();
    /* Before the program goes on: its first call may be one that needs an answer. */
    if (!confined)
        begin_serving();
    sp_agent_spawned();
    if (confined)
        leave(SP_GATE_NO_AGENT);
    if (forked)
        start_forked();
    loop();
}
