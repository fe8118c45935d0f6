/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trust: no first packet that comes without a userfaultfd is let in, whatever its bytes, and every
 * refusal has a sentence that fits the answer.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "ask.h"
#include "hello.h"
#include "log.h"
#include "strangers.h"

void sp_strangers_note(struct sp_daemon *daemon, enum sp_strange kind, uid_t uid, pid_t pid)
{
    (void)daemon, (void)kind, (void)uid, (void)pid;
}

int sp_send(int sock, uint16_t type, uint32_t seq, const void *body, size_t length, int fd)
{
    const struct sp_refuse *refuse = body;

    expect(type == SP_MSG_REFUSE && length == sizeof(*refuse) && fd == -1);
    expect(refuse->why[0] && memchr(refuse->why, 0, sizeof(refuse->why)));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sp_daemon daemon = {.page_size = 4096};
    void *packet = malloc(size ? size : 1);
    struct sp_hello_packet hello = {.packet = packet, .size = size, .fd = -1, .sender = 1};
    uint64_t malformed = daemon.malformed;
    struct sp_hello answer;
    const char *why;

    if (!packet)
        return 0;
    if (size)
        memcpy(packet, data, size);
    why = sp_hello_check(&daemon, &hello, &answer);
    expect(why && (daemon.malformed == malformed + 1 || strstr(why, "userfaultfd")));
    sp_hello_refuse(-1, 0, why);
    free(packet);
    return 0;
}
