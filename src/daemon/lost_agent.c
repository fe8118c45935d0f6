/* SPDX-License-Identifier: Apache-2.0 */
#include "lost_agent.h"

#include <ctype.h>
#include <dirent.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent_name.h"
#include "client.h"
#include "hello.h"

/* Another process with the program's memory: the agent if one of them is. 0: there is none; -1: that cannot be known. */
static pid_t who_shares(pid_t program)
{
    const struct dirent *entry;
    pid_t found = 0;
    DIR *proc;

    if (syscall(SYS_kcmp, program, program, KCMP_VM, 0, 0) != 0)
        return -1;
    proc = opendir("/proc");
    if (!proc)
        return -1;
    while ((entry = readdir(proc))) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : program;

        if (pid == program || !sp_same_memory(program, pid))
            continue;
        found = pid;
        if (sp_is_named_agent(pid))
            break;
    }
    closedir(proc);
    return found;
}

void sp_lost_agents_look(struct sp_daemon *daemon)
{
    struct sp_client *client, *next;

    for (client = TAILQ_FIRST(&daemon->clients); client; client = next) {
        pid_t pid;

        next = TAILQ_NEXT(client, link);
        if (!client->restored || client->state != SP_CLIENT_LEFT || client->agent_pidfd >= 0 || client->repair_due)
            continue;
        pid = who_shares(client->program);
        if (pid > 0 && sp_is_named_agent(pid))
            sp_client_agent_seen(client, pid);
        else if (pid == 0)
            sp_client_bury_agent(client);
    }
}
