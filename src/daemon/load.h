/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How loaded the machine is, as the daemon feels it: how much longer everything takes because
 * others have the processors. Agents feel the same. It is the daemon's own waiting that is
 * measured, which no program can make up, except by loading the machine.
 */
#ifndef SP_DAEMON_LOAD_H
#define SP_DAEMON_LOAD_H

#include <stdint.h>

#define SP_LOAD_STRETCH_MAX 10u

struct sp_load {
    uint64_t ran, waited; /* ns, since the process began, when it was measured last */
    unsigned stretch;     /* so many times as long, 1 to SP_LOAD_STRETCH_MAX */
};

/* Measures anew since the last time, from /proc/self/schedstat; 1 where the kernel does not tell.
 * To be called some times a second: after much less there is too little to go by, and what was said
 * before stays. */
void sp_load_measure(struct sp_load *load);
/* The same from the text of that file. */
void sp_load_enter(struct sp_load *load, const char *schedstat);

#endif
