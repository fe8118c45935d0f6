/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file, samepaged.conf(5). */
#ifndef SP_DAEMON_CONFIG_FILE_H
#define SP_DAEMON_CONFIG_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"

#define SP_CONFIG_FILE_MAX 65536u /* bytes */

/*
 * Reads the file at path into config; what the file does not name stays as it is. 0, also where
 * there is no file, or none that may be read, and it need not be there; else -1, with file, line
 * and what is wrong in why, and config is of no use. The file must be a plain one that only root
 * and the daemon's own user can write: it says who gets what.
 */
int sp_config_file_read(const char *path, bool must_exist, struct sp_config *config, char *why,
                        size_t why_size);

/* The same of text, which is size bytes of the file called name. */
int sp_config_parse(const char *name, const char *text, size_t size, struct sp_config *config,
                    char *why, size_t why_size);

#endif
