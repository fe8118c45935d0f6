/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's assertions. They stay on in release builds: an engine that lost count must stop
 * before it frees a frame that somebody maps. A daemon that dies here loses no byte (D1).
 */
#ifndef SP_ENGINE_SP_ASSERT_H
#define SP_ENGINE_SP_ASSERT_H

/* Traps at once, and prints nothing: the core dump's line says which invariant broke. */
#define sp_assert(invariant)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(invariant), 0))                                                     \
            __builtin_trap();                                                                      \
    } while (0)

#endif
