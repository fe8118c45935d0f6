/* SPDX-License-Identifier: Apache-2.0 */
/*
 * D1: whatever a keeper answers to a new daemon, the daemon takes it within bounds and leaves no
 * descriptor open that its visitor does not own. The input is packets: one byte of options, two of
 * length, the bytes.
 */
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "fuzz.h"

/* A connection without a keeper behind it can be made only in here. */
#include "../../src/daemon/keeper.c"

#define PACKETS 16

static int held = -1;

static void on_pool(void *arg, const struct sp_pool_record *record, int fd)
{
    static struct sp_pool_record last;

    memcpy(&last, record, sizeof(last)); /* all of it can be read */
    if (fd >= 0)
        close(fd);
}

static void on_client(void *arg, const struct sp_keeper_client *client, const int fd[SP_KEEPER_FDS])
{
    expect(memchr(client->domain, 0, sizeof(client->domain)) != NULL);
    close_from(fd, 0);
}

static void on_state(void *arg, const void *data, size_t size)
{
    static uint8_t last[SP_KEEPER_STATE_MAX];

    expect(size <= sizeof(last));
    memcpy(last, data, size);
}

/* False: more than the socket takes while nobody reads. */
static bool put_answer(int peer, uint8_t options, const uint8_t *bytes, size_t size)
{
    static struct sp_keeper_msg msg;
    static const uint16_t type[] = {SP_KEEPER_GET, SP_KEEPER_PUT_CLIENT, SP_KEEPER_PUT_POOL,
                                    SP_KEEPER_PUT_STATE};
    static const size_t right[] = {0, sizeof(struct sp_keeper_client),
                                   sizeof(struct sp_pool_record), SP_KEEPER_STATE_MAX};
    unsigned kind = options & 3, nfds = options >> 4 & 7;
    int fd[SP_KEEPER_FDS] = {held, held, held, held}, ret;

    if (nfds > SP_KEEPER_FDS)
        nfds = SP_KEEPER_FDS;
    if (size > sizeof(msg.body))
        size = sizeof(msg.body);
    msg = (struct sp_keeper_msg){.type = type[kind],
                                 .nfds = (uint16_t)nfds,
                                 .status = options & 0x80 ? -1 : 0,
                                 .length = (uint32_t)(options & 4 ? right[kind] : size)};
    memcpy(msg.body, bytes, size);
    if (options & 8) { /* no header of ours */
        ssize_t n = send(peer, bytes, size, MSG_NOSIGNAL);

        expect(n == (ssize_t)size || (n < 0 && errno == EAGAIN));
        return n >= 0;
    }
    ret = sp_keeper_msg_send(peer, &msg, fd);
    expect(ret == 0 || ret == -EAGAIN);
    return ret == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sp_keeper_visitor visitor = {on_pool, on_client, on_state};
    struct sp_keeper keeper;
    uint64_t before;
    int pair[2];

    if (held < 0)
        held = eventfd(0, EFD_CLOEXEC);
    before = open_descriptors();
    expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    expect(fcntl(pair[1], F_SETFL, O_NONBLOCK) == 0);
    keeper.fd = pair[0];
    for (int i = 0; i < PACKETS && size >= 3; i++) {
        size_t length = (size_t)data[1] | (size_t)(data[2] & 0x1f) << 8;

        if (length > size - 3)
            length = size - 3;
        if (!put_answer(pair[1], data[0], data + 3, length))
            break;
        data += 3 + length;
        size -= 3 + length;
    }
    shutdown(pair[1], SHUT_WR);
    (void)sp_keeper_visit(&keeper, &visitor, NULL);
    close(pair[0]);
    close(pair[1]);
    expect(open_descriptors() == before);
    return 0;
}
