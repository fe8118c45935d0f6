/* SPDX-License-Identifier: Apache-2.0 */
/* The store: S1 and S6 (what comes back is what was put), S3 (full: nothing is lost), S8 (errors
 * are exactly where the damage is), S10 (what is dropped leaves no more than a quarter behind), D1
 * (a store that is killed at any instruction is taken over). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "pool.h"
#include "store.h"

#define PAGE     ((size_t)sysconf(_SC_PAGESIZE))
#define MIB      ((uint64_t)1 << 20)
#define PAGE_MAX 65536

static struct sp_store_config config = {.memory_bytes = 64 * MIB, .file = -1};

/* The tests with a file are all done once more with one that is encrypted. */
static bool encrypting;

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 8;
}

/* Bytes of frame n, in its life-th life: text, noise, one word, or both of the first. */
static void fill(unsigned char *page, uint32_t n, uint32_t life)
{
    uint32_t seed = n * 2654435761u + life;

    for (size_t i = 0; i < PAGE; i++) {
        uint32_t r = next_random(&seed);

        switch (n % 4) {
        case 0:
            page[i] = "{\"user\": 0123456789,"[(r >> 3) % 20];
            break;
        case 1:
            page[i] = (unsigned char)r;
            break;
        case 2:
            page[i] = (unsigned char)(n >> 8 * (i % 4));
            break;
        default:
            page[i] = i % 256 < 200 ? "value"[i % 5] : (unsigned char)r;
        }
    }
}

static uint32_t frame(uint32_t n)
{
    return (n / SP_POOL_SEGMENT_PAGES + 1) << 16 | n % SP_POOL_SEGMENT_PAGES;
}

static int put(struct sp_store *store, uint32_t n)
{
    unsigned char page[PAGE_MAX];

    fill(page, n, 0);
    return sp_store_put(store, frame(n), page);
}

/* What sp_store_get() says; that the bytes are right is asserted. */
static int get(struct sp_store *store, uint32_t n)
{
    unsigned char page[PAGE_MAX], want[PAGE_MAX];
    int err = sp_store_get(store, frame(n), page);

    fill(want, n, 0);
    if (!err && memcmp(page, want, PAGE))
        fail_msg("frame %u has other bytes", n);
    return err;
}

static struct sp_store *make(const struct sp_store_config *with)
{
    struct sp_store *store = NULL;

    assert_int_equal(sp_store_new(&store, with), 0);
    return store;
}

static struct sp_store_counters counters(const struct sp_store *store)
{
    struct sp_store_counters c;

    sp_store_counters(store, &c);
    return c;
}

/* A file of that many pieces, in memory (/dev/shm) so that a test takes no time. */
static struct sp_store_config with_file(uint64_t memory, uint64_t pieces)
{
    struct sp_store_config c = {
        .memory_bytes = memory, .file_bytes = pieces * SP_STORE_PIECE, .encrypt = encrypting};
    char name[64];

    snprintf(name, sizeof(name), "/dev/shm/test_store.%d", (int)getpid());
    c.file = sp_store_file_open(AT_FDCWD, name, c.file_bytes);
    assert_true(c.file >= 0);
    assert_int_equal(access(name, F_OK), -1);
    return c;
}

static void s1_what_was_put_is_there_until_it_is_dropped(void **state)
{
    static const enum sp_store_codec codec[] = {SP_STORE_LZ4, SP_STORE_ZSTD};

    for (size_t k = 0; k < 2; k++) {
        struct sp_store_config c = config;

        c.codec = codec[k];
        struct sp_store *store = make(&c);
        assert_int_equal(get(store, 5), -ENOENT);
        for (uint32_t n = 0; n < 9000; n++)
            assert_int_equal(put(store, n), 0);
        assert_int_equal(put(store, 7), 0); /* once more */
        assert_int_equal(counters(store).frames, 9000);
        for (uint32_t n = 0; n < 9000; n += 3)
            sp_store_drop(store, frame(n));
        for (uint32_t n = 0; n < 9000; n++)
            assert_int_equal(get(store, n), n % 3 ? 0 : -ENOENT);
        assert_int_equal(sp_store_next(store, 0), frame(1));
        assert_int_equal(sp_store_next(store, frame(3)), frame(4));
        assert_int_equal(sp_store_next(store, frame(9000)), 0);
        for (uint32_t s = 1; s <= 3; s++)
            sp_store_drop_segment(store, s);
        assert_int_equal(counters(store).frames, 0);
        assert_int_equal(counters(store).live_bytes, 0);
        sp_store_free(store);
    }
}

static void s3_a_full_store_refuses_and_loses_nothing(void **state)
{
    struct sp_store_config c = config;
    uint32_t n = 0;

    c.memory_bytes = 4 * MIB;
    struct sp_store *store = make(&c);
    while (put(store, n) == 0)
        n++;
    assert_int_equal(put(store, n), -ENOSPC);
    assert_false(sp_store_has(store, frame(n)));
    assert_true(counters(store).memory_bytes <= c.memory_bytes);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(get(store, i), 0);
    for (uint32_t i = 0; i < n; i += 2)
        sp_store_drop(store, frame(i));
    assert_int_equal(put(store, n), 0);
    sp_store_free(store);
}

static void is_within(const struct sp_store *store, unsigned files)
{
    struct sp_store_counters c = counters(store);
    uint64_t held = c.memory_bytes + c.file_bytes;

    if (held > c.live_bytes + held / 3 + (2 + files) * MIB)
        fail_msg("%llu bytes are held for %llu that live", (unsigned long long)held,
                 (unsigned long long)c.live_bytes);
}

static void s10_what_is_dropped_leaves_little_behind(void **state)
{
    static bool there[20000];
    struct sp_store *store = make(&config);
    uint32_t seed = 42;

    memset(there, 0, sizeof(there));
    for (unsigned i = 0; i < 120000; i++) {
        uint32_t n = next_random(&seed) % 20000;

        if (there[n])
            sp_store_drop(store, frame(n));
        else
            assert_int_equal(put(store, n), 0);
        there[n] = !there[n];
        if (i % 64 == 0) {
            while (sp_store_tidy(store) == 1)
                ;
            is_within(store, 0);
        }
    }
    for (uint32_t n = 0; n < 20000; n++)
        assert_int_equal(get(store, n), there[n] ? 0 : -ENOENT);
    assert_true(counters(store).moved > 0);
    sp_store_free(store);
}

/* What the store writes to its file: how often, and how often not as a piece is to be written. */
static unsigned writes, odd_writes;

ssize_t __real_pwrite64(int fd, const void *from, size_t size, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *from, size_t size, off_t at);

/* A piece is full but for what the next slot would have needed. */
ssize_t __wrap_pwrite64(int fd, const void *from, size_t size, off_t at)
{
    writes++;
    odd_writes += at % SP_STORE_PIECE || (uintptr_t)from % 4096 || size % 4096 ||
                  size > SP_STORE_PIECE || size + PAGE + 4096 < SP_STORE_PIECE;
    return __real_pwrite64(fd, from, size, at);
}

static void s1_what_is_cold_goes_to_the_file_in_pieces(void **state)
{
    struct sp_store_config c = with_file(4 * MIB, 16);
    struct sp_store *store = make(&c);

    writes = odd_writes = 0;
    for (uint32_t n = 0; n < 5000; n++)
        assert_int_equal(put(store, n), 0);
    assert_int_equal(writes, counters(store).file_bytes / MIB);
    assert_true(counters(store).memory_bytes <= 4 * MIB);
    assert_true(counters(store).file_bytes >= 4 * MIB);
    while (sp_store_demote(store) == 1)
        ;
    for (uint32_t n = 0; n < 5000; n++)
        assert_int_equal(get(store, n), 0);
    /* The places are used again, and what is dead in them does not fill the file. */
    for (uint32_t k = 0; k < 20; k++)
        for (uint32_t n = 0; n < 1000; n++) {
            sp_store_drop(store, frame(k * 1000 % 5000 + n));
            assert_int_equal(put(store, k * 1000 % 5000 + n), 0);
        }
    for (uint32_t n = 0; n < 5000; n++)
        assert_int_equal(get(store, n), 0);
    assert_true(writes > 20);
    assert_int_equal(odd_writes, 0);
    struct stat st;
    assert_int_equal(fstat(c.file, &st), 0);
    assert_int_equal(st.st_size, c.file_bytes);
    sp_store_free(store);
    close(c.file);
}

static void s3_a_full_file_refuses_and_loses_nothing(void **state)
{
    struct sp_store_config c = with_file(3 * MIB, 3);
    struct sp_store *store = make(&c);
    uint32_t n = 0;

    while (put(store, n) == 0)
        n++;
    assert_int_equal(put(store, n), -ENOSPC);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(get(store, i), 0);
    sp_store_free(store);
    close(c.file);
}

/* All frames in the file; returns how many. */
static uint32_t all_in_file(struct sp_store *store)
{
    uint32_t n = 0;

    while (counters(store).file_bytes < 3 * MIB)
        assert_int_equal(put(store, n++), 0);
    while (sp_store_demote(store) == 1)
        ;
    return n;
}

static void s8_a_flipped_bit_is_an_error_of_its_frame_only(void **state)
{
    struct sp_store_config c = with_file(3 * MIB, 16);
    struct sp_store *store = make(&c);
    uint32_t n = all_in_file(store), bad = 0;
    unsigned char *bytes = mmap(NULL, c.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c.file, 0);

    assert_ptr_not_equal(bytes, MAP_FAILED);
    bytes[2 * MIB + 300000] ^= 4; /* in a slot, or between two: then nothing is wrong */
    bytes[3 * 4096] ^= 1;
    bytes[MIB] ^= 1; /* a header's first byte: the frame's number */
    for (uint32_t i = 0; i < n; i++) {
        int err = get(store, i);

        assert_true(err == 0 || err == -EIO);
        bad += err != 0;
    }
    /* An encrypted block is wrong as a whole: so is each frame of which something is in it. */
    assert_in_range(bad, 1, encrypting ? 3 * 4096 / 32 : 3);
    assert_int_equal(counters(store).checksum_errors, bad);
    assert_int_equal(counters(store).read_errors, 0);
    /* Tidying moves nothing that it cannot find, and hands no bad bytes out either. */
    for (uint32_t i = 0; i < n; i += 2)
        sp_store_drop(store, frame(i));
    while (sp_store_tidy(store) == 1)
        ;
    for (uint32_t i = 0; i < n; i++)
        bad += get(store, i) == -EIO;
    assert_in_range(bad, 1, encrypting ? 6 * 4096 / 32 : 6);
    munmap(bytes, c.file_bytes);
    sp_store_free(store);
    close(c.file);
}

/* Of how many of the pages that nothing packs there are 64 bytes in the file. */
static unsigned plain_pages(const struct sp_store_config *c, uint32_t n)
{
    unsigned char *bytes = mmap(NULL, c->file_bytes, PROT_READ, MAP_SHARED, c->file, 0);
    unsigned char page[PAGE_MAX];
    unsigned found = 0;

    assert_ptr_not_equal(bytes, MAP_FAILED);
    for (uint32_t i = 1; i < n && i < 400; i += 4) {
        fill(page, i, 0);
        found += memmem(bytes, c->file_bytes, page + 1000, 64) != NULL;
    }
    munmap(bytes, c->file_bytes);
    return found;
}

static void s1_nothing_of_a_page_is_in_an_encrypted_file(void **state)
{
    struct sp_store_config c = with_file(3 * MIB, 16);
    struct sp_store *store = make(&c);
    uint32_t n = all_in_file(store);

    if (encrypting)
        assert_int_equal(plain_pages(&c, n), 0);
    else
        assert_true(plain_pages(&c, n) > 90);
    sp_store_free(store);
    close(c.file);
}

/* Whole pieces that were once right, at another place. */
static void s8_what_was_written_elsewhere_is_an_error(void **state)
{
    struct sp_store_config c = with_file(3 * MIB, 16);
    struct sp_store *store = make(&c);
    unsigned char *bytes = mmap(NULL, c.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c.file, 0);
    uint32_t n = all_in_file(store), bad = 0;

    assert_ptr_not_equal(bytes, MAP_FAILED);
    memcpy(bytes + MIB, bytes, MIB);
    for (uint32_t i = 0; i < n; i++)
        bad += get(store, i) == -EIO;
    assert_in_range(bad, n / 10, n - n / 10);
    assert_int_equal(counters(store).checksum_errors, bad);
    munmap(bytes, c.file_bytes);
    sp_store_free(store);
    close(c.file);
}

static void s8_a_file_that_is_cut_off_is_an_error_of_what_was_there(void **state)
{
    struct sp_store_config c = with_file(3 * MIB, 16);
    struct sp_store *store = make(&c);
    uint32_t n = all_in_file(store), bad = 0;

    assert_int_equal(ftruncate(c.file, (off_t)(2 * MIB)), 0);
    for (uint32_t i = 0; i < n; i++) {
        int err = get(store, i);

        assert_true(err == 0 || err == -EIO);
        bad += err != 0;
    }
    assert_in_range(bad, 1, n - 1);
    assert_int_equal(counters(store).read_errors, bad);
    sp_store_free(store);
    close(c.file);
}

static void s8_a_file_that_cannot_be_written_takes_nothing(void **state)
{
    struct sp_store_config c = {
        .memory_bytes = 3 * MIB, .file_bytes = 16 * MIB, .encrypt = encrypting};
    struct sp_store *store;
    uint32_t n = 0;
    int err;

    c.file = open("/dev/full", O_RDWR | O_CLOEXEC);
    assert_true(c.file >= 0);
    store = make(&c);
    while (!(err = put(store, n)))
        n++;
    assert_true(err == -EIO || err == -ENOSPC);
    assert_true(counters(store).write_errors > 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(get(store, i), 0);
    sp_store_free(store);
    close(c.file);
}

static struct sp_store *take_over(struct sp_store *store, const struct sp_store_config *with)
{
    struct sp_store *again = NULL;
    int fd[SP_STORE_FDS];

    sp_store_fds(store, fd);
    assert_int_equal(sp_store_attach(&again, fd, with), 0);
    sp_store_free(store);
    return again;
}

static void d1_what_was_put_is_there_after_a_takeover(void **state)
{
    struct sp_store_config c = with_file(4 * MIB, 16);
    struct sp_store *store = make(&c);

    for (uint32_t n = 0; n < 4000; n++)
        assert_int_equal(put(store, n), 0);
    for (uint32_t n = 0; n < 4000; n += 5)
        sp_store_drop(store, frame(n));
    struct sp_store_counters was = counters(store);
    store = take_over(store, &c);
    struct sp_store_counters is = counters(store);
    assert_int_equal(is.frames, was.frames);
    assert_int_equal(is.live_bytes, was.live_bytes);
    assert_int_equal(is.file_bytes, was.file_bytes);
    for (uint32_t n = 0; n < 4000; n++)
        assert_int_equal(get(store, n), n % 5 ? 0 : -ENOENT);
    for (uint32_t n = 4000; n < 4500; n++)
        assert_int_equal(put(store, n), 0);
    sp_store_free(store);
    close(c.file);
}

static void d1_descriptors_of_something_else_are_refused(void **state)
{
    struct sp_store *store;
    int fd[SP_STORE_FDS] = {memfd_create("a", MFD_CLOEXEC), memfd_create("b", MFD_CLOEXEC)};

    assert_int_equal(sp_store_attach(&store, fd, &config), -EINVAL);
    close(fd[0]);
    close(fd[1]);
}

/* Puts and drops for ever, and says before and after what it does. state[n]: 0 not there, 1 there,
 * 2 on its way. */
static void churn(struct sp_store *store, volatile unsigned char *state, uint32_t frames,
                  uint32_t seed)
{
    for (;;) {
        uint32_t n = next_random(&seed) % frames;
        unsigned char was = state[n];

        if (was == 2)
            continue; /* left by one that was killed */
        state[n] = 2;
        if (was)
            sp_store_drop(store, frame(n));
        else if (put(store, n))
            _exit(1);
        state[n] = !was;
        (void)sp_store_tidy(store);
    }
}

static void d1_a_store_that_is_killed_at_any_instruction_is_taken_over(void **state)
{
    enum { FRAMES = 3000, KILLS = 30 }; /* each for a plain and an encrypted file */
    struct sp_store_config c = with_file(3 * MIB, 8);
    volatile unsigned char *there =
        mmap(NULL, FRAMES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sp_store *store = make(&c);
    uint32_t seed = 7;

    for (unsigned k = 0; k < KILLS; k++) {
        struct timespec wait = {.tv_nsec = 2000000 + next_random(&seed) % 8000000};
        int fd[SP_STORE_FDS], status;
        pid_t pid;

        sp_store_fds(store, fd);
        pid = fork();
        if (pid == 0) {
            struct sp_store *mine;

            if (sp_store_attach(&mine, fd, &c))
                _exit(2);
            churn(mine, there, FRAMES, k);
        }
        nanosleep(&wait, NULL);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        store = take_over(store, &c);
        for (uint32_t n = 0; n < FRAMES; n++) {
            int err = get(store, n);

            if (there[n] == 2)
                there[n] = err == 0;
            assert_int_equal(err, there[n] ? 0 : -ENOENT);
        }
        is_within(store, 8);
    }
    sp_store_free(store);
    close(c.file);
}

static void a_file_that_exists_is_not_touched(void **state)
{
    char name[64];
    int fd;

    snprintf(name, sizeof(name), "/dev/shm/test_store.%d", (int)getpid());
    fd = open(name, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "mine", 4), 4);
    assert_int_equal(sp_store_file_open(AT_FDCWD, name, MIB), -EEXIST);
    assert_int_equal(lseek(fd, 0, SEEK_END), 4);
    unlink(name);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s1_what_was_put_is_there_until_it_is_dropped),
        cmocka_unit_test(s3_a_full_store_refuses_and_loses_nothing),
        cmocka_unit_test(s10_what_is_dropped_leaves_little_behind),
        cmocka_unit_test(d1_descriptors_of_something_else_are_refused),
        cmocka_unit_test(a_file_that_exists_is_not_touched),
    };
    const struct CMUnitTest with_files[] = {
        cmocka_unit_test(s1_what_is_cold_goes_to_the_file_in_pieces),
        cmocka_unit_test(s3_a_full_file_refuses_and_loses_nothing),
        cmocka_unit_test(s1_nothing_of_a_page_is_in_an_encrypted_file),
        cmocka_unit_test(s8_a_flipped_bit_is_an_error_of_its_frame_only),
        cmocka_unit_test(s8_what_was_written_elsewhere_is_an_error),
        cmocka_unit_test(s8_a_file_that_is_cut_off_is_an_error_of_what_was_there),
        cmocka_unit_test(s8_a_file_that_cannot_be_written_takes_nothing),
        cmocka_unit_test(d1_what_was_put_is_there_after_a_takeover),
        cmocka_unit_test(d1_a_store_that_is_killed_at_any_instruction_is_taken_over),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    failed += cmocka_run_group_tests(with_files, NULL, NULL);
    encrypting = true;
    return failed + cmocka_run_group_tests(with_files, NULL, NULL);
}
