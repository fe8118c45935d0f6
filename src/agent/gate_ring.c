/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registering buffers with an io_uring: from then on the ring reads and writes the pages themselves (X).
 *
 * As long as they are plain memory the kernel sees to it that they stay: a page that something has pinned
 * cannot be lifted. One that was merged once and written since lies in a mapping of the pool, and there
 * are calls for which it must be taken out of it, by copying (sp_unmerge_written()): then the ring would
 * have the page that was, and the program another. So it is taken out before.
 *
 * Seen is what comes by syscall(2), and by calls that have a form for the gate (site_check.c): liburing's,
 * too. Not what code that is loaded later does; such code is looked at (code_watch.c).
 */
#include <linux/io_uring.h>

#include "gate_inside.h"
#include "sitemap.h"
#include "sys.h"

#define ROUNDS   4u          /* in which all parts are looked at, until none is merged any more */
#define MAX_PART 0x40000000u /* bytes of one buffer; the kernel refuses more */

/* What the call registers: false if it registers no buffers. */
static bool find_vector(const long *a, uint64_t *vector, uint64_t *parts)
{
    const struct io_uring_rsrc_update2 *update = (const void *)a[2];
    const struct io_uring_rsrc_register *reg = (const void *)a[2];
    uint64_t at = (uint64_t)a[2];

    switch ((uint32_t)a[1] & 0xffff) {
    case IORING_REGISTER_BUFFERS:
        *vector = at;
        *parts = (uint32_t)a[3];
        break;
    case IORING_REGISTER_BUFFERS2:
        if (!sp_gate_can_read(at, at + sizeof(*reg)))
            return false;
        *vector = reg->data;
        *parts = reg->nr;
        break;
    case IORING_REGISTER_BUFFERS_UPDATE:
        if (!sp_gate_can_read(at, at + sizeof(*update)))
            return false;
        *vector = update->data;
        *parts = update->nr;
        break;
    default:
        return false;
    }
    return sp_gate_is_vector(*vector, *parts);
}

/* True if none of the pages was merged. To ask for one part leaves the gate: then the others may have been
 * merged again. */
static bool own_parts(struct sp_gate_pass *pass, const struct iovec *part, uint64_t parts)
{
    bool all = true;

    for (uint64_t i = 0; i < parts; i++) {
        uint64_t left = MAX_PART, start, stop;

        if (!sp_gate_next_part(&part[i], &left, &start, &stop) || !sp_sitemap_any(start, stop))
            continue;
        sp_merged_unmerge(pass, SP_GATE_UNMERGE_WRITTEN, start, stop);
        all = false;
    }
    return all;
}

/* Without an agent they stay where they are, and only what has them noted knows that they are held (gate_alone.c). */
static void note_parts(const struct iovec *part, uint64_t parts)
{
    uint64_t left, start, stop;

    for (uint64_t i = 0; i < parts; i++) {
        left = MAX_PART;
        if (sp_gate_next_part(&part[i], &left, &start, &stop) && sp_sitemap_any(start, stop))
            sp_spliced_add(start, stop);
    }
}

bool sp_gate_ring_register(struct sp_gate_pass *pass, const long *a, long *ret)
{
    uint64_t vector, parts;

    if (sp_load(&sp_gate.agent) == SP_GATE_FILTERED || !sp_sitemap_pages() || !find_vector(a, &vector, &parts))
        return false;
    sp_gate_enter(pass);
    for (unsigned n = 0; n < ROUNDS && sp_load(&sp_gate.agent) == SP_GATE_AGENT &&
                         !own_parts(pass, (const struct iovec *)vector, parts);
         n++)
        ;
    note_parts((const struct iovec *)vector, parts);
    *ret = sp_sys(__NR_io_uring_register, a[0], a[1], a[2], a[3]);
    sp_gate_leave(pass);
    return true;
}
