/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request to the daemon on one connection (docs/control.md). Waits for the answer, and looks
 * about meanwhile whether the one who waits for us still does.
 */
#include "ksmfs.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MAX     65536 /* bytes of a packet */
#define PACKETS_MAX    1024  /* a daemon that never ends must not fill our memory */
#define PATIENCE       30    /* seconds between packets; so often a daemon that un-merges is asked whether it lives */
#define LOOK_MILLISECS 500

static struct sockaddr_un daemon_at = {.sun_family = AF_UNIX};
static struct fuse *server;

void ksmfs_ask_init(const char *socket_path, struct fuse *fuse)
{
    snprintf(daemon_at.sun_path, sizeof(daemon_at.sun_path), "%s", socket_path);
    server = fuse;
}

static int open_connection(void)
{
    const struct timeval patience = {.tv_sec = PATIENCE};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -EIO;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    while (connect(fd, (struct sockaddr *)&daemon_at, sizeof(daemon_at)) < 0) {
        int err = errno == EINTR && !fuse_interrupted() ? 0 : errno == EINTR ? -EINTR : -EIO;

        if (err) {
            close(fd);
            return err;
        }
    }
    return fd;
}

static time_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* Does the daemon answer anybody? 0, -EINTR or -EIO. */
static int ask_whether_it_lives(void)
{
    char text[SP_SETTING_TEXT_SIZE];

    return ksmfs_get(geteuid(), "", "run", text, sizeof(text));
}

/* Until there is a packet. 0, -EINTR or -EIO. */
static int wait_for_packet(int fd, bool while_it_lives)
{
    time_t end = seconds() + PATIENCE;
    struct pollfd in = {.fd = fd, .events = POLLIN};

    while (poll(&in, 1, LOOK_MILLISECS) <= 0) {
        int err = 0;

        if (fuse_interrupted() || fuse_session_exited(fuse_get_session(server)))
            return -EINTR;
        if (seconds() <= end)
            continue;
        err = while_it_lives ? ask_whether_it_lives() : -EIO;
        if (err)
            return err;
        end = seconds() + PATIENCE;
    }
    return 0;
}

/* Adds a packet's lists to those of the answer. Anything else is in one packet only. */
static int add_packet(json_object *answer, json_object *packet)
{
    json_object_object_foreach(packet, key, value)
    {
        json_object *have = json_object_object_get(answer, key);

        if (!json_object_is_type(have, json_type_array) ||
            !json_object_is_type(value, json_type_array))
            continue;
        for (size_t i = 0; i < json_object_array_length(value); i++)
            if (json_object_array_add(have, json_object_get(json_object_array_get_idx(value, i))) <
                0)
                return -ENOMEM;
    }
    return 0;
}

static json_object *receive_packet(int fd, char *buf)
{
    ssize_t n = recv(fd, buf, ANSWER_MAX, MSG_TRUNC | MSG_DONTWAIT);
    json_object *packet;

    if (n <= 0 || n > ANSWER_MAX)
        return NULL;
    buf[n] = 0;
    packet = json_tokener_parse(buf);
    if (packet && json_object_is_type(packet, json_type_object))
        return packet;
    json_object_put(packet);
    return NULL;
}

static int receive_answer(int fd, bool while_it_lives, json_object **answer)
{
    char *buf = malloc(ANSWER_MAX + 1);
    json_object *packet = NULL;
    bool more = true;
    int err = buf ? 0 : -ENOMEM;

    *answer = NULL;
    for (unsigned i = 0; more && !err; i++) {
        err = i < PACKETS_MAX ? wait_for_packet(fd, while_it_lives) : -EIO;
        packet = err ? NULL : receive_packet(fd, buf);
        if (!err && !packet)
            err = -EIO;
        more = json_object_get_boolean(json_object_object_get(packet, "more"));
        if (!*answer)
            *answer = json_object_get(packet);
        else if (!err)
            err = add_packet(*answer, packet);
        json_object_put(packet);
    }
    free(buf);
    if (!err)
        return 0;
    json_object_put(*answer);
    *answer = NULL;
    return err;
}

/* The error that the daemon named. One without a name of its own: it could not. */
static int error_of(json_object *answer)
{
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EINVAL", EINVAL}, {"ERANGE", ERANGE}, {"EBUSY", EBUSY},
                  {"ENOMEM", ENOMEM}, {"EACCES", EACCES}, {"EPERM", EPERM},
                  {"ENOENT", ENOENT}, {"EAGAIN", EAGAIN}, {"EOPNOTSUPP", EOPNOTSUPP}};
    const char *name = json_object_get_string(json_object_object_get(answer, "errno"));

    if (json_object_get_boolean(json_object_object_get(answer, "ok")))
        return 0;
    for (unsigned i = 0; name && i < sizeof(errors) / sizeof(errors[0]); i++)
        if (!strcmp(errors[i].name, name))
            return -errors[i].number;
    return -EIO;
}

/* Takes the request, NULL if there was no memory for it. */
static int ask(json_object *request, bool while_it_lives, json_object **answer)
{
    const char *text =
        request ? json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN) : NULL;
    int fd = -1, err = -ENOMEM;

    *answer = NULL;
    if (!text)
        goto out;
    fd = open_connection();
    err = fd < 0 ? fd : 0;
    if (!err && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        err = -EIO;
    if (!err)
        err = receive_answer(fd, while_it_lives, answer);
    if (!err)
        err = error_of(*answer);
    if (err) {
        json_object_put(*answer);
        *answer = NULL;
    }
out:
    if (fd >= 0)
        close(fd);
    json_object_put(request);
    return err;
}

static int add(json_object *request, const char *key, json_object *value)
{
    if (value && json_object_object_add(request, key, value) == 0)
        return 0;
    json_object_put(value);
    return -ENOMEM;
}

/* A user's own server serves that user only (no allow_other), and his daemon knows him. */
static json_object *new_request(const char *op, uid_t uid)
{
    json_object *request = json_object_new_object();

    if (request && !add(request, "op", json_object_new_string(op)) &&
        (geteuid() != 0 || uid == 0 || !add(request, "uid", json_object_new_int64(uid))))
        return request;
    json_object_put(request);
    return NULL;
}

static json_object *key_request(const char *op, uid_t uid, const char *domain, const char *key,
                                const char *value)
{
    json_object *request = new_request(op, uid);

    if (request && !add(request, "key", json_object_new_string(key)) &&
        (!*domain || !add(request, "domain", json_object_new_string(domain))) &&
        (!value || !add(request, "value", json_object_new_string(value))))
        return request;
    json_object_put(request);
    return NULL;
}

int ksmfs_get(uid_t uid, const char *domain, const char *key, char *text, size_t size)
{
    json_object *answer;
    int err = ask(key_request("get", uid, domain, key, NULL), false, &answer);
    const char *value = json_object_get_string(json_object_object_get(answer, "value"));

    if (!err && (!value || strlen(value) >= size))
        err = -EIO;
    if (!err)
        strcpy(text, value);
    json_object_put(answer);
    return err;
}

int ksmfs_set(uid_t uid, const char *domain, const char *key, const char *text)
{
    static atomic_uint writers;
    bool run2 = !strcmp(key, "run") && !strcmp(text, "2");
    json_object *answer = NULL;
    int err = -EAGAIN;

    if (atomic_fetch_add(&writers, 1) < KSMFS_WRITERS_MAX)
        err = ask(key_request("set", uid, domain, key, text), run2, &answer);
    atomic_fetch_sub(&writers, 1);
    json_object_put(answer);
    return err;
}

int ksmfs_domains(uid_t uid, json_object **answer)
{
    return ask(new_request("domains", uid), false, answer);
}

int ksmfs_processes(uid_t uid, json_object **answer)
{
    return ask(new_request("ps", uid), false, answer);
}

int ksmfs_process(uid_t uid, pid_t pid, json_object **answer)
{
    json_object *request = new_request("process", uid);
    int err;

    if (request && add(request, "pid", json_object_new_int(pid))) {
        json_object_put(request);
        request = NULL;
    }
    err = ask(request, false, answer);
    if (err || json_object_object_get(*answer, "ksm_rmap_items"))
        return err;
    json_object_put(*answer);
    *answer = NULL;
    return -ESRCH;
}
