/* SPDX-License-Identifier: Apache-2.0 */
#include "strangers.h"

#include <string.h>

#include "log.h"

#define HOUR 3600000000ull /* us */

static const char *const did[SP_STRANGE_KINDS] = {
    [SP_STRANGE_SILENT] = "connected and said nothing",
    [SP_STRANGE_PACKET] = "sent a packet that is too large, or has more than one descriptor",
    [SP_STRANGE_MESSAGE] = "sent what is no message that this daemon understands",
    [SP_STRANGE_AGENT] = "sent, as its agent, a malformed message",
};

/* The user's entry; of a user that is not there, the one of whom was told longest ago. */
static struct sp_strangers *entry_of(struct sp_daemon *daemon, uid_t uid)
{
    struct sp_strangers *oldest = &daemon->strangers[0];

    for (unsigned i = 0; i < SP_STRANGERS; i++) {
        struct sp_strangers *each = &daemon->strangers[i];

        if (each->told_at && each->uid == uid)
            return each;
        if (each->told_at < oldest->told_at)
            oldest = each;
    }
    memset(oldest, 0, sizeof(*oldest));
    oldest->uid = uid;
    return oldest;
}

/* The last line that an hour has room for says that it is. */
static bool may_tell(struct sp_daemon *daemon, uint64_t now)
{
    if (!daemon->strangers_hour || now - daemon->strangers_hour >= HOUR) {
        daemon->strangers_hour = now;
        daemon->strangers_told = 0;
    }
    if (daemon->strangers_told >= SP_STRANGERS_LINES)
        return false;
    if (++daemon->strangers_told < SP_STRANGERS_LINES)
        return true;
    sp_log(SP_LOG_WARNING, "connections of many users were cut; no more of that is told for up to an hour");
    return false;
}

void sp_strangers_note(struct sp_daemon *daemon, enum sp_strange kind, uid_t uid, pid_t pid)
{
    struct sp_strangers *entry = entry_of(daemon, uid);
    uint64_t now = sp_now_usecs();

    if (entry->at[kind] && now - entry->at[kind] < HOUR)
        return;
    if (!may_tell(daemon, now))
        return;
    entry->at[kind] = entry->told_at = now;
    sp_log(SP_LOG_WARNING,
           "a process of user %u (pid %d) %s; connection cut (told once an hour, for all of that user's)",
           (unsigned)uid, (int)pid, did[kind]);
}
