/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: runs of neighbours, K9 (a segment is freed only when nothing maps it), K11 (a frame's
 * bytes never change), who may open what, and D1 (another process takes the pool over). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "pool.h"

#define PAGE ((size_t)sysconf(_SC_PAGESIZE))

struct fixture {
    struct sp_pool *pool;
    struct sp_pool_set *set;
};

static int make_pool(void **state)
{
    static struct fixture f;
    char why[200] = "";

    if (sp_pool_new(&f.pool, why, sizeof(why))) {
        print_message("no pool here: %s\n", why);
        return -1;
    }
    f.set = sp_pool_set_new(f.pool, 7);
    *state = &f;
    return f.set ? 0 : -1;
}

static int drop_pool(void **state)
{
    struct fixture *f = *state;

    sp_pool_free(f->pool);
    return 0;
}

/* One filled frame, the only one of its segment; a client's descriptor of it. */
static int one_frame(struct fixture *f, uint32_t *segment, uint32_t *index)
{
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, 1, segment, index, &got), 0);
    assert_int_equal(got, 1);
    memset((void *)sp_pool_frame(f->set, *segment, *index), 0xab, PAGE);
    int fd = sp_pool_segment_fd(f->set, *segment);
    assert_true(fd >= 0);
    return fd;
}

static uint64_t segments(struct fixture *f)
{
    struct sp_pool_counters c;

    sp_pool_counters(f->pool, &c);
    return c.segments;
}

static void alloc_gives_neighbours(void **state)
{
    struct fixture *f = *state;
    uint32_t s1, i1, s2, i2;
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, 64, &s1, &i1, &got), 0);
    assert_int_equal(got, 64);
    assert_int_equal(sp_pool_alloc(f->set, 32, &s2, &i2, &got), 0);
    assert_int_equal(got, 32);
    assert_int_equal(s2, s1);
    assert_int_equal(i2, i1 + 64);
    assert_null(sp_pool_frame(f->set, s1, i2 + 32));
    assert_null(sp_pool_frame(f->set, s1 + 1, 0));
    assert_ptr_equal(sp_pool_frame(f->set, s1, i2 + 1),
                     (char *)sp_pool_frame(f->set, s1, i1) + 65 * PAGE);
}

static void short_rest_opens_a_segment(void **state)
{
    struct fixture *f = *state;
    uint32_t s1, s2, s3, index;
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES - 8, &s1, &index, &got), 0);
    assert_int_equal(sp_pool_alloc(f->set, 16, &s2, &index, &got), 0);
    assert_int_equal(got, 16);
    assert_int_not_equal(s1, s2);
    /* The fullest segment that has room for all of it is filled first. */
    assert_int_equal(sp_pool_alloc(f->set, 8, &s3, &index, &got), 0);
    assert_int_equal(s3, s1);
    assert_int_equal(index, SP_POOL_SEGMENT_PAGES - 8);
    assert_int_equal(sp_pool_alloc(f->set, 2 * SP_POOL_SEGMENT_PAGES, &s3, &index, &got), 0);
    assert_int_equal(got, SP_POOL_SEGMENT_PAGES);
}

static void rest_is_used_when_no_segment_can_be_opened(void **state)
{
    struct fixture *f = *state;
    struct rlimit old, none;
    uint32_t s1, s2, index;
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES - 8, &s1, &index, &got), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = (struct rlimit){3, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int err = sp_pool_alloc(f->set, 16, &s2, &index, &got);
    int full = err ? err : sp_pool_alloc(f->set, 16, &s2, &index, &(unsigned){0});
    setrlimit(RLIMIT_NOFILE, &old);
    assert_int_equal(err, 0);
    assert_int_equal(got, 8);
    assert_int_equal(s2, s1);
    assert_int_equal(full, -ENOSPC);
    assert_int_equal(segments(f), 1);
}

static void unalloc_is_handed_out_again(void **state)
{
    struct fixture *f = *state;
    struct sp_pool_counters c;
    uint32_t s, first, hole, again;
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, 64, &s, &first, &got), 0);
    sp_pool_unalloc(f->set, s, first + 16, 8);
    sp_pool_unalloc(f->set, s, first + 60, 4);
    sp_pool_set_counters(f->set, &c);
    assert_int_equal(c.frames_used, 52);
    assert_int_equal(c.frames_lingering, 0);
    assert_int_equal(sp_pool_alloc(f->set, 4, &s, &hole, &got), 0);
    assert_int_equal(hole, first + 16);
    assert_int_equal(sp_pool_alloc(f->set, 16, &s, &again, &got), 0);
    assert_int_equal(again, first + 60);
    /* What was forgotten is never written again, whoever asks. */
    sp_pool_forget(f->set, s, first);
    sp_pool_unalloc(f->set, s, first, 1);
    assert_int_equal(sp_pool_alloc(f->set, 1, &s, &again, &got), 0);
    assert_int_equal(again, first + 20);
    sp_pool_unalloc(f->set, s, 1u << 30, 5);
    sp_pool_forget(f->set, s, 1u << 30);
}

static void k9_segment_lives_while_a_descriptor_exists(void **state)
{
    struct fixture *f = *state;
    uint32_t s, i;
    int fd = one_frame(f, &s, &i);

    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
    sp_pool_forget(f->set, s, i);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
    close(fd);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), 0);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -ENOENT);
    struct sp_pool_counters c;
    sp_pool_counters(f->pool, &c);
    assert_int_equal(c.bytes, 0);
    assert_int_equal(c.segments, 0);
}

static void k9_segment_lives_while_a_raw_fork_maps_it(void **state)
{
    struct fixture *f = *state;
    uint32_t s, i;
    int fd = one_frame(f, &s, &i);
    unsigned char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

    assert_ptr_not_equal(map, MAP_FAILED);
    close(fd);
    sp_pool_forget(f->set, s, i);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!pid)
        for (;;)
            pause();
    munmap(map, PAGE);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), 0);
}

static void k9_claim_ends_retirement_and_bytes_are_there(void **state)
{
    struct fixture *f = *state;
    uint32_t s, i, other, index;
    unsigned got;
    int fd = one_frame(f, &s, &i);

    sp_pool_forget(f->set, s, i);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
    assert_int_equal(sp_pool_alloc(f->set, 1, &other, &index, &got), 0);
    assert_int_not_equal(other, s);
    assert_int_equal(sp_pool_claim(f->set, s, i), 0);
    assert_int_equal(sp_pool_claim(f->set, s, i + 1), -ENOENT);
    assert_int_equal(((unsigned char *)sp_pool_frame(f->set, s, i))[5], 0xab);
    close(fd);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), -EBUSY);
}

static void k11_a_private_write_leaves_the_frame(void **state)
{
    struct fixture *f = *state;
    uint32_t s, i;
    int fd = one_frame(f, &s, &i);
    unsigned char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

    assert_ptr_not_equal(map, MAP_FAILED);
    map[0] = 1;
    assert_int_equal(((unsigned char *)sp_pool_frame(f->set, s, i))[0], 0xab);
    assert_int_equal(map[1], 0xab);
    assert_int_equal(mprotect(map, PAGE, PROT_READ | PROT_EXEC), 0);
    munmap(map, PAGE);
    close(fd);
}

/* Attacks on a client's descriptor; the number of the first that worked, 0 if none did. */
static int attack(int fd)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (open(path, O_RDWR) >= 0 || errno != EROFS)
        return 1;
    if (open(path, O_WRONLY) >= 0 || open(path, O_RDONLY | O_TRUNC) >= 0)
        return 2;
    if (!fchmod(fd, 0666) || errno != EROFS)
        return 3;
    if (mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
        return 4;
    void *map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || !mprotect(map, PAGE, PROT_READ | PROT_WRITE))
        return 5;
    if (!madvise(map, PAGE, MADV_REMOVE) ||
        !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)PAGE))
        return 6;
    if (!ftruncate(fd, 0) || !truncate(path, 0) || !fchown(fd, 1, 1))
        return 7;
    if (pwrite(fd, "x", 1, 0) >= 0)
        return 8;
    if (!linkat(AT_FDCWD, path, AT_FDCWD, "/dev/shm/sp_pool_attack", AT_SYMLINK_FOLLOW))
        return 9;
    return 0;
}

static void client_cannot_write_even_as_root(void **state)
{
    struct fixture *f = *state;
    uint32_t s, i;
    int status, fd = one_frame(f, &s, &i);

    pid_t pid = fork();
    if (!pid)
        _exit(attack(fd));
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(((unsigned char *)sp_pool_frame(f->set, s, i))[0], 0xab);
    close(fd);
}

static void retired_set_frees_all(void **state)
{
    struct fixture *f = *state;
    uint32_t s[2], index;
    unsigned got;

    for (int k = 0; k < 2; k++)
        assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s[k], &index, &got), 0);
    sp_pool_set_retire(f->set);
    struct sp_pool_counters c;
    sp_pool_counters(f->pool, &c);
    assert_int_equal(c.retiring, 2);
    assert_int_equal(c.frames_lingering, 2 * SP_POOL_SEGMENT_PAGES);
    for (int k = 0; k < 2; k++)
        assert_int_equal(sp_pool_segment_try_free(f->set, s[k]), 0);
    assert_int_equal(segments(f), 0);
}

static void thinnest_is_the_full_segment_with_fewest_frames(void **state)
{
    struct fixture *f = *state;
    uint32_t s[3], index;
    unsigned got;

    for (int k = 0; k < 3; k++)
        assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s[k], &index, &got), 0);
    assert_int_equal(sp_pool_thinnest(f->set), 0);
    for (uint32_t i = 10; i < SP_POOL_SEGMENT_PAGES; i++)
        sp_pool_forget(f->set, s[0], i);
    for (uint32_t i = 5; i < SP_POOL_SEGMENT_PAGES; i++)
        sp_pool_forget(f->set, s[1], i);
    for (uint32_t i = 1; i < SP_POOL_SEGMENT_PAGES / 2; i++)
        sp_pool_forget(f->set, s[2], i);
    assert_int_equal(sp_pool_thinnest(f->set), s[1]);
    sp_pool_mark_thin(f->set, s[1], true);
    assert_int_equal(sp_pool_thinnest(f->set), s[0]);
    sp_pool_mark_thin(f->set, s[0], true);
    assert_int_equal(sp_pool_thinnest(f->set), 0); /* of the third more than half is in use */
    sp_pool_mark_thin(f->set, s[0], false);
    assert_int_equal(sp_pool_thinnest(f->set), s[0]);
}

/* One that something holds for ever does not keep the others from their turn. */
static void thinnest_was_tried_least_often(void **state)
{
    struct fixture *f = *state;
    uint32_t s[2], index;
    unsigned got;

    for (int k = 0; k < 2; k++) {
        assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s[k], &index, &got), 0);
        for (uint32_t i = 5 + (uint32_t)k; i < SP_POOL_SEGMENT_PAGES; i++)
            sp_pool_forget(f->set, s[k], i);
    }
    for (int tries = 0; tries < 3; tries++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(sp_pool_thinnest(f->set), s[k]);
            sp_pool_mark_thin(f->set, s[k], true);
            sp_pool_mark_thin(f->set, s[k], false);
        }
}

/* What only programs hold, of which no frame is in use, no thinning out makes free. */
static void what_retires_is_no_reason_to_thin_out(void **state)
{
    struct fixture *f = *state;
    struct sp_pool_counters c;
    uint32_t s[4], index;
    unsigned got;

    for (int k = 0; k < 4; k++)
        assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s[k], &index, &got), 0);
    for (uint32_t i = 0; i < SP_POOL_SEGMENT_PAGES / 2; i++)
        sp_pool_forget(f->set, s[1], i);
    assert_int_equal(sp_pool_thinnest(f->set), 0); /* one half of four lingers */
    for (uint32_t i = 0; i < SP_POOL_SEGMENT_PAGES; i++)
        sp_pool_forget(f->set, s[0], i);
    sp_pool_set_counters(f->set, &c);
    assert_int_equal(c.frames_lingering, SP_POOL_SEGMENT_PAGES * 3 / 2);
    assert_int_equal(c.frames_leaving, SP_POOL_SEGMENT_PAGES);
    assert_int_equal(sp_pool_thinnest(f->set), 0);
}

static void a_thin_segment_gives_no_frames(void **state)
{
    struct fixture *f = *state;
    uint32_t s, other, index;
    unsigned got;

    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s, &index, &got), 0);
    for (uint32_t i = 10; i < SP_POOL_SEGMENT_PAGES; i++)
        sp_pool_forget(f->set, s, i);
    sp_pool_unalloc(f->set, s, 5, 1);
    assert_int_equal(sp_pool_alloc(f->set, 1, &other, &index, &got), 0);
    assert_int_equal(other, s);
    sp_pool_unalloc(f->set, s, 5, 1);
    assert_int_equal(sp_pool_thinnest(f->set), s); /* also with a frame that was given back */
    sp_pool_mark_thin(f->set, s, true);
    assert_int_equal(sp_pool_alloc(f->set, 1, &other, &index, &got), 0);
    assert_int_not_equal(other, s);
}

static void sets_do_not_see_each_other(void **state)
{
    struct fixture *f = *state;
    struct sp_pool_set *other = sp_pool_set_new(f->pool, 8);
    uint32_t s, i;
    int fd = one_frame(f, &s, &i);

    assert_ptr_equal(sp_pool_set_find(f->pool, 8), other);
    assert_null(sp_pool_set_find(f->pool, 9));
    assert_int_equal(sp_pool_segment_fd(other, s), -ENOENT);
    assert_null(sp_pool_frame(other, s, i));
    assert_int_equal(sp_pool_claim(other, s, i), -ENOENT);
    assert_int_equal(sp_pool_segment_try_free(other, s), -ENOENT);
    assert_int_equal(sp_pool_segment_pages(other, s), 0);
    assert_int_equal(sp_pool_segment_pages(f->set, s), SP_POOL_SEGMENT_PAGES);
    close(fd);
}

struct kept {
    struct sp_pool_record record[16];
    int fd[16];
    size_t n;
    unsigned freed;
};

/* Keeps dups, as the keeper does. */
static void keep(void *arg, const struct sp_pool_record *record, int fd)
{
    struct kept *k = arg;

    if (fd < 0) {
        k->freed++;
        return;
    }
    k->record[k->n] = *record;
    k->fd[k->n] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    k->n++;
}

static void size_limit_follows_the_segments(void **state)
{
    struct fixture *f = *state;
    struct kept k = {.n = 0};
    uint32_t s, i;
    unsigned got;
    int status;

    sp_pool_on_change(f->pool, keep, &k);
    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s, &i, &got), 0);
    assert_int_equal(k.n, 1);
    memset((void *)sp_pool_frame(f->set, s, 0), 1, SP_POOL_SEGMENT_PAGES * PAGE);
    off_t end = (off_t)(SP_POOL_SEGMENT_PAGES * PAGE);
    assert_int_equal(pwrite(k.fd[0], "x", 1, end), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(ftruncate(k.fd[0], end + (off_t)PAGE), 0);
    pid_t pid = fork();
    if (!pid) {
        signal(SIGBUS, SIG_DFL);
        char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, k.fd[0], end);
        *(volatile char *)map = 1;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    struct sp_pool_counters c;
    sp_pool_counters(f->pool, &c);
    assert_int_equal(c.bytes, SP_POOL_SEGMENT_PAGES * PAGE);
    /* The keeper's dup does not hold the segment, nor its memory. */
    sp_pool_set_retire(f->set);
    assert_int_equal(sp_pool_segment_try_free(f->set, s), 0);
    assert_int_equal(k.freed, 1);
    sp_pool_counters(f->pool, &c);
    assert_int_equal(c.bytes, 0);
    /* Freed: the limit is down to a page again. */
    assert_int_equal(pwrite(k.fd[0], "x", 1, 0), 1);
    assert_int_equal(pwrite(k.fd[0], "x", 1, (off_t)PAGE), -1);
    close(k.fd[0]);
}

static void d1_export_import_keeps_claimed_frames(void **state)
{
    struct fixture *f = *state;
    struct sp_pool_counters c;
    struct sp_pool *next;
    struct kept k = {.n = 0};
    uint32_t s, i, lost, index, fresh;
    unsigned got;
    char why[200] = "";
    int fd = one_frame(f, &s, &i);

    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &lost, &index, &got), 0);
    memset((void *)sp_pool_frame(f->set, lost, index), 2, 3 * PAGE);
    sp_pool_export(f->pool, keep, &k);
    assert_int_equal(k.n, 4);
    sp_pool_free(f->pool);
    f->pool = NULL;
    assert_int_equal(sp_pool_import(&next, k.record, k.fd, k.n, NULL, why, sizeof(why)), 0);
    f->pool = next;
    f->set = sp_pool_set_find(next, 7);
    assert_non_null(f->set);
    assert_int_equal(sp_pool_claim(f->set, s, i), 0);
    assert_int_equal(sp_pool_claim(f->set, s, i + 1), -ENOENT);
    assert_int_equal(sp_pool_segment_try_free(f->set, lost), -EBUSY);
    sp_pool_import_end(next);
    sp_pool_counters(next, &c);
    assert_int_equal(c.frames_used, 1);
    assert_int_equal(c.frames_lingering, 3);
    assert_int_equal(c.retiring, 1);
    assert_int_equal(((unsigned char *)sp_pool_frame(f->set, s, i))[9], 0xab);
    assert_int_equal(sp_pool_segment_try_free(f->set, lost), 0);
    /* It grows as before, and hands out no frame twice. */
    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &fresh, &index, &got), 0);
    assert_int_not_equal(fresh, lost);
    memset((void *)sp_pool_frame(f->set, fresh, 0), 3, SP_POOL_SEGMENT_PAGES * PAGE);
    assert_int_equal(sp_pool_alloc(f->set, 4, &fresh, &index, &got), 0);
    assert_int_equal(fresh, s);
    assert_int_equal(index, i + 1);
    int again = sp_pool_segment_fd(f->set, s);
    assert_true(again >= 0);
    assert_int_equal(attack(again), 0);
    close(again);
    close(fd);
}

/* What a daemon leaves that is killed while it adds or frees a segment. */
static void d1_import_after_a_kill_in_between(void **state)
{
    struct fixture *f = *state;
    struct sp_pool *next;
    struct kept k = {.n = 0};
    uint32_t gone, unknown, s, index;
    unsigned got;
    char why[200] = "", name[16];

    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &gone, &index, &got), 0);
    sp_pool_export(f->pool, keep, &k);
    assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &unknown, &index, &got), 0);
    memset((void *)sp_pool_frame(f->set, unknown, 0), 2, SP_POOL_SEGMENT_PAGES * PAGE);
    int mapped = sp_pool_segment_fd(f->set, unknown);
    snprintf(name, sizeof(name), "%u", gone);
    assert_int_equal(unlinkat(k.fd[0], name, 0), 0);
    sp_pool_free(f->pool);
    f->pool = NULL;
    assert_int_equal(sp_pool_import(&next, k.record, k.fd, k.n, NULL, why, sizeof(why)), 0);
    f->pool = next;
    sp_pool_import_end(next);
    assert_int_equal(segments(f), 0);
    f->set = sp_pool_set_new(next, 7);
    /* The unknown one still holds memory; the limit leaves room for a whole new one beside it. */
    for (int n = 0; n < 2; n++) {
        assert_int_equal(sp_pool_alloc(f->set, SP_POOL_SEGMENT_PAGES, &s, &index, &got), 0);
        memset((void *)sp_pool_frame(f->set, s, 0), 3, SP_POOL_SEGMENT_PAGES * PAGE);
    }
    close(mapped);
}

static void n1_frames_are_taken_from_the_node_that_is_wanted(void **state)
{
    struct fixture *f = *state;
    struct sp_pool_counters before, after;
    uint32_t s, any, index, first;
    char bytes[4 * 65536] = {1};
    const void *written;
    int node[4], other;
    unsigned got;

    if (sp_pool_alloc_on(f->set, 0, 4, &s, &first, &got)) {
        print_message("no memory policy can be set here\n");
        skip();
    }
    assert_int_equal(got, 4);
    assert_int_equal(sp_pool_segment_node(f->set, s), 0);
    assert_int_equal(sp_pool_alloc(f->set, 1, &any, &index, &got), 0);
    assert_int_not_equal(any, s);
    assert_int_equal(sp_pool_segment_node(f->set, any), -1);
    assert_int_equal(sp_pool_segment_node(f->set, 999), -1);
    assert_int_equal(sp_pool_write(f->set, s, first, 4, bytes, &written), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(((char *)sp_pool_frame(f->set, s, first + i))[0], i == 0);
    assert_int_equal(sp_pool_nodes(f->set, s, first, 4, node), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(node[i], 0);
    assert_int_equal(sp_pool_nodes(f->set, s, SP_POOL_SEGMENT_PAGES - 1, 2, node), -EINVAL);
    assert_int_equal(sp_pool_nodes(f->set, s, 0, 129, node), -EINVAL);
    assert_int_equal(sp_pool_nodes(f->set, 999, 0, 1, &other), -ENOENT);
    /* What was never given to a client can be emptied, and filled again. */
    sp_pool_set_counters(f->set, &before);
    sp_pool_empty(f->set, s, first + 1, 2);
    sp_pool_set_counters(f->set, &after);
    assert_int_equal(before.bytes - after.bytes, 2 * PAGE);
    assert_int_equal(sp_pool_nodes(f->set, s, first, 4, node), 0);
    assert_int_equal(node[1], -1);
    assert_int_equal(node[3], 0);
    assert_int_equal(sp_pool_write(f->set, s, first + 1, 2, bytes, &written), 0);
    /* There is no such node here, or number. */
    assert_true(sp_pool_alloc_on(f->set, 63, 1, &any, &index, &got) < 0);
    assert_true(sp_pool_alloc_on(f->set, 64, 1, &any, &index, &got) < 0);
    assert_int_equal(segments(f), 2);
}

static void d1_n1_import_knows_of_which_node_segments_are(void **state)
{
    struct fixture *f = *state;
    struct kept k = {.n = 0};
    struct sp_pool *next;
    uint32_t s, i, again;
    unsigned got;
    char why[200] = "";

    if (sp_pool_alloc_on(f->set, 0, 1, &s, &i, &got)) {
        print_message("no memory policy can be set here\n");
        skip();
    }
    memset((void *)sp_pool_frame(f->set, s, i), 1, PAGE);
    sp_pool_export(f->pool, keep, &k);
    assert_int_equal(k.n, 3);
    k.record[2].node = 65;
    assert_int_equal(sp_pool_import(&next, k.record, k.fd, k.n, NULL, why, sizeof(why)), -EINVAL);
    k.record[2].node = 1;
    sp_pool_free(f->pool);
    f->pool = NULL;
    assert_int_equal(sp_pool_import(&next, k.record, k.fd, k.n, NULL, why, sizeof(why)), 0);
    f->pool = next;
    f->set = sp_pool_set_find(next, 7);
    assert_int_equal(sp_pool_claim(f->set, s, i), 0);
    sp_pool_import_end(next);
    assert_int_equal(sp_pool_segment_node(f->set, s), 0);
    assert_int_equal(sp_pool_alloc_on(f->set, 0, 1, &again, &i, &got), 0);
    assert_int_equal(again, s);
    assert_int_equal(sp_pool_alloc(f->set, 1, &again, &i, &got), 0);
    assert_int_not_equal(again, s);
}

static void import_refuses_what_is_not_a_pool(void **state)
{
    struct fixture *f = *state;
    struct kept k = {.n = 0};
    struct sp_pool *next;
    uint32_t s, i;
    char why[200];
    int fd = one_frame(f, &s, &i);

    sp_pool_export(f->pool, keep, &k);
    struct sp_pool_record bad = k.record[2];
    bad.npages--;
    struct sp_pool_record three[3] = {k.record[0], k.record[1], bad};
    assert_int_equal(sp_pool_import(&next, three, k.fd, 3, NULL, why, sizeof(why)), -EINVAL);
    three[2] = k.record[2];
    /* A client's own descriptor in the place of the one for writing. */
    int fds[3] = {k.fd[0], k.fd[1], fd};
    assert_int_equal(sp_pool_import(&next, three, fds, 3, NULL, why, sizeof(why)), -EINVAL);
    int swapped[3] = {k.fd[1], k.fd[0], k.fd[2]};
    assert_int_equal(sp_pool_import(&next, three, swapped, 3, NULL, why, sizeof(why)), -EINVAL);
    assert_int_equal(sp_pool_import(&next, three, k.fd, 1, NULL, why, sizeof(why)), -EINVAL);
    for (size_t n = 0; n < k.n; n++)
        assert_int_equal(close(k.fd[n]), 0);
    close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, make_pool, drop_pool)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(alloc_gives_neighbours),
        T(short_rest_opens_a_segment),
        T(rest_is_used_when_no_segment_can_be_opened),
        T(unalloc_is_handed_out_again),
        T(k9_segment_lives_while_a_descriptor_exists),
        T(k9_segment_lives_while_a_raw_fork_maps_it),
        T(k9_claim_ends_retirement_and_bytes_are_there),
        T(k11_a_private_write_leaves_the_frame),
        T(client_cannot_write_even_as_root),
        T(thinnest_is_the_full_segment_with_fewest_frames), T(a_thin_segment_gives_no_frames),
        T(thinnest_was_tried_least_often), T(what_retires_is_no_reason_to_thin_out),
        T(retired_set_frees_all),
        T(sets_do_not_see_each_other),
        T(size_limit_follows_the_segments),
        T(d1_export_import_keeps_claimed_frames),
        T(d1_import_after_a_kill_in_between),
        T(n1_frames_are_taken_from_the_node_that_is_wanted),
        T(d1_n1_import_knows_of_which_node_segments_are),
        T(import_refuses_what_is_not_a_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
