/* SPDX-License-Identifier: Apache-2.0 */
/* The one clear line, when a program's merging ends after it began to run. */
#ifndef SP_DAEMON_NOTICE_H
#define SP_DAEMON_NOTICE_H

struct sp_client;

/*
 * Says once, on the program's own standard error, that the program is not merged because it is out
 * of mappings. Written through the program's own open file (pidfd_getfd), so with no right that the
 * program does not have, and by a process of its own, so that a full pipe keeps nobody waiting.
 * Where that is not possible the log alone has it.
 */
void sp_notice_mappings(struct sp_client *client);
/* The kernel does not tell its agent on which node its pages lie, as in containers that forbid move_pages. */
void sp_notice_nodes(struct sp_client *client);
/* The same of one whose system calls go round the gate, when that is found while it runs. */
void sp_notice_raw_calls(struct sp_client *client);

#endif
