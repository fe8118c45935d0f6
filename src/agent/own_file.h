/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/self/ksm_stat and /proc/self/ksm_merging_pages as a merged program sees them
 * (docs/decisions/0019-own-ksm-files.md).
 *
 * The kernel opens the file, as always. If it is one of the two, and the opening process' own, a
 * file in memory with samepage's figures takes the place of its descriptor. The figures are the
 * daemon's, asked at that moment: those that ksmfs shows under proc/PID/. Whatever fails, the
 * program has the kernel's file.
 *
 * gate_own.c which calls are looked at; own_file.c what becomes of one; own_ask.c the figures.
 *
 * All of it runs in the program's threads: on their stacks, general registers only. A thread under
 * a seccomp filter makes no call of ours: it may be its last.
 */
#ifndef SP_AGENT_OWN_FILE_H
#define SP_AGENT_OWN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_own_file { SP_OWN_NONE, SP_OWN_STAT, SP_OWN_MERGING };

#define SP_OWN_TEXT 256u /* bytes of either file, at most */

/*
 * The call nr (openat or open) with the arguments a has opened fd, by a path that ends in the name
 * of one of the files. If it is that file, of this very process, samepage's takes its place; else
 * it stays.
 */
void sp_own_open(long nr, const long *a, int fd);

/* Where the daemon listens; set once before main(). NULL: none does, and the files are the
 * kernel's. */
extern const char *sp_own_socket;

/* The text of that file, ended by 0: its length; 0 if no daemon tells it. It takes as long as the
 * daemon, for some seconds. */
size_t sp_own_ask(enum sp_own_file which, char text[SP_OWN_TEXT]);

/* Does the path in the program's memory there end in the name of one of the files? read gives an
 * aligned word of it, or false: then the answer is false. */
bool sp_own_is_named(uint64_t path, bool (*read)(uint64_t addr, uint64_t *word));

#endif
