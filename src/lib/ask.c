/* SPDX-License-Identifier: Apache-2.0 */
#include "inside.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int64_t sp_lib_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return -1;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* 1: there is an answer; 0: not in time; -1: it cannot be waited for. */
static int wait_answer(int fd, int timeout_ms)
{
    int64_t until = sp_lib_now_ms() + timeout_ms;
    struct pollfd p = {.fd = fd, .events = POLLIN};

    for (;;) {
        int64_t left = timeout_ms < 0 ? -1 : until - sp_lib_now_ms();
        int n = poll(&p, 1, timeout_ms >= 0 && left < 0 ? 0 : (int)left);

        if (n >= 0)
            return n;
        if (errno != EINTR)
            return -1;
    }
}

static int answered(int fd, int timeout_ms, char *answer, char *why, size_t why_size)
{
    int ready = wait_answer(fd, timeout_ms);
    ssize_t n;

    if (ready == 0) {
        snprintf(why, why_size, "not all is merged yet");
        return SAMEPAGE_NOT_IN_TIME;
    }
    n = ready > 0 ? recv(fd, answer, SP_ANSWER_MAX, MSG_DONTWAIT) : -1;
    if (n <= 0) {
        snprintf(why, why_size, "samepaged went away before it answered");
        return SAMEPAGE_NOT_MERGED;
    }
    answer[n] = 0;
    if (strstr(answer, "\"ok\":true"))
        return SAMEPAGE_DONE;
    sp_lib_text(answer, "error", why, why_size);
    return SAMEPAGE_NOT_MERGED;
}

int sp_lib_ask(const char *socket, const char *request, int timeout_ms, char *answer, char *why,
               size_t why_size)
{
    int fd = dial(socket), ret = SAMEPAGE_NOT_MERGED;

    answer[0] = 0;
    if (fd < 0) {
        snprintf(why, why_size, "no samepaged answers at %s", socket);
        return ret;
    }
    if (send(fd, request, strlen(request), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        snprintf(why, why_size, "samepaged cannot be asked: %s", strerrordesc_np(errno));
    else
        ret = answered(fd, timeout_ms, answer, why, why_size);
    close(fd);
    return ret;
}

/*
 * The daemon's answers about one process are flat, and written by its JSON library without blanks;
 * what a program may choose in one, its name, has its quotation marks escaped. So "key": is only
 * found as a key.
 */
static const char *find(const char *answer, const char *key)
{
    char quoted[64];
    const char *at;

    snprintf(quoted, sizeof(quoted), "\"%s\":", key);
    at = strstr(answer, quoted);
    return at ? at + strlen(quoted) : NULL;
}

double sp_lib_number(const char *answer, const char *key)
{
    const char *value = find(answer, key);
    double sign = 1, number = 0, place = 1;
    int exponent = 0;

    /* Not strtod(): the program may have set a locale in which the point is a comma. */
    if (value && *value == '-') {
        sign = -1;
        value++;
    }
    for (; value && *value >= '0' && *value <= '9'; value++)
        number = number * 10 + (*value - '0');
    if (value && *value == '.')
        for (value++; *value >= '0' && *value <= '9'; value++)
            number += (*value - '0') * (place /= 10);
    /* What is small is written as 5e-05. */
    if (value && value[0] == 'e' && value[1] == '-')
        for (value += 2; *value >= '0' && *value <= '9' && exponent < 100; value++)
            exponent = exponent * 10 + (*value - '0');
    for (; exponent > 0; exponent--)
        number /= 10;
    return sign * number;
}

void sp_lib_text(const char *answer, const char *key, char *text, size_t size)
{
    const char *value = find(answer, key);
    size_t n = 0;

    if (value && *value == '"')
        for (value++; *value && *value != '"' && n + 1 < size; value++) {
            if (*value == '\\' && value[1])
                value++;
            text[n++] = *value;
        }
    text[n] = 0;
}
