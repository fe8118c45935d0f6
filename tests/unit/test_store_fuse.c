/* SPDX-License-Identifier: Apache-2.0 */
/* Segments as files of FUSE: S3 (dropped from all sites at once), S6 (one read serves all), S7
 * (written copies stay), S8 (errors where they are, and only there), D1 (a dead server is
 * replaced), K9 (the end of the last mapping is told), and that nobody can write. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "store_fuse.h"

#define PAGE    ((size_t)sysconf(_SC_PAGESIZE))
#define SEGMENT 7u
#define PAGES   256u
#define NONE    0xffffffffu
#define SKIPPED 77

/* What the server does, and did. */
struct shared {
    uint32_t bad;      /* a page that cannot be read */
    uint32_t withheld; /* one that is not to be answered yet */
    uint32_t hang;     /* 1: the server stops in the middle of a request */
    uint32_t hangs;
    uint32_t reads[PAGES];
    int32_t opened;
};

enum what { FILL, DROP, KILL_SERVER, START_SERVER, RESEND };

struct command {
    enum what what;
    uint32_t index, n;
};

static volatile struct shared *shared;
static int mount_fd, helper;
static pid_t helper_pid;

static unsigned char byte_of(uint32_t index)
{
    return (unsigned char)(index * 7 + 1);
}

static uint32_t pages_of(void *arg, uint32_t segment)
{
    return segment == SEGMENT ? PAGES : 0;
}

static int read_page(uint32_t index, void *page)
{
    if (index == shared->withheld)
        return -EAGAIN;
    if (shared->hang) {
        shared->hangs++;
        for (;;)
            pause();
    }
    shared->reads[index]++;
    memset(page, byte_of(index), PAGE);
    return index == shared->bad ? -EBADMSG : 0;
}

static int read_pages(void *arg, uint32_t segment, uint32_t index, uint32_t n, void *pages)
{
    int err = 0;

    for (uint32_t i = 0; i < n && !err; i++)
        err = read_page(index + i, (char *)pages + i * PAGE);
    return err;
}

static bool opened(void *arg, uint32_t segment, uint64_t request)
{
    shared->opened++;
    return true;
}

static void closed(void *arg, uint32_t segment, uint64_t request)
{
    shared->opened--;
}

static void serve(int dev)
{
    static const struct sp_store_fuse_ops ops = {pages_of, read_pages, opened, closed};
    struct sp_store_server *server;
    struct pollfd p = {.fd = dev, .events = POLLIN};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sp_store_server_new(&server, dev, &ops, NULL))
        _exit(1);
    for (;;) {
        (void)sp_store_fuse_release(server);
        if (poll(&p, 1, 1) > 0 && sp_store_serve(server) != 1)
            _exit(0);
    }
}

static int fill(int dev, uint32_t index, uint32_t n)
{
    static unsigned char bytes[SP_FUSE_FILL_PAGES * 4096];

    for (uint32_t i = 0; i < n; i++)
        memset(bytes + i * PAGE, byte_of(index + i), PAGE);
    return sp_store_fuse_fill(dev, SEGMENT, index, n, bytes);
}

/* Has /dev/fuse, as the keeper and the daemon will, and touches no page. */
static void help(int sock, int dev)
{
    struct command c;
    pid_t server = 0;
    int err;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (recv(sock, &c, sizeof(c), 0) == sizeof(c)) {
        err = 0;
        switch (c.what) {
        case FILL:
            err = fill(dev, c.index, c.n);
            break;
        case DROP:
            err = sp_store_fuse_drop(dev, SEGMENT, c.index, c.n);
            break;
        case RESEND:
            err = sp_store_fuse_resend(dev);
            break;
        case KILL_SERVER:
            kill(server, SIGKILL);
            waitpid(server, NULL, 0);
            break;
        case START_SERVER:
            server = fork();
            if (server == 0)
                serve(dev);
        }
        if (send(sock, &err, sizeof(err), MSG_NOSIGNAL) < 0)
            break;
    }
    if (server) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    _exit(0);
}

static int ask(enum what what, uint32_t index, uint32_t n)
{
    struct command c = {what, index, n};
    int err = -EPIPE;

    assert_int_equal(send(helper, &c, sizeof(c), MSG_NOSIGNAL), sizeof(c));
    assert_int_equal(recv(helper, &err, sizeof(err), 0), sizeof(err));
    return err;
}

static unsigned char *map_privately(void)
{
    int fd = sp_store_fuse_segment(mount_fd, SEGMENT);
    unsigned char *at;

    assert_true(fd >= 0);
    at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    close(fd);
    return at;
}

static uint32_t resident(unsigned char *at)
{
    unsigned char there[PAGES];
    uint32_t n = 0;

    assert_int_equal(mincore(at, PAGES * PAGE, there), 0);
    for (uint32_t i = 0; i < PAGES; i++)
        n += there[i] & 1;
    return n;
}

static bool is_right(const unsigned char *at, uint32_t i)
{
    return at[i * PAGE] == byte_of(i) && at[i * PAGE + PAGE - 1] == byte_of(i);
}

static uint32_t reads(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < PAGES; i++)
        n += shared->reads[i];
    return n;
}

static void forget_all(void)
{
    assert_int_equal(ask(DROP, 0, PAGES), 0);
    memset((void *)shared->reads, 0, sizeof(shared->reads));
}

/* A child that touches page i, and ends with 0 if it was right, 2 with SIGBUS. */
static void bus(int sig)
{
    _exit(2);
}

static pid_t touch_in_child(const unsigned char *at, uint32_t i)
{
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

    if (pid == 0) {
        signal(SIGBUS, bus);
        _exit(is_right(at, i) ? 0 : 1);
    }
    return pid;
}

static int result_of(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool is_waiting(pid_t pid)
{
    int status;

    usleep(30000);
    return waitpid(pid, &status, WNOHANG) == 0;
}

static void s1_what_is_filled_is_there_without_a_read(void **state)
{
    unsigned char *at = map_privately();

    forget_all();
    for (uint32_t i = 0; i < PAGES; i += SP_FUSE_FILL_PAGES)
        assert_int_equal(ask(FILL, i, SP_FUSE_FILL_PAGES), 0);
    for (uint32_t i = 0; i < PAGES; i++)
        assert_true(is_right(at, i));
    assert_int_equal(reads(), 0);
    munmap(at, PAGES * PAGE);
}

static void s3_a_drop_takes_it_from_all_and_s6_one_read_serves_all(void **state)
{
    unsigned char *at = map_privately(), *other = map_privately();

    forget_all();
    for (uint32_t i = 0; i < PAGES; i++)
        assert_true(is_right(at, i) && is_right(other, i));
    memset((void *)shared->reads, 0, sizeof(shared->reads));
    assert_int_equal(ask(DROP, 10, 20), 0);
    assert_int_equal(resident(at), PAGES - 20);
    assert_int_equal(resident(other), PAGES - 20);
    assert_int_equal(result_of(touch_in_child(at, 15)), 0);
    assert_true(is_right(at, 15) && is_right(other, 15));
    assert_int_equal(shared->reads[15], 1);
    munmap(at, PAGES * PAGE);
    munmap(other, PAGES * PAGE);
}

static void s7_a_written_copy_stays(void **state)
{
    unsigned char *at = map_privately(), *other = map_privately();

    at[5 * PAGE] = 99;
    assert_true(is_right(other, 5));
    assert_int_equal(ask(DROP, 0, PAGES), 0);
    assert_int_equal(at[5 * PAGE], 99);
    assert_int_equal(at[5 * PAGE + 1], byte_of(5));
    assert_true(is_right(other, 5));
    munmap(at, PAGES * PAGE);
    munmap(other, PAGES * PAGE);
}

/* Pages are read ahead: an error among them is that of its own page only. */
static void s8_an_error_is_a_signal_for_who_touches_that_page_only(void **state)
{
    unsigned char *at = map_privately();

    forget_all();
    shared->bad = 100;
    for (uint32_t i = 90; i < 110; i++)
        assert_int_equal(result_of(touch_in_child(at, i)), i == 100 ? 2 : 0);
    shared->bad = NONE;
    for (uint32_t i = 0; i < PAGES; i++)
        assert_int_equal(result_of(touch_in_child(at, i)), 0);
    munmap(at, PAGES * PAGE);
}

static void s3_who_is_withheld_waits_and_nobody_else(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    forget_all();
    shared->withheld = 50;
    pid =
        touch_in_child(at, 50); /* pages around it are read ahead: they are not withheld with it */
    assert_true(is_waiting(pid));
    for (uint32_t i = 40; i < 60; i++)
        assert_true(i == 50 || is_right(at, i));
    assert_int_equal(ask(DROP, 40, 10), 0);
    assert_int_equal(ask(DROP, 51, 10), 0);
    assert_true(is_right(at, 49) && is_right(at, 51));
    shared->withheld = NONE;
    assert_int_equal(result_of(pid), 0);
    munmap(at, PAGES * PAGE);
}

static void d1_who_touches_while_no_server_is_there_waits(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    forget_all();
    ask(KILL_SERVER, 0, 0);
    pid = touch_in_child(at, 70);
    assert_true(is_waiting(pid));
    ask(START_SERVER, 0, 0);
    assert_int_equal(result_of(pid), 0);
    munmap(at, PAGES * PAGE);
}

static void d1_what_a_dead_server_had_begun_is_done_by_the_next(void **state)
{
    unsigned char *at = map_privately();
    pid_t pid;

    forget_all();
    shared->hang = 1;
    pid = touch_in_child(at, 80);
    while (!shared->hangs)
        usleep(1000);
    ask(KILL_SERVER, 0, 0);
    shared->hang = 0;
    ask(START_SERVER, 0, 0);
    assert_true(is_waiting(pid));
    if (ask(RESEND, 0, 0)) {
        print_message("this kernel sends nothing again (before 6.9)\n");
        kill(pid, SIGKILL);
        munmap(at, PAGES * PAGE);
        return;
    }
    assert_int_equal(result_of(pid), 0);
    munmap(at, PAGES * PAGE);
}

static void nobody_can_write(void **state)
{
    int fd = sp_store_fuse_segment(mount_fd, SEGMENT);
    char name[32];

    assert_true(fd >= 0);
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    assert_int_equal(open(name, O_RDWR), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(fchmod(fd, 0666), -1);
    assert_int_equal(truncate(name, 0), -1);
    snprintf(name, sizeof(name), "%u", SEGMENT);
    assert_int_equal(openat(mount_fd, name, O_RDWR), -1);
    assert_int_equal(openat(mount_fd, "8", O_RDWR | O_CREAT, 0600), -1);
    assert_ptr_equal(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(sp_store_fuse_segment(mount_fd, SEGMENT + 1), -ENOENT);
    close(fd);
}

static bool opened_becomes(int want)
{
    for (unsigned i = 0; i < 1000 && shared->opened != want; i++)
        usleep(1000);
    return shared->opened == want;
}

/* A client has what it was given, and no more openings than that. */
static void k9_other_users_open_nothing(void **state)
{
    int fd = sp_store_fuse_segment(mount_fd, SEGMENT), status;
    char path[64];
    pid_t pid;

    assert_true(fd >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    pid = fork();
    if (pid == 0) {
        char byte;

        if (setgid(65534) || setuid(65534) || prctl(PR_SET_DUMPABLE, 1) || open(path, O_RDONLY) >= 0 || errno != EACCES)
            _exit(1);
        _exit(pread(fd, &byte, 1, 0) == 1 ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 0);
    close(fd);
}

static void k9_the_end_of_the_last_mapping_is_told(void **state)
{
    unsigned char *at;
    pid_t pid;

    assert_true(opened_becomes(0));
    at = map_privately();
    assert_true(opened_becomes(1));
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        for (;;)
            pause();
    munmap(at, PAGES * PAGE);
    usleep(20000);
    assert_int_equal(shared->opened, 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(opened_becomes(0));
}

static int begin(void)
{
    char why[200] = "";
    int sock[2], fd[SP_STORE_FUSE_FDS], dev, err = sp_store_fuse_open(fd, why, sizeof(why));

    if (err) {
        printf("skipped: %s\n", why);
        return SKIPPED;
    }
    dev = fd[SP_STORE_FUSE_DEV];
    mount_fd = fd[SP_STORE_FUSE_MOUNT];
    close(fd[SP_STORE_FUSE_CLONE]);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->bad = shared->withheld = NONE;
    if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
        return 1;
    helper_pid = fork();
    if (helper_pid == 0) {
        close(sock[0]);
        close(mount_fd);
        help(sock[1], dev);
    }
    close(sock[1]);
    close(dev);
    helper = sock[0];
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k9_other_users_open_nothing),
        cmocka_unit_test(k9_the_end_of_the_last_mapping_is_told),
        cmocka_unit_test(nobody_can_write),
        cmocka_unit_test(s1_what_is_filled_is_there_without_a_read),
        cmocka_unit_test(s3_a_drop_takes_it_from_all_and_s6_one_read_serves_all),
        cmocka_unit_test(s7_a_written_copy_stays),
        cmocka_unit_test(s8_an_error_is_a_signal_for_who_touches_that_page_only),
        cmocka_unit_test(s3_who_is_withheld_waits_and_nobody_else),
        cmocka_unit_test(d1_who_touches_while_no_server_is_there_waits),
        cmocka_unit_test(d1_what_a_dead_server_had_begun_is_done_by_the_next),
    };
    int err = begin();

    if (err)
        return err;
    ask(START_SERVER, 0, 0);
    err = cmocka_run_group_tests(tests, NULL, NULL);
    close(helper);
    waitpid(helper_pid, NULL, 0);
    return err;
}
