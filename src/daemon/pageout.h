/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the tmpfs and the machine's own swap (S1).
 *
 * Where the machine has swap the kernel takes frames out as any memory of programs, when it is short
 * of some: they come back at a touch, shared as before, for all sites map one page of a file. Here is
 * how frames leave because somebody asks for it, and how the daemon knows which are out.
 *
 * The engine chooses frames one by one; here they are collected (SP_EVICTED_LATER) and go together: a
 * process of its own (samepaged --pageout) has the kernel take those that nobody used since that was
 * asked last (damon.h). What became of each is seen afterwards. If it takes long, the daemon does not wait:
 * the process goes on, and what it did is taken note of later.
 *
 * Frames come and go without us, too: once a second the pool is looked through, some of it at a time,
 * where swap is in use.
 */
#ifndef SP_DAEMON_PAGEOUT_H
#define SP_DAEMON_PAGEOUT_H

#include "daemon.h"

struct sp_pageout;

/* Could frames of the tmpfs leave when somebody asks? 0; -ENODEV: the machine has no swap; otherwise as
 * sp_damon_can(). */
int sp_pageout_can(void);
/*
 * Frames are going to be chosen. What was chosen before is waited for, a while, and added to out. 0; as
 * sp_pageout_can(); -EINPROGRESS: the process is still at what was chosen before; its error otherwise, as from
 * sp_pageout_run().
 */
int sp_pageout_begin(struct sp_daemon *daemon, struct sp_reclaimed *out);
/* The engine chose this frame. SP_EVICTED_LATER, or SP_EVICTED_AGAIN: not now. */
enum sp_evicted sp_pageout_choose(struct sp_daemon *daemon, sp_frame frame);
/*
 * Has what was chosen leave, and adds to out what became of it. 0; -EINPROGRESS: that is not known yet; -EBUSY:
 * somebody else uses DAMON; -EOPNOTSUPP: the kernel's DAMON cannot; another negative errno. After other
 * errors than -EINPROGRESS nothing that was chosen left.
 */
int sp_pageout_run(struct sp_daemon *daemon, struct sp_reclaimed *out);
/* Sees what came and went without us. */
void sp_pageout_each_second(struct sp_daemon *daemon);
/* The process goes on to its end. */
void sp_pageout_free(struct sp_daemon *daemon);

/* What the process itself runs: -1 if the program was started as something else, or its exit status. */
int sp_pageout_main(int argc, char **argv);

#endif
