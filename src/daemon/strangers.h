/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that were cut because nobody of ours speaks so. Anybody may connect, as often as they like: so
 * that they fill no log, each thing that a user's processes do wrong is told once an hour.
 */
#ifndef SP_DAEMON_STRANGERS_H
#define SP_DAEMON_STRANGERS_H

#include "daemon.h"

enum sp_strange {
    SP_STRANGE_SILENT = 0,
    SP_STRANGE_PACKET,
    SP_STRANGE_MESSAGE,
};

/* Logs it, unless that was done within the last hour. pid: who connected; 0 or less: not visible from here. */
void sp_strangers_note(struct sp_daemon *daemon, enum sp_strange kind, uid_t uid, pid_t pid);

#endif
