/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate: keeps the program's own address-space calls out of a lift (DESIGN.md, The gate).
 *
 * The model. Every place in the program's libc and ld.so where a call that changes mappings (or
 * forks, or makes a thread) enters the kernel is patched to go through the gate: the thread
 * **enters** (puts its **pass**, a few words on its own stack, into one of SP_GATE_SLOTS slots), does
 * its call, **leaves**. The agent **closes** the gate: it sets closed, waits until all slots are
 * empty, and from then until it opens it again no gated call runs. Entering is: take a slot, then
 * look at closed; closing is: set closed, then look at the slots; both with a full barrier, so that
 * at least one sees the other.
 *
 * A handler that interrupts a thread in a gated call may make such calls itself. Made to wait while
 * the agent waits for the call below it, they would wait for each other. So the agent marks the
 * passes that it waits for (held), and who is **nested** in a marked one goes on: the gate will not be
 * closed before that one left.
 *
 * A handler that jumps out of a gated call (siglongjmp), and a thread that is cancelled in one, never
 * leave. Their passes are **ghosts**: as long as a pass is one, its word `alive` stands in it; the
 * thread's stack is used for other things afterwards, and the word is gone. The agent, which is kept
 * waiting, looks for it, and whether the thread is alive, and does not count the slots of ghosts.
 *
 * A thread that must wait waits by reading the **wait page**, which is registered MISSING with the
 * agent's userfaultfd and is missing: no system call, so no seccomp filter can kill it for
 * waiting, and the fault itself tells the agent that somebody waits. The agent gives the page when
 * the gate is open, and takes it away again when nobody waits any more. A wait page that reads
 * SP_WAIT_PAGE_ABANDONED (the daemon wrote it) says that the agent is dead: pass.
 *
 * What else the gate does, because it sees these calls anyway:
 * - it **marks** what ranges changed, so that the agent can tell under the closed gate, without a
 *   system call, whether a range is still what it was when it was last looked at. A mark is the number
 *   of the agent's look, the **epoch**, for each 256 KiB, in two tables that go round every 1 GiB, one a
 *   little sooner, so that what looks changed in both lies at the same place: plain stores, so that threads
 *   that change mappings all the time do not disturb each other, and no change, however many there are, is
 *   lost or makes all others look changed;
 * - it notes where threads keep their control blocks (the **tcb ring**): such a page is never
 *   lifted, for the kernel writes to it at thread exit without being able to wait; and the thread
 *   pointers, from which the robust mutexes are found that a thread holds (robust.c);
 * - on merged pages it does what the program means where a private file mapping would behave
 *   differently from anonymous memory (X): DONTNEED and FREE give zeros, mremap moves and grows;
 * - it notes which pages go into a pipe by vmsplice: they are never merged while they are those
 *   pages (sitemap.h);
 * - it asks the agent, by a **request** and a touch of the wait page, for what only the agent can
 *   do: un-merging a range with its bytes kept.
 *
 * The gate's state is private memory of the program: a forked child has its own copy, which the
 * forking thread resets before fork returns. No system call of ours is made in the program's
 * threads, but for those that replace the program's own (madvise, mremap on merged pages), a look
 * whether vmsplice's vector can be read, what it takes to show the program its own KSM files (own_file.h), the blocking of signals while the agent replaces what this
 * thread asked for, and, in the child of a fork, those that start its agent.
 */
#ifndef SP_AGENT_GATE_H
#define SP_AGENT_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_GATE_SLOTS 256u
#define SP_GATE_MARKS 4096u
#define SP_GATE_MARKS_ODD 4093u /* a prime: with the above it goes round after 4 TiB */
#define SP_GATE_MARK_SHIFT 18u /* 256 KiB a mark */
#define SP_GATE_TCBS 1024u
#define SP_GATE_REQUESTS 16u
#define SP_GATE_ADVICE 256u
#define SP_GATE_REMOVALS 8u /* a divisor of SP_GATE_SLOTS */

enum sp_gate_agent {
    SP_GATE_NO_AGENT = 0, /* none, or ended: the gate only does what X needs on merged pages */
    SP_GATE_AGENT = 1,    /* one is there: requests are served */
    SP_GATE_FILTERED = 2, /* ended because the program put itself under a filter: no call at all
                             may be made that the program did not ask for */
};

/* May merged pages lie in mappings of the store? Who touches them meanwhile is not held off then; or only who writes to
 * one that was written since its merge (stall.c). */
enum sp_gate_stored { SP_NOT_STORED = 0, SP_STORED, SP_STORED_STALLS };

struct sp_gate_slot {
    __attribute__((aligned(64))) uint64_t pass; /* address of the pass that is inside, 0: none */
    uint64_t owner; /* its thread, by the thread pointer; behind pass: both are emptied at once */
    uint32_t held;  /* the closing that waits for it to leave */
    uint8_t pad[44]; /* a cache line each: threads of different slots do not disturb each other */
};

/* A thread's way through the gate: kept on its stack, because it must leave where it entered. */
struct sp_gate_pass {
    uint64_t alive;      /* SP_GATE_ALIVE ^ its own address, from before it enters until it left */
    uint32_t slot;       /* SP_GATE_SLOTS: none was free, it is counted */
    uint32_t generation; /* of the fork that this process is: what entered before it left already */
};

#define SP_GATE_ALIVE 0x5350a11e00000000ull

/* What the program advised about a range: kernels without KSM leave no other trace of it. */
struct sp_gate_advice {
    uint64_t addr, end; /* what of it is still mapped; atomically */
    uint32_t word;      /* enum sp_gate_word; NONE: what was said before of it died with the memory */
    uint32_t reserved;
};

/* What the program's last word about memory is; it remembers SP_GATE_ADVICE of them. */
enum sp_gate_word { SP_WORD_NONE = 0, SP_WORD_MERGEABLE, SP_WORD_UNMERGEABLE };

enum sp_gate_request_kind {
    SP_GATE_UNMERGE = 1, /* give [addr, end) private anonymous pages with the same bytes */
    SP_GATE_RELEASE = 2, /* UNMERGE_WRITTEN, and leave the range alone (its own userfaultfd) */
    SP_GATE_GIVE_BACK = 3, /* the program is out of mappings: un-merge runs, merge no more here */
    SP_GATE_ATTRIBUTES = 4, /* what it has (attributes.h), if it could be one mapping, but for us */
    SP_GATE_UNTRACK = 5,    /* end its tracking until sp_gate.moving is 0 */
    SP_GATE_UNMERGE_WRITTEN = 6, /* UNMERGE, also of pages that were written since they were merged */
    SP_GATE_ZERO = 7, /* make the sites in [addr, end) zeros where they are, which others may see happen */
    SP_GATE_UNMERGE_INTO = 8, /* UNMERGE_WRITTEN, by moving the mapping `copy` there, if what is there
                                 has these attributes; else, or if it fails, copy stays where it is */
    SP_GATE_OWN_ZEROS = 9, /* UNMERGE, and give what is the kernel's page of zeros pages of their own (K15) */
    SP_GATE_OWN_NAME = 10, /* 1 if the path at addr ends in the name of a file of the program's own (own_file.h) */
    SP_GATE_LEFT = 13, /* ATTRIBUTES, for UNMERGE_INTO; -EINVAL: that would come to nothing */
    SP_GATE_EMPTY = 12, /* put empty memory in place of the sites in [addr, end): how many pages */
    SP_GATE_FILTER = 11, /* a thread is about to put itself under a seccomp filter: give all back, and end */
};

enum sp_gate_request_state { SP_REQUEST_FREE = 0, SP_REQUEST_TAKEN, SP_REQUEST_POSTED,
                             SP_REQUEST_DONE };

struct sp_gate_request {
    uint32_t state; /* atomically; POSTED by the thread, DONE by the agent */
    uint32_t kind;
    uint64_t addr, end;
    uint64_t copy; /* as long as [addr, end); else 0 */
    uint32_t attributes;
    uint32_t quiet; /* no handler of the thread runs before it is answered */
    int64_t status; /* 0 or a negative errno, set before DONE */
    uint64_t pass, owner; /* of the thread that waits, set before POSTED */
};

/* Of the calls that may take memory away, or the right to read it, those that are counted here (gate_removals.c). */
struct sp_gate_removals {
    __attribute__((aligned(64))) uint64_t begun;
    uint64_t done;
};

struct sp_gate {
    uint32_t closed;   /* not 0: wait; it is the number of the closing */
    uint32_t closings; /* number of the last one, set behind closed: if it is the same after a look that found closed 0,
                          the gate was not closed meanwhile */
    uint32_t waiters;  /* threads at the wait page, or on their way to it or from it */
    uint32_t agent;    /* enum sp_gate_agent */
    uint32_t filter;   /* a thread put itself under one, or was about to: why agent is FILTERED */
    uint32_t protecting; /* a futex: without an agent, a thread changes the protection of merged memory */
    uint32_t execs;    /* counts execve calls begun: the agent then looks whether to end */
    uint32_t advise_all;      /* the program called prctl(PR_SET_MEMORY_MERGE, 1) */
    uint32_t locks_future;    /* the program called mlockall(MCL_FUTURE): no merging meanwhile */
    uint32_t home_nodes; /* the program gave memory a home node, which nobody can ask for */
    uint32_t page_size;
    uint32_t counted; /* inside without a slot: forks, and who found none */
    uint32_t shares_tls; /* threads may have one thread pointer together */
    int64_t tid_offset;  /* of the word that the kernel clears when a thread ends, from its thread
                            pointer; 0: not known yet */
    uint32_t tid_unknown; /* a thread has it somewhere else, or has none */
    uint32_t dontfork; /* merged memory may be MADV_DONTFORK: forked children are without it */
    uint32_t guarded; /* sites may have another protection than read and write, or be locked: they are mixed, too.
                         Which ones: sitemap.h */
    uint32_t locked;  /* some of those may be locked */
    uint32_t advised_only; /* merged pages are what the program advised */
    uint32_t attributes; /* of merged memory: all of it, unless mixed */
    uint32_t mixed;  /* merged pages, and written ones in mappings of the pool, have various ones */
    uint32_t keyed;  /* merged pages may have another key than 0 (pkey_mprotect), where there is no agent */
    uint32_t asks;   /* requests begun, and ended: a call that asked is under way though the gate closed */
    uint32_t stored; /* enum sp_gate_stored */
    uint32_t putter; /* the process that puts memory in place for the agent, with the gate closed (stall.c); 0: none. The
                        kernel clears it when that ends */
    uint32_t moving; /* threads that move memory which must not be tracked meanwhile */
    volatile uint32_t *wait_page;
    uint32_t code;        /* counts mappings of files that are to be executed */
    uint32_t epoch;       /* changed under the closed gate only */
    uint32_t changed;     /* epoch of the last change */
    uint32_t changed_all; /* and of the last one with more marks than there are */
    int64_t robust_offset; /* of the head of a thread's list of robust mutexes, from its thread pointer; 0:
                              not known */
    uint64_t tcb_seq, thread_seq;
    struct sp_gate_slot slot[SP_GATE_SLOTS];
    uint32_t mark[SP_GATE_MARKS]; /* epoch of the last change of what lies there */
    uint32_t mark_odd[SP_GATE_MARKS_ODD]; /* the same */
    uint64_t tcb[SP_GATE_TCBS]; /* page addresses; one thread may have two */
    uint64_t thread[SP_GATE_TCBS]; /* thread pointers, also of threads that ended */
    struct sp_gate_request request[SP_GATE_REQUESTS];
    uint64_t advise_seq; /* words seen so far; entry n at n % SP_GATE_ADVICE */
    struct sp_gate_advice advice[SP_GATE_ADVICE];
    struct sp_gate_removals removals[SP_GATE_REMOVALS];
};

/* The one gate of this address space (a deliberate singleton: patched code needs its address). */
extern struct sp_gate sp_gate;
/* Of the agent that was started last: the kernel clears it when that ends, however it ends. */
extern uint32_t sp_gate_agent_tid;
/* A daemon has it, and puts right what it leaves. Set by the agent, which lifts nothing while it is 0. */
extern uint32_t sp_gate_agent_known;

/*
 * Patches every gated site of libc and ld.so, after checking all of them: on any doubt nothing is
 * patched and -1 is returned, with a sentence in why that names the object and its build-id.
 * Called once, before main(); threads that a library began before are found (early_threads.c). wait_page must be set. Uses raw system
 * calls only. The gate is open afterwards.
 */
int sp_gate_install(char *why, size_t why_size);
/* What sp_gate_install() returns where system calls go round the gate: it was not put in, and why says
 * which. */
#define SP_GATE_RAW_CALLS 1

/*
 * Agent's side. sp_gate_close() returns true when no thread is inside and none will enter, false
 * after about spin_us microseconds if one stays inside (the gate is open again then). Never called
 * with the gate closed.
 */
bool sp_gate_close(unsigned spin_us);
/* The same for what can be done at any other time: it waits for up to ten milliseconds, because the
 * thread inside may be waiting for a processor, and is false at once for some time after it failed,
 * unless it is to be done now. */
bool sp_gate_close_to_merge(bool now);
/* Set by the agent: is the pass at this address, of this thread, a ghost? NULL: none is taken for one. Called while
 * the gate is closing: whoever enters from then on waits, so what is a ghost now stays out. */
extern bool (*sp_gate_is_ghost)(uint64_t pass, uint64_t owner);
/* Owner of the request that is being served, 0: none. A handler of that thread may have interrupted
 * another call of it, which stays inside and does not move: it is not waited for. Only for closings
 * after which nothing is merged: the call may have looked already whether anything is. */
extern uint64_t sp_gate_parked;
/* Gives requests free whose threads jumped out of waiting for them. */
void sp_gate_bury_requests(void);
/* Opens. Returns true if threads wait: the agent must then give the wait page. */
bool sp_gate_open(void);

/* With the gate closed, or while the program has one thread: begins an epoch. */
void sp_gate_begin_epoch(void);
/* With the gate closed, or as a hint with it open: did a gated call change anything in this epoch; did
 * one touch [addr, end)? True also for some of what lies near, and rarely for what lies GiBs away. */
bool sp_gate_changed_any(void);
bool sp_gate_changed(uint64_t addr, uint64_t end);
/* The same for any epoch from this one on. */
bool sp_gate_changed_from(uint32_t epoch, uint64_t addr, uint64_t end);
/* With the gate closed, before a page is merged: what its memory has (attributes.h). */
void sp_gate_tell_attributes(uint32_t attributes);
/* With the gate closed: is a thread control block known in [addr, end)? True also when more are
 * known than the ring holds. */
bool sp_gate_tcb_in(uint64_t addr, uint64_t end);
/* The thread pointers that are known begin here; 0 is none. How many entries there are; more than SP_GATE_TCBS:
 * not all threads are known. */
uint64_t sp_gate_threads(const uint64_t **thread);
/* The program's last word about the page at addr. *end, above addr, becomes less if what comes before it has
 * another one. */
enum sp_gate_word sp_gate_advice_at(uint64_t addr, uint64_t *end);
/* With the gate closed: is there a thread that asked for something about [addr, end), and that has not
 * gone on since? It relies on what it was answered. */
bool sp_gate_asked_for(uint64_t addr, uint64_t end);
/* Returns the next posted request, or NULL; the caller sets status, then calls done. Requests are not
 * counted: the count of a thread that was killed before it posted would never be true again. */
struct sp_gate_request *sp_gate_next_request(void);
void sp_gate_request_done(struct sp_gate_request *request, int64_t status);

/*
 * What the gate needs of the rest of the agent.
 */

/* By the thread that asked for mappings: if the agent died while it replaced a run, that run's bytes
 * are put back. */
void sp_agent_finish_plain(void);
/* By a thread of the program, inside the gate or its only one: what of [addr, end) is not mapped are no
 * sites, as what MADV_DONTFORK kept from a child, and what a call that failed unmapped (sites.c). */
void sp_sites_drop_unmapped(uint64_t addr, uint64_t end);
/* In the child of a fork, by the forking thread, after the gate was reset and before fork returns:
 * starts the child's agent if the parent had one. */
void sp_agent_forked(void);

#endif
