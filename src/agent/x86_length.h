/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lengths of x86-64 instructions, and where direct jumps go: what is needed to know that a byte
 * pattern in a program's text is the instruction it looks like.
 */
#ifndef SP_AGENT_X86_LENGTH_H
#define SP_AGENT_X86_LENGTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Bytes of the instruction at code, of which at most size may be read. 64-bit mode; legacy, REX,
 * VEX and EVEX encodings. Returns 1 to 15, or 0 for what is no instruction or does not end within
 * size.
 */
unsigned sp_x86_length(const uint8_t *code, size_t size);

/*
 * Is the instruction of this length at code a direct short jump (jmp, jcc, loop, jrcxz with 8
 * bits)? Then *distance is where it goes, from the end of the instruction.
 */
bool sp_x86_short_jump(const uint8_t *code, unsigned length, int *distance);

#endif
