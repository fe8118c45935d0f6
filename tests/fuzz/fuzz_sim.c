/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine on the simulated machine (src/sim/sim.h), driven by libFuzzer instead of a seed: the
 * input is a list of steps, 13 bytes each. What does not hold ends the run; the input is then
 * printed as a list of steps for samepage-sim --replay.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define STEP_BYTES 13u
#define STEPS_MOST 400u

static void read_list(const uint8_t *data, size_t size, struct sim_list *list)
{
    for (list->n = 0; size >= STEP_BYTES && list->n < STEPS_MOST; list->n++) {
        struct sim_step *step = &list->step[list->n];

        *step = (struct sim_step){.kind = (uint8_t)(data[0] % sim_step_kinds)};
        memcpy(&step->a, data + 1, sizeof(step->a));
        memcpy(&step->b, data + 5, sizeof(step->b));
        memcpy(&step->c, data + 9, sizeof(step->c));
        data += STEP_BYTES;
        size -= STEP_BYTES;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sim_list list;
    static uint64_t count[SIM_PATHS];
    char error[256];
    uint32_t at;

    read_list(data, size, &list);
    if (!sim_run(&list, count, error, &at))
        return 0;
    fprintf(stderr, "# %s, at step %u\n", error, at);
    for (uint32_t i = 0; i < list.n; i++)
        fprintf(stderr, "%s %u %u %u\n", sim_step_name(list.step[i].kind), list.step[i].a,
                list.step[i].b, list.step[i].c);
    abort();
}
