/* SPDX-License-Identifier: Apache-2.0 */
#include "hash.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

sp_hash_fn sp_hash_choose(void)
{
    unsigned a, b, c, d;
    uint64_t enabled;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return sp_hash_base;
    /* The processor has the registers only where the kernel saves them. */
    enabled = xgetbv0();
    if ((enabled & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return sp_hash_base;
    if ((enabled & 0xe6) == 0xe6 && (b & bit_AVX512F))
        return sp_hash_avx512;
    return (b & bit_AVX2) ? sp_hash_avx2 : sp_hash_base;
}
#else
sp_hash_fn sp_hash_choose(void)
{
    return sp_hash_base;
}
#endif
