/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to the daemon. */
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/socket.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <linux/un.h>

#include "agent.h"
#include "gate.h"
#include "mem.h"
#include "sys.h"

#define SOL_SOCKET_NR 1
#define SCM_RIGHTS_NR 1
#define MSG_NOSIGNAL_FLAG 0x4000
#define MSG_CMSG_CLOEXEC_FLAG 0x40000000
#define MADV_DONTFORK_ADVICE 10
/* The daemon may be waiting for somebody else's agent, for two seconds (SP_ANSWER_MSECS): a program that
 * begins just then would not be merged as long as it lives. */
#define JOIN_TIMEOUT_US 5000000u

struct header {
    void *name;
    int namelen;
    struct iovec *iov;
    size_t iovlen;
    void *control;
    size_t controllen;
    int flags;
};

struct control {
    size_t len;
    int level, type;
    int fd[4];
};

static long send_packet(const struct sp_msg *msg, const void *body, int fd)
{
    struct iovec iov[2] = {{(void *)msg, sizeof(*msg)}, {(void *)body, msg->length}};
    struct control control = {.len = 16 + sizeof(int), .level = SOL_SOCKET_NR,
                              .type = SCM_RIGHTS_NR, .fd = {fd}};
    struct header h = {.iov = iov, .iovlen = 2};

    if (fd >= 0) {
        h.control = &control;
        h.controllen = 24;
    }
    return sp_sys(__NR_sendmsg, sp_agent.sock, &h, MSG_NOSIGNAL_FLAG);
}

long sp_link_put(int sock, const void *packet, size_t size)
{
    struct iovec iov = {(void *)packet, size};
    struct header h = {.iov = &iov, .iovlen = 1};

    return sp_sys(__NR_sendmsg, sock, &h, MSG_NOSIGNAL_FLAG);
}

long sp_link_receive(void *buf, size_t size, int *fd)
{
    struct iovec iov = {buf, size};
    struct control control = {0};
    struct header h = {.iov = &iov, .iovlen = 1, .control = &control,
                       .controllen = sizeof(control)};
    long n = sp_sys(__NR_recvmsg, sp_agent.sock, &h, MSG_CMSG_CLOEXEC_FLAG);

    *fd = -1;
    if (n > 0 && h.controllen >= 20 && control.level == SOL_SOCKET_NR &&
        control.type == SCM_RIGHTS_NR) {
        *fd = control.fd[0];
        for (size_t i = 1; 16 + i * sizeof(int) < control.len && i < 4; i++)
            sp_sys(__NR_close, control.fd[i]); /* never sent by our daemon */
    }
    return n;
}

int sp_link_answer(const struct sp_msg *question, uint16_t type, const void *body, size_t length)
{
    struct sp_msg msg = {.magic = SP_WIRE_MAGIC, .version = SP_WIRE_VERSION, .type = type,
                         .seq = question->seq, .length = (uint32_t)length};
    long ret = send_packet(&msg, body, -1);

    return sp_is_err(ret) ? (int)ret : 0;
}

void sp_link_drop(void)
{
    if (sp_agent.sock >= 0)
        sp_sys(__NR_close, sp_agent.sock);
    sp_agent.sock = -1;
    sp_stall_take(-1); /* it needs the views, to know which frames they are */
    sp_views_drop_all();
    if (sp_agent.shm)
        sp_sys(__NR_munmap, sp_agent.shm, sp_agent.shm_bytes);
    sp_agent.shm = 0;
    __atomic_store_n(&sp_gate_agent_known, 0, __ATOMIC_SEQ_CST);
}

int sp_link_dial(void)
{
    struct sockaddr_un addr = {.sun_family = SP_LINK_FAMILY};
    uint64_t at = sp_agent.address ? sp_agent.address : (uint64_t)&addr;
    struct sp_text text;
    long ret;

    if (sp_agent.sock >= 0)
        return 0; /* before it was confined */
    sp_text_init(&text, addr.sun_path, sizeof(addr.sun_path));
    sp_text_str(&text, sp_agent.socket_path);
    ret = sp_sys(__NR_socket, SP_LINK_FAMILY, SP_LINK_TYPE, 0);
    if (sp_is_err(ret))
        return (int)ret;
    sp_agent.sock = (int)ret;
    ret = sp_sys(__NR_connect, sp_agent.sock, at, sizeof(addr));
    return sp_is_err(ret) ? (int)ret : 0;
}

static int say_hello(uint32_t flags)
{
    struct sp_msg msg = {.magic = SP_WIRE_MAGIC, .version = SP_WIRE_VERSION, .type = SP_MSG_HELLO,
                         .length = sizeof(struct sp_hello)};
    struct sp_hello hello = {.program_pid = (uint32_t)sp_agent.program_pid, .flags = flags,
                             .page_size = sp_agent.page_size,
                             .wait_page = (uint64_t)sp_gate.wait_page};
    long ret;

    if (sp_agent.all)
        hello.flags |= SP_HELLO_ALL;
    memcpy(hello.domain, sp_agent.domain, sizeof(hello.domain));
    memcpy(hello.comm, sp_agent.comm, sizeof(hello.comm));
    ret = send_packet(&msg, &hello, sp_agent.uffd);
    return sp_is_err(ret) ? (int)ret : 0;
}

static int take_welcome(const struct sp_welcome *w, int fd)
{
    uint64_t need = SP_SHM_OFFER + ((uint64_t)SP_FILL_PAGES << sp_agent.page_shift);
    long ret;

    if (fd < 0 || w->shm_bytes < need)
        return -71;
    ret = sp_sys(__NR_mmap, 0, w->shm_bytes, 3, MAP_SHARED, fd, 0);
    sp_sys(__NR_close, fd);
    if (sp_is_err(ret))
        return (int)ret;
    sp_sys(__NR_madvise, ret, w->shm_bytes, MADV_DONTFORK_ADVICE);
    sp_agent.shm = (uint64_t)ret;
    sp_agent.shm_bytes = w->shm_bytes;
    __atomic_store_n(&sp_gate_agent_known, 1, __ATOMIC_SEQ_CST);
    sp_agent.seed = w->seed;
    return 0;
}

/* What the daemon answers before it asks. */
struct reply {
    struct sp_msg msg;
    union {
        struct sp_welcome welcome;
        struct sp_refuse refuse;
    };
};

/* The reply's bytes, 0: the daemon hung up, another negative errno; -1: none in time, and why. */
static long receive_reply(struct reply *in, int *fd, struct sp_text *why)
{
    struct pollfd p[3] = {{.fd = sp_agent.sock, .events = POLLIN},
                          {.fd = sp_agent.running ? sp_agent.uffd : -1, .events = POLLIN},
                          {.fd = sp_agent.running ? sp_agent.pidfd : -1, .events = POLLIN}};
    uint64_t until = sp_now_us() + JOIN_TIMEOUT_US, now, left;

    *fd = -1;
    /* To serve may take longer than that: what came meanwhile is an answer. */
    do {
        struct __kernel_timespec limit;

        now = sp_now_us();
        left = now < until ? until - now : 0;
        limit.tv_sec = (int64_t)(left / 1000000);
        limit.tv_nsec = (int64_t)(left % 1000000 * 1000);
        if (sp_sys(__NR_ppoll, p, 3, &limit, 0, 8) <= 0)
            break;
        if (p[2].revents)
            sp_sys(__NR_exit_group, 0); /* the program is dead (D4) */
        if (p[0].revents)
            return sp_link_receive(in, sizeof(*in), fd);
        sp_serve_gate(); /* the program's threads do not wait for the daemon */
    } while (left);
    sp_text_str(why, "samepaged does not answer; see \"samepage status\"");
    return -1;
}

/* Is it of this type, with a body of so many bytes? */
static bool is_reply(const struct reply *in, long n, uint16_t type, size_t length)
{
    return n == (long)(sizeof(in->msg) + length) && in->msg.magic == SP_WIRE_MAGIC &&
           in->msg.version == SP_WIRE_VERSION && in->msg.type == type;
}

/* A reply that was not hoped for. */
static void explain_reply(struct reply *in, long n, int fd, struct sp_text *why)
{
    if (fd >= 0)
        sp_sys(__NR_close, fd);
    if (is_reply(in, n, SP_MSG_REFUSE, sizeof(in->refuse))) {
        in->refuse.why[sizeof(in->refuse.why) - 1] = 0;
        sp_text_str(why, in->refuse.why);
    } else {
        sp_text_str(why, "samepaged answered what this version does not understand; are both of "
                         "the same installation?");
    }
}

/* EOF, EPIPE, ECONNRESET: the daemon ended. What else goes wrong does so with its successor, too. */
static bool is_lost(long ret)
{
    return ret == 0 || ret == -32 || ret == -104;
}

static int wait_welcome(struct sp_text *why)
{
    struct reply in;
    int fd;
    long n = receive_reply(&in, &fd, why);

    if (is_lost(n))
        return -11;
    if (n < 0)
        return -110;
    if (is_reply(&in, n, SP_MSG_WELCOME, sizeof(in.welcome)))
        return take_welcome(&in.welcome, fd);
    explain_reply(&in, n, fd, why);
    return -71;
}

/* It was there, and ended before it answered. */
static void lost_daemon(struct sp_text *why)
{
    sp_text_str(why, "samepaged ended just now; start the program again");
}

static void no_daemon(struct sp_text *why)
{
    sp_text_str(why, "no samepaged answers at ");
    sp_text_str(why, sp_agent.socket_path);
    sp_text_str(why, "; start one, or start the program with \"samepage run\"");
}

int sp_link_join(uint32_t flags, char *why, size_t why_size)
{
    struct sp_text text;
    int ret = sp_link_dial();

    sp_text_init(&text, why, why_size);
    if (ret) {
        no_daemon(&text);
    } else {
        ret = say_hello(flags);
        if (!ret)
            ret = wait_welcome(&text);
        else if (is_lost(ret))
            ret = -11;
        if (ret == -11)
            lost_daemon(&text);
    }
    if (ret)
        sp_link_drop();
    return ret;
}

int sp_link_want_uffd(char *why, size_t why_size)
{
    struct sp_msg msg = {.magic = SP_WIRE_MAGIC, .version = SP_WIRE_VERSION,
                         .type = SP_MSG_WANT_UFFD};
    struct sp_text text;
    struct reply in;
    int fd = -1, ret = -11;
    long n;

    sp_text_init(&text, why, why_size);
    if (sp_link_dial() || sp_is_err(send_packet(&msg, NULL, -1))) {
        no_daemon(&text);
    } else {
        n = receive_reply(&in, &fd, &text);
        if (n > 0 && fd >= 0 && is_reply(&in, n, SP_MSG_UFFD, 0)) {
            ret = fd;
        } else if (n <= 0) {
            if (n != -1)
                lost_daemon(&text);
        } else {
            explain_reply(&in, n, fd, &text);
            ret = -13;
        }
    }
    sp_link_drop(); /* HELLO goes over a connection of its own */
    return ret;
}
