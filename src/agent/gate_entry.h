/* SPDX-License-Identifier: Apache-2.0 */
/* The code that stubs jump to, and where in the stub it goes on; see gate_entry.c and patch.c. */
#ifndef SP_AGENT_GATE_ENTRY_H
#define SP_AGENT_GATE_ENTRY_H

/* Distances from the place in rcx. */
#define SP_STUB_DONE   0
#define SP_STUB_NATIVE 5
#define SP_STUB_FORK   12

/* Not C functions: their arguments are a system call's. */
void sp_gate_entry(void) __attribute__((visibility("hidden")));
void sp_gate_after_fork(void) __attribute__((visibility("hidden")));

#endif
