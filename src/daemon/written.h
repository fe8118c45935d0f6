/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that were written after their merge: when an agent may look at them again, and the second
 * question that merging or giving back such pages takes (wire.h, SP_RESULT_HELD).
 *
 * A process is looked at (pins.h) twice: once before its agent reports such pages at all, and again
 * while they are held. Between the two lies a pass, so that I/O on a descriptor that was closed just
 * before has come to its end.
 */
#ifndef SP_DAEMON_WRITTEN_H
#define SP_DAEMON_WRITTEN_H

#include "daemon.h"

/* Looks at the client's process if it has such pages, and the last look is long enough ago. Returns
 * whether its agent may look at them. */
bool sp_written_look(struct sp_client *client);
/*
 * After an answer in which pages were held (their result is SP_RESULT_HELD): has those merged, or let
 * go of. 0, and no result is SP_RESULT_HELD any more; or a negative errno as sp_ask().
 */
int sp_written_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n);
/* Has mappings given back in which every page was written. 0, or a negative errno as sp_ask(). */
int sp_written_give_back(struct sp_client *client);

#endif
