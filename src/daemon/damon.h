/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical pages go to the machine's own swap, and only those that nobody used: by DAMON, the
 * kernel's monitor of memory, of which this uses one thing: its action "pageout" over given physical
 * pages, with the filter "young". The kernel then asks all mappings of a page, whosever, whether it
 * was used since it was asked last (S2), spares it if so, leaves locked ones where they are (S4), and
 * else takes it from all mappings at once (S3).
 *
 * DAMON is one for the machine. What somebody else has set up there is left alone; and two of ours take turns, by a
 * lock on its file, which root alone can open. What ours leaves there when it is killed the next one
 * knows by a mark, and takes down. It is worked through once: a quota as large as all the pages
 * together sees to that, which begins anew only after 17 days.
 *
 * Waiting for the kernel to write to swap may take long, so all of this is done by a process of its
 * own (pageout.h). It outlives a daemon that is killed, and takes down what it set up (D1).
 */
#ifndef SP_DAEMON_DAMON_H
#define SP_DAEMON_DAMON_H

#include <stdbool.h>
#include <stdint.h>

/* Neighbouring physical pages, by number: [from, to). */
struct sp_damon_run {
    uint64_t from, to;
};

/* What the process is asked, and what it answers, in a file that both have. */
struct sp_damon_order {
    uint32_t nruns;
    int32_t status;   /* out: 0, or a negative errno */
    uint64_t passed;  /* out: pages that nobody had used; UINT64_MAX: the kernel does not say (before 6.14) */
    uint64_t applied; /* out: of these, so many went */
    struct sp_damon_run run[];
};

/*
 * May we, and is there such a thing? 0; -EACCES: it takes root (in a container, too, that of the
 * machine); -EOPNOTSUPP: the kernel has none. Whether it has the filter (Linux 6.10) only trying tells.
 */
int sp_damon_can(void);

/* The process' part: does what order says, and answers in it. Errors: -EBUSY: somebody else uses DAMON;
 * -EOPNOTSUPP: it lacks something. Without runs it only takes down what one of ours left. */
void sp_damon_carry_out(struct sp_damon_order *order);

#endif
