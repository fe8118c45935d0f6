/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent and the daemon say to each other.
 *
 * The model. One SOCK_SEQPACKET connection for each address space (mm) that is merged. The client
 * speaks once, HELLO; from then on the daemon asks and the agent answers, one question at a time,
 * every answer carrying the question's seq. An agent never speaks unasked, so the daemon can wait
 * for an answer with a time limit and needs no thread for it. (Before HELLO, on a connection of its
 * own, a client that gets no userfaultfd from the kernel may ask the daemon for one.) A packet is one message: a struct
 * sp_msg and length bytes of body. Both sides treat what arrives as hostile: magic, type, length
 * and every count are checked against the bytes that came before anything is read (X, "Trust").
 *
 * Beside the socket there is one small shared memory, made and sealed by the daemon (struct
 * sp_shm): the journal of the lift, which the daemon reads only when the agent is dead (D2), and
 * the buffer through which an agent offers page contents. The agent may write all of it at any
 * time: the daemon copies first and checks the copy.
 *
 * The same listening socket serves the commands of the cli: a first packet that starts with '{' is
 * a JSON request (docs/control.md).
 *
 * All integers are in host order: both ends are on one machine.
 */
#ifndef SP_COMMON_WIRE_H
#define SP_COMMON_WIRE_H

#include <stdint.h>

#define SP_WIRE_MAGIC 0x31475053u /* "SPG1" */
#define SP_WIRE_VERSION 6u
#define SP_AGENT_COMM "samepage-agent" /* the name of an agent's process */
#define SP_WIRE_MAX 131072u /* bytes of a whole packet, header included */

#define SP_DOMAIN_MAX 32u    /* a domain's name, with its 0 */
#define SP_LIFT_PAGES 64u    /* pages a lift takes at most (DESIGN.md, The lift) */
#define SP_FILL_PAGES 128u   /* pages a FILL names at most: the offer buffer's */
#define SP_MERGE_PAGES 2048u  /* pages a MERGE names at most */
#define SP_REPORT_PAGES 2048u /* quiet pages a REPORT holds at most */
#define SP_REPORT_RUNS 1024u /* runs of changed, and of gone pages, in a REPORT at most */
#define SP_SITES_RUNS 2048u  /* runs in a SITES answer at most */

enum sp_msg_type {
    SP_MSG_HELLO = 1,    /* client: struct sp_hello, one fd: the userfaultfd */
    SP_MSG_WELCOME,      /* daemon: struct sp_welcome, one fd: the shared memory */
    SP_MSG_REFUSE,       /* daemon: struct sp_refuse; the connection ends */
    SP_MSG_SEGMENT,      /* daemon: struct sp_segment, one read-only fd; answer: SP_MSG_DONE */
    SP_MSG_DROP_SEGMENT, /* daemon: struct sp_segment; answer: DONE when fd and views are gone */
    SP_MSG_SITES,        /* daemon: struct sp_from; answer: struct sp_sites */
    SP_MSG_SCAN,         /* daemon: struct sp_scan_ask; answer: struct sp_report */
    SP_MSG_FILL,         /* daemon: struct sp_fill_ask; answer: struct sp_filled */
    SP_MSG_MERGE,        /* daemon: struct sp_merge_ask; answer: struct sp_merged */
    SP_MSG_UNMERGE,      /* daemon: struct sp_unmerge_ask; answer: struct sp_unmerged */
    SP_MSG_QUIT,         /* daemon: no body; answer: DONE; the agent ends between lifts (D5) */
    SP_MSG_DONE,         /* answer: struct sp_done */
    SP_MSG_EXPLAIN,      /* daemon: struct sp_from; answer: struct sp_explained */
    SP_MSG_WANT_UFFD,    /* client, instead of HELLO: no body; may it have /dev/userfaultfd? */
    SP_MSG_UFFD,         /* daemon: no body, one fd: that device; or REFUSE. The connection ends */
    SP_MSG_ZEROED,       /* daemon: struct sp_from; answer: struct sp_zeroed */
    SP_MSG_LOCKED,       /* daemon: struct sp_from; answer: struct sp_sites, of locked memory alone (S4) */
    SP_MSG_STALL,        /* daemon: no body, one fd: a connection with the store's worker (stall.h), before the first
                            segment of the store, and when that is gone; answer: DONE */
};

struct sp_msg {
    uint32_t magic;
    uint16_t version;
    uint16_t type;
    uint32_t seq;    /* an answer repeats its question's */
    uint32_t length; /* bytes after this header */
};

#define SP_HELLO_ALL 0x1u    /* every large private range that K17 allows */
#define SP_HELLO_FORKED 0x2u /* a forked child: its inherited sites are asked for (K8) */
#define SP_HELLO_REJOIN 0x4u /* was merged by an earlier daemon (D1) */

struct sp_hello {
    uint32_t program_pid; /* the daemon checks it: same mm as the sender, or refused */
    uint32_t flags;
    uint32_t page_size;
    uint32_t reserved;
    uint64_t wait_page; /* address of the gate's wait page */
    char domain[SP_DOMAIN_MAX];
    char comm[16];
};

struct sp_welcome {
    uint64_t seed; /* of the domain's hash */
    uint32_t client_id;
    uint32_t shm_bytes;
    uint64_t pool_id;
};

struct sp_refuse {
    char why[200]; /* ends with 0; goes into the client's one clear line */
};

struct sp_segment {
    uint32_t id;
    uint32_t npages;
};

struct sp_from {
    uint64_t from;
};

struct sp_run {
    uint64_t addr;
    uint64_t npages;
};

struct sp_site_run {
    uint64_t addr;
    uint32_t segment;
    uint32_t index; /* page of the segment that addr maps */
    uint32_t npages;
    uint32_t reserved;
};

struct sp_sites {
    uint64_t next; /* 0: that was all */
    uint32_t nruns;
    uint32_t reserved;
    struct sp_site_run run[]; /* ascending; only pages that still are the frame */
};

/* Pages that were given back to the kernel's own page of zeros (K15), and still are. */
struct sp_zeroed {
    uint64_t next; /* 0: that was all */
    uint32_t nruns;
    uint32_t reserved;
    struct sp_run run[]; /* at most SP_SITES_RUNS; ascending */
};

#define SP_THIN_SEGMENTS 8u

#define SP_SCAN_RESTART 0x1u /* forget what was hashed: report every quiet page again */
#define SP_SCAN_WRITTEN 0x2u /* report pages too that were written after their merge: the daemon saw
                                nothing that could have them pinned */
#define SP_SCAN_NODES 0x8u /* say on which node of memory each page lies (SP_PAGE_NODE) */

#define SP_SCAN_NOW 0x4u /* read the mappings, however short ago that was: somebody waits for this pass */

struct sp_scan_ask {
    uint64_t from;         /* continue at this address; 0: a new pass over this mm */
    uint32_t budget;       /* pages to look into at most, 1 to SP_REPORT_PAGES */
    uint32_t max_mappings; /* 0: the built-in quarter (three quarters for what was advised) */
    uint32_t flags;
    uint32_t nthin;
    struct sp_thin_part {
        uint32_t segment;
        uint32_t end; /* the frames before are to be made free: mappings of them are useless, whatever they hold */
    } thin[SP_THIN_SEGMENTS];
};

#define SP_PAGE_KEPT 0x1u /* in addr: it was merged before; a mapping of the pool held it, or holds it yet */

/* In addr, where SP_SCAN_NODES asked for it: the node that the page lies on, and one; 0: that is not known. */
#define SP_WIRE_NODES 64u
#define SP_PAGE_NODE_SHIFT 1u
#define SP_PAGE_NODE (0x7full << SP_PAGE_NODE_SHIFT)

struct sp_page_hash {
    uint64_t addr;
    uint64_t lo, hi; /* XXH3-128 of the page with the domain's seed */
};

enum sp_report_state {
    SP_REPORT_MERGING = 0,
    SP_REPORT_NO_MAPPINGS = 1, /* the program needs its mappings itself: nothing merges here */
    SP_REPORT_RAW_CALLS = 2, /* its calls go round the gate: nothing merges here any more */
    SP_REPORT_RAW_TOLD = 3,  /* the same from its beginning, and it was told so */
};

/* struct sp_report, then npages sp_page_hash, nchanged sp_run, ngone sp_run. All ascending. */
struct sp_report {
    uint64_t next;    /* where to go on; 0: the pass over this mm is complete */
    uint64_t tracked; /* pages tracked in this mm now */
    uint64_t looked;  /* pages looked into for this answer: hashed, or found changed */
    uint64_t passed;  /* pages passed over because nothing about them changed */
    uint64_t waiting; /* of looked: pages seen for the first time, or again after a change */
    uint64_t merged;  /* pages that map frames in this mm now */
    uint64_t cpu_us;  /* CPU that this agent has used since it began */
    uint64_t kept;    /* pages written after their merge: private, in mappings of the pool */
    uint64_t useless; /* of them: in mappings of the pool in which no page maps a frame any more */
    uint32_t mappings;        /* mappings that merging uses now */
    uint32_t mappings_budget; /* and may use */
    uint32_t npages, nchanged, ngone;
    uint32_t state; /* enum sp_report_state */
};

struct sp_fill_ask {
    uint32_t npages; /* 1 to SP_FILL_PAGES */
    uint32_t reserved;
    uint64_t addr[];
};

struct sp_filled {
    uint64_t ok[SP_FILL_PAGES / 64]; /* bit i: page i was copied into slot i of the offer buffer */
};

/*
 * A page that was written after its merge lies in a mapping of the pool, from where it cannot be
 * lifted: whether something has it pinned, nobody can ask the kernel. Such a page takes two
 * questions. To the first (SP_MERGE_WRITTEN) the agent answers SP_RESULT_HELD: the page is
 * write-protected now, so that whoever wants to pin it for writing waits. Then the daemon looks
 * whether the program has anything that could have pinned it before (pins.h), and asks again, with
 * SP_MERGE_LOOKED, for the held pages; or it asks for no page at all, which lets go of them. What
 * is held is let go of anyway as soon as somebody writes to it, and all of it when SP_HOLD_MSECS have gone by
 * and no question waits. At most SP_HOLD_PAGES are held: so many are to be named in a question, more get
 * SP_CHANGED. UNMERGE works in the same way on mappings of the pool in which every page was written (useless above).
 */
#define SP_MERGE_BREAK_FORK 0x1u /* take a page that fork still shares, by copying it first (K8) */
#define SP_MERGE_WRITTEN 0x2u    /* a page written after its merge is to be held */
#define SP_MERGE_LOOKED 0x4u     /* it was, and nothing has it pinned: now merge it */
/* The node, and one, that all pages of the run must lie on, else they get SP_OTHER_NODE; 0: any. */
#define SP_MERGE_NODE_SHIFT 8u
#define SP_MERGE_NODE (0x7fu << SP_MERGE_NODE_SHIFT)
#define SP_RESULT_HELD 0x80u     /* beside those of enum sp_result: the page is held */
#define SP_SEGMENT_ZEROS 0u /* of a run: no frames, but the kernel's own page of zeros (K15) */
#define SP_HOLD_MSECS 500u /* the daemon looks for 400 at most, where the machine is busy */
#define SP_HOLD_PAGES 128u

struct sp_merge_run {
    uint64_t addr;
    uint32_t segment;
    uint32_t index;
    uint32_t npages;
    uint32_t flags;
};

struct sp_merge_ask {
    uint32_t nruns;
    uint32_t npages; /* sum of the runs', at most SP_MERGE_PAGES */
    struct sp_merge_run run[];
};

/* One enum sp_result (src/engine/ops.h) for every page, in the order of the runs. */
struct sp_merged {
    uint32_t npages;
    uint32_t mappings;
    uint8_t result[];
};

#define SP_UNMERGE_STAY 0x1u /* also merge nothing more in there until told (off, unmerge PID) */
#define SP_UNMERGE_HOLD 0x2u /* hold useless mappings, max_pages at most: npages says how many */
#define SP_UNMERGE_LOOKED 0x4u /* they were: give them plain memory, and the mappings back */

struct sp_unmerge_ask {
    uint64_t start, end; /* 0 and ~0: everything */
    uint32_t max_pages;  /* stop after so many and say where */
    uint32_t flags;
};

struct sp_unmerged {
    int32_t status; /* 0, or a negative errno; -ENOMEM: memory is short, nothing was lost */
    uint32_t mappings;
    uint64_t next;   /* 0: all done */
    uint64_t npages; /* un-merged by this answer */
};

struct sp_done {
    int32_t status; /* 0 or a negative errno */
    uint32_t reserved;
};

/* What a tracked page is at present: each is one of these. */
enum sp_now {
    SP_NOW_MERGED,   /* maps a frame */
    SP_NOW_PRIVATE,  /* was merged, then written: stays in its mapping of the pool */
    SP_NOW_ABSENT,   /* no memory: never written, given back, or the kernel's page of zeros */
    SP_NOW_SWAPPED,
    SP_NOW_CHANGED,  /* written since the last pass but one */
    SP_NOW_SETTLING, /* quiet, to be hashed when its turn comes */
    SP_NOW_NEW,      /* not looked at yet */
    SP_NOW_REPORTED, /* hashed and reported: what became of it is the daemon's knowledge */
    SP_NOW_KINDS
};

/* Why memory is not tracked; what a flag of smaps says (K17) from SP_LEFT_LOCKED on. */
enum sp_left {
    SP_LEFT_NOT, /* it is tracked */
    SP_LEFT_OURS,
    SP_LEFT_SHARED,
    SP_LEFT_FILE,
    SP_LEFT_STACK, /* and thread control blocks */
    SP_LEFT_SPECIAL,
    SP_LEFT_NO_ACCESS,
    SP_LEFT_READ_ONLY,
    SP_LEFT_EXECUTABLE,
    SP_LEFT_USERFAULTFD, /* the program's own */
    SP_LEFT_NOT_ADVISED,
    SP_LEFT_BOUND, /* to nodes, by mbind */
    SP_LEFT_SMALL,
    SP_LEFT_TOO_MANY, /* ranges */
    SP_LEFT_LOCKED,
    SP_LEFT_WIPEONFORK,
    SP_LEFT_DONTDUMP,
    SP_LEFT_SEALED,
    SP_LEFT_KEYED, /* a protection key */
    SP_LEFT_HUGETLB,
    SP_LEFT_READ_ADVICE, /* MADV_SEQUENTIAL, MADV_RANDOM */
    SP_LEFT_DEVICE,
    SP_LEFT_OTHER_FLAG,
    SP_LEFT_KINDS
};

/* Why nothing is merged in all of this mm, as far as its agent knows. */
#define SP_EXPLAINED_LOCKS_FUTURE 0x1u /* mlockall(MCL_FUTURE) is in force */
#define SP_EXPLAINED_GAVE_BACK 0x2u    /* it ran out of mappings once */
#define SP_EXPLAINED_SHORT 0x4u        /* it needs its mappings itself */
#define SP_EXPLAINED_RAW_CODE 0x10u    /* code in it makes system calls round the gate */
#define SP_EXPLAINED_RAW_CHANGE 0x20u  /* memory of it changed without a call that the gate saw */
#define SP_EXPLAINED_RING_ADVICE 0x40u /* it gives advice about its memory by an io_uring */
#define SP_EXPLAINED_STAYS 0x8u        /* un-merged on request, to stay so */

struct sp_explained {
    uint64_t next; /* 0: that was all */
    uint64_t page[SP_NOW_KINDS]; /* tracked pages before next, by kind */
    uint64_t left[SP_LEFT_KINDS]; /* bytes of the whole mm, by reason; 0 unless from was 0 */
    uint32_t flags;
    uint32_t reserved;
};

/*
 * The shared memory of one client.
 *
 * The agent writes the journal before a lift's first move and clears it after the last page is back
 * or mapped, so that at any instant a dead agent's pages can be found (D2): a page that is present
 * in staging belongs to addr + i pages. The fields are written before state, with release.
 */
enum sp_journal_state { SP_JOURNAL_NONE = 0, SP_JOURNAL_LIFT = 1 };

struct sp_journal {
    uint32_t state;
    uint32_t npages; /* 1 to SP_LIFT_PAGES */
    uint64_t addr;
    uint64_t staging; /* page i of the lift, when in the air, is at staging + i pages */
};

/*
 * What an agent did, in pages, since this memory was made: it adds, the daemon reads. Here they
 * outlive an agent that is killed, and cost no message.
 */
enum sp_count {
    SP_COUNT_LIFTED,   /* taken out of the program's reach, to be compared */
    SP_COUNT_PUT_BACK, /* of them: to where they were */
    SP_COUNT_MERGED,   /* of them: a frame took their place */
    SP_COUNT_UNMERGED, /* pages of the program's own took a frame's place, with its bytes */
    SP_COUNTS
};

#define SP_SHM_OFFER 65536u /* offset of the offer buffer: SP_FILL_PAGES pages */

struct sp_shm {
    struct sp_journal journal;
    uint64_t count[SP_COUNTS];
};

/* What the daemon writes into the wait page of a program whose agent is dead: nobody will open the
 * gate again, so whoever waits there goes on (D2). */
#define SP_WAIT_PAGE_ABANDONED 1u

#endif
