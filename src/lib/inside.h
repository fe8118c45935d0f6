/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsamepage from within. It has two things to speak to: the agent, in this very program
 * (linked.h), and the daemon, by its control socket, as the commands do: the daemon asks the kernel
 * who asks, and tells and does only what is about that very process.
 *
 * samepage.c what the program calls
 * ask.c      one request to the daemon
 * count.c    which pages of a range are merged
 */
#ifndef SP_LIB_INSIDE_H
#define SP_LIB_INSIDE_H

#include <stddef.h>
#include <stdint.h>

#include "linked.h"
#include "samepage.h"

#define SP_ANSWER_MAX 4096u /* bytes; an answer about one process has less than 1000 */

/*
 * Sends a request to the daemon that listens there and waits for its answer, at most timeout_ms
 * (-1: for ever), to be put into answer, SP_ANSWER_MAX + 1 bytes, ended by 0. SAMEPAGE_DONE;
 * SAMEPAGE_NOT_IN_TIME; or SAMEPAGE_NOT_MERGED with why. SIGPIPE is never raised; a signal's
 * handler does not end the wait.
 */
int sp_lib_ask(const char *socket, const char *request, int timeout_ms, char *answer, char *why,
               size_t why_size);

/* Milliseconds of a clock that nobody sets. */
int64_t sp_lib_now_ms(void);

/* The number under key in an answer, 0 if there is none. */
double sp_lib_number(const char *answer, const char *key);
/* Copies the string under key, "" if there is none. */
void sp_lib_text(const char *answer, const char *key, char *text, size_t size);

/* Pages of [start, end) that are merged now. */
uint64_t sp_lib_count(const struct sp_linked *linked, uint64_t start, uint64_t end);

#endif
