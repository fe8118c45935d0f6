/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the daemon (docs/control.md): one connection a request, answers of several packets put
 * together into one object.
 */
#ifndef SP_CLI_CONTROL_CLIENT_H
#define SP_CLI_CONTROL_CLIENT_H

#include "cli.h"

#include <json-c/json.h>

#define SP_ASK_PATIENCE     30 /* seconds: for what the daemon answers at once */
#define SP_ASK_HOWEVER_LONG 0  /* for what is answered when it is done (run 2, unmerge) */

/*
 * Connects to the daemon's socket at path, without a word on stderr. Returns the descriptor
 * (close-on-exec, the caller's) or a negative errno: -ENOENT and -ECONNREFUSED mean that no daemon
 * is there, -EAGAIN that one does not accept for seconds.
 */
int sp_control_connect(const char *path);

/*
 * Sends the request and waits for the whole answer, at most the given seconds between packets.
 *
 * Returns SP_EXIT_DONE and the answer in *answer (the caller's: json_object_put). Otherwise says in
 * one line what happened and returns the exit status: no daemon, no right to ask, an answer that is
 * none, or the error that the daemon gave. The request stays the caller's.
 */
int sp_control_ask(json_object *request, int seconds, json_object **answer);

/* As sp_control_ask, for a request that is only an op; at most SP_ASK_PATIENCE. */
int sp_control_ask_op(const char *op, json_object **answer);

/* A number of the answer, 0 when it is not there. */
int64_t sp_answer_number(json_object *answer, const char *key);
double sp_answer_real(json_object *answer, const char *key);

/* The answer to "status" says that pages_to_scan is 0. */
bool sp_answer_scans_nothing(json_object *answer);

/* A string of the answer, "-" when it is not there. Lives as long as the answer. */
const char *sp_answer_text(json_object *answer, const char *key);

/* Prints the answer as one line of JSON. Returns the exit status. */
int sp_print_json(json_object *answer);

#endif
