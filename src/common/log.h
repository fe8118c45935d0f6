/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's log: one line a message, in a file, on stderr, or nowhere.
 *
 * A line costs one write() and never waits for a reader other than the file system's. Nothing that
 * a client sent is printed unescaped: names from outside go through sp_log_name().
 */
#ifndef SP_COMMON_LOG_H
#define SP_COMMON_LOG_H

#include <stddef.h>

enum sp_log_level { SP_LOG_ERROR, SP_LOG_WARNING, SP_LOG_INFO };

/* Sends lines to stderr, with the program's name in front, until told otherwise. */
void sp_log_to_stderr(void);
/* Sends lines to the end of the file path, made with mode 0640, with time and pid in front. 0, or
 * a negative errno and the log is as it was. */
int sp_log_to_file(const char *path);
/* Drops lines. */
void sp_log_to_nowhere(void);

/* Writes one line; format as printf's, without a line end. Cannot fail; keeps errno. */
void sp_log(enum sp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Copies at most size - 1 bytes of a name from outside into buf, what is not printable as '?'.
 * Returns buf. */
const char *sp_log_name(char *buf, size_t size, const char *name, size_t name_size);

#endif
