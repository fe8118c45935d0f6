/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker of the torture: a program that does everything of table X to memory that checks
 * itself.
 *
 * The model. All its memory is in **blocks**: a mapping of its own with a lock, and for each page
 * what it must hold (struct page: kind, number, version, additions), kept in shared memory, which
 * is never merged. Whoever holds a block exclusively may change its pages and mappings, and keeps
 * the record true; whoever holds it shared may read, and add to the counting word of its pages. So
 * at any time a check under the lock knows every byte. Merging does not know these locks: it comes
 * at any time.
 *
 * A page's bytes follow from its struct page alone (content.c), not from where it lies: so a copy
 * of a page is a copy of the record, and blocks of all workers that were filled alike are equal.
 *
 * Each thread walks a list of operations (ops.c) that follows from the seed, the worker's number
 * and the thread's. Counts, the last operations of each thread and the record of a wrong byte are
 * in a file that the driver (torture.py) reads while the worker runs and when it is dead.
 */
#ifndef SP_TORTURE_WORKER_H
#define SP_TORTURE_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE        4096u
#define WORDS       (PAGE / 8)
#define MAX_THREADS 16u
#define MAX_OPS     128u
#define MAX_BLOCKS  512u
#define RECENT      32u /* operations of each thread that are remembered */

/* What a page holds. Only OWN pages have no equal in other workers. */
enum kind { KIND_ZERO, KIND_EQUAL, KIND_NEAR, KIND_OWN, KINDS };

struct page {
    uint32_t kind;
    uint32_t number;
    uint32_t version;
    uint32_t additions; /* to the counting word, atomically */
};

struct block {
    pthread_rwlock_t lock;
    char *base;
    uint32_t npages, max_pages;
    uint32_t number; /* of page 0, where the block is filled so that others have it too */
    uint32_t pins; /* rings and pipes that refer to its pages: these must stay the pages they are */
    uint32_t stays;    /* children left by fork-stay that look at its pages; atomically */
    struct page *page; /* max_pages of them */
};

/* The file that the driver reads: see torture/worker_stats.py for the same in Python. */
struct thread_stats {
    uint64_t steps;
    uint64_t op; /* that it is at */
    uint64_t block;
    uint64_t since_ms;
    struct {
        uint32_t op, block;
        uint64_t chance;
    } recent[RECENT]; /* step n at n % RECENT */
};

struct stats {
    uint64_t magic, nops, nthreads, wrong;
    uint64_t pause_us; /* the driver's: between two operations */
    uint64_t pages_checked, enomem;
    uint64_t agent_killed; /* the driver's: it kills the agent, or the agent itself will */
    uint64_t wanted[MAX_OPS / 64]; /* the driver's: operations that are to come more often */
    uint64_t count[MAX_OPS];
    uint64_t skipped[MAX_OPS]; /* could not be done then: the block was pinned, memory short */
    uint64_t missing[MAX_OPS]; /* could not be done here at all */
    struct thread_stats thread[MAX_THREADS];
};
#define STATS_MAGIC 0x3155545254535053ull

struct options {
    uint64_t seed;
    uint32_t id, threads, mib, mappings;
    uint64_t plant; /* operations of the first thread, then it makes a byte wrong; 0: never */
    const char *directory, *stats;
    const char *only, *without; /* operations, with commas */
    bool advise;                /* the program advises its memory itself */
    bool enomem_ok;             /* memory or mappings are kept short from outside */
    bool store;                 /* frames leave memory: what was written to one is in the way (decision 0023) */
};

/* Memory of a thread's own that is advised, and locked or bound: ops_advised.c. */
struct advised {
    char *base;  /* NULL: not now */
    bool merged; /* at the last look */
    struct page *page;
};

/* One thread, or a child in the place of one. */
struct actor {
    uint32_t index;
    struct thread_stats *stats;
    uint64_t random;       /* of the list of operations */
    uint8_t deck[MAX_OPS]; /* which begins with all of them, in some order */
    struct page *snapshot;
    char *buffer; /* BUFFER_PAGES, private */
    int pipe[2], socket[2], file, direct;
    struct ring *ring;
    struct spliced *spliced;
    pid_t child[4];
    struct block *stayed[4]; /* the block of each */
    struct advised locked, bound;
};
#define BUFFER_PAGES 64u

extern struct options options;
extern struct stats *stats;
extern struct block block[MAX_BLOCKS];
extern uint32_t nblocks, nbulk; /* the bulk blocks come first */
extern volatile int stopping;
extern uint64_t forks_begun, forks_ended; /* pages in a pipe may be others after a fork */

/* Numbers that follow from a seed. */
static inline uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline uint64_t chance(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull;
    return mix(*state);
}

/* content.c */
void page_fill(void *at, const struct page *page);
/* Stops the worker, with all that is needed to look at it, if a byte is not what it must be.
 * counting: the counting word is checked too (the block is held exclusively). */
void page_check(const void *at, const struct page *page, bool counting, const char *when);
void page_check_zero(const void *at, const char *when);
/* The same for a copy of the page, which came the way that `when` says. */
bool page_is(const void *at, const struct page *page);
void page_add(void *at, struct page *page);
/* Does a frame of the pool lie there? Of a page that was written: such a frame has no entry until
 * it is touched. */
bool page_is_merged(const void *at);
/* Something else than a byte is not as it must be. */
void wrong(const char *what, const char *when) __attribute__((noreturn));
void fatal(const char *what) __attribute__((noreturn));

/* its_agent.c: part of a report, on stderr. */
void say_its_agent(void);

/* blocks.c */
void blocks_make(void);
void *pages_map(void *at, uint32_t npages, int flags);
static inline char *page_at(const struct block *b, uint32_t i)
{
    return b->base + (size_t)i * PAGE;
}
void block_rewrite(struct block *b, uint32_t i, struct page page);
/* New contents at random, in stretches that are alike: so long runs of frames are found, too. */
void block_refill(struct block *b, uint32_t first, uint32_t n, uint64_t *state);
void block_zeroed(struct block *b, uint32_t first, uint32_t n, const char *when);
void block_check(struct block *b, uint32_t first, uint32_t n, const char *when);
/* Some of its pages only, where it has many. */
void block_check_some(struct block *b, uint64_t *state, const char *when);
struct page page_chosen(const struct block *b, uint32_t i, uint64_t *state);
/* A stretch of at most `most` pages. */
void block_stretch(const struct block *b, uint64_t *state, uint32_t most, uint32_t *first,
                   uint32_t *n);
/* A call failed. True if it lacked memory or mappings, where these are kept short; false: error is
 * another. An ENOMEM that nothing explains stops the worker. */
bool lacking(const char *what);

/* What was merged cannot be un-merged by anybody any more: a known limit, for a few calls. */
static inline bool agent_killed(void)
{
    return __atomic_load_n(&stats->agent_killed, __ATOMIC_SEQ_CST);
}

/* ops.c */
/* false and true do as well for the first two. */
enum done { NOT_NOW, DONE, NOT_HERE /* this kernel, this machine cannot */ };
enum hold { HOLD_NOTHING, HOLD_SHARED, HOLD_EXCLUSIVE, HOLD_UNPINNED };
struct op {
    const char *name;
    enum done (*run)(struct actor *a, struct block *b, uint64_t *state);
    enum hold hold;
    uint32_t weight;
    bool bulk; /* leaves a block equal to other workers', so it is often done to the large ones */
};
extern const struct op op_table[];
uint32_t ops_count(void);
/* Only these (NULL: all), without those (NULL: none). False if nothing is left. */
bool ops_choose(const char *only, const char *without);
void actor_step(struct actor *a);
bool actor_init(struct actor *a, uint32_t index);
/* Ends what it began: rings, pipes, children. */
void actor_finish(struct actor *a);
void count_op(const char *name);

/* The operations, by topic; each has the signature of op.run. */
#define OP(name) enum done name(struct actor *a, struct block *b, uint64_t *state)
OP(op_check);
OP(op_add);
OP(op_write);
OP(op_write_hot);
OP(op_fill_equal);
OP(op_fill_same);
OP(op_fill_near);
OP(op_fill_zero);
OP(op_fill_own);
OP(op_remake);
/* ops_map.c */
OP(op_munmap);
OP(op_munmap_part);
OP(op_mmap_fixed);
OP(op_mmap_file);
OP(op_mremap_move);
OP(op_mremap_grow);
OP(op_mremap_shrink);
OP(op_mremap_dontunmap);
OP(op_brk);
OP(op_shmat);
OP(op_own_mappings);
/* ops_protect.c */
OP(op_mprotect);
OP(op_mprotect_handler);
OP(op_pkey_mprotect);
OP(op_mlock);
OP(op_mlock2);
OP(op_mlockall);
OP(op_mbind);
OP(op_home_node);
OP(op_name);
bool protect_init(void);
/* ops_advised.c */
OP(op_mlock_advised);
OP(op_mbind_advised);
/* Every byte of what the thread has of such memory. */
void advised_check(const struct actor *a, const char *when);
/* ops_advise.c */
OP(op_dontneed);
OP(op_dontneed_locked);
OP(op_free);
OP(op_remove);
OP(op_read_advice);
OP(op_willneed);
OP(op_cold);
OP(op_pageout);
OP(op_dontfork);
OP(op_wipeonfork);
OP(op_dontdump);
OP(op_hugepage);
OP(op_collapse);
OP(op_unmergeable);
OP(op_memory_merge);
OP(op_populate);
OP(op_guard);
OP(op_process_madvise);
/* ops_io.c */
OP(op_pipe);
OP(op_socket);
OP(op_file);
OP(op_direct);
OP(op_vm_self);
OP(op_mem_self);
OP(op_futex);
/* ops_ring.c: pages pinned by a ring's registered buffer. */
OP(op_ring_register);
OP(op_ring_read);
OP(op_ring_write);
OP(op_ring_release);
/* ops_splice.c: pages that lie in a pipe. */
OP(op_vmsplice);
OP(op_vmsplice_write);
OP(op_vmsplice_read);
/* ops_process.c */
OP(op_fork);
OP(op_fork_stay);
OP(op_fork_nested);
OP(op_clone_raw);
OP(op_vfork_exec);
OP(op_posix_spawn);
OP(op_fork_exec);
OP(op_thread);
OP(op_thread_cancelled);
OP(op_signal);
void signals_init(void);
/* ops_child.c: what only a child can do. */
OP(op_child_setuid);
OP(op_child_seccomp);
OP(op_child_unshare);
OP(op_child_chroot);
OP(op_child_mdwe);
OP(op_child_mseal);
OP(op_child_userfaultfd);
OP(op_child_undumpable);
OP(op_child_locks_future);
/* ops_library.c: what libsamepage does, where the worker is linked with it. */
OP(op_library_merge_now);
OP(op_library_advise);
OP(op_library_statistics);
/* ops_trace.c: looked at by another process. */
OP(op_ptrace);
OP(op_vm_child);
OP(op_core);

/*
 * Forks with the block held exclusively; in the child only the block's memory is known, by the
 * snapshot. how: 0 libc's fork, 1 the raw call. Returns as fork.
 */
pid_t fork_with(struct actor *a, struct block *b, int how);
/* In the child: all of the block is as it was in the parent. */
void snapshot_check(struct actor *a, struct block *b, const char *when);
/* In the child: writes, reads, drops pages of the block for so many rounds. */
void child_works(struct actor *a, struct block *b, uint64_t *state, unsigned rounds,
                 unsigned pause_ms);
/* Waits for a child, which must exit with 0; killed_ok: or be killed by this signal. */
void child_wait(pid_t pid, const char *who, int killed_ok);
/* What a program of its own does for a moment; worker --brief. */
int brief(uint64_t seed);
void pause_ms(unsigned ms);
uint64_t now_ms(void);

#endif
