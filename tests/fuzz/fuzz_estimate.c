/* SPDX-License-Identifier: Apache-2.0 */
/* Any text in another process' smaps is read within bounds, and gives ascending, whole ranges. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"
#include "estimate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_estimate_ranges ranges;
    uint64_t stack[2] = {0x10800f00, 0x7fff0000};
    FILE *f;

    if (size < 2)
        return 0;
    f = fmemopen((void *)(uintptr_t)(data + 1), size - 1, "r");
    expect(f != NULL);
    expect(sp_estimate_read_smaps(f, data[0] & 1, stack, 2, &ranges) == 0);
    expect(ranges.pool_mappings <= ranges.mappings);
    for (size_t i = 0; i < ranges.n; i++)
        expect(ranges.range[i].start < ranges.range[i].end);
    free(ranges.range);
    fclose(f);
    return 0;
}
