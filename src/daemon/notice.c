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

/* Says it in the log, and on the program's standard error, unless it was told. */
static void notice(struct sp_client *client, bool *told, const char *why, const char *what_to_do)
{
    char line[320], name[32];
    pid_t helper;

    if (*told)
        return;
    *told = true;
    sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm));
    snprintf(line, sizeof(line), "samepage: %s (pid %d) is not merged: %s; %s\n", name,
             (int)client->program, why, what_to_do);
    sp_log(SP_LOG_WARNING, "%s (pid %d) is not merged any more: %s", name, (int)client->program, why);
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

void sp_notice_mappings(struct sp_client *client)
{
    notice(client, &client->told, "it uses nearly all mappings that vm.max_map_count allows",
           "raise that with sysctl");
}

void sp_notice_raw_calls(struct sp_client *client)
{
    notice(client, &client->told, "it makes system calls of its own that samepage cannot see",
           "what was merged is its own again");
}

void sp_notice_nodes(struct sp_client *client)
{
    notice(client, &client->nodes_told, "the kernel does not say on which node its memory lies",
           "allow move_pages(2) in its seccomp profile, or set merge_across_nodes to 1");
}
