/* SPDX-License-Identifier: Apache-2.0 */
/* Readers of a store that another process writes: S1 (the bytes, while slots are moved, written to
 * the file and emptied), S8 (wrong bytes are an error), S10, D1 (the writer is killed anywhere). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "store_reader.h"

#define PAGE   ((size_t)sysconf(_SC_PAGESIZE))
#define MIB    ((uint64_t)1 << 20)
#define STABLE 3000u /* frames that stay, each second number; between them others come and go */
#define LOOKS  20000u
#define RUN    16u

static int fd[SP_STORE_FDS], file;
static struct sp_store_config config;
static unsigned char *expected, *got;

static uint32_t frame_at(uint32_t i)
{
    return (i / 4096 + 1) << 16 | i % 4096;
}

/* Half of it can be packed. */
static void make(unsigned char *page, uint32_t i, uint32_t version)
{
    uint64_t x = i * UINT64_C(0x9e3779b97f4a7c15) + version + 1;

    memset(page, (int)(i % 251), PAGE);
    for (size_t k = 0; k < PAGE / 2; k += sizeof(x)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(page + k, &x, sizeof(x));
    }
}

static struct sp_store *attach(void)
{
    struct sp_store *store;

    assert_int_equal(sp_store_attach(&store, fd, &config), 0);
    return store;
}

static int make_store(void **state)
{
    char path[] = "/tmp/samepage-reader-XXXXXX";
    struct sp_store *store;

    if (!mkdtemp(path))
        return 1;
    config.memory_bytes = 4 * MIB;
    config.file_bytes = 64 * MIB;
    char name[64];
    strcpy(name, path);
    strcat(name, "/store");
    file = config.file = sp_store_file_open(AT_FDCWD, name, config.file_bytes);
    rmdir(path);
    if (file < 0 || sp_store_new(&store, &config))
        return 1;
    sp_store_fds(store, fd);
    for (int i = 0; i < SP_STORE_FDS; i++)
        fd[i] = dup(fd[i]);
    for (uint32_t i = 0; i < 2 * STABLE; i += 2) {
        make(expected, i, 0);
        if (sp_store_put(store, frame_at(i), expected))
            return 1;
    }
    sp_store_free(store);
    return 0;
}

static int close_store(void **state)
{
    for (int i = 0; i < SP_STORE_FDS; i++)
        close(fd[i]);
    close(file);
    return 0;
}

/* Puts, drops, tidies and writes to the file, for ever. */
static void write_for_ever(void)
{
    struct sp_store *store;
    unsigned char *page = malloc(PAGE);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!page || sp_store_attach(&store, fd, &config))
        _exit(1);
    for (uint32_t n = 0;; n++) {
        uint32_t i = (uint32_t)(random() % STABLE) * 2 + 1;

        make(page, i, n);
        sp_store_drop(store, frame_at(i));
        (void)sp_store_put(store, frame_at(i), page);
        if (n % 16 == 0) /* what stays moves, too */
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t j = (uint32_t)(random() % STABLE) * 2 + 1;

                sp_store_drop(store, frame_at(j));
                (void)sp_store_tidy(store);
            }
        if (n % 64 == 0)
            (void)sp_store_demote(store);
    }
}

static pid_t start_writer(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        write_for_ever();
    return pid;
}

static void end_writer(pid_t pid)
{
    int status;

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void look(struct sp_store_reader *reader, uint32_t i)
{
    make(expected, i, 0);
    assert_int_equal(sp_store_reader_get(reader, frame_at(i), got), 0);
    assert_memory_equal(got, expected, PAGE);
}

/* As one request for neighbours is served. */
static void look_at_run(struct sp_store_reader *reader, uint32_t i)
{
    sp_store_reader_expect(reader, frame_at(i), RUN);
    for (uint32_t k = i; k < i + RUN && k < 2 * STABLE && k / 4096 == i / 4096; k += 2) {
        int err = sp_store_reader_get(reader, frame_at(k + 1), got);

        assert_true(!err || err == -ENOENT);
        look(reader, k);
    }
}

static void s1_what_stays_is_right_while_all_is_moved(void **state)
{
    struct sp_store_reader *reader;
    struct sp_store_counters before, after;
    struct sp_store *store = attach();
    pid_t pid;

    sp_store_counters(store, &before);
    sp_store_free(store);
    assert_int_equal(sp_store_reader_new(&reader, fd, file), 0);
    pid = start_writer();
    for (uint32_t n = 0; n < LOOKS; n++) {
        /* What comes and goes is there or not, and never an error. */
        int err = sp_store_reader_get(reader, frame_at(n % STABLE * 2 + 1), got);

        assert_true(!err || err == -ENOENT);
        look(reader, (uint32_t)(random() % STABLE) * 2);
        if (n % 8 == 0)
            look_at_run(reader, (uint32_t)(random() % STABLE) * 2);
    }
    end_writer(pid);
    store = attach();
    sp_store_counters(store, &after);
    assert_true(after.file_bytes > 0);
    assert_int_equal(after.read_errors + after.checksum_errors, 0);
    sp_store_free(store);
    sp_store_reader_free(reader);
}

static void d1_the_writer_is_killed_anywhere(void **state)
{
    struct sp_store_reader *reader;

    assert_int_equal(sp_store_reader_new(&reader, fd, file), 0);
    for (unsigned k = 0; k < 10; k++) {
        pid_t pid = start_writer();

        for (unsigned n = 0; n < 500; n++)
            look(reader, (uint32_t)(random() % STABLE) * 2);
        end_writer(pid);
        for (unsigned n = 0; n < 100; n++)
            look(reader, (uint32_t)(random() % STABLE) * 2);
    }
    sp_store_reader_free(reader);
}

/* Calls of this process that read; a few more each time. */
static unsigned long calls_that_read(void)
{
    char text[256] = {0}, *at;
    int io = open("/proc/self/io", O_RDONLY);

    if (io < 0 || read(io, text, sizeof(text) - 1) < 0)
        skip(); /* a kernel without it */
    close(io);
    at = strstr(text, "syscr: ");
    assert_non_null(at);
    return strtoul(at + strlen("syscr: "), NULL, 10);
}

static void s6_neighbours_in_the_file_are_read_together(void **state)
{
    struct sp_store *store = attach();
    struct sp_store_reader *reader;
    unsigned long before, one_by_one, together;

    while (sp_store_demote(store) == 1)
        ;
    assert_int_equal(sp_store_reader_new(&reader, fd, file), 0);
    before = calls_that_read();
    for (uint32_t i = 0; i < RUN; i += 2)
        look(reader, i);
    one_by_one = calls_that_read() - before;
    before = calls_that_read();
    sp_store_reader_expect(reader, frame_at(0), RUN);
    for (uint32_t i = 0; i < RUN; i += 2)
        look(reader, i);
    together = calls_that_read() - before;
    assert_true(one_by_one >= RUN / 2);
    assert_true(together + RUN / 2 - 1 <= one_by_one);
    /* What was read for one request is nothing to the next one. */
    sp_store_reader_expect(reader, frame_at(0), RUN);
    look(reader, 0);
    sp_store_drop(store, frame_at(2));
    make(expected, 2, 7);
    assert_int_equal(sp_store_put(store, frame_at(2), expected), 0);
    assert_int_equal(sp_store_reader_get(reader, frame_at(2), got), 0);
    assert_memory_equal(got, expected, PAGE);
    sp_store_free(store);
    sp_store_reader_free(reader);
}

static void s8_wrong_bytes_are_an_error_and_counted(void **state)
{
    struct sp_store_reader *reader;
    struct sp_store_counters counters;
    struct sp_store *store = attach();
    unsigned char *pieces;
    unsigned wrong = 0;

    assert_int_equal(sp_store_reader_new(&reader, fd, file), 0);
    pieces = mmap(NULL, 65 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd[SP_STORE_FD_PIECES], 0);
    assert_ptr_not_equal(pieces, MAP_FAILED);
    for (uint64_t at = MIB; at < 65 * MIB; at += MIB) /* the start of every piece, if in memory */
        for (unsigned k = 0; k < 64; k += 8)
            pieces[at + k] ^= 4;
    for (uint32_t i = 0; i < 2 * STABLE; i += 2) {
        int err = sp_store_reader_get(reader, frame_at(i), got);

        make(expected, i, 0);
        assert_true(err == -EIO || (!err && !memcmp(got, expected, PAGE)));
        wrong += err == -EIO;
    }
    assert_true(wrong > 0 && wrong <= 4);
    sp_store_counters(store, &counters);
    assert_int_equal(counters.checksum_errors, wrong);
    /* The file is gone from under us: what was in it cannot be read. */
    assert_int_equal(ftruncate(file, 0), 0);
    for (uint32_t i = 0; i < 2 * STABLE; i += 2)
        (void)sp_store_reader_get(reader, frame_at(i), got);
    sp_store_counters(store, &counters);
    assert_true(counters.read_errors > STABLE / 2);
    munmap(pieces, 65 * MIB);
    sp_store_free(store);
    sp_store_reader_free(reader);
}

static void s10_what_was_dropped_is_not_there(void **state)
{
    struct sp_store_reader *reader;
    struct sp_store *store = attach();

    assert_int_equal(sp_store_reader_new(&reader, fd, file), 0);
    look(reader, 0);
    sp_store_drop(store, frame_at(0));
    assert_int_equal(sp_store_reader_get(reader, frame_at(0), got), -ENOENT);
    assert_int_equal(sp_store_reader_get(reader, 1u << 16 | 4096, got), -ENOENT);
    sp_store_drop_segment(store, 1);
    assert_int_equal(sp_store_reader_get(reader, frame_at(2), got), -ENOENT);
    sp_store_free(store);
    sp_store_reader_free(reader);
}

static void d1_descriptors_of_something_else_are_refused(void **state)
{
    const int other[SP_STORE_FDS] = {file, file};
    struct sp_store_reader *reader;

    assert_int_equal(sp_store_reader_new(&reader, other, -1), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(s1_what_stays_is_right_while_all_is_moved, make_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(d1_the_writer_is_killed_anywhere, make_store, close_store),
        cmocka_unit_test_setup_teardown(s6_neighbours_in_the_file_are_read_together, make_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(s8_wrong_bytes_are_an_error_and_counted, make_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(s10_what_was_dropped_is_not_there, make_store, close_store),
        cmocka_unit_test_setup_teardown(d1_descriptors_of_something_else_are_refused, make_store,
                                        close_store),
    };

    expected = malloc(PAGE);
    got = malloc(PAGE);
    if (!expected || !got)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    config.encrypt = true;
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
