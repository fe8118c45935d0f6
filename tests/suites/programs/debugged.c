/* SPDX-License-Identifier: Apache-2.0 */
/* Is stopped by a debugger in the middle of what it does with its memory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS (4u << 20)

static uint32_t *data;

__attribute__((noinline)) static uint32_t step(unsigned round)
{
    uint32_t sum = 0;

    for (unsigned i = round; i < WORDS; i += 64) {
        data[i] += round;
        sum += data[i];
    }
    return sum;
}

int main(void)
{
    uint32_t total = 0;

    data = malloc(WORDS * sizeof(*data));
    if (!data)
        return 1;
    for (unsigned i = 0; i < WORDS; i++)
        data[i] = i * 2654435761u;
    for (unsigned round = 0; round < 64; round++)
        total += step(round);
    printf("total %u\n", total);
    return 0;
}
