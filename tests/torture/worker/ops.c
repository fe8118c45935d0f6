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
    {"check", op_check, HOLD_SHARED, 120},
    {"add", op_add, HOLD_SHARED, 120},
    {"write", op_write, HOLD_EXCLUSIVE, 60},
    {"write-hot", op_write_hot, HOLD_EXCLUSIVE, 20},
    {"fill-equal", op_fill_equal, HOLD_EXCLUSIVE, 30},
    {"fill-same", op_fill_same, HOLD_EXCLUSIVE, 8},
    {"fill-near", op_fill_near, HOLD_EXCLUSIVE, 8},
    {"fill-zero", op_fill_zero, HOLD_EXCLUSIVE, 8},
    {"fill-own", op_fill_own, HOLD_EXCLUSIVE, 8},
    {"remake", op_remake, HOLD_UNPINNED, 10},
    {"munmap", op_munmap, HOLD_UNPINNED, 8},
    {"munmap-part", op_munmap_part, HOLD_UNPINNED, 8},
    {"mmap-fixed", op_mmap_fixed, HOLD_UNPINNED, 8},
    {"mmap-file", op_mmap_file, HOLD_UNPINNED, 4},
    {"mremap-move", op_mremap_move, HOLD_EXCLUSIVE, 10},
    {"mremap-grow", op_mremap_grow, HOLD_EXCLUSIVE, 10},
    {"mremap-shrink", op_mremap_shrink, HOLD_UNPINNED, 10},
    {"mremap-dontunmap", op_mremap_dontunmap, HOLD_UNPINNED, 4},
    {"brk", op_brk, HOLD_NOTHING, 10},
    {"shmat", op_shmat, HOLD_UNPINNED, 1},
    {"own-mappings", op_own_mappings, HOLD_NOTHING, 10},
    {"mprotect", op_mprotect, HOLD_EXCLUSIVE, 10},
    {"mprotect-handler", op_mprotect_handler, HOLD_EXCLUSIVE, 6},
    {"pkey-mprotect", op_pkey_mprotect, HOLD_EXCLUSIVE, 4},
    {"mlock", op_mlock, HOLD_EXCLUSIVE, 6},
    {"mlock2", op_mlock2, HOLD_EXCLUSIVE, 6},
    {"mlockall", op_mlockall, HOLD_NOTHING, 1},
    {"mbind", op_mbind, HOLD_EXCLUSIVE, 4},
    {"set-mempolicy-home-node", op_home_node, HOLD_EXCLUSIVE, 4},
    {"name", op_name, HOLD_EXCLUSIVE, 4},
    {"madvise-dontneed", op_dontneed, HOLD_UNPINNED, 20},
    {"madvise-dontneed-locked", op_dontneed_locked, HOLD_UNPINNED, 6},
    {"madvise-free", op_free, HOLD_UNPINNED, 10},
    {"madvise-remove", op_remove, HOLD_EXCLUSIVE, 4},
    {"madvise-random", op_read_advice, HOLD_EXCLUSIVE, 4},
    {"madvise-willneed", op_willneed, HOLD_EXCLUSIVE, 4},
    {"madvise-cold", op_cold, HOLD_EXCLUSIVE, 4},
    {"madvise-pageout", op_pageout, HOLD_EXCLUSIVE, 4},
    {"madvise-dontfork", op_dontfork, HOLD_EXCLUSIVE, 4},
    {"madvise-wipeonfork", op_wipeonfork, HOLD_EXCLUSIVE, 4},
    {"madvise-dontdump", op_dontdump, HOLD_EXCLUSIVE, 4},
    {"madvise-hugepage", op_hugepage, HOLD_EXCLUSIVE, 4},
    {"madvise-collapse", op_collapse, HOLD_EXCLUSIVE, 2},
    {"madvise-unmergeable", op_unmergeable, HOLD_EXCLUSIVE, 20},
    {"memory-merge", op_memory_merge, HOLD_NOTHING, 1},
    {"madvise-populate", op_populate, HOLD_EXCLUSIVE, 4},
    {"madvise-guard", op_guard, HOLD_UNPINNED, 6},
    {"process-madvise", op_process_madvise, HOLD_EXCLUSIVE, 4},
    {"read-write", op_pipe, HOLD_EXCLUSIVE, 15},
    {"socket", op_socket, HOLD_EXCLUSIVE, 10},
    {"file", op_file, HOLD_EXCLUSIVE, 10},
    {"direct-io", op_direct, HOLD_EXCLUSIVE, 10},
    {"process-vm-self", op_vm_self, HOLD_EXCLUSIVE, 8},
    {"proc-mem", op_mem_self, HOLD_EXCLUSIVE, 8},
    {"futex", op_futex, HOLD_EXCLUSIVE, 3},
    {"ring-register", op_ring_register, HOLD_EXCLUSIVE, 12},
    {"ring-read", op_ring_read, HOLD_NOTHING, 12},
    {"ring-write", op_ring_write, HOLD_NOTHING, 12},
    {"ring-release", op_ring_release, HOLD_NOTHING, 4},
    {"vmsplice", op_vmsplice, HOLD_EXCLUSIVE, 8},
    {"vmsplice-write", op_vmsplice_write, HOLD_NOTHING, 8},
    {"vmsplice-read", op_vmsplice_read, HOLD_NOTHING, 6},
    {"fork", op_fork, HOLD_EXCLUSIVE, 6},
    {"fork-stay", op_fork_stay, HOLD_EXCLUSIVE, 3},
    {"fork-nested", op_fork_nested, HOLD_EXCLUSIVE, 2},
    {"clone-raw", op_clone_raw, HOLD_EXCLUSIVE, 4},
    {"vfork-exec", op_vfork_exec, HOLD_NOTHING, 1},
    {"posix-spawn", op_posix_spawn, HOLD_NOTHING, 1},
    {"fork-exec", op_fork_exec, HOLD_EXCLUSIVE, 1},
    {"thread", op_thread, HOLD_EXCLUSIVE, 4},
    {"thread-cancelled", op_thread_cancelled, HOLD_NOTHING, 2},
    {"signal", op_signal, HOLD_NOTHING, 6},
    {"child-setuid", op_child_setuid, HOLD_EXCLUSIVE, 1},
    {"child-seccomp", op_child_seccomp, HOLD_EXCLUSIVE, 2},
    {"child-unshare", op_child_unshare, HOLD_EXCLUSIVE, 1},
    {"child-chroot", op_child_chroot, HOLD_EXCLUSIVE, 1},
    {"child-mdwe", op_child_mdwe, HOLD_EXCLUSIVE, 1},
    {"child-mseal", op_child_mseal, HOLD_EXCLUSIVE, 1},
    {"child-userfaultfd", op_child_userfaultfd, HOLD_EXCLUSIVE, 1},
    {"child-undumpable", op_child_undumpable, HOLD_EXCLUSIVE, 1},
    {"child-mlockall-future", op_child_locks_future, HOLD_EXCLUSIVE, 1},
    {"ptrace", op_ptrace, HOLD_EXCLUSIVE, 2},
    {"process-vm-child", op_vm_child, HOLD_EXCLUSIVE, 2},
    {"core-dump", op_core, HOLD_EXCLUSIVE, 1},
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

/* One in four operations is on one of the few bulk blocks, which come first. Where the block chosen
 * is busy, the next one that is not. */
static struct block *hold_some(struct op const *op, uint64_t *state)
{
    uint64_t c = chance(state);
    uint32_t first = (uint32_t)((c & 3) || nblocks < 8 ? (c >> 8) % nblocks : (c >> 8) % 8);

    if (op->hold == HOLD_NOTHING)
        return NULL;
    for (;;) {
        for (uint32_t k = 0; k < nblocks; k++)
            if (try_hold(&block[(first + k) % nblocks], op->hold))
                return &block[(first + k) % nblocks];
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

/* Each once, so that a short run has them all; then as their weights say. */
static uint32_t next_op(const struct actor *a, uint64_t c)
{
    uint64_t step = a->stats->steps;

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
