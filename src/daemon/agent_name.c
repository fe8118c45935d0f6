/* SPDX-License-Identifier: Apache-2.0 */
#include "agent_name.h"

#include <stdio.h>
#include <string.h>

#include "wire.h"

bool sp_read_comm(pid_t pid, char comm[SP_COMM_SIZE])
{
    char path[64];
    bool there;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    f = fopen(path, "re");
    there = f && fgets(comm, SP_COMM_SIZE, f);
    if (f)
        fclose(f);
    comm[there ? strcspn(comm, "\n") : 0] = 0;
    return there;
}

bool sp_is_named_agent(pid_t pid)
{
    char comm[SP_COMM_SIZE];

    return sp_read_comm(pid, comm) && !strcmp(comm, SP_AGENT_COMM);
}
