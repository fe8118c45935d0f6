/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#ifndef SP_DAEMON_OPTIONS_H
#define SP_DAEMON_OPTIONS_H

#include "config.h"

/*
 * Reads the command line into config, which has the defaults already. Returns -1: go on; or the
 * exit status: 0 after --help and --version, 2 for wrong use, said on stderr.
 */
int sp_options(int argc, char **argv, struct sp_config *config);

#endif
