/* SPDX-License-Identifier: Apache-2.0 */
#include "agent_name.h"

#include <stdio.h>
#include <string.h>

#include "wire.h"

void sp_read_comm(pid_t pid, char comm[SP_COMM_SIZE])
{
    char path[64];
    FILE *f;

    comm[0] = 0;
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return;
    if (!fgets(comm, SP_COMM_SIZE, f))
        comm[0] = 0;
    comm[strcspn(comm, "\n")] = 0;
    fclose(f);
}

bool sp_is_named_agent(pid_t pid)
{
    char comm[SP_COMM_SIZE];

    sp_read_comm(pid, comm);
    return !strcmp(comm, SP_AGENT_COMM);
}
