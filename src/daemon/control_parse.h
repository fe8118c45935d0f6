/* SPDX-License-Identifier: Apache-2.0 */
/* A control request (docs/control.md) out of bytes: pure, so that a fuzzer can call it. */
#ifndef SP_DAEMON_CONTROL_PARSE_H
#define SP_DAEMON_CONTROL_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SP_REQUEST_MAX 4096u /* bytes */

enum sp_request_op {
    SP_OP_STATUS,
    SP_OP_PS,
    SP_OP_GET,
    SP_OP_SET,
    SP_OP_UNMERGE,
    SP_OP_OFF,
    SP_OP_EXPLAIN,
    SP_OP_MERGE,
    SP_OP_SELF,
    SP_OP_DOMAINS,
    SP_OP_PROCESS,
    SP_OP_RECLAIM,
    SP_OPS
};

struct sp_request {
    enum sp_request_op op;
    char key[48];    /* get, set */
    uint64_t value;  /* set */
    uint64_t bytes;  /* reclaim, at least 1 */
    bool look;       /* ... and not before it is known which frames are in use now */
    char domain[64]; /* get, set, reclaim; "": the daemon, or all */
    bool has_pid;    /* unmerge, explain, process (without: the asker) */
    pid_t pid;
    bool has_uid; /* on whose behalf root asks */
    uid_t uid;
    int error; /* if it is wrong: a negative errno, as KSM's files give it */
};

/*
 * Reads a request. 0; or 2, wrong use, with what is wrong and what to do in error, and out->error. Only requests
 * whose keys, types and ranges are all right are accepted; key of get is any name.
 */
int sp_control_parse(const void *data, size_t size, struct sp_request *out, char *error,
                     size_t error_size);

/* A decimal number without sign, at most max. */
bool sp_parse_number(const char *text, uint64_t max, uint64_t *out);

#endif
