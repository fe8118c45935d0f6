/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "admit.h"
#include "answers.h"
#include "client.h"
#include "log.h"
#include "meanwhile.h"
#include "send_fd.h"
#include "stalls.h"
#include "turns.h"

/* One descriptor. */
union sp_control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

union sp_creds {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct ucred))];
};

static ssize_t receive_creds(int sock, void *buf, size_t size, int flags, struct msghdr *msg,
                             union sp_creds *creds)
{
    struct iovec iov = {buf, size};
    ssize_t n;

    do {
        *msg = (struct msghdr){.msg_iov = &iov,
                               .msg_iovlen = 1,
                               .msg_control = creds,
                               .msg_controllen = sizeof(*creds)};
        n = recvmsg(sock, msg, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* There is room for who sent, and for nothing else: what does not fit in is not put anywhere while
 * the packet stays where it is, and the kernel says that there was more. */
int sp_peek_fds(int sock)
{
    union sp_creds creds;
    struct msghdr msg;
    char byte;
    ssize_t n = receive_creds(sock, &byte, 1, MSG_PEEK, &msg, &creds);

    if (n < 0)
        return (int)n;
    if (msg.msg_flags & MSG_CTRUNC)
        return -EBADMSG;
    return n || msg.msg_controllen ? 0 : -EPIPE; /* a packet has a sender, the end has none */
}

static pid_t sender_of(struct msghdr *msg)
{
    const struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    struct ucred cred;

    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS ||
        c->cmsg_len < CMSG_LEN(sizeof(cred)))
        return 0;
    memcpy(&cred, CMSG_DATA(c), sizeof(cred));
    return cred.pid;
}

int sp_receive(int sock, void *buf, struct sp_packet *packet)
{
    union sp_creds creds;
    struct msghdr msg;
    int err = sp_peek_fds(sock);
    ssize_t n;

    memset(packet, 0, sizeof(*packet));
    if (err)
        return err == -EPIPE ? 0 : err;
    n = receive_creds(sock, buf, SP_WIRE_MAX, 0, &msg, &creds);
    if (n < 0)
        return (int)n;
    packet->size = (size_t)n;
    packet->body = (const char *)buf + sizeof(struct sp_msg);
    packet->sender = sender_of(&msg);
    return msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EPROTO : 0;
}

int sp_send(int sock, uint16_t type, uint32_t seq, const void *body, size_t length, int fd)
{
    struct sp_msg head = {SP_WIRE_MAGIC, SP_WIRE_VERSION, type, seq, (uint32_t)length};
    struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)body, length}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = length ? 2 : 1};
    union sp_send_room room;

    sp_send_with(&msg, &room, &fd, fd >= 0);
    while (sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Waits until the socket is ready, or until the deadline (us). 0, -ETIMEDOUT. */
static int wait_for(struct sp_client *client, short events, uint64_t deadline)
{
    for (;;) {
        struct pollfd pfd = {client->fd, events, 0};
        int n = sp_meanwhile_poll(client->daemon, &pfd, deadline);

        if (n > 0)
            return 0;
        if (n == 0 && sp_now_usecs() >= deadline)
            return -ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int send_until(struct sp_client *client, uint16_t type, const void *body, size_t length,
                      int fd, uint64_t deadline)
{
    for (;;) {
        int err = sp_send(client->fd, type, client->seq, body, length, fd);

        if (err != -EAGAIN && err != -EWOULDBLOCK)
            return err ? -EPIPE : 0;
        err = wait_for(client, POLLOUT, deadline);
        if (err)
            return err == -ETIMEDOUT ? -EPROTO : err; /* not sent: no late answer will come */
    }
}

static int receive_until(struct sp_client *client, struct sp_packet *packet, uint64_t deadline)
{
    for (;;) {
        int err = sp_receive(client->fd, client->daemon->packet, packet);

        if (err == 0)
            return packet->size ? 0 : -EPIPE;
        if (err == -EPROTO || err == -EBADMSG)
            return -EPROTO;
        if (err != -EAGAIN)
            return -EPIPE;
        err = wait_for(client, POLLIN, deadline);
        if (err)
            return err;
    }
}

static int check_answer(struct sp_client *client, struct sp_packet *packet, uint16_t type)
{
    if (sp_check_header(client->daemon->packet, packet->size, &packet->msg) ||
        packet->msg.seq != client->seq || packet->msg.type != type)
        return -EPROTO;
    return 0;
}

/* Questions of merging can wait; and any can, to a user whose agents were slow again and again just
 * now: a long list of sites, or of pages un-merged, comes in many answers, and segments are asked
 * back of all agents. */
static bool is_put_off(const struct sp_client *client, uint16_t type, uint64_t now)
{
    if (client->domain->slow_serial == client->daemon->serial &&
        client->domain->slow_us > SP_SLOW_TOTAL)
        return true;
    if (now >= client->rest_until)
        return false;
    /* What a slow answer led to is still asked: put off, its pages would be forgotten until every
     * quiet page is asked for again, which is slow again. */
    if (type == SP_MSG_FILL || type == SP_MSG_MERGE)
        return client->slow_serial != client->daemon->serial;
    return type == SP_MSG_SCAN || type == SP_MSG_EXPLAIN;
}

/* Everybody waits for one answer: who is slow, just within the limit, gets a tenth of the time. */
static void note_slowness(struct sp_client *client, uint64_t asked)
{
    uint64_t now = sp_now_usecs();

    if (now - asked <= SP_SLOW_USECS)
        return;
    client->rest_until = now + (now - asked) * SP_SLOW_REST;
    client->slow_serial = client->daemon->serial;
    if (sp_admit_is_limited(client->daemon, client->uid))
        sp_turns_note_slow(client->daemon, client->uid, now - asked);
}

int sp_ask(struct sp_client *client, uint16_t type, const void *question, size_t length, int fd,
           uint16_t answer, const void **body, size_t *body_size)
{
    uint64_t asked = sp_now_usecs(), deadline = asked + SP_ANSWER_MSECS * 1000ull;
    struct sp_packet packet;
    int err;

    if (client->failed || client->fd < 0 || client->state > SP_CLIENT_READY ||
        is_put_off(client, type, asked))
        return -EHOSTDOWN;
    client->seq++;
    err = send_until(client, type, question, length, fd, deadline);
    sp_meanwhile_serve(client->daemon); /* it is at work already */
    if (!err)
        err = receive_until(client, &packet, deadline);
    if (!err)
        err = check_answer(client, &packet, answer);
    note_slowness(client, asked);
    if (err) {
        sp_client_fail(client, err);
        return err;
    }
    sp_client_agent_seen(client, packet.sender);
    *body = packet.body;
    *body_size = packet.msg.length;
    return 0;
}

int sp_ask_malformed(struct sp_client *client)
{
    sp_client_fail(client, -EPROTO);
    return -EPROTO;
}

int sp_ask_done(struct sp_client *client, uint16_t type, const void *question, size_t length,
                int fd)
{
    const void *body;
    size_t size;
    int32_t status;
    int err = sp_ask(client, type, question, length, fd, SP_MSG_DONE, &body, &size);

    if (err)
        return err;
    if (sp_check_done(body, size, &status))
        return sp_ask_malformed(client);
    return status;
}

static bool has_segment(const struct sp_client *client, uint32_t segment)
{
    return segment / 8 < client->segments_size &&
           (client->segments[segment / 8] & (1u << (segment % 8)));
}

static int note_segment(struct sp_client *client, uint32_t segment)
{
    uint32_t size = (segment / 8 + 64) & ~63u;

    if (size > client->segments_size) {
        uint8_t *bits = realloc(client->segments, size);

        if (!bits)
            return -ENOMEM;
        memset(bits + client->segments_size, 0, size - client->segments_size);
        client->segments = bits;
        client->segments_size = size;
    }
    client->segments[segment / 8] |= (uint8_t)(1u << (segment % 8));
    return 0;
}

int sp_ask_segment(struct sp_client *client, uint32_t segment)
{
    struct sp_pool_set *set = client->domain->set;
    struct sp_segment question = {segment, sp_pool_segment_pages(set, segment)};
    int fd, err;

    if (has_segment(client, segment) && (client->stall_tried || !client->daemon->storage))
        return 0;
    if (question.npages && sp_pool_is_stored(set, segment))
        sp_stall_allow(client, segment);
    if (has_segment(client, segment))
        return 0;
    if (question.npages == 0)
        return -ENOENT;
    fd = sp_pool_segment_fd(set, segment);
    if (fd < 0)
        return fd;
    err = note_segment(client, segment); /* first: what the client has must be asked back */
    if (!err) {
        err = sp_ask_done(client, SP_MSG_SEGMENT, &question, sizeof(question), fd);
        if (err == -EEXIST)
            err = 0; /* it has it from before a takeover, or from before fork */
        if (err)
            client->segments[segment / 8] &= (uint8_t) ~(1u << (segment % 8));
    }
    close(fd);
    return err;
}

int sp_ask_drop_segment(struct sp_client *client, uint32_t segment)
{
    struct sp_segment question = {segment, sp_pool_segment_pages(client->domain->set, segment)};
    int err;

    if (!has_segment(client, segment))
        return 0;
    err = sp_ask_done(client, SP_MSG_DROP_SEGMENT, &question, sizeof(question), -1);
    if (!err)
        client->segments[segment / 8] &= (uint8_t) ~(1u << (segment % 8));
    return err;
}
