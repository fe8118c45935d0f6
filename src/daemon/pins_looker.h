/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who looks what could have pages of a process pinned (pins.h).
 *
 * A program can make whoever looks at what it has open wait, for ever: by a page that is
 * long in coming while the lock of its address space is held, by a file of a file system that does not
 * answer, or just by having very much open. So the daemon does not look: the **looker** does, a disposable
 * process (disposable.h) with no capability but those to look at processes (SYS_PTRACE, DAC_READ_SEARCH). It
 * looks at one process at a time. If it takes longer than a limit it is killed, the process counts as not
 * known, and another looker is started for the next one.
 *
 * Ordinary looks are asked for, and the answer is taken in the event loop. Only for a look while pages
 * are held (written.c) the daemon waits, as it waits for an agent's answer.
 */
#ifndef SP_DAEMON_PINS_LOOKER_H
#define SP_DAEMON_PINS_LOOKER_H

#include "daemon.h"

/* What a look found. */
struct sp_look {
    enum sp_pins pins; /* SP_PINS_UNKNOWN if it took too long, too */
    uint64_t usecs;    /* that it took, 0 where it was not begun */
    bool timely;       /* false: it took too long */
};

/* Has the client's process looked at soon: sp_written_looked() gets what was found, from the event loop or
 * from within sp_looker_look(). What was asked for already is not asked for twice. */
void sp_looker_want(struct sp_client *client);
/* Looks now, and waits for it: at most the limit for this look, and what is left of it for one that is
 * under way. */
struct sp_look sp_looker_look(struct sp_client *client);
/* The client is about to be freed: what is asked about it is forgotten. */
void sp_looker_forget(struct sp_client *client);
/* Once a second: lookers that were killed leave nothing behind. */
void sp_looker_reap(struct sp_daemon *daemon);
/* CPU that lookers have used, in microseconds, as far as they said. */
uint64_t sp_looker_cpu_us(const struct sp_daemon *daemon);
/* Ends the looker. */
void sp_looker_stop(struct sp_daemon *daemon);

/* What the looker itself runs: -1 if the program was started as something else, or its exit status. */
int sp_looker_main(int argc, char **argv);

#endif
