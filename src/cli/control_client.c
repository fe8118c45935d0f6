/* SPDX-License-Identifier: Apache-2.0 */
#include "control_client.h"

#include "socket_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX         65536
#define CONNECT_PATIENCE   5 /* seconds */
#define ANSWER_PACKETS_MAX 4096 /* 256 MiB: a daemon that never ends must not fill our memory */

int sp_control_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = CONNECT_PATIENCE};
    int fd, err;

    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* Whoever listens there may never accept. */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    err = -errno;
    close(fd);
    return err;
}

static int connect_or_explain(int seconds)
{
    struct timeval patience = {.tv_sec = seconds};
    char path[256];
    int fd, ret;

    ret = sp_socket_choose(path, sizeof(path));
    fd = ret < 0 ? ret : sp_control_connect(path);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        return fd;
    }
    if (ret < 0)
        sp_say("the socket's path is too long; set SAMEPAGE_SOCKET to a shorter one");
    else if (fd == -ENOENT || fd == -ECONNREFUSED)
        sp_say("no daemon is running at %s; \"samepage run CMD\" starts one, or start samepaged",
               path);
    else if (fd == -EACCES || fd == -EPERM)
        sp_say("no permission to ask the daemon at %s; ask as its user or as root", path);
    else
        sp_say("cannot reach the daemon at %s: %s", path, strerror(-fd));
    return -1;
}

static int send_request(int fd, json_object *request)
{
    const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);

    if (!text || send(fd, text, strlen(text), MSG_NOSIGNAL) < 0) {
        sp_say("cannot ask the daemon: %s", strerror(text ? errno : ENOMEM));
        return -1;
    }
    return 0;
}

/* One packet of the answer, NULL after saying what is wrong with it. */
static json_object *receive_packet(int fd, char *buf)
{
    struct json_object *object;
    ssize_t n;

    do
        n = recv(fd, buf, ANSWER_MAX, MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        sp_say("the daemon does not answer; see its log, or start it again");
        return NULL;
    }
    if (n < 0 || n == 0) {
        sp_say("the daemon went away before it answered%s%s", n ? ": " : "",
               n ? strerror(errno) : "");
        return NULL;
    }
    if (n > ANSWER_MAX)
        n = 0; /* cut off: no JSON */
    buf[n] = 0;
    object = json_tokener_parse(buf);
    if (object && json_object_is_type(object, json_type_object))
        return object;
    json_object_put(object);
    sp_say("the daemon's answer cannot be read; are samepage and samepaged of one version?");
    return NULL;
}

/* Adds what a further packet says to the answer: lists grow, anything else is replaced. */
static int add_packet(json_object *answer, json_object *packet)
{
    json_object_object_foreach(packet, key, value)
    {
        json_object *have = json_object_object_get(answer, key);

        if (json_object_is_type(have, json_type_array) &&
            json_object_is_type(value, json_type_array)) {
            for (size_t i = 0; i < json_object_array_length(value); i++)
                if (json_object_array_add(have,
                                          json_object_get(json_object_array_get_idx(value, i))) < 0)
                    return -1;
        } else if (json_object_object_add(answer, key, json_object_get(value)) < 0) {
            return -1;
        }
    }
    return 0;
}

static json_object *receive_answer(int fd)
{
    char *buf = malloc(ANSWER_MAX + 1);
    json_object *answer = json_object_new_object();
    bool more = true;
    int packets = 0;

    if (!buf || !answer) {
        sp_say("out of memory");
        goto fail;
    }
    while (more) {
        json_object *packet = receive_packet(fd, buf);

        if (!packet)
            goto fail;
        more = json_object_get_boolean(json_object_object_get(packet, "more"));
        json_object_object_del(packet, "more");
        if (add_packet(answer, packet) < 0 || ++packets > ANSWER_PACKETS_MAX) {
            json_object_put(packet);
            sp_say("the daemon's answer is too long");
            goto fail;
        }
        json_object_put(packet);
    }
    free(buf);
    return answer;
fail:
    json_object_put(answer);
    free(buf);
    return NULL;
}

/* The exit status of an answer; says the daemon's own words when it is an error. */
static int judge(json_object *answer)
{
    if (json_object_get_boolean(json_object_object_get(answer, "ok")))
        return SP_EXIT_DONE;
    sp_say("%s", sp_answer_text(answer, "error"));
    return sp_answer_number(answer, "exit") == SP_EXIT_WRONG_USE ? SP_EXIT_WRONG_USE
                                                                 : SP_EXIT_COULD_NOT;
}

int sp_control_ask(json_object *request, int seconds, json_object **answer)
{
    json_object *got = NULL;
    int status = SP_EXIT_COULD_NOT;
    int fd = connect_or_explain(seconds);

    if (fd < 0)
        return SP_EXIT_COULD_NOT;
    if (send_request(fd, request) == 0)
        got = receive_answer(fd);
    close(fd);
    if (got)
        status = judge(got);
    if (status == SP_EXIT_DONE)
        *answer = got;
    else
        json_object_put(got);
    return status;
}

int sp_control_ask_op(const char *op, json_object **answer)
{
    json_object *request = json_object_new_object();
    int status = SP_EXIT_COULD_NOT;

    if (request && json_object_object_add(request, "op", json_object_new_string(op)) == 0)
        status = sp_control_ask(request, SP_ASK_PATIENCE, answer);
    else
        sp_say("out of memory");
    json_object_put(request);
    return status;
}

int64_t sp_answer_number(json_object *answer, const char *key)
{
    return json_object_get_int64(json_object_object_get(answer, key));
}

double sp_answer_real(json_object *answer, const char *key)
{
    return json_object_get_double(json_object_object_get(answer, key));
}

bool sp_answer_scans_nothing(json_object *answer)
{
    json_object *pages;

    return json_object_object_get_ex(answer, "pages_to_scan", &pages) &&
           !json_object_get_int64(pages);
}

const char *sp_answer_text(json_object *answer, const char *key)
{
    const char *text = json_object_get_string(json_object_object_get(answer, key));

    return text ? text : "-";
}

int sp_print_json(json_object *answer)
{
    puts(json_object_to_json_string_ext(answer,
                                        JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    return sp_finish_output();
}
