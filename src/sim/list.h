/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a list is written for real memory (list.c): which steps it has, and what must be so between
 * them.
 */
#ifndef SP_SIM_LIST_H
#define SP_SIM_LIST_H

#include "sim.h"

struct sim_writer {
    struct sim *sim;
    uint32_t run, sharing, zero_pages, smart; /* settings, which outlive the daemon */
    /* Whether the page is a site, private in a frame's mapping, or plain, the list does not say. */
    bool doubt[SIM_MMS][SIM_PAGES];
    bool was_kept[SIM_MMS][SIM_PAGES]; /* until it is merged again it may lie where it did */
};

static inline unsigned sim_number(const struct sim *sim, const struct sim_mm *mm)
{
    return (unsigned)(mm - sim->mm);
}

/* list_look.c: writes how things stand. rest: all that can be merged is; otherwise nothing was
 * merged or un-merged but by what the processes did themselves. counted: the daemon had a look at
 * all of them, so that its counters are exact. */
void sim_list_look(const struct sim_writer *w, bool rest, bool counted);

/* What the list does not say: before such a step of a program, before passes, and after them. */
void sim_doubt_part(struct sim_writer *w, const char *name, const struct sim_part *part);
void sim_doubt_forked(struct sim_writer *w);
void sim_doubt_at_rest(struct sim_writer *w);

#endif
