/* SPDX-License-Identifier: Apache-2.0 */
/* What samepage doctor looks at beside the kernel's features (probes.h). */
#ifndef SP_CLI_DOCTOR_H
#define SP_CLI_DOCTOR_H

#include <stddef.h>
#include <sys/types.h>

#include "probes.h"

struct json_object;

/* Asks for the daemon's status without a word on stderr. 0 and the answer, the caller's to put; or
 * -1: no answer that can be read. */
int sp_doctor_ask_status(const char *socket_path, struct json_object **status);

/* Asks the daemon for /dev/userfaultfd, as an agent does. The descriptor, or a negative errno with
 * the daemon's words in why. */
int sp_doctor_ask_device(const char *socket_path, char *why, size_t why_size);

/* Starts a small program under "samepage run" and notes the line that it says, if it is not merged:
 * so the user's permission and the C library's call sites are seen as they are. Without a daemon
 * (answers false) it only notes that this was not tried. */
void sp_doctor_program(struct sp_checks *checks, bool answers);

/* What merges less, or costs more, than it could: mappings, ksmd beside us, huge pages, the
 * daemon's memory cgroup (daemon 0: none runs), NUMA, swap. */
void sp_doctor_system(struct sp_checks *checks, pid_t daemon);

#endif
