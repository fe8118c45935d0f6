/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that were written after their merge: when an agent may look at them again, and the second
 * question that merging or giving back such pages takes (wire.h, SP_RESULT_HELD).
 *
 * A process is looked at (pins_looker.h) again and again while it has such pages. Only when nothing was
 * found that may have pages pinned, for an age at least, does its agent report them; and when they are
 * held, it is looked once more. So what was open and closed just before, too, has come to its end.
 */
#ifndef SP_DAEMON_WRITTEN_H
#define SP_DAEMON_WRITTEN_H

#include "daemon.h"
#include "pins_looker.h"

/* May the client's agent look at such pages, and report them, now? */
bool sp_written_may_report(struct sp_client *client, bool pass_begins);
/* May such pages be held, which were reported before? */
bool sp_written_may_hold(const struct sp_client *client);
/* After a report: has the client's process looked at if it has such pages, and the last look is long enough
 * ago. */
void sp_written_want_look(struct sp_client *client);
/* The same for all, for those too whose agents rest: else no look of theirs would follow upon another. */
void sp_written_each_second(struct sp_daemon *daemon);
/* It was. */
void sp_written_looked(struct sp_client *client, const struct sp_look *look);
/*
 * After an answer in which pages were held (their result is SP_RESULT_HELD): has those merged, or let
 * go of. 0, and no result is SP_RESULT_HELD any more; or a negative errno as sp_ask().
 */
int sp_written_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n);
/* Has mappings given back in which every page was written. 0, or a negative errno as sp_ask(). */
int sp_written_give_back(struct sp_client *client);

#endif
