/* SPDX-License-Identifier: Apache-2.0 */
/* The looker's own process (pins_looker.h). */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pins.h"
#include "pins_looker.h"
#include "pins_looker_msg.h"
#include "status.h"

/* Of what it has, only what it takes to look at other users' processes. Where it may not give up more it
 * goes on as it is. */
static void drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    uint32_t keep = 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_READ_SEARCH;

    if (syscall(SYS_capget, &head, data))
        return;
    data[0].permitted &= keep;
    data[0].effective = data[0].permitted;
    data[0].inheritable = 0;
    memset(&data[1], 0, sizeof(data[1]));
    (void)!syscall(SYS_capset, &head, data);
}

/* It ends with the daemon, also when it waits for a program just then. */
static void settle(void)
{
    const struct rlimit no_files = {0, 0};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
    close_range(SP_LOOKER_FD + 1, ~0u, 0);
    fcntl(SP_LOOKER_FD, F_SETFD, FD_CLOEXEC);
    fcntl(SP_LOOKER_FD, F_SETFL, 0); /* it waits for questions */
    prctl(PR_SET_NAME, "samepage-looker");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_FSIZE, &no_files);
    drop_capabilities();
    if (chdir("/"))
        _exit(1);
}

/* Until the daemon is gone. */
static int serve(void)
{
    struct sp_looker_question question;
    ssize_t n;

    while ((n = recv(SP_LOOKER_FD, &question, sizeof(question), 0)) == sizeof(question) ||
           (n < 0 && errno == EINTR)) {
        struct sp_looker_answer answer = {.serial = question.serial};
        uint64_t began = sp_now_usecs();

        if (n < 0)
            continue;
        answer.pins = sp_pins_look(question.pid);
        answer.usecs = sp_now_usecs() - began;
        answer.cpu_us = sp_own_cpu_us();
        if (send(SP_LOOKER_FD, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
            break;
    }
    return 0;
}

int sp_looker_main(int argc, char **argv)
{
    if (argc != 2 || strcmp(argv[1], "--looker") != 0)
        return -1;
    settle();
    return serve();
}
