/* SPDX-License-Identifier: Apache-2.0 */
/* Built once for each instruction set, with SP_HASH_NAME set by the build (see hash.h). */
/* xxhash.h believes that C11's static_assert is there without its header. */
#define static_assert _Static_assert

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hash.h"

/* Pages are hashed one after the other, and the processor's own prefetching ends where a page does:
 * the beginning of the next is asked for here. */
#define AHEAD 1024u

struct sp_hash128 SP_HASH_NAME(const void *data, size_t size, uint64_t seed) {
    XXH128_hash_t h;

    for (size_t i = 0; i < AHEAD; i += 64)
        __builtin_prefetch((const char *)data + size + i);
    h = XXH3_128bits_withSeed(data, size, seed);
    return (struct sp_hash128){.lo = h.low64, .hi = h.high64};
}
