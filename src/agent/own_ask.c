/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program's own figures, asked of the daemon by the request "process" (docs/control.md), on a
 * connection of this thread's: the agent, which the daemon asks, must not wait for the daemon.
 */
#include <linux/socket.h>
#include <linux/time_types.h>
#include <linux/un.h>

#include "mem.h"
#include "own_file.h"
#include "sys.h"

#define FAMILY            1        /* AF_UNIX */
#define TYPE              02000005 /* SOCK_SEQPACKET | SOCK_CLOEXEC */
#define ANSWER            1024u    /* bytes; it has less than 250 */
#define PATIENCE_US       10000000u /* for all steps together */
#define INTERRUPTED       100u /* so often, by SIGSTOP and SIGCONT: all other signals are blocked */
#define MONOTONIC         1
#define SOL_SOCKET_NR     1
#define SO_RCVTIMEO_NR    20
#define SO_SNDTIMEO_NR    21
#define MSG_NOSIGNAL_FLAG 0x4000

const char *sp_own_socket;

static uint64_t now_us(void)
{
    struct __kernel_timespec t = {0};

    sp_sys(__NR_clock_gettime, MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* The next step on the socket, which sends (and connects) or receives, waits until then at most. False: it is
 * then. */
static bool limit_wait(long fd, long option, uint64_t until)
{
    uint64_t now = now_us(), left = now < until ? until - now : 0;
    struct __kernel_old_timeval limit = {.tv_sec = (long)(left / 1000000),
                                         .tv_usec = (long)(left % 1000000)};

    return left && sp_sys(__NR_setsockopt, fd, SOL_SOCKET_NR, option, &limit, sizeof(limit)) == 0;
}

static int dial(uint64_t until)
{
    struct sockaddr_un addr = {.sun_family = FAMILY};
    long fd = sp_sys(__NR_socket, FAMILY, TYPE, 0), ret = -ETIMEDOUT;
    struct sp_text text;

    if (sp_is_err(fd))
        return (int)fd;
    sp_text_init(&text, addr.sun_path, sizeof(addr.sun_path));
    sp_text_str(&text, sp_own_socket);
    if (limit_wait(fd, SO_SNDTIMEO_NR, until))
        ret = sp_sys(__NR_connect, fd, &addr, sizeof(addr));
    if (ret == 0)
        return (int)fd;
    sp_sys(__NR_close, fd);
    return (int)ret;
}

static long receive(int fd, char *answer, uint64_t until)
{
    long n = -EINTR;

    for (unsigned i = 0;
         i < INTERRUPTED && n == -EINTR && limit_wait(fd, SO_RCVTIMEO_NR, until); i++)
        n = sp_sys(__NR_recvfrom, fd, answer, ANSWER - 1, 0, 0, 0);
    return n;
}

/* The answer, ended by 0; false: there is none. */
static bool ask(char answer[ANSWER])
{
    static const char request[] = "{\"op\":\"process\"}";
    uint64_t until = now_us() + PATIENCE_US;
    int fd = dial(until);
    long n = -ETIMEDOUT;

    if (fd < 0)
        return false;
    if (limit_wait(fd, SO_SNDTIMEO_NR, until))
        n = sp_sys(__NR_sendto, fd, request, sizeof(request) - 1, MSG_NOSIGNAL_FLAG, 0, 0);
    if (n == (long)sizeof(request) - 1)
        n = receive(fd, answer, until);
    sp_sys(__NR_close, fd);
    answer[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* What stands behind "key": in the answer, which is flat and without blanks, and has no text in it
 * that anybody but the daemon chose. NULL: nothing does. */
static const char *value_of(const char *answer, const char *key)
{
    size_t length = sp_strlen(key);

    for (; *answer; answer++)
        if (*answer == '"' && sp_starts(answer + 1, key) && answer[length + 1] == '"' &&
            answer[length + 2] == ':')
            return answer + length + 3;
    return NULL;
}

/* Behind what the line has before it, the number of that name in the answer. */
static bool add_number(struct sp_text *text, const char *before, const char *answer,
                       const char *key)
{
    const char *value = value_of(answer, key), *digits;
    uint64_t number;

    if (!value)
        return false;
    sp_text_str(text, before);
    if (*value == '-') {
        sp_text_str(text, "-");
        value++;
    }
    digits = value;
    number = sp_parse_dec(&value, answer + ANSWER);
    sp_text_dec(text, number);
    sp_text_str(text, "\n");
    return value > digits;
}

static bool add_yes_no(struct sp_text *text, const char *before, const char *answer,
                       const char *key)
{
    const char *value = value_of(answer, key);

    if (!value)
        return false;
    sp_text_str(text, before);
    sp_text_str(text, sp_starts(value, "true") ? "yes\n" : "no\n");
    return true;
}

/* As fs/proc/base.c writes them, and ksmfs. */
static bool write_text(struct sp_text *text, enum sp_own_file which, const char *answer)
{
    if (which == SP_OWN_MERGING)
        return add_number(text, "", answer, "ksm_merging_pages");
    return add_number(text, "ksm_rmap_items ", answer, "ksm_rmap_items") &&
           add_number(text, "ksm_zero_pages ", answer, "ksm_zero_pages") &&
           add_number(text, "ksm_merging_pages ", answer, "ksm_merging_pages") &&
           add_number(text, "ksm_process_profit ", answer, "ksm_process_profit") &&
           add_yes_no(text, "ksm_merge_any: ", answer, "ksm_merge_any") &&
           add_yes_no(text, "ksm_mergeable: ", answer, "ksm_mergeable");
}

size_t sp_own_ask(enum sp_own_file which, char buf[SP_OWN_TEXT])
{
    char answer[ANSWER];
    struct sp_text text;

    sp_text_init(&text, buf, SP_OWN_TEXT);
    return ask(answer) && write_text(&text, which, answer) ? text.len : 0;
}
