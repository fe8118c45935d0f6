/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes and threads that share the program's memory, made by clone(2) itself. The program must have none of
 * ours that it could meet: no child, no descriptor, no signal that one of ours takes.
 */
#ifndef SP_AGENT_CLONE_H
#define SP_AGENT_CLONE_H

#include <stdint.h>

/* clone(2) with CLONE_VM onto the stack that ends at `stack`; fn(arg) never returns. tid: for the flags that name
 * it. The number of who was made, or a negative errno. */
long sp_clone_vm(unsigned long flags, uint64_t stack, uint32_t *tid, void (*fn)(void *), void *arg);

/*
 * Runs fn(arg) in a thread of the program's own, on the stack that ends at `stack` (0: one of its own, which is mapped
 * for it), and returns when nothing of that thread is left: 0, or a negative errno, and nothing was run. The thread
 * has **its own copy of the program's descriptors and folder**: what it opens, closes and enters there the program never
 * sees. And it ends with the program, whatever ends that: who waits for the program's end finds nothing open that
 * the program had open, as long as whatever this thread makes has none of it. All signals are blocked in it.
 */
long sp_aside(void (*fn)(void *arg), void *arg, uint64_t stack);

#endif
