/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands of samepage share.
 *
 * The model. One program, one table of commands (main.c), one file a command or a small group of
 * them. A command gets its own argument vector (argv[0] is its name), says what went wrong in one
 * line on stderr, and returns the exit status. Wrong use is found before anything is asked of the
 * daemon, so that it changes nothing.
 */
#ifndef SP_CLI_CLI_H
#define SP_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_exit {
    SP_EXIT_DONE = 0,
    SP_EXIT_COULD_NOT = 1,
    SP_EXIT_WRONG_USE = 2,
};

struct sp_command {
    const char *name;
    const char *usage;   /* the words after "samepage" */
    const char *summary; /* one line, for the list of commands */
    const char *help;    /* what --help adds; ends with a newline */
    int (*run)(int argc, char **argv);
};

extern const struct sp_command sp_command_run;
extern const struct sp_command sp_command_status;
extern const struct sp_command sp_command_ps;
extern const struct sp_command sp_command_get;
extern const struct sp_command sp_command_set;
extern const struct sp_command sp_command_wait;
extern const struct sp_command sp_command_unmerge;
extern const struct sp_command sp_command_off;
extern const struct sp_command sp_command_doctor;
extern const struct sp_command sp_command_estimate;
extern const struct sp_command sp_command_explain;
extern const struct sp_command sp_command_mount;
extern const struct sp_command sp_command_umount;
extern const struct sp_command sp_command_reclaim;

/* Writes "samepage: " and the message to stderr as one line, in one write. */
void sp_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Reports the option that getopt_long has just refused (it returned '?' or ':') as wrong use of the
 * command. Returns SP_EXIT_WRONG_USE.
 */
int sp_bad_option(const struct sp_command *cmd, char **argv, int result);

/* Reports wrong use of the command, with where to read on. Returns SP_EXIT_WRONG_USE. */
int sp_bad_use(const struct sp_command *cmd, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Flushes stdout. Returns SP_EXIT_DONE, or SP_EXIT_COULD_NOT when not all could be written. */
int sp_finish_output(void);

/*
 * Parses text as a decimal number without sign, at most max. Returns true and sets *value; returns
 * false for anything else: nothing, signs, blanks, other letters, overflow.
 */
bool sp_parse_number(const char *text, uint64_t max, uint64_t *value);

/* Writes a number of bytes for a person ("12.3 MiB") into buf; returns buf. */
const char *sp_human_bytes(int64_t bytes, char *buf, size_t size);

#endif
