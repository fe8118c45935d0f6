/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate from within: what its own files share. Everything here runs in the program's threads,
 * on their stacks, in their signal handlers: no lock, no call of ours that a filter could refuse,
 * general registers only.
 *
 * gate.c        entering, leaving, waiting, requests, the rings
 * gate_close.c  the agent's side
 * gate_calls.c  one gated call: which rule holds for which number
 * gate_merged.c the same calls on merged pages (X)
 * gate_alone.c  rights taken from them, and dropping, where no agent is (D2)
 * gate_mremap.c mremap of what is many mappings by our doing (X)
 * gate_move.c   moving what is many mappings by our doing
 * gate_replace.c un-merging of what only the program can replace (X)
 * gate_removals.c has a call that may take memory away been under way?
 * gate_splice.c what comes before a vmsplice
 * gate_ring.c   before buffers are registered with an io_uring
 * gate_own.c    opening what may be a file of the program's own (own_file.c, own_ask.c)
 * gate_entry.c  the assembly between a patched site and C; clone and fork
 * gate_install.c, site_check.c, patch.c, elf_objects.c, x86_length.c: putting the gate into libc,
 * once
 */
#ifndef SP_AGENT_GATE_INSIDE_H
#define SP_AGENT_GATE_INSIDE_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/uio.h>

#include "gate.h"

void sp_gate_enter(struct sp_gate_pass *pass);
void sp_gate_leave(struct sp_gate_pass *pass);
/* The same for a thread that can keep no pass on its stack until it leaves. */
void sp_gate_enter_counted(void);
void sp_gate_leave_counted(void);

/* Notes that [addr, end) is about to change; inside the gate. */
void sp_gate_note(uint64_t addr, uint64_t end);
/* Notes the page of addr as one that holds a thread control block; inside the gate. */
void sp_gate_note_tcb(uint64_t addr);
/* Notes the pages of a thread whose thread pointer is tls. */
void sp_gate_note_thread(uint64_t tls);
/* early_threads.c: notes the threads that there are, besides this one. False: one is not glibc's, or they cannot be
 * seen. */
bool sp_gate_note_early_threads(void);
/* A thread is about to begin, with this thread pointer and the word that the kernel clears at its end (0:
 * none). Who had the pointer before has ended. */
void sp_gate_thread_begins(uint64_t tls, uint64_t tid);
/* Forgets the control blocks in [addr, end), which is unmapped; inside the gate. */
void sp_gate_forget_tcb(uint64_t addr, uint64_t end);
/* Notes advice for the agent, which holds for this memory until it is unmapped; inside the gate. */
void sp_gate_note_advice(uint64_t addr, uint64_t end, enum sp_gate_word word);
/* Forgets what was advised about [addr, end), which is unmapped or replaced; inside the gate. */
void sp_gate_forget_advice(uint64_t addr, uint64_t end);
/* mremap made [addr, end) to length bytes at `to`: what was advised goes along, as the kernel's flag does. kept:
 * the old place stays mapped (MREMAP_DONTUNMAP). Inside the gate. */
void sp_gate_move_advice(uint64_t addr, uint64_t end, uint64_t to, uint64_t length, bool kept);

/*
 * Asks the agent for something and waits for it: leaves the gate for that and enters it again, so
 * what was true before need not be true after. Returns what the agent answered, 0 or a negative
 * errno; -ESRCH when no agent is there, at once.
 */
long sp_gate_ask(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr, uint64_t end);
/* The same for SP_GATE_UNMERGE_INTO. */
long sp_gate_ask_into(struct sp_gate_pass *pass, uint64_t addr, uint64_t end, uint64_t copy,
                      uint32_t attributes);

/* Is this call one of those that go through the gate? Cheap. */
bool sp_gate_is_gated(long nr, const long *a);
/* Does one gated call (never a clone or execve), as the kernel would: its result. */
long sp_gate_call(struct sp_gate_pass *pass, long nr, const long *a);

/* Is [from, from + length) of one mapping, which could grow? */
bool sp_gate_is_one_mapping(uint64_t from, uint64_t length);
/*
 * Moves [from, from + length), private memory with these attributes (attributes.h), to `to`, which is mapped, as
 * mremap moves one mapping, with MREMAP_DONTUNMAP in flags or 0: 0, or a negative errno, and all of it is where it
 * was; then *left bytes from `to` on are a hole, where another thread may map something. Inside the gate, with the
 * program's signals blocked: a handler would find half of it at each place, or jump away from that.
 */
long sp_gate_move(uint64_t from, uint64_t length, uint64_t to, long flags, uint32_t attributes, uint64_t *left);

/* Can this open, nr being openat or open, be of a file of the program's own (own_file.h)? Cheap. */
bool sp_gate_may_open_own(long nr, const long *a);
/* Does such an open: its result. Outside the gate. */
long sp_gate_open_file(struct sp_gate_pass *pass, long nr, const long *a);

/* May this call take memory away, or the right to read it? Cheap; false also for calls that the kernel refuses. */
bool sp_removals_may_be(long nr, const long *a);
/* Around such a call, inside the gate: what begin returned goes to end. */
struct sp_removal {
    uint32_t pair, fork;
};
struct sp_removal sp_removals_begin(const struct sp_gate_pass *pass);
void sp_removals_end(struct sp_removal removal);
/* In the child of a fork: none is under way there. */
void sp_removals_reset(void);
/* Is none under way now? *begun goes to sp_removals_since(): has one begun since then? Outside or inside the gate. */
bool sp_removals_none(uint64_t *begun);
bool sp_removals_since(uint64_t begun);

/* Before a vmsplice with the arguments a, which is then done natively: its pages are the program's own
 * and stay so. Outside the gate, which it enters and leaves. */
void sp_gate_before_vmsplice(const long *a);

/*
 * Before a call that may put the thread under a seccomp filter, and is then done natively: everything is un-merged,
 * and the agent ends, so that nothing is done for the program by calls that the filter may not let pass, nor in a child
 * that it forks at once. The agent would see the filter of the first thread by itself, but later, and of others
 * never. Outside the gate, which it enters and leaves.
 */
void sp_gate_before_filter(struct sp_gate_pass *pass);

/* io_uring_register with the arguments a, if it names buffers: true, and it is done, its result in *ret;
 * their pages are the program's own before. Outside the gate, which it enters and leaves. */
bool sp_gate_ring_register(struct sp_gate_pass *pass, const long *a, long *ret);

/* A vector of so many parts that can be read? Outside or inside the gate. */
bool sp_gate_is_vector(uint64_t vector, uint64_t parts);
/* The pages of the next part, *start to *stop; false at the end of *left, what one call can move, and at a
 * part that the kernel will refuse. */
bool sp_gate_next_part(const struct iovec *part, uint64_t *left, uint64_t *start, uint64_t *stop);
/* Can the program's memory at [addr, end) be read? Outside or inside the gate. */
bool sp_gate_can_read(uint64_t addr, uint64_t end);

/* Has what is the kernel's page of zeros in [addr, end) (K15) replaced by pages of their own; what may not be written
 * stays as it is, as does what no agent is there for. Inside the gate, which it leaves and enters again. */
void sp_gate_own_zeros(struct sp_gate_pass *pass, uint64_t addr, uint64_t end);

/* Counts forks from the first process to this one. */
uint32_t sp_gate_generation(void);

/* In the child of a fork: the gate as it is after an install. */
void sp_gate_reset(void);

/* What the kernel lacks, so that the gate answers for it; set by sp_gate_install(). */
extern bool sp_gate_no_ksm;
/* The program's break, as its last brk call left it. */
extern uint64_t sp_gate_brk;

static inline uint32_t sp_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void sp_store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline void sp_relax(void)
{
#if defined(__x86_64__)
    __asm__ volatile("pause" ::: "memory");
#else
    __asm__ volatile("yield" ::: "memory");
#endif
}

static inline uint64_t sp_gate_page_up(uint64_t addr)
{
    return (addr + sp_gate.page_size - 1) & ~((uint64_t)sp_gate.page_size - 1);
}

static inline bool sp_gate_page_aligned(uint64_t addr)
{
    return (addr & (sp_gate.page_size - 1)) == 0;
}

/*
 * gate_merged.c, gate_alone.c, gate_mremap.c, gate_replace.c: all inside the gate, [addr, end) page aligned and not empty.
 */
/* madvise on a range with merged pages, but for what is native there. */
long sp_merged_madvise(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end);
/* Before mprotect or pkey_mprotect, nr, on a range with merged pages: they stay merged only if they
 * stay readable and writable, and nothing else. */
void sp_merged_before_protect(struct sp_gate_pass *pass, long nr, const long *a, uint64_t addr,
                              uint64_t end);
/* And without an agent after it, ret being its result: frames that it took the right to write from are replaced. From
 * sp_alone_begin() before the call to sp_alone_end(). */
void sp_merged_after_protect(long nr, const long *a, uint64_t addr, uint64_t end, long ret);
/* Around mprotect or pkey_mprotect, nr, on a range with sites, ret being its result: which of them may not be written,
 * and what becomes zeros because it may (sitemap.h: guarded, frozen, owed). What the first returned goes to the other. */
struct sp_rights {
    uint32_t guarded, thawed;
};
struct sp_rights sp_merged_rights(const long *a, uint64_t addr, uint64_t end);
void sp_merged_after_rights(long nr, const long *a, uint64_t addr, uint64_t end, struct sp_rights before, long ret);
/* New anonymous memory, advised as what was merged is: its address, or a negative errno. */
long sp_gate_map_anonymous(uint64_t addr, uint64_t length, int flags);
/*
 * gate_alone.c: without an agent, around what changes the protection of merged memory, one thread at a time. What is
 * written to a page between its copying and its replacing is lost, and the handler of who may not write there may
 * just give the right back. All signals are blocked meanwhile, for the same handler in the same thread: what begin
 * returned goes to end.
 */
uint64_t sp_alone_begin(void);
void sp_alone_end(uint64_t signals);
/* Without an agent, when the program took the right to write from [addr, end), which is mapped, and has
 * prot now: frames there become anonymous memory, if that can be. */
void sp_alone_freeze(uint64_t addr, uint64_t end, long prot);
/*
 * Without an agent, while there still may be calls of ours: true if all that stays merged under the filter may be
 * written, so that it can be zeroed when it is dropped, and is the program's own; what is not is guarded (sitemap.h).
 * guarded_only: an agent sees to what may be written, and the thread is the program's only one.
 */
bool sp_alone_before_filter(bool guarded_only);
/* Without an agent: zeros in [start, stop), all merged, which the program may not write; others may see a frame before.
 * False: it cannot be done. */
bool sp_alone_zero(uint64_t start, uint64_t stop);
/* Makes all of [start, stop), all merged or given back as zeros (K15), the program's own where it is, also what may not
 * be written, if that can be. With an agent, too. */
void sp_alone_own(uint64_t start, uint64_t stop);
/* mremap of a range with merged pages, or of one that is many mappings by our doing. */
long sp_merged_mremap(struct sp_gate_pass *pass, const long *a, uint64_t addr, uint64_t end);
/* Asks for the merged pages of the range to be un-merged, a few times if new ones are merged
 * meanwhile. kind: SP_GATE_UNMERGE, or SP_GATE_UNMERGE_WRITTEN. */
void sp_merged_unmerge(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr, uint64_t end);
/* The same before a call that gives the range attributes, which are then also those of what was written
 * since it was merged, and stays where it is. */
void sp_merged_before_attributes(struct sp_gate_pass *pass, uint32_t kind, uint64_t addr,
                                 uint64_t end);
/* And before one that locks it. */
void sp_merged_before_lock(struct sp_gate_pass *pass, uint64_t addr, uint64_t end);
/* Un-merges what SP_GATE_UNMERGE_WRITTEN left because the agent may not make the like of it; what cannot
 * be stays as it is. */
void sp_replace_left(struct sp_gate_pass *pass, uint64_t addr, uint64_t end);

#endif
