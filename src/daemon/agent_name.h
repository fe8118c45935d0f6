/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes are agents, by the name that they give themselves. */
#ifndef SP_DAEMON_AGENT_NAME_H
#define SP_DAEMON_AGENT_NAME_H

#include <stdbool.h>
#include <sys/types.h>

/* The name of a process. False, and it is empty: there is no such process any more. */
#define SP_COMM_SIZE 32
bool sp_read_comm(pid_t pid, char comm[SP_COMM_SIZE]);
/* Does it have an agent's name? Any process may: this keeps nobody out. */
bool sp_is_named_agent(pid_t pid);

#endif
