/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Will the dynamic loader take our agent into this program? Answered from the file, before exec.
 *
 * A hint for a clear message, nothing that safety rests on: the file may be another one a moment
 * later, and what the loader really does is the kernel's and its own business.
 */
#ifndef SP_CLI_EXE_PROBE_H
#define SP_CLI_EXE_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Finds the file that execvp would run for cmd and writes its path (at most size bytes with the 0).
 * Returns 0; -ENOENT when there is none; -EACCES when there is one, but it may not be executed;
 * -ENAMETOOLONG.
 */
int sp_exe_find(const char *cmd, char *path, size_t size);

/*
 * Says why LD_PRELOAD of a library for this machine's glibc would not work, or would break, in the
 * program at path (scripts: in their interpreter). Returns NULL when nothing speaks against it,
 * also when the file cannot be read; otherwise words that follow "is not merged: ".
 */
const char *sp_exe_objection(const char *path);

/* Whether the file begins as an ELF program does; false when it cannot be read. */
bool sp_exe_is_elf(const char *path);

#endif
