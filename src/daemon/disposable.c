/* SPDX-License-Identifier: Apache-2.0 */
#include "disposable.h"

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
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "log.h"
#include "self.h"

#define RESTART_USECS 1000000u /* after one that could not be started, or died */

static int spawn(const struct sp_disposable *disposable, int fd, pid_t *pid)
{
    char *argv[] = {(char *)"samepaged", (char *)disposable->argument, NULL};

    _Static_assert(SP_DISPOSABLE_FD == SP_SELF_FD, "where it looks for its end");
    return sp_self_start(&(struct sp_self){.argv = argv, .fd = &fd, .nfds = 1}, pid);
}

int sp_disposable_start(struct sp_disposable *disposable)
{
    uint64_t now = sp_now_usecs();
    int pair[2], err;

    if (disposable->pid)
        return 0;
    sp_disposable_reap(disposable);
    if (now < disposable->start_at || disposable->nkilled == SP_DISPOSABLE_KILLED)
        return -EAGAIN;
    disposable->start_at = now + RESTART_USECS;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
        return -errno;
    err = spawn(disposable, pair[1], &disposable->pid);
    close(pair[1]);
    if (err) {
        close(pair[0]);
        disposable->pid = 0;
        sp_log(SP_LOG_WARNING, "cannot start a process that %s: %s", disposable->what, strerror(-err));
        return err;
    }
    disposable->fd = pair[0];
    return 0;
}

void sp_disposable_kill(struct sp_disposable *disposable, bool its_fault)
{
    if (!disposable->pid)
        return;
    close(disposable->fd);
    kill(disposable->pid, SIGKILL);
    disposable->killed[disposable->nkilled++] = disposable->pid; /* there is room: it was started */
    disposable->pid = 0;
    if (!its_fault)
        disposable->start_at = 0;
    sp_disposable_reap(disposable);
}

void sp_disposable_reap(struct sp_disposable *disposable)
{
    unsigned n = 0;

    for (unsigned i = 0; i < disposable->nkilled; i++)
        if (waitpid(disposable->killed[i], NULL, WNOHANG) == 0)
            disposable->killed[n++] = disposable->killed[i];
    disposable->nkilled = n;
}

/* ---- the child ---- */

bool sp_disposable_is(int argc, char **argv, const char *argument)
{
    return argc == 2 && !strcmp(argv[1], argument);
}

/* Where it may not give up more it goes on as it is. */
static void drop_capabilities(uint32_t keep)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &head, data))
        return;
    data[0].permitted &= keep;
    data[0].effective = data[0].permitted;
    data[0].inheritable = 0;
    memset(&data[1], 0, sizeof(data[1]));
    (void)!syscall(SYS_capset, &head, data);
}

void sp_disposable_settle(const char *name, uint32_t keep)
{
    const struct rlimit no_files = {0, 0};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    /* Also when it waits for somebody just then. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
    close_range(SP_DISPOSABLE_FD + 1, ~0u, 0);
    fcntl(SP_DISPOSABLE_FD, F_SETFD, FD_CLOEXEC);
    fcntl(SP_DISPOSABLE_FD, F_SETFL, 0); /* it waits for what it is asked */
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_FSIZE, &no_files);
    drop_capabilities(keep);
    if (chdir("/"))
        _exit(1);
}
