/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent: what samepage does inside a client.
 *
 * The model. The library is preloaded; its constructor (start.c), still in the program's only
 * thread and before main(), probes the kernel, speaks to the daemon, patches the gate in, and
 * starts the **agent process**: a clone that shares the program's memory and nothing else. From
 * then on the program's threads run code of ours only in the gate. The agent process drops every
 * right (confine.c), answers the daemon's questions one by one (loop.c), and ends with the program.
 *
 * What it keeps. **Ranges** (ranges.c): the program's large private anonymous memory, as the
 * mappings' flags say, read again when something changed. For every 512 pages of it two bitmaps
 * (track.c): pending, the page was new or written at the last look; hashed, its hash was reported
 * and it did not change since. The site map (sitemap.h): which pages map frames. Nothing else is
 * remembered: what a frame holds, and who shares it, is the daemon's knowledge.
 *
 * What it does to the program's memory is in two files only: lift.c (merging) and unmerge.c. Both
 * work with the gate closed, both leave the page as it was when anything fails.
 *
 * One agent for each address space; its state is one static struct, because a fork must find it
 * again at the same place. No libc, no allocation after the start but mmap.
 */
#ifndef SP_AGENT_AGENT_H
#define SP_AGENT_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "attributes.h"
#include "fault.h"
#include "hash.h"
#include "wire.h"

#define SP_AGENT_SEGMENTS 4096u /* segments one client can map: 64 GiB of frames */
#define SP_AGENT_RANGES 16384u

struct sp_mapping;

struct sp_view {
    uint64_t base; /* the agent's read-only view of the segment, 0: none */
    uint64_t device, inode; /* of the segment, also when the view was dropped */
    bool dropped; /* because the daemon said so: it needs nothing of the segment any more */
    uint32_t npages;
    int32_t fd; /* read-only; frames are mapped from it */
};

struct sp_range {
    uint64_t start, end;
    uint64_t flags; /* SP_RANGE_ attributes of its plain mappings */
};

struct sp_agent {
    /* Set by the constructor, kept across fork. */
    uint32_t page_size, page_shift;
    bool all;
    uint32_t max_map_count;
    char socket_path[108];
    uint64_t address; /* sealed, of the socket: address.c; 0: this kernel cannot */
    char domain[SP_DOMAIN_MAX];
    char comm[16];
    uint64_t arena, arena_end; /* everything below lives in one reservation of our own */
    uint64_t staging;          /* SP_LIFT_PAGES pages, registered MISSING */
    uint64_t track_area, seed_area;
    uint64_t stack_top, helper_stack_top, aside_stack_top, putter_stack_top;
    sp_hash_fn hash;

    /* This process'. */
    int program_pid;
    int sock, uffd, uffd_sync, shm_fd;
    int pagemap, smaps, program_status, program_statm, program_stat, own_statm, pidfd;
    int coredump; /* /proc/self/coredump_filter */
    int maps;     /* -1: none */
    int stall;    /* the connection with the store's worker (stall.h), -1: none */
    uint64_t shm; /* address, 0: none */
    uint32_t shm_bytes;
    uint64_t seed;
    bool leave;  /* end at the next chance */
    bool arena_filled; /* mlockall() filled staging or the wait page: sp_arena_clean() */
    bool running; /* the agent process is up: its program's threads may be doing anything */
    bool serving; /* in sp_serve_gate() */
    bool daemon_unmerges; /* it knows which pages are no sites any more */

    /* Ranges. */
    struct sp_range *range; /* SP_AGENT_RANGES of them, in the arena, ascending */
    uint32_t nranges;
    uint64_t ranges_vm;      /* total_vm when the flags were read */
    uint64_t ranges_at_us;   /* when, */
    uint64_t ranges_cost_us; /* and the CPU that it took */
    uint64_t tracked;
    uint64_t left[SP_LEFT_KINDS]; /* bytes that are not tracked, by reason */
    uint32_t all_mappings; /* of this address space */
    uint32_t own_mappings; /* of them the program's: merging's not counted */
    uint32_t mappings;     /* that merging uses: as read, and two for each run merged since */
    uint32_t mappings_read, mappings_at_pass; /* when last read; when the last pass began */
    uint32_t rest_passes; /* since something was merged */
    uint32_t max_mappings; /* as set; 0: the built-in budget */
    bool gave_back;        /* the program ran out of mappings once: no more merging here */
    bool stay_unmerged;
    bool alone;  /* whom we serve is the program's only thread, and no handler of it runs meanwhile */
    bool stored; /* frames may leave memory: the pool's mappings may be the store's, which no userfaultfd can have */
    bool filtered; /* a thread is under a filter, or will be at once: gives all back, and ends */
    uint32_t raw_calls; /* why the program cannot be protected, of SP_EXPLAINED_RAW_, _RING_; 0: it can */
    bool raw_told;      /* the program was told so when it began */
    bool raw_done;      /* what was merged is its own again */
    uint32_t code_known; /* sp_gate.code when all executable mappings had been looked at */
    struct sp_range plain; /* the run that sp_unmerge_plain() is at; its bytes are in staging */

    struct sp_view view[SP_AGENT_SEGMENTS];
    uint64_t rights; /* that the agent was born with: sp_program_changed() */
    bool test_features; /* test builds: the kernel is to look too old */
    bool test_no_mseal; /* test builds: ... older than 6.10 */
    bool test_no_ksm;   /* test builds: the kernel is to look as one without KSM to the gate */
    uint64_t test_nodes; /* test builds: see nodes.c; 0: pages lie where the kernel says */
    bool test_hasty;    /* test builds: pages rest for a 64th of the time (lasting.c) */
};

extern struct sp_agent sp_agent;

#define SP_OFFER ((void *)(sp_agent.shm + SP_SHM_OFFER))
#define SP_JOURNAL ((struct sp_journal *)sp_agent.shm)

/* Counts pages for the daemon; what is done while there is none is not counted. */
static inline void sp_count(enum sp_count what, uint64_t npages)
{
    if (sp_agent.shm)
        ((struct sp_shm *)sp_agent.shm)->count[what] += npages;
}

/* start.c */
/* Makes the agent process of this address space and waits until it is confined, or dead: nobody meets
 * an agent that still has the program's rights. 0 or a negative errno. */
int sp_agent_spawn(void);
/* By the agent: it is confined, or ends; the program's thread may go on. */
void sp_agent_spawned(void);

/* untold.c: by the program's thread that makes a child, all signals blocked. True: a child made
 * until sp_untold_end(), to end with SIGCHLD, is counted nowhere (RUSAGE_CHILDREN), and a wait for
 * it ends with ECHILD. forked: the process was born just now. False: there are other children, or
 * may be; nothing is to be ended. */
bool sp_untold_begin(bool forked);
void sp_untold_end(void);

/* process.c: runs in the agent process, never returns. forked: the agent of a forked child, which
 * opens all it needs itself. */
void sp_agent_main(bool forked) __attribute__((noreturn));
/*
 * A thread of the program is about to put itself under a filter, and waits: gives everything back and ends, by which the
 * thread is told that there is no agent any more. -EAGAIN, or -EBUSY if the program has other threads: a thread stays in a
 * call, or memory is short; the agent goes on trying, and ends. With the gate open and nothing in the air.
 */
int64_t sp_agent_before_filter(void);

/* setup.c */
int sp_setup_arena(void);
/* Opens the userfaultfds; returns 0, or a negative errno with the reason in why: -EAGAIN if only a
 * daemon could give them, and none answers. */
int sp_setup_uffd(char *why, size_t why_size);
/* The same in two halves: from the kernel or the device, which needs the program's rights (a negative
 * errno if neither gives them); and from the daemon, which needs no more than what the agent has left
 * when it is confined. */
int sp_setup_uffd_own(void);
int sp_setup_uffd_passed(char *why, size_t why_size);
int sp_setup_proc(char *why, size_t why_size);
/* Registers wait page and staging with the userfaultfd. */
int sp_setup_areas(void);
uint64_t sp_now_us(void);
uint64_t sp_cpu_us(void);

/* address.c */
#define SP_ADDRESS_SIZE 110u /* struct sockaddr_un */
/* Puts the daemon's address where nobody can change it any more: the only one to which a confined
 * agent may connect. Before main(); kept across fork. Without it (no mseal, Linux below 6.10) the agent
 * cannot connect at all once it is confined, so a new daemon does not get it (D1). */
void sp_address_seal(void);

/* confine.c */
/* Drops capabilities, sets no_new_privs, own session, closes all descriptors but the agent's, opens
 * pagemap anew, without the capability that shows physical addresses, installs the seccomp filter.
 * Negative errno: the agent must not go on. */
int sp_confine(void);
/* The last of these alone: all descriptors but the agent's. */
void sp_close_others(void);
/* Notes the rights that this process was born with: to be called before sp_confine(). */
void sp_note_rights(void);
/* Are the program's credentials or filters other than the ones noted? */
bool sp_program_changed(void);
/* Does the program forbid others to look into it (not dumpable, K17)? */
bool sp_program_forbids(void);
/* Threads of the program now, 0 if that cannot be known. */
uint32_t sp_program_threads(void);
/* Has somebody the program under ptrace? */
bool sp_program_traced(void);
/* Does the kernel write a core dump of the program? False also when that cannot be known, as where its first
 * thread ended before the others. It takes some microseconds. */
bool sp_program_dumps(void);
/* Is the program's memory still this one (no exec)? True also of a dead program: its pidfd tells. */
bool sp_program_here(void);

/* coredump.c */
/* Before it is confined. */
void sp_coredump_open(void);
/* Sees to it that a core dump of the program holds merged pages where it would hold anonymous ones (X). */
void sp_coredump_hold_merged(void);

/* link.c */
#define SP_LINK_FAMILY 1u        /* AF_UNIX */
#define SP_LINK_TYPE   02000005u /* SOCK_SEQPACKET | SOCK_CLOEXEC */
/* Connects. An agent whose address is not sealed does so before it is confined. */
int sp_link_dial(void);
/* Connects and says HELLO; waits for WELCOME some seconds. 0, or a negative errno with why; -EAGAIN: a daemon was there,
 * and ended meanwhile. */
int sp_link_join(uint32_t flags, char *why, size_t why_size);
void sp_link_drop(void);
/* Asks the daemon for the descriptor of /dev/userfaultfd, on a connection of its own: before HELLO.
 * The descriptor, or a negative errno with why: -EAGAIN if no daemon answers. */
int sp_link_want_uffd(char *why, size_t why_size);
/* Receives one packet into buf: its length, 0 for end of file, or a negative errno. *fd is a
 * descriptor that came along, or -1. */
long sp_link_receive(void *buf, size_t size, int *fd);
/* Sends one packet over any socket. Negative errno. */
long sp_link_put(int sock, const void *packet, size_t size);
int sp_link_answer(const struct sp_msg *question, uint16_t type, const void *body, size_t length);

/* serve.c: answers one question. */
void sp_serve(const struct sp_msg *msg, const uint8_t *body, int fd);
/* With the gate closed: empties staging and the wait page again if mlockall() had them filled. */
void sp_arena_clean(void);
/* Serves what the program's threads wait for at the gate. */
void sp_serve_gate(void);

/* ranges.c */
/* Reads the mappings again if anything may have changed and the last time is long enough ago;
 * force: now. Registers new memory for write tracking. Returns true if the list is fresh. */
bool sp_ranges_refresh(bool force);
/* Maps fresh anonymous memory with the flags of the range around addr, at `at` (MAP_FIXED) or, if
 * that is 0, anywhere. The address or a negative errno. */
long sp_range_map(uint64_t addr, uint64_t length, uint64_t at);
/* What [addr, end) has, if it is private anonymous memory that would be one mapping but for what we did
 * to it: its SP_RANGE_ attributes. Reads the mappings if it must. -EFAULT: it is not. */
long sp_range_attributes(uint64_t addr, uint64_t end);
/* Ends the tracking of [addr, end), so that the kernel treats its mappings as it did the one that they
 * were. It begins again when sp_gate.moving is 0. 0, or a negative errno: some of it may be tracked still. */
int sp_range_untrack(uint64_t addr, uint64_t end);
/* The range that holds [addr, end) whole, or NULL. */
const struct sp_range *sp_range_of(uint64_t addr, uint64_t end);
uint32_t sp_mappings_budget(void);
/* Is there room in it for what takes two more? */
bool sp_mappings_left(void);
/* Was so much merged since mappings were counted that they should be counted again? sp_useless_look() does. */
bool sp_mappings_are_stale(void);
/* Does the program need so many mappings itself that none is left for merging? */
bool sp_mappings_short(void);

/* useless.c: mappings of the pool that are to be given back. */
struct sp_mapping;
/* The mappings are read anew; then one of the pool. */
void sp_useless_read_begin(void);
void sp_useless_note(const struct sp_mapping *m);
/* In a forked child: what was found is the parent's. */
void sp_useless_forget(void);
/* A pass begins: looks for more of them, if there may be such, at some of the mappings. */
void sp_useless_look(void);
/* Is anything of [addr, end) in a mapping of the pool that is not as a merge makes it? As last read. */
bool sp_range_odd(uint64_t addr, uint64_t end);
/* Pages in mappings of the pool in which every page was written and is at rest, as last read. */
uint64_t sp_ranges_useless(void);
/* Takes one of them out of the list; false: there is none. */
bool sp_range_useless(uint64_t *start, uint64_t *end);
/* Frames whose mappings are useless, too, from the next reading on. */
void sp_ranges_thin(const struct sp_thin_part *part, uint32_t n);

/*
 * code_watch.c: programs whose calls do not all go through the gate (DESIGN.md, The gate).
 */
/* Before the mappings are read: with no gated call under way since the epoch began. */
void sp_code_look_begin(void);
/* While they are read, for each executable mapping of a file. */
void sp_code_seen(const struct sp_mapping *m);
/* Afterwards: looks at the code that was not there before, and for memory among the nold ranges of before
 * that is gone without a gated call since that epoch began. What it finds stands in raw_calls. */
void sp_code_look_end(uint32_t epoch, const struct sp_range *old, uint32_t nold);
/* Was everything that is mapped to be executed looked at? */
bool sp_code_is_known(void);

/*
 * released.c: what the program keeps for a userfaultfd of its own (X).
 */
/* Before the program's call: [start, end) is not tracked from now on. */
void sp_released_add(uint64_t start, uint64_t end);
/* Is anything kept? No call of the program tells when that ends: the mappings are to be read to know. */
bool sp_released_any(void);
/* With the gate closed and nobody inside: what nobody waits for is registered now, or will not be. */
void sp_released_calls_done(void);
/* Around a reading of all mappings, and for each of them: is part of it kept? What turned out not to be
 * is forgotten at the end. */
void sp_released_read_begin(void);
bool sp_released_holds(const struct sp_mapping *m);
/* *end: of what begins at start, moved down so that all between the two is kept, or nothing. */
void sp_released_cut(uint64_t start, uint64_t *end);
void sp_released_read_end(void);

/* track.c */
/* Bytes of address space the books need, at sp_agent.track_area. */
uint64_t sp_track_bytes(void);
void sp_track_init(void);
void sp_track_restart(void);
/* Marks pages as new: they are looked at again from the start (K3). Those that were sites are not any
 * more, which the next report tells unless the daemon knows (K12). */
void sp_track_pending(uint64_t addr, uint64_t npages);
/* Pages merged: not looked at any more until they change. */
void sp_track_merged(uint64_t addr, uint64_t npages);
/* Pages given back to the kernel's page of zeros (K15): the same. */
void sp_track_zeroed(uint64_t addr, uint64_t npages);
struct sp_report_out {
    struct sp_report head;
    struct sp_page_hash page[SP_REPORT_PAGES];
    struct sp_run changed[SP_REPORT_RUNS];
    struct sp_run gone[SP_REPORT_RUNS];
};
void sp_track_scan(const struct sp_scan_ask *ask, struct sp_report_out *out);
/* Adds up what the tracked pages from `from` on are at present, so many of them as take some ten
 * milliseconds; out->next says where to go on. */
void sp_track_explain(uint64_t from, struct sp_explained *out);
/* Notes that pages are not tracked any more, for the next report. */
void sp_track_gone(uint64_t addr, uint64_t end);


/* kept.c: pages that were written after their merge. */
void sp_kept_init(void);
/* How many there are, as far as was seen. */
uint64_t sp_kept_pages(void);
/* Has one come, or come to rest, since sp_kept_read()? */
bool sp_kept_moved(void);
void sp_kept_read(void);
/* Says that there may be useless mappings though none has. */
void sp_kept_stir(void);
/* Notes such pages that were found otherwise than by a scan. */
void sp_track_kept(uint64_t addr, uint64_t end);
/* To merge such pages, which were reported, came to nothing: they are reported again in the next age in which
 * they are found as they are. */
void sp_kept_report_again(uint64_t addr, uint64_t end);
/* Are all pages of [addr, end) such pages, and at rest? */
bool sp_kept_all(uint64_t addr, uint64_t end);

/* peek.c: reading the program's memory, which may vanish while it is read. */
void sp_peek_init(void);
/* Copies, compares, hashes one page; false if it could not be read. */
bool sp_peek_copy(void *dst, uint64_t src);
bool sp_peek_equal(uint64_t addr, const void *frame, bool *equal);
/* Is every byte of the page 0? */
bool sp_peek_zero(uint64_t addr, bool *zero);
bool sp_peek_hash(uint64_t addr, struct sp_hash128 *hash);
/* sp_raw_call() of a mapping; false if it could not be read. */
bool sp_peek_raw_call(uint64_t start, uint64_t end, uint64_t *found);
/* sp_ring_advises() there. */
bool sp_peek_ring(uint64_t start, uint64_t end, bool *found);
/* One word, aligned. */
bool sp_peek_word(uint64_t addr, uint64_t *word);

/* ghosts.c: sp_gate_is_ghost of the agent. */
bool sp_pass_is_ghost(uint64_t pass, uint64_t owner);
/* Has the thread with this thread pointer ended, for sure? */
bool sp_thread_has_ended(uint64_t owner);

/* robust.c: mutexes of which the kernel tells others when the thread that holds them ends. */
/* How much there is to look through. */
#define SP_ROBUST_MAX 128u
struct sp_robust {
    uint64_t word[SP_ROBUST_MAX]; /* addresses that the kernel may write to when a thread ends */
    uint32_t n;
    bool all; /* any address may be such */
};
/* Finds those of all threads. Who takes one afterwards writes to it. */
void sp_robust_find(struct sp_robust *robust);
bool sp_robust_in(const struct sp_robust *robust, uint64_t addr, uint64_t end);

/* nodes.c: on which node of the machine's memory pages lie (N1). */
/* Puts it into the addresses of n pages, at most SP_REPORT_PAGES. */
void sp_nodes_tell(struct sp_page_hash *page, uint32_t n);
/* Looks where the pages of a run that names a node lie, for sp_nodes_differ(); not with pages in the air. */
void sp_nodes_look(const struct sp_merge_run *run);
/* Does page k of the run that was looked at last lie on another node than it names, or is that not known? */
bool sp_nodes_differ(const struct sp_merge_run *run, uint32_t k);

/* lift.c */
/* Merges the runs of ask; result gets one enum sp_result a page. */
void sp_lift_merge(const struct sp_merge_ask *ask, uint8_t *result);
/* Maps n frames over the pages at addr, with the gate closed and nobody able to write them: false if
 * there is no mapping left, or no room to note them, and nothing was changed. */
bool sp_lift_map(uint64_t addr, uint32_t n, uint32_t segment, uint32_t index);

/* When nobody can reach a page any more: waits for who found it just before, by ptrace say. */
void sp_wait_for_reachers(void);

/* again.c: pages that were written after their merge. */
/* With the gate closed: is all of it what it was when the flags were read, readable, writable, in
 * mappings of the pool, and may it be merged? */
bool sp_again_valid(uint64_t addr, uint64_t end);
/* Forgets what was to be held. */
void sp_again_begin(void);
/* Wants the page at addr held; its result, result[slot], is SP_RESULT_HELD if it is in the end. */
void sp_again_want(uint64_t addr, uint32_t slot);
void sp_again_hold(uint8_t *result);
/* Merges pages that are held. */
void sp_again_merge(const struct sp_merge_ask *ask, uint8_t *result);
/* Holds pages of useless mappings, max_pages at most; how many. */
uint64_t sp_again_hold_useless(uint64_t max_pages);
/* Gives what is held plain memory, and lets go of it. How many pages. */
uint64_t sp_again_unmerge(void);
/* Lets go of all that is held. */
void sp_again_release(void);
/* Somebody waits to write addr: lets go of what is held there. */
void sp_again_touched(uint64_t addr);
/* In a forked child: what is held is the parent's. */
void sp_again_forget(void);
/* Since when (sp_now_us()) is anything held? 0: nothing is. */
uint64_t sp_again_since(void);

/* seeds.c: where un-merged memory can be made so that the kernel joins it with what lies around it. */
/* In a lift, when the pages of [addr, end) are in the air: takes a seed from there if one is needed. */
void sp_seed_take(uint64_t addr, uint64_t end);
/* Empty memory of that length to be put over addr by mremap(): its address; 0: none can be had. */
uint64_t sp_seed_grow(uint64_t addr, uint64_t length);
/* Address space that the seeds need, at sp_agent.seed_area. */
uint64_t sp_seed_bytes(void);
/* In a forked child: its seeds are of no use to it. */
void sp_seeds_forget(void);

/* unmerge.c */
/* Which pages are un-merged besides those that map frames, and into what. */
struct sp_unmerge_how {
    uint64_t written; /* bit i: page i, which was written since and which nothing has pinned */
    bool all;         /* all of them, as sp_unmerge_written() */
    uint64_t copy;    /* with all, as sp_unmerge_into(): whose mapping it stays if it fails; 0: memory of our own */
    uint32_t attributes; /* that the pages must have then */
};
/* Un-merges pages of at most SP_LIFT_PAGES in a row; how is not changed meanwhile. Adds to *done how many were
 * moved. 0, or a negative errno. */
int sp_unmerge_run(uint64_t addr, uint32_t npages, const struct sp_unmerge_how *how, uint64_t *done);
/* Un-merges the sites of [start, end), at most max_pages; *next where to go on or 0. */
int sp_unmerge(uint64_t start, uint64_t end, uint64_t max_pages, uint64_t *next, uint64_t *npages);
/* Un-merges all of [start, end), also the pages that were written since they were merged. What has such
 * a page pinned loses it: only for calls that would be wrong on it where it is. */
int sp_unmerge_written(uint64_t start, uint64_t end);
/* Are the pages from start to end, at most a lift, such as sp_unmerge_written() has to leave as they are: written, in the
 * store's mappings, with more threads in the program than the one that asks? */
bool sp_unmerge_must_leave(uint64_t start, uint64_t end);
/* The same for up to max_runs runs, in a way that gives their mappings back, which is only possible
 * while the program's only thread waits for us: returns the runs, 0 if it has more threads. */
uint64_t sp_unmerge_plain(uint64_t max_runs);
/* Un-merges [addr, end), at most a lift's pages, all of them sites and alike, into the mapping `copy`, if they
 * have these attributes. 0: copy was moved there; a negative errno: it is where it was, and the sites, too. */
int sp_unmerge_into(uint64_t addr, uint64_t end, uint64_t copy, uint32_t attributes);

/* Which of npages pages, at most SP_LIFT_PAGES, still are the frame's: bit i for page i. 0, or a negative errno: that
 * cannot be told. */
int sp_unmerge_frames(uint64_t addr, uint32_t npages, uint64_t *frames);

/* stall.c: un-merging where frames can leave memory. */
/* CLONE_VM, _FILES, _UNTRACED, _PARENT_SETTID, _CHILD_CLEARTID: what the agent's filter allows. */
#define SP_STALL_CLONE 0x00b00500u
/* Takes a connection with the store's worker over, in place of the one there was; -1: there is none any more. */
void sp_stall_take(int fd);
/*
 * With the gate closed: puts the pages of `copy` over those of [addr, addr + npages) that are in `frames`, and that
 * nobody wrote; whose bytes the copy has. whole: all of them, or none. *moved: bit i for page i of the copy that was put.
 * 0, or a negative errno: nothing can be put, or not all was.
 */
int sp_stall_put(uint64_t addr, uint32_t npages, uint64_t copy, uint64_t frames, bool whole, uint64_t *moved);

/* zeroed.c: pages that were given back to the kernel's page of zeros (K15). */
/* Gives those of [start, end) pages of their own, at most max_pages or a few more; *next where to go on or 0,
 * *npages how many. 0, or a negative errno: those before *next, unless it is 0, have theirs. */
int sp_unmerge_zeros(uint64_t start, uint64_t end, uint64_t max_pages, uint64_t *next, uint64_t *npages);
/* Answers SP_MSG_ZEROED. */
void sp_zeroed_report(const struct sp_msg *msg, uint64_t from);

/* empty.c */
/* Puts empty memory, with what they have beside their bytes, in place of the sites in [start, end). How many
 * pages: the others are as they were. -EAGAIN: none, some thread was in the gate all the time. */
int64_t sp_empty_sites(uint64_t start, uint64_t end);

/* zero.c */
/* Makes the sites in [start, end) pages of zeros, and leaves their mappings as they are. 0, or a
 * negative errno: some may still be what they were. */
int sp_zero_sites(uint64_t start, uint64_t end);

/* views.c */
/* Takes fd over. 0 or a negative errno. */
int sp_view_add(uint32_t id, uint32_t npages, int fd);
void sp_view_drop(uint32_t id);
void sp_views_drop_all(void);
/* In a forked child, which has none of them. */
void sp_views_forget(void);
/* Address of the frame in the view, 0 if there is none. */
uint64_t sp_view_frame(uint32_t id, uint32_t index);
/* Segment that a mapping of this file belongs to, 0: none that there is a view of. */
uint32_t sp_view_of_file(uint64_t device, uint64_t inode);
/* Is it a mapping of the pool? Also where there is no view yet, or none any more: then the file that it
 * was a view of tells, or the sites. */
bool sp_view_is_pool(const struct sp_mapping *m);
/* Is it one that the daemon had dropped? */
bool sp_view_is_dropped(uint64_t device, uint64_t inode);

/* sites.c: answers SP_MSG_SITES. */
void sp_sites_report(const struct sp_msg *msg, uint64_t from);
/* sp_sites_drop_unmapped(): gate.h */

/* quiet.c */
/* A pass begins; known: the mappings are. True if it can be left out, because nothing can be found. */
bool sp_quiet_pass(bool known);
/* It came to its end. */
void sp_quiet_pass_done(void);
/* Something was found, or done to the program's memory: the next pass looks. */
void sp_quiet_disturb(void);

#endif
