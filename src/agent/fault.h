/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault points of test builds: SAMEPAGE_FAULT=NAME:N[:SIGNAL] sends a signal (9 where none is
 * named) to who passes the point NAME for the N-th time, the agent or, in the gate, the program. In
 * other builds there is nothing.
 */
#ifndef SP_AGENT_FAULT_H
#define SP_AGENT_FAULT_H

#ifdef SP_FAULT_POINTS
void sp_fault_set(const char *spec);
void sp_fault_point(const char *name);
#else
static inline void sp_fault_set(const char *spec)
{
    (void)spec;
}
static inline void sp_fault_point(const char *name)
{
    (void)name;
}
#endif

#endif
