/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash of a page: XXH3, 128 bits, with the domain's seed. Three builds of the same function for
 * the processor's instruction sets; which one is chosen once, by cpuid.
 */
#ifndef SP_AGENT_HASH_H
#define SP_AGENT_HASH_H

#include <stddef.h>
#include <stdint.h>

struct sp_hash128 {
    uint64_t lo, hi;
};

typedef struct sp_hash128 (*sp_hash_fn)(const void *data, size_t size, uint64_t seed);

struct sp_hash128 sp_hash_base(const void *data, size_t size, uint64_t seed);
#if defined(__x86_64__)
struct sp_hash128 sp_hash_avx2(const void *data, size_t size, uint64_t seed);
struct sp_hash128 sp_hash_avx512(const void *data, size_t size, uint64_t seed);
#endif

/* The fastest of them that this processor and kernel can run. */
sp_hash_fn sp_hash_choose(void);

#endif
