/* SPDX-License-Identifier: Apache-2.0 */
/* The looker's own process (pins_looker.h). */
#include <errno.h>
#include <linux/capability.h>
#include <sys/socket.h>

#include "disposable.h"
#include "pins.h"
#include "pins_looker.h"
#include "pins_looker_msg.h"
#include "status.h"

/* Until the daemon is gone. */
static int serve(void)
{
    struct sp_looker_question question;
    ssize_t n;

    while ((n = recv(SP_DISPOSABLE_FD, &question, sizeof(question), 0)) == sizeof(question) ||
           (n < 0 && errno == EINTR)) {
        struct sp_looker_answer answer = {.serial = question.serial};
        uint64_t began = sp_now_usecs();

        if (n < 0)
            continue;
        answer.pins = sp_pins_look(question.pid);
        answer.usecs = sp_now_usecs() - began;
        answer.cpu_us = sp_own_cpu_us();
        if (send(SP_DISPOSABLE_FD, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
            break;
    }
    return 0;
}

int sp_looker_main(int argc, char **argv)
{
    /* Of what it has, only what it takes to look at other users' processes. */
    const uint32_t keep = 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_READ_SEARCH;

    if (!sp_disposable_is(argc, argv, SP_LOOKER_ARGUMENT))
        return -1;
    sp_disposable_settle("samepage-looker", keep);
    return serve();
}
