/* SPDX-License-Identifier: Apache-2.0 */
#include "notice.h"

#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "log.h"

#define WRITE_SECONDS 2u

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static void write_to_program(const struct sp_client *client, const char *line)
{
    int fd;
    ssize_t n;

    alarm(WRITE_SECONDS); /* whoever does not read does not get it */
    fd = (int)syscall(SYS_pidfd_getfd, client->pidfd, STDERR_FILENO, 0);
    if (fd < 0)
        return;
    n = write(fd, line, strlen(line));
    (void)n;
}

void sp_notice_mappings(struct sp_client *client)
{
    char line[256], name[32];
    pid_t helper;

    if (client->told)
        return;
    client->told = true;
    snprintf(line, sizeof(line),
             "samepage: %s (pid %d) is not merged: it uses nearly all mappings that "
             "vm.max_map_count allows; raise that with sysctl\n",
             sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm)),
             (int)client->program);
    sp_log(SP_LOG_WARNING, "%s (pid %d) is not merged any more: it needs its mappings itself", name,
           (int)client->program);
    /* Forked twice, so that nobody has to wait for the one that writes. */
    helper = fork();
    if (helper == 0) {
        if (fork() == 0)
            write_to_program(client, line);
        _exit(0);
    }
    if (helper > 0)
        waitpid(helper, NULL, 0);
}
