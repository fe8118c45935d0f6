/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a failing list short: takes out ever smaller pieces while it still fails. */
#include "sim.h"

#include <stdlib.h>

static void without(const struct sim_list *list, uint32_t first, uint32_t n, struct sim_list *out)
{
    out->n = 0;
    for (uint32_t i = 0; i < list->n; i++)
        if (i < first || i >= first + n)
            out->step[out->n++] = list->step[i];
}

static bool take_out(struct sim_list *list, uint32_t piece, struct sim_list *tried,
                     bool (*failed)(const struct sim_list *list))
{
    bool any = false;

    for (uint32_t at = 0; at < list->n;) {
        without(list, at, piece, tried);
        if (failed(tried)) {
            *list = *tried;
            any = true;
        } else {
            at += piece;
        }
    }
    return any;
}

/* Numbers that do not matter become 0. */
static void simplify(struct sim_list *list, struct sim_list *tried,
                     bool (*failed)(const struct sim_list *list))
{
    for (uint32_t i = 0; i < list->n; i++)
        for (unsigned field = 0; field < 3; field++) {
            struct sim_step *step = &tried->step[i];
            uint32_t *number = field == 0 ? &step->a : field == 1 ? &step->b : &step->c;

            *tried = *list;
            if (*number == 0)
                continue;
            *number = 0;
            if (failed(tried))
                *list = *tried;
        }
}

void sim_shrink(struct sim_list *list, bool (*failed)(const struct sim_list *list))
{
    struct sim_list *tried = malloc(sizeof(*tried));

    if (!tried)
        return;
    for (uint32_t piece = list->n / 2; piece; piece /= 2)
        take_out(list, piece, tried, failed);
    while (take_out(list, 1, tried, failed))
        ;
    simplify(list, tried, failed);
    free(tried);
}
