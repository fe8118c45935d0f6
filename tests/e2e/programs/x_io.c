/* SPDX-License-Identifier: Apache-2.0 */
/* X: the kernel reads and writes merged pages for the program, in all the ways it has. */
#include "x_table.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define NEW 7 /* the version that comes in from outside */

static int ends[2] = {-1, -1};

static void make_pipe(void)
{
    x_must(ends[0] >= 0 || !pipe(ends), "no pipe");
}

static void make_sockets(int type)
{
    int room = 4 * X_BYTES;

    x_must(ends[0] >= 0 || !socketpair(AF_UNIX, type, 0, ends), "no sockets");
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
}

/* A file of the test's folder that nobody else sees. */
static int make_file(int flags)
{
    char name[] = "x-io-XXXXXX";
    int made = mkstemp(name), fd;

    x_must(made >= 0, "no file");
    fd = open(name, O_RDWR | flags);
    if (fd < 0 && (flags & O_DIRECT))
        x_skip("this file system has no O_DIRECT");
    x_must(fd >= 0 && !unlink(name) && !close(made), "no file");
    return fd;
}

static void all(long done, const char *what)
{
    x_result(what, done);
    x_must(done == X_BYTES, what);
}

static void read_all(int fd, char *to)
{
    size_t n = 0;

    while (n < X_BYTES) {
        ssize_t now = read(fd, to + n, X_BYTES - n);

        x_must(now > 0, "read");
        n += (size_t)now;
    }
}

/* What went out is in the copy; now something new comes in. */
static void went_out(void)
{
    x_check_copy(0, "what went out");
    x_fill_pages(x_copy, x_first, X_WINDOW, NEW);
}

static void came_in(void)
{
    x_check_window(NEW, "what came in");
    x_renew_window();
}

static void row_pipe(void)
{
    make_pipe();
    all(write(ends[1], x_window, X_BYTES), "write");
    read_all(ends[0], x_copy);
    went_out();
    all(write(ends[1], x_copy, X_BYTES), "write");
    read_all(ends[0], x_window);
    came_in();
}

static void row_file(void)
{
    int fd = make_file(0);

    all(write(fd, x_window, X_BYTES), "write");
    all(pread(fd, x_copy, X_BYTES, 0), "pread");
    went_out();
    all(pwrite(fd, x_copy, X_BYTES, 0), "pwrite");
    lseek(fd, 0, SEEK_SET);
    all(read(fd, x_window, X_BYTES), "read");
    came_in();
    close(fd);
}

/* The end of the region, with a hole behind it: how far does a call get, and what does it say? */
static void row_partial(void)
{
    size_t first = X_PAGES - 2;
    char *at = x_region + first * PAGE;
    struct iovec two[2] = {{at, 2 * PAGE}, {at + 2 * PAGE, PAGE}};
    struct iovec odd = {at + PAGE + 100, 2 * PAGE};
    struct msghdr msg = {.msg_iov = two, .msg_iovlen = 2};
    int fd = make_file(0), sock[2];

    make_pipe();
    x_must(!socketpair(AF_UNIX, SOCK_DGRAM, 0, sock), "no sockets");
    x_result("write beyond", write(ends[1], at, 3 * PAGE));
    x_result("read back", read(ends[0], x_copy, X_BYTES));
    x_result("pwrite beyond", pwrite(fd, at, 3 * PAGE, 0));
    x_result("pwritev beyond", pwritev(fd, two, 2, 0));
    x_result("write of nothing", write(ends[1], at + 2 * PAGE, 1));
    x_result("send beyond", sendmsg(sock[1], &msg, 0));
    x_fill_pages(x_copy, first, 4, NEW);
    x_must(pwrite(fd, x_copy, 4 * PAGE, 0) == 4 * PAGE, "pwrite");
    x_result("pread beyond", pread(fd, at, 3 * PAGE, 0));
    x_result("preadv odd beyond", preadv(fd, &odd, 1, PAGE + 100));
    x_check_pages(at, first, 2, NEW, "read up to the hole");
    x_renew(first, 2);
    x_must(write(ends[1], x_copy, 3 * PAGE) == 3 * PAGE, "write");
    x_result("read beyond", read(ends[0], at, 3 * PAGE));
    x_check_pages(at, first, 2, NEW, "read from a pipe up to the hole");
    x_renew(first, 2);
    x_must(send(sock[1], x_copy, 3 * PAGE, 0) == 3 * PAGE, "send");
    x_result("receive beyond", recvmsg(sock[0], &msg, 0));
    x_renew(first, 2);
    close(sock[0]);
    close(sock[1]);
    close(fd);
    close(ends[0]);
    close(ends[1]);
    ends[0] = -1;
}

/* Parts of the window, in odd pieces and not in order. */
static void pieces(struct iovec vector[4], char *at)
{
    vector[0] = (struct iovec){at + 8 * PAGE, 4 * PAGE + 13};
    vector[1] = (struct iovec){at, 8 * PAGE};
    vector[2] = (struct iovec){at + 12 * PAGE + 13, PAGE - 13};
    vector[3] = (struct iovec){at + 13 * PAGE, 3 * PAGE};
}

static void row_vectors(void)
{
    struct iovec theirs[4], mine[4];
    int fd = make_file(0);

    pieces(theirs, x_window);
    pieces(mine, x_copy);
    all(writev(fd, theirs, 4), "writev");
    lseek(fd, 0, SEEK_SET);
    all(readv(fd, mine, 4), "readv");
    went_out();
    all(pwritev2(fd, mine, 4, 0, 0), "pwritev2");
    all(preadv2(fd, theirs, 4, 0, 0), "preadv2");
    came_in();
    close(fd);
}

static void row_stream(void)
{
    make_sockets(SOCK_STREAM);
    all(send(ends[1], x_window, X_BYTES, 0), "send");
    x_result("peek", recv(ends[0], x_copy, PAGE, MSG_PEEK));
    all(recv(ends[0], x_copy, X_BYTES, MSG_WAITALL), "recv");
    went_out();
    all(send(ends[1], x_copy, X_BYTES, 0), "send");
    all(recv(ends[0], x_window, X_BYTES, MSG_WAITALL), "recv");
    came_in();
}

static void row_messages(void)
{
    struct iovec theirs[4], mine[4];
    struct msghdr out = {.msg_iov = theirs, .msg_iovlen = 4};
    struct msghdr in = {.msg_iov = mine, .msg_iovlen = 4};

    make_sockets(SOCK_SEQPACKET);
    pieces(theirs, x_window);
    pieces(mine, x_copy);
    all(sendmsg(ends[1], &out, 0), "sendmsg");
    all(recvmsg(ends[0], &in, 0), "recvmsg");
    went_out();
    all(sendmsg(ends[1], &in, 0), "sendmsg");
    all(recvmsg(ends[0], &out, 0), "recvmsg");
    came_in();
    x_result("short message", send(ends[1], x_window, 2 * PAGE, 0));
    x_result("cut message", recv(ends[0], x_copy, 100, MSG_TRUNC));
}

static void row_sendfile_splice(void)
{
    int fd = make_file(0), to = make_file(0), sock[2];
    off_t at = 0;

    make_pipe();
    x_must(!socketpair(AF_UNIX, SOCK_STREAM, 0, sock), "no sockets");
    all(write(fd, x_window, X_BYTES), "write");
    all(sendfile(sock[1], fd, &at, X_BYTES), "sendfile");
    all(recv(sock[0], x_copy, X_BYTES, MSG_WAITALL), "recv");
    went_out();
    all(pwrite(fd, x_copy, X_BYTES, 0), "pwrite");
    for (size_t n = 0; n < X_BYTES;) {
        loff_t from = (loff_t)n;
        ssize_t now = splice(fd, &from, ends[1], NULL, X_BYTES - n, 0);

        x_must(now > 0 && splice(ends[0], NULL, to, NULL, (size_t)now, 0) == now, "splice");
        n += (size_t)now;
    }
    all(pread(to, x_window, X_BYTES, 0), "pread");
    came_in();
    close(fd);
    close(to);
    close(sock[0]);
    close(sock[1]);
}

/* What is written after the pages went into the pipe shows in it. */
static void row_vmsplice(void)
{
    struct iovec vector = {x_window, X_BYTES};

    make_pipe();
    all(vmsplice(ends[1], &vector, 1, 0), "vmsplice");
    if (x_looping)
        pause_ms(2);
    x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    read_all(ends[0], x_copy);
    x_check_copy(NEW, "from the pipe");
    came_in();
}

static void connect_pair(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    socklen_t size = sizeof(addr);

    if (ends[0] >= 0)
        return;
    ends[1] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&addr, &size) ||
        connect(ends[1], (struct sockaddr *)&addr, sizeof(addr)))
        x_skip("there is no loopback network");
    ends[0] = accept(listener, NULL, NULL);
    close(listener);
    if (setsockopt(ends[1], SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)))
        x_skip("this kernel has no MSG_ZEROCOPY");
}

/* The kernel says when it does not need the pages any more. */
static void wait_released(unsigned sent)
{
    static unsigned released;
    struct pollfd poll_error = {ends[1], 0, 0};

    while (released < sent) {
        char control[128];
        struct msghdr msg = {.msg_control = control, .msg_controllen = sizeof(control)};
        struct sock_extended_err *err;

        x_must(poll(&poll_error, 1, 60000) == 1, "the pages were not released");
        if (recvmsg(ends[1], &msg, MSG_ERRQUEUE) < 0)
            continue;
        err = (void *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
        released = err->ee_data + 1;
    }
}

static void row_zerocopy(void)
{
    static unsigned sent;

    connect_pair();
    for (size_t n = 0; n < X_BYTES; sent++) {
        ssize_t now = send(ends[1], x_window + n, X_BYTES - n, MSG_ZEROCOPY);

        x_must(now > 0, "send");
        n += (size_t)now;
    }
    if (x_looping)
        pause_ms(2);
    all(recv(ends[0], x_copy, X_BYTES, MSG_WAITALL), "recv");
    wait_released(sent);
    went_out();
    all(send(ends[1], x_copy, X_BYTES, 0), "send");
    all(recv(ends[0], x_window, X_BYTES, MSG_WAITALL), "recv");
    came_in();
}

static void row_direct(void)
{
    int fd = make_file(O_DIRECT);

    all(pwrite(fd, x_window, X_BYTES, 0), "direct write");
    all(pread(fd, x_copy, X_BYTES, 0), "direct read");
    went_out();
    all(pwrite(fd, x_copy, X_BYTES, 0), "direct write");
    all(pread(fd, x_window, X_BYTES, 0), "direct read");
    came_in();
    close(fd);
}

static void aio(aio_context_t context, int opcode, int fd, char *at)
{
    struct iocb job = {.aio_lio_opcode = (uint16_t)opcode,
                       .aio_fildes = (uint32_t)fd,
                       .aio_buf = (uintptr_t)at,
                       .aio_nbytes = X_BYTES};
    struct iocb *jobs[] = {&job};
    struct io_event event;

    x_must(syscall(SYS_io_submit, context, 1, jobs) == 1, "io_submit");
    x_must(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1, "io_getevents");
    all((long)event.res, "aio");
}

static void row_aio(void)
{
    static aio_context_t context;
    int fd = make_file(O_DIRECT);

    if (!context && syscall(SYS_io_setup, 4, &context))
        x_skip("this kernel has no io_setup");
    aio(context, IOCB_CMD_PWRITE, fd, x_window);
    aio(context, IOCB_CMD_PREAD, fd, x_copy);
    went_out();
    aio(context, IOCB_CMD_PWRITE, fd, x_copy);
    aio(context, IOCB_CMD_PREAD, fd, x_window);
    came_in();
    close(fd);
}

#include "x_uring.h"

static void row_uring(void)
{
    int fd = make_file(0);

    uring_open();
    all(uring_do(IORING_OP_WRITE, fd, x_window, X_BYTES), "write");
    all(uring_do(IORING_OP_READ, fd, x_copy, X_BYTES), "read");
    went_out();
    all(uring_do(IORING_OP_WRITE, fd, x_copy, X_BYTES), "write");
    all(uring_do(IORING_OP_READ, fd, x_window, X_BYTES), "read");
    came_in();
    close(fd);
}

/* The kernel keeps the pages of a registered buffer: what the program writes to it later goes out,
 * and what comes in is there. */
static void row_uring_registered(void)
{
    struct iovec buffer = {x_window, X_BYTES};
    int fd = make_file(O_DIRECT);

    uring_open();
    if (uring_register(IORING_REGISTER_BUFFERS, &buffer, 1))
        x_skip("no buffer can be registered (ulimit -l)");
    all(uring_do(IORING_OP_WRITE_FIXED, fd, x_window, X_BYTES), "write");
    all(pread(fd, x_copy, X_BYTES, 0), "pread");
    x_check_copy(0, "what went out");
    if (x_looping)
        pause_ms(3);
    x_fill_pages(x_window, x_first, X_WINDOW, 3);
    all(uring_do(IORING_OP_WRITE_FIXED, fd, x_window, X_BYTES), "write");
    all(pread(fd, x_copy, X_BYTES, 0), "pread");
    x_check_copy(3, "what went out later");
    x_fill_pages(x_copy, x_first, X_WINDOW, 0);
    all(pwrite(fd, x_copy, X_BYTES, 0), "pwrite");
    all(uring_do(IORING_OP_READ_FIXED, fd, x_window, X_BYTES), "read");
    x_check_window(0, "what came in");
    if (x_looping)
        pause_ms(3); /* equal to the others' pages again, and still registered */
    x_fill_pages(x_copy, x_first, X_WINDOW, NEW);
    all(pwrite(fd, x_copy, X_BYTES, 0), "pwrite");
    all(uring_do(IORING_OP_READ_FIXED, fd, x_window, X_BYTES), "read");
    x_check_window(NEW, "what came in");
    x_must(!uring_register(IORING_UNREGISTER_BUFFERS, NULL, 0), "the buffer stays registered");
    came_in();
    close(fd);
}

/* Advice that only plain memory takes, and takes back: what was merged, and written since, must become
 * plain for it. */
static void advise_on_fork(void)
{
    x_must(!madvise(x_window, X_BYTES, MADV_WIPEONFORK), "MADV_WIPEONFORK");
    if (x_looping)
        pause_ms(3);
    x_must(!madvise(x_window, X_BYTES, MADV_KEEPONFORK), "MADV_KEEPONFORK");
}

/* What was written before it was registered stays the ring's page. */
static void row_uring_registered_advised(void)
{
    struct iovec buffer = {x_window, X_BYTES};
    int fd = make_file(0);

    uring_open();
    x_fill_pages(x_window, x_first, X_WINDOW, 3);
    if (uring_register(IORING_REGISTER_BUFFERS, &buffer, 1))
        x_skip("no buffer can be registered (ulimit -l)");
    advise_on_fork();
    x_check_window(3, "what was written");
    x_fill_pages(x_copy, x_first, X_WINDOW, NEW);
    all(pwrite(fd, x_copy, X_BYTES, 0), "pwrite");
    all(uring_do(IORING_OP_READ_FIXED, fd, x_window, X_BYTES), "read");
    x_check_window(NEW, "what came in");
    x_must(!uring_register(IORING_UNREGISTER_BUFFERS, NULL, 0), "the buffer stays registered");
    came_in();
    close(fd);
}

/* What was written before it was given to a pipe stays the pipe's page. */
static void row_vmsplice_advised(void)
{
    struct iovec part = {x_window, X_BYTES};

    make_pipe();
    x_fill_pages(x_window, x_first, X_WINDOW, 3);
    all(vmsplice(ends[1], &part, 1, 0), "vmsplice");
    advise_on_fork();
    x_check_window(3, "what was written");
    x_fill_pages(x_window, x_first, X_WINDOW, NEW);
    read_all(ends[0], x_copy);
    x_check_copy(NEW, "what the pipe has");
    came_in();
}

static const struct x_row rows[] = {
    {"pipe", row_pipe, NULL},
    {"file", row_file, NULL},
    {"partial-efault", row_partial, NULL},
    {"readv-writev", row_vectors, NULL},
    {"socket-stream", row_stream, NULL},
    {"sendmsg-recvmsg", row_messages, NULL},
    {"sendfile-splice", row_sendfile_splice, NULL},
    {"vmsplice", row_vmsplice, NULL},
    {"vmsplice-advised", row_vmsplice_advised, NULL},
    {"msg-zerocopy", row_zerocopy, NULL},
    {"o-direct", row_direct, NULL},
    {"aio", row_aio, NULL},
    {"io-uring", row_uring, NULL},
    {"io-uring-registered", row_uring_registered, NULL},
    {"io-uring-registered-advised", row_uring_registered_advised, NULL},
};

int main(int argc, char **argv)
{
    return x_main(argc, argv, rows, sizeof(rows) / sizeof(rows[0]));
}
