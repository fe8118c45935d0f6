/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper: D1 and D3, what a killed daemon held comes back whole; D4, nothing is left behind. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "keeper.h"
#include "keeper_msg.h"
#include "pool.h"

#define GONE_MS 1000 /* D4: within a second */

struct fixture {
    char dir[64], path[80], name[104];
    int alive[2]; /* a pipe: the keeper holds the writing end in each client's SHM place */
    pid_t program;
    int pidfd, uffd;
};

static struct fixture f;

static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd >= 0)
        ioctl(fd, UFFDIO_API, &api);
    return fd;
}

/* A program with a userfaultfd, which runs sleep when it is told to by SIGUSR1. */
static void program(int ready)
{
    sigset_t set;
    int sig, fd = open_uffd();

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (write(ready, &fd, sizeof(fd)) != sizeof(fd))
        _exit(1);
    close(ready);
    close(f.alive[0]);
    close(f.alive[1]);
    sigwait(&set, &sig);
    execl("/bin/sleep", "sleep", "100", NULL);
    _exit(1);
}

static int setup(void **state)
{
    int ready[2], fd;

    snprintf(f.dir, sizeof(f.dir), "/tmp/sp_keeper_test_XXXXXX");
    if (!mkdtemp(f.dir) || pipe2(f.alive, O_CLOEXEC) || pipe2(ready, O_CLOEXEC))
        return -1;
    snprintf(f.path, sizeof(f.path), "%s/socket", f.dir);
    snprintf(f.name, sizeof(f.name), "%s.keeper", f.path);
    f.program = fork();
    if (!f.program)
        program(ready[1]);
    close(ready[1]);
    if (read(ready[0], &fd, sizeof(fd)) != sizeof(fd) || fd < 0)
        return -1;
    close(ready[0]);
    f.pidfd = (int)syscall(SYS_pidfd_open, f.program, 0);
    f.uffd = (int)syscall(SYS_pidfd_getfd, f.pidfd, fd, 0);
    return f.uffd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    kill(f.program, SIGKILL);
    waitpid(f.program, NULL, 0);
    close(f.pidfd);
    close(f.uffd);
    if (f.alive[1] >= 0)
        close(f.alive[1]);
    /* Whatever the test did: nothing of the keeper is left after a second (D4). */
    struct pollfd p = {.fd = f.alive[0]};
    int left = poll(&p, 1, GONE_MS) != 1;
    close(f.alive[0]);
    for (int i = 0; i < 100 && rmdir(f.dir); i++)
        usleep(10000);
    return left || !access(f.dir, F_OK);
}

static struct sp_keeper *open_keeper(int expected)
{
    struct sp_keeper *keeper = NULL;
    char why[200] = "";
    int got = sp_keeper_open(f.path, &keeper, why, sizeof(why));

    if (got != expected)
        print_message("sp_keeper_open: %d %s\n", got, why);
    assert_int_equal(got, expected);
    return keeper;
}

static int put_client(struct sp_keeper *keeper, uint32_t id, int agent)
{
    struct sp_keeper_client client = {.client_id = id,
                                      .program_pid = (uint32_t)f.program,
                                      .set_id = 3,
                                      .wait_page = 0x7000,
                                      .flags = 1,
                                      .domain = "home"};
    int fd[SP_KEEPER_FDS] = {f.uffd, f.alive[1], f.pidfd, agent};

    return sp_keeper_put_client(keeper, &client, fd);
}

/* Runs fn as a daemon in a process of its own, and kills that when fn is done. */
static void killed_daemon(void (*fn)(struct sp_keeper *))
{
    int done[2];
    char c = 0;

    assert_int_equal(pipe2(done, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (!pid) {
        struct sp_keeper *keeper;
        char why[200];
        if (sp_keeper_open(f.path, &keeper, why, sizeof(why)) < 0)
            _exit(1);
        fn(keeper);
        if (write(done[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(done[1]);
    assert_int_equal(read(done[0], &c, 1), 1);
    close(done[0]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

struct seen {
    struct sp_pool_record record[8];
    int pool_fd[8];
    size_t npool;
    struct sp_keeper_client client[8];
    int client_fd[8][SP_KEEPER_FDS];
    size_t nclients;
    char state[SP_KEEPER_STATE_MAX];
    size_t state_size;
};

static void see_pool(void *arg, const struct sp_pool_record *record, int fd)
{
    struct seen *seen = arg;

    seen->record[seen->npool] = *record;
    seen->pool_fd[seen->npool++] = fd;
}

static void see_client(void *arg, const struct sp_keeper_client *client, const int *fd)
{
    struct seen *seen = arg;

    seen->client[seen->nclients] = *client;
    memcpy(seen->client_fd[seen->nclients++], fd, sizeof(seen->client_fd[0]));
}

static void see_state(void *arg, const void *data, size_t size)
{
    struct seen *seen = arg;

    memcpy(seen->state, data, size);
    seen->state_size = size;
}

static void look(struct sp_keeper *keeper, struct seen *seen)
{
    const struct sp_keeper_visitor visitor = {see_pool, see_client, see_state};

    memset(seen, 0, sizeof(*seen));
    assert_int_equal(sp_keeper_visit(keeper, &visitor, seen), 0);
}

static void forget(struct seen *seen)
{
    for (size_t i = 0; i < seen->npool; i++)
        close(seen->pool_fd[i]);
    for (size_t i = 0; i < seen->nclients; i++)
        for (int k = 0; k < SP_KEEPER_FDS; k++)
            if (seen->client_fd[i][k] >= 0)
                close(seen->client_fd[i][k]);
}

static size_t count_clients(struct sp_keeper *keeper)
{
    static struct seen seen;

    look(keeper, &seen);
    forget(&seen);
    return seen.nclients;
}

static bool same_file(int a, int b)
{
    return syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, a, b) == 0;
}

static void wait_gone(void)
{
    for (int i = 0; i < GONE_MS / 10 && !access(f.name, F_OK); i++)
        usleep(10000);
    assert_int_equal(access(f.name, F_OK), -1);
}

static void keep(void *keeper, const struct sp_pool_record *record, int fd)
{
    if (sp_keeper_pool_change(keeper, record, fd))
        _exit(5);
}

static void fill(struct sp_keeper *keeper)
{
    struct sp_pool *pool;
    struct sp_pool_set *set;
    uint32_t segment, index;
    unsigned got;
    char why[200];

    if (sp_pool_new(&pool, why, sizeof(why)))
        _exit(2);
    sp_pool_export(pool, keep, keeper);
    sp_pool_on_change(pool, keep, keeper);
    set = sp_pool_set_new(pool, 3);
    if (!set || sp_pool_alloc(set, 4, &segment, &index, &got))
        _exit(3);
    memset((void *)sp_pool_frame(set, segment, index), 0x5a, 16384);
    if (put_client(keeper, 11, -1) || put_client(keeper, 12, f.pidfd) ||
        sp_keeper_put_state(keeper, "seeds", 6))
        _exit(4);
}

static void d1_killed_daemon_everything_comes_back(void **state)
{
    static struct seen seen;
    struct sp_pool *pool;
    char why[200] = "";

    killed_daemon(fill);
    struct sp_keeper *keeper = open_keeper(1);
    look(keeper, &seen);
    assert_int_equal(seen.nclients, 2);
    assert_int_equal(seen.client[0].client_id, 11);
    assert_int_equal(seen.client[0].wait_page, 0x7000);
    assert_string_equal(seen.client[0].domain, "home");
    assert_true(same_file(seen.client_fd[0][SP_KEEPER_UFFD], f.uffd));
    assert_true(same_file(seen.client_fd[0][SP_KEEPER_SHM], f.alive[1]));
    assert_true(same_file(seen.client_fd[0][SP_KEEPER_PROGRAM], f.pidfd));
    assert_int_equal(seen.client_fd[0][SP_KEEPER_AGENT], -1);
    assert_true(same_file(seen.client_fd[1][SP_KEEPER_AGENT], f.pidfd));
    assert_int_equal(seen.state_size, 6);
    assert_string_equal(seen.state, "seeds");
    assert_int_equal(seen.npool, 3);
    assert_int_equal(sp_pool_import(&pool, seen.record, seen.pool_fd, 3, NULL, why, sizeof(why)), 0);
    seen.npool = 0;
    struct sp_pool_set *set = sp_pool_set_find(pool, 3);
    assert_non_null(set);
    assert_int_equal(((unsigned char *)sp_pool_frame(set, seen.record[2].segment, 3))[0], 0x5a);
    /* The keeper's dups do not keep a segment from being freed (K9). */
    sp_pool_on_change(pool, keep, keeper);
    sp_pool_import_end(pool);
    assert_int_equal(sp_pool_segment_try_free(set, seen.record[2].segment), 0);
    forget(&seen);
    look(keeper, &seen);
    assert_int_equal(seen.npool, 2);
    forget(&seen);
    sp_pool_free(pool);
    assert_int_equal(sp_keeper_drop_client(keeper, 11), 0);
    assert_int_equal(sp_keeper_drop_client(keeper, 11), 0);
    assert_int_equal(count_clients(keeper), 1);
    assert_int_equal(sp_keeper_stop(keeper), -EBUSY);
    sp_keeper_close(keeper);
}

static void put_two(struct sp_keeper *keeper)
{
    if (put_client(keeper, 1, -1) || put_client(keeper, 2, -1) || put_client(keeper, 1, f.pidfd))
        _exit(1);
}

static void d4_dead_program_is_forgotten(void **state)
{
    struct sp_keeper *keeper = open_keeper(0);

    put_two(keeper);
    assert_int_equal(count_clients(keeper), 2);
    kill(f.program, SIGKILL);
    for (int i = 0; i < GONE_MS / 10 && count_clients(keeper); i++)
        usleep(10000);
    assert_int_equal(count_clients(keeper), 0);
    assert_int_equal(sp_keeper_stop(keeper), 0);
    sp_keeper_close(keeper);
    wait_gone();
}

static void d4_last_program_takes_the_keeper_with_it(void **state)
{
    killed_daemon(put_two);
    usleep(700000);
    assert_int_equal(access(f.name, F_OK), 0);
    kill(f.program, SIGKILL);
    wait_gone();
}

static void d4_exec_without_a_daemon_is_noticed(void **state)
{
    killed_daemon(put_two);
    kill(f.program, SIGUSR1);
    wait_gone();
}

static void put_state_only(struct sp_keeper *keeper)
{
    if (sp_keeper_put_state(keeper, "x", 1))
        _exit(1);
}

static void nothing_held_nothing_left(void **state)
{
    killed_daemon(put_state_only);
    wait_gone();
}

static void second_daemon_is_refused(void **state)
{
    struct sp_keeper *keeper = open_keeper(0);

    open_keeper(-EBUSY);
    assert_int_equal(put_client(keeper, 1, -1), 0);
    sp_keeper_close(keeper);
    keeper = open_keeper(1);
    assert_int_equal(sp_keeper_drop_client(keeper, 1), 0);
    sp_keeper_close(keeper);
    wait_gone();
}

static void replaces_a_dead_keepers_socket(void **state)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", f.name);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    close(fd);
    struct sp_keeper *keeper = open_keeper(0);
    struct stat st;
    assert_int_equal(stat(f.name, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    sp_keeper_close(keeper);
    wait_gone();
}

static pid_t keeper_pid(void)
{
    char cmd[160], line[32] = "";

    /* The one process of that name that holds our pipe. */
    snprintf(cmd, sizeof(cmd),
             "for p in $(pgrep -x samepage-keeper); do ls -l /proc/$p/fd 2>/dev/null | "
             "grep -q 'pipe:.%lu.' && echo $p; done",
             ({
                 struct stat st;
                 fstat(f.alive[0], &st);
                 (unsigned long)st.st_ino;
             }));
    FILE *p = popen(cmd, "r");
    if (p && !fgets(line, sizeof(line), p))
        line[0] = 0;
    if (p)
        pclose(p);
    return atoi(line);
}

static void signals_do_not_end_it_and_a_kill_is_seen(void **state)
{
    struct sp_keeper *keeper = open_keeper(0);

    assert_int_equal(put_client(keeper, 1, -1), 0);
    pid_t pid = keeper_pid();
    assert_true(pid > 1);
    assert_int_not_equal(getsid(pid), getsid(0));
    kill(pid, SIGTERM);
    kill(pid, SIGINT);
    kill(pid, SIGHUP);
    assert_int_equal(count_clients(keeper), 1);
    kill(pid, SIGKILL);
    struct pollfd p = {.fd = sp_keeper_fd(keeper)};
    assert_int_equal(poll(&p, 1, 1000), 1);
    assert_true(p.revents & POLLHUP);
    assert_int_equal(put_client(keeper, 2, -1), -EPIPE);
    sp_keeper_close(keeper);
    keeper = open_keeper(0);
    assert_int_equal(put_client(keeper, 1, -1), 0);
    assert_int_equal(count_clients(keeper), 1);
    assert_int_equal(sp_keeper_drop_client(keeper, 1), 0);
    assert_int_equal(sp_keeper_stop(keeper), 0);
    sp_keeper_close(keeper);
}

static void refuses_nonsense_and_goes_on(void **state)
{
    struct sp_keeper *keeper = open_keeper(0);
    int sock = sp_keeper_fd(keeper), fd[SP_KEEPER_FDS];
    struct sp_keeper_msg msg = {.type = SP_KEEPER_PUT_CLIENT, .length = 5};
    int regular = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    assert_int_equal(sp_keeper_msg_send(sock, &msg, NULL), 0);
    assert_int_equal(sp_keeper_msg_recv(sock, &msg, fd, 0), 0);
    assert_int_equal(msg.status, -EINVAL);
    msg = (struct sp_keeper_msg){.type = 99};
    assert_int_equal(sp_keeper_msg_send(sock, &msg, NULL), 0);
    assert_int_equal(sp_keeper_msg_recv(sock, &msg, fd, 0), 0);
    assert_int_equal(msg.status, -EPROTO);
    msg = (struct sp_keeper_msg){.type = SP_KEEPER_GET, .arg = 0x00ffffff};
    assert_int_equal(sp_keeper_msg_send(sock, &msg, NULL), 0);
    assert_int_equal(sp_keeper_msg_recv(sock, &msg, fd, 0), 0);
    assert_int_equal(msg.type, SP_KEEPER_GET);
    /* A regular file is no pidfd. */
    struct sp_keeper_client client = {.client_id = 5};
    int bad[SP_KEEPER_FDS] = {regular, f.alive[1], regular, -1};
    assert_int_equal(sp_keeper_put_client(keeper, &client, bad), -EPERM);
    assert_int_equal(count_clients(keeper), 0);
    assert_int_equal(sp_keeper_put_state(keeper, &msg, SP_KEEPER_STATE_MAX + 1), -EMSGSIZE);
    assert_int_equal(put_client(keeper, 5, -1), 0);
    /* No message at all: it hangs up, and keeps what it holds for the next daemon. */
    assert_int_equal(send(sock, "hello", 5, MSG_NOSIGNAL), 5);
    assert_int_equal(sp_keeper_drop_client(keeper, 5), -EPIPE);
    sp_keeper_close(keeper);
    keeper = open_keeper(1);
    assert_int_equal(count_clients(keeper), 1);
    sp_keeper_close(keeper);
    close(regular);
}

static void many_records(void **state)
{
    struct sp_keeper *keeper = open_keeper(0);
    int fds[SP_KEEPER_FDS] = {f.uffd, f.alive[1], f.pidfd, -1};
    const struct sp_keeper_visitor none = {NULL, NULL, NULL};

    for (uint32_t id = 1; id <= 500; id++) {
        struct sp_keeper_client client = {.client_id = id};
        assert_int_equal(sp_keeper_put_client(keeper, &client, fds), 0);
    }
    assert_int_equal(sp_keeper_visit(keeper, &none, NULL), 0);
    for (uint32_t id = 500; id >= 1; id--)
        assert_int_equal(sp_keeper_drop_client(keeper, id), 0);
    assert_int_equal(count_clients(keeper), 0);
    sp_keeper_close(keeper);
}

static void path_must_fit(void **state)
{
    struct sp_keeper *keeper;
    char why[200], path[200];

    memset(path, 'a', sizeof(path));
    path[0] = '/';
    path[199] = 0;
    assert_int_equal(sp_keeper_open(path, &keeper, why, sizeof(why)), -ENAMETOOLONG);
    assert_int_equal(sp_keeper_open("here", &keeper, why, sizeof(why)), -EINVAL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(d1_killed_daemon_everything_comes_back),
        T(d4_dead_program_is_forgotten),
        T(d4_last_program_takes_the_keeper_with_it),
        T(d4_exec_without_a_daemon_is_noticed),
        T(nothing_held_nothing_left),
        T(second_daemon_is_refused),
        T(replaces_a_dead_keepers_socket),
        T(signals_do_not_end_it_and_a_kill_is_seen),
        T(refuses_nonsense_and_goes_on),
        T(many_records),
        T(path_must_fit),
    };
    int status = sp_keeper_main(argc, argv);

    return status >= 0 ? status : cmocka_run_group_tests(tests, NULL, NULL);
}
