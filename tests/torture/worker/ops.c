/* SPDX-License-Identifier: Apache-2.0 */
/* The table of operations, and how a thread walks its list of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

const struct op op_table[] = {
    {"check", op_check, HOLD_SHARED, 120, true},
    {"add", op_add, HOLD_SHARED, 120, false},
    {"write", op_write, HOLD_EXCLUSIVE, 60, false},
    {"write-hot", op_write_hot, HOLD_EXCLUSIVE, 20, false},
    {"fill-equal", op_fill_equal, HOLD_EXCLUSIVE, 12, true},
    {"fill-same", op_fill_same, HOLD_EXCLUSIVE, 8, false},
    {"fill-near", op_fill_near, HOLD_EXCLUSIVE, 8, false},
    {"fill-zero", op_fill_zero, HOLD_EXCLUSIVE, 8, false},
    {"fill-own", op_fill_own, HOLD_EXCLUSIVE, 8, false},
    {"remake", op_remake, HOLD_UNPINNED, 30, true},
    {"munmap", op_munmap, HOLD_UNPINNED, 8, true},
    {"munmap-part", op_munmap_part, HOLD_UNPINNED, 8, false},
    {"mmap-fixed", op_mmap_fixed, HOLD_UNPINNED, 8, false},
    {"mmap-file", op_mmap_file, HOLD_UNPINNED, 4, false},
    {"mremap-move", op_mremap_move, HOLD_EXCLUSIVE, 10, true},
    {"mremap-grow", op_mremap_grow, HOLD_EXCLUSIVE, 10, false},
    {"mremap-shrink", op_mremap_shrink, HOLD_UNPINNED, 10, false},
    {"mremap-dontunmap", op_mremap_dontunmap, HOLD_UNPINNED, 4, false},
    {"brk", op_brk, HOLD_NOTHING, 10, false},
    {"shmat", op_shmat, HOLD_UNPINNED, 1, false},
    {"own-mappings", op_own_mappings, HOLD_NOTHING, 10, false},
    {"mprotect", op_mprotect, HOLD_EXCLUSIVE, 10, true},
    {"mprotect-handler", op_mprotect_handler, HOLD_EXCLUSIVE, 6, false},
    {"pkey-mprotect", op_pkey_mprotect, HOLD_EXCLUSIVE, 4, false},
    {"mlock", op_mlock, HOLD_EXCLUSIVE, 6, false},
    {"mlock2", op_mlock2, HOLD_EXCLUSIVE, 6, false},
    {"mlockall", op_mlockall, HOLD_NOTHING, 1, false},
    {"mbind", op_mbind, HOLD_EXCLUSIVE, 4, false},
    {"set-mempolicy-home-node", op_home_node, HOLD_EXCLUSIVE, 4, false},
    {"name", op_name, HOLD_EXCLUSIVE, 4, false},
    {"mlock-advised", op_mlock_advised, HOLD_NOTHING, 12, false},
    {"mbind-advised", op_mbind_advised, HOLD_NOTHING, 12, false},
    {"madvise-dontneed", op_dontneed, HOLD_UNPINNED, 20, false},
    {"madvise-dontneed-locked", op_dontneed_locked, HOLD_UNPINNED, 6, false},
    {"madvise-free", op_free, HOLD_UNPINNED, 10, false},
    {"madvise-remove", op_remove, HOLD_EXCLUSIVE, 4, false},
    {"madvise-random", op_read_advice, HOLD_EXCLUSIVE, 4, false},
    {"madvise-willneed", op_willneed, HOLD_EXCLUSIVE, 4, false},
    {"madvise-cold", op_cold, HOLD_EXCLUSIVE, 4, false},
    {"madvise-pageout", op_pageout, HOLD_EXCLUSIVE, 4, false},
    {"madvise-dontfork", op_dontfork, HOLD_EXCLUSIVE, 4, false},
    {"madvise-wipeonfork", op_wipeonfork, HOLD_EXCLUSIVE, 4, false},
    {"madvise-dontdump", op_dontdump, HOLD_EXCLUSIVE, 4, false},
    {"madvise-hugepage", op_hugepage, HOLD_EXCLUSIVE, 4, false},
    {"madvise-collapse", op_collapse, HOLD_EXCLUSIVE, 2, false},
    {"madvise-unmergeable", op_unmergeable, HOLD_EXCLUSIVE, 20, true},
    {"memory-merge", op_memory_merge, HOLD_NOTHING, 1, false},
    {"madvise-populate", op_populate, HOLD_EXCLUSIVE, 4, false},
    {"madvise-guard", op_guard, HOLD_UNPINNED, 6, false},
    {"process-madvise", op_process_madvise, HOLD_EXCLUSIVE, 4, false},
    {"read-write", op_pipe, HOLD_EXCLUSIVE, 15, false},
    {"socket", op_socket, HOLD_EXCLUSIVE, 10, false},
    {"file", op_file, HOLD_EXCLUSIVE, 10, false},
    {"direct-io", op_direct, HOLD_EXCLUSIVE, 10, false},
    {"process-vm-self", op_vm_self, HOLD_EXCLUSIVE, 8, false},
    {"proc-mem", op_mem_self, HOLD_EXCLUSIVE, 8, false},
    {"futex", op_futex, HOLD_EXCLUSIVE, 3, false},
    {"ring-register", op_ring_register, HOLD_EXCLUSIVE, 12, false},
    {"ring-read", op_ring_read, HOLD_NOTHING, 12, false},
    {"ring-write", op_ring_write, HOLD_NOTHING, 12, false},
    {"ring-release", op_ring_release, HOLD_NOTHING, 4, false},
    {"vmsplice", op_vmsplice, HOLD_EXCLUSIVE, 8, false},
    {"vmsplice-write", op_vmsplice_write, HOLD_NOTHING, 8, false},
    {"vmsplice-read", op_vmsplice_read, HOLD_NOTHING, 6, false},
    {"fork", op_fork, HOLD_EXCLUSIVE, 6, true},
    {"fork-stay", op_fork_stay, HOLD_EXCLUSIVE, 3, false},
    {"fork-nested", op_fork_nested, HOLD_EXCLUSIVE, 2, false},
    {"clone-raw", op_clone_raw, HOLD_EXCLUSIVE, 4, false},
    {"vfork-exec", op_vfork_exec, HOLD_NOTHING, 1, false},
    {"posix-spawn", op_posix_spawn, HOLD_NOTHING, 1, false},
    {"fork-exec", op_fork_exec, HOLD_EXCLUSIVE, 1, false},
    {"thread", op_thread, HOLD_EXCLUSIVE, 4, false},
    {"thread-cancelled", op_thread_cancelled, HOLD_NOTHING, 2, false},
    {"signal", op_signal, HOLD_NOTHING, 6, false},
    {"child-setuid", op_child_setuid, HOLD_EXCLUSIVE, 1, false},
    {"child-seccomp", op_child_seccomp, HOLD_EXCLUSIVE, 2, false},
    {"child-unshare", op_child_unshare, HOLD_EXCLUSIVE, 1, false},
    {"child-chroot", op_child_chroot, HOLD_EXCLUSIVE, 1, false},
    {"child-mdwe", op_child_mdwe, HOLD_EXCLUSIVE, 1, false},
    {"child-mseal", op_child_mseal, HOLD_EXCLUSIVE, 1, false},
    {"child-userfaultfd", op_child_userfaultfd, HOLD_EXCLUSIVE, 1, false},
    {"child-undumpable", op_child_undumpable, HOLD_EXCLUSIVE, 1, false},
    {"child-mlockall-future", op_child_locks_future, HOLD_EXCLUSIVE, 1, false},
    {"library-merge-now", op_library_merge_now, HOLD_SHARED, 6, true},
    {"library-advise", op_library_advise, HOLD_EXCLUSIVE, 4, false},
    {"library-statistics", op_library_statistics, HOLD_NOTHING, 2, false},
    {"ptrace", op_ptrace, HOLD_EXCLUSIVE, 2, false},
    {"process-vm-child", op_vm_child, HOLD_EXCLUSIVE, 2, false},
    {"core-dump", op_core, HOLD_EXCLUSIVE, 1, false},
};

#define NOPS (sizeof(op_table) / sizeof(op_table[0]))
_Static_assert(NOPS <= MAX_OPS, "the stats file has room for fewer operations");

uint32_t ops_count(void)
{
    return NOPS;
}

/* For what is done at the side of another operation. */
void count_op(const char *name)
{
    for (uint32_t i = 0; i < NOPS; i++)
        if (!strcmp(op_table[i].name, name))
            __atomic_add_fetch(&stats->count[i], 1, __ATOMIC_RELAXED);
}

static uint32_t weight[NOPS];
static uint64_t all_weights;

static bool is_listed(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ','))
            return true;
    return false;
}

bool ops_choose(const char *only, const char *without)
{
    for (uint32_t i = 0; i < NOPS; i++) {
        bool wanted = !only || is_listed(only, op_table[i].name);

        wanted = wanted && (!without || !is_listed(without, op_table[i].name));
        weight[i] = wanted ? op_table[i].weight : 0;
        all_weights += weight[i];
    }
    return all_weights;
}

static uint32_t choose(uint64_t c)
{
    c %= all_weights;
    for (uint32_t i = 0;; i++) {
        if (c < weight[i])
            return i;
        c -= weight[i];
    }
}

static bool try_hold(struct block *b, enum hold hold)
{
    if (hold == HOLD_SHARED)
        return !pthread_rwlock_tryrdlock(&b->lock);
    if (pthread_rwlock_trywrlock(&b->lock))
        return false;
    if (hold == HOLD_UNPINNED && b->pins) {
        pthread_rwlock_unlock(&b->lock);
        return false;
    }
    return true;
}

/* Where the block chosen is busy, the next one that is not. The large ones are to be worth merging:
 * what makes their pages differ from others' is seldom done there. */
static struct block *hold_some(struct op const *op, uint64_t *state)
{
    uint64_t c = chance(state);
    bool bulk = nbulk && (op->bulk ? c % 4 == 0 : c % 256 == 0);
    uint32_t first =
        bulk ? (uint32_t)(c >> 8) % nbulk : nbulk + (uint32_t)(c >> 8) % (nblocks - nbulk);

    if (op->hold == HOLD_NOTHING)
        return NULL;
    for (;;) {
        for (uint32_t k = 0; k < nblocks - nbulk; k++) {
            uint32_t i = bulk ? first : nbulk + (first - nbulk + k) % (nblocks - nbulk);

            if (try_hold(&block[i], op->hold))
                return &block[i];
        }
        bulk = false; /* that one may be pinned for long */
        first = nbulk;
        pause_ms(1);
    }
}

static void note_step(struct actor *a, uint32_t op, uint64_t c, const struct block *b)
{
    struct thread_stats *t = a->stats;
    uint32_t which = b ? (uint32_t)(b - block) : ~0u;

    t->recent[t->steps % RECENT].op = op;
    t->recent[t->steps % RECENT].block = which;
    t->recent[t->steps % RECENT].chance = c;
    t->op = op;
    t->block = which;
    __atomic_store_n(&t->since_ms, now_ms(), __ATOMIC_RELAXED);
}

/* The driver wants these, of which a short run had none yet: every second one is one of them. NOPS: not now. */
static uint32_t wanted_op(uint64_t c)
{
    uint32_t from = (uint32_t)(c >> 1) % NOPS;

    for (uint32_t k = 0; c % 2 && k < NOPS; k++) {
        uint32_t i = (from + k) % NOPS;

        if (__atomic_load_n(&stats->wanted[i / 64], __ATOMIC_RELAXED) >> (i % 64) & 1)
            return i;
    }
    return NOPS;
}

/* Each once, so that a short run has them all; then as their weights say. */
static uint32_t next_op(const struct actor *a, uint64_t c)
{
    uint64_t step = a->stats->steps;
    uint32_t wanted = wanted_op(c);

    if (wanted < NOPS && weight[wanted])
        return wanted;
    return step < NOPS && weight[a->deck[step]] ? a->deck[step] : choose(c);
}

static void shuffle_deck(struct actor *a)
{
    for (uint32_t i = 0; i < NOPS; i++) {
        uint32_t other = (uint32_t)(chance(&a->random) % (i + 1));

        a->deck[i] = a->deck[other];
        a->deck[other] = (uint8_t)i;
    }
}

void actor_step(struct actor *a)
{
    uint64_t c = chance(&a->random), state = mix(c);
    uint32_t i = next_op(a, c);
    struct block *b;
    enum done done;

    note_step(a, i, c, NULL);
    b = hold_some(&op_table[i], &state);
    note_step(a, i, c, b);
    done = op_table[i].run(a, b, &state);
    if (b)
        pthread_rwlock_unlock(&b->lock);
    __atomic_add_fetch(done == DONE      ? &stats->count[i]
                       : done == NOT_NOW ? &stats->skipped[i]
                                         : &stats->missing[i],
                       1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&a->stats->steps, 1, __ATOMIC_RELEASE);
}

static int scratch_file(uint32_t index, int flags, const char *kind)
{
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%s/scratch-%u-%u-%s", options.directory, options.id, index, kind);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
    if (fd >= 0)
        unlink(path);
    return fd;
}

bool actor_init(struct actor *a, uint32_t index)
{
    memset(a, 0, sizeof(*a));
    a->index = index;
    a->stats = &stats->thread[index];
    a->random = mix(mix(options.seed + options.id) + index);
    shuffle_deck(a);
    a->snapshot = malloc(2 * 4096 * sizeof(*a->snapshot));
    a->buffer = pages_map(NULL, BUFFER_PAGES, 0);
    a->file = scratch_file(index, 0, "file");
    a->direct = scratch_file(index, O_DIRECT, "direct");
    return a->snapshot && a->buffer != MAP_FAILED && a->file >= 0 && !pipe2(a->pipe, O_CLOEXEC) &&
           !socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a->socket);
}

void actor_finish(struct actor *a)
{
    uint64_t state = 0;

    op_ring_release(a, NULL, &state);
    op_vmsplice_read(a, NULL, &state);
    for (unsigned i = 0; i < sizeof(a->child) / sizeof(a->child[0]); i++)
        if (a->child[i])
            child_wait(a->child[i], "fork-stay", 0);
}

void pause_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L};

    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
