/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Empty memory in place of sites that the program drops, where the gate can put none there: new memory
 * with what the old has (MADV_DONTFORK, advice) is made elsewhere and moved over it, with
 * the gate closed. That is one step of the kernel's: who reads or writes there meanwhile finds the
 * bytes that were, then zeros, and no frame's; what is written once there are zeros stays.
 *
 * Not where sites may have been guarded or locked (zero.c).
 */
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "sitemap.h"
#include "sys.h"

#define GATE_SPIN_US  20000u
#define GATE_TRIES    10u
#define PAGES_AT_ONCE 512u /* so much more memory is charged for a moment */

/* What fork is to copy, or not, is only known while no call touches it. */
static bool must_be_untouched(void)
{
    return sp_gate.dontfork;
}

/* As learn() in unmerge.c: what new memory for [a, b) is to have is known after this. */
static bool learn(uint64_t a, uint64_t b, bool *fresh)
{
    bool known = sp_agent.ranges_at_us && (*fresh || sp_range_of(a, a + sp_agent.page_size));

    if (known && !(must_be_untouched() && sp_gate_changed(a, b)))
        return true;
    *fresh = sp_ranges_refresh(true);
    return *fresh;
}

/* Memory to put over [a, *b), *b being less where it would not be alike: its address or a negative errno. */
static long map_empty(uint64_t a, uint64_t *b, bool *advised)
{
    const struct sp_range *range = sp_range_of(a, a + sp_agent.page_size);

    *advised = sp_gate.advise_all || (range && (range->flags & SP_RANGE_ADVISED));
    if (range && *b > range->end)
        *b = range->end;
    return sp_range_map(a, *b - a, 0);
}

/* With the gate closed. */
static int put(uint64_t a, uint64_t b, uint64_t empty, bool advised)
{
    struct uffdio_register track = {.range = {a, b - a}, .mode = UFFDIO_REGISTER_MODE_WP};
    uint64_t start, stop;
    long ret;

    if (!sp_sitemap_next(a, b, &start, &stop) || start != a || stop < b ||
        (must_be_untouched() && sp_gate_changed(a, b)))
        return -EAGAIN;
    if (sp_gate.guarded || sp_is_locked(a, b - a))
        return -EINVAL;
    ret = sp_move_over(empty, b - a, a, MREMAP_MAYMOVE | MREMAP_FIXED, advised);
    if (ret)
        return (int)ret;
    sp_sitemap_clear(a, b);
    sp_track_pending(a, (b - a) >> sp_agent.page_shift);
    /* While it is empty and tracked as its neighbours are, the kernel joins it with them. */
    if (!__atomic_load_n(&sp_gate.moving, __ATOMIC_SEQ_CST))
        sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &track);
    return 0;
}

/* Empties [a, *b), or less: then *b is where that ends, also if it failed. */
static int empty_run(uint64_t a, uint64_t *b)
{
    bool advised;
    long empty = map_empty(a, b, &advised);
    int ret = -EAGAIN;

    if (sp_is_err(empty))
        return (int)empty;
    if (sp_gate_close(GATE_SPIN_US)) {
        ret = put(a, *b, (uint64_t)empty, advised);
        if (sp_gate_open())
            sp_serve_gate();
    } else {
        sp_serve_gate();
    }
    if (ret)
        sp_sys(__NR_munmap, empty, *b - a);
    return ret;
}

int64_t sp_empty_sites(uint64_t start, uint64_t end)
{
    uint64_t most = (uint64_t)PAGES_AT_ONCE << sp_agent.page_shift, a, b;
    int64_t done = 0;
    bool fresh = false;
    unsigned tries = 0;
    int ret = 0;

    while (sp_sitemap_next(start, end, &a, &b)) {
        if (b - a > most)
            b = a + most;
        ret = learn(a, b, &fresh) ? empty_run(a, &b) : -EAGAIN;
        if (ret == -EAGAIN && tries++ < GATE_TRIES) {
            start = a;
            continue;
        }
        if (ret == -EAGAIN || ret == -ENOMEM)
            break; /* it would be the same for the next one */
        if (!ret)
            done += (int64_t)((b - a) >> sp_agent.page_shift);
        tries = 0;
        start = b;
    }
    sp_agent.ranges_vm = 0; /* read the mappings again at the next look */
    return !done && ret == -EAGAIN ? ret : done;
}
