/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz targets share. */
#ifndef SP_TESTS_FUZZ_H
#define SP_TESTS_FUZZ_H

#include <poll.h>
#include <stdint.h>
#include <stdlib.h>

/* As assert(), also where that is switched off: libFuzzer keeps the input that broke it. */
static inline void expect(int truth)
{
    if (!truth)
        abort();
}

/* Which of the first 64 descriptors are open, a bit each: the same before and after. */
static inline uint64_t open_descriptors(void)
{
    struct pollfd place[64] = {{0}};
    uint64_t open = 0;

    for (int fd = 0; fd < 64; fd++)
        place[fd].fd = fd;
    expect(poll(place, 64, 0) >= 0);
    for (int fd = 0; fd < 64; fd++)
        if (!(place[fd].revents & POLLNVAL))
            open |= 1ull << fd;
    return open;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
