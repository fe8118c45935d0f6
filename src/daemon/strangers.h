/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that were cut because nobody of ours speaks so. Anybody may connect, as often as they like: so
 * that they fill no log, each thing that a user's processes do wrong is told once an hour, and of all users
 * together no more than SP_STRANGERS_LINES an hour: user ids can be had by the thousand, in containers.
 */
#ifndef SP_DAEMON_STRANGERS_H
#define SP_DAEMON_STRANGERS_H

#include "daemon.h"

#define SP_STRANGERS_LINES 64u

enum sp_strange {
    SP_STRANGE_SILENT = 0,
    SP_STRANGE_PACKET,
    SP_STRANGE_MESSAGE,
    SP_STRANGE_AGENT, /* it was an agent's connection */
};

/* Logs it, unless that was done within the last hour, or too much was. pid: who connected; 0 or less: not visible from here. */
void sp_strangers_note(struct sp_daemon *daemon, enum sp_strange kind, uid_t uid, pid_t pid);

#endif
