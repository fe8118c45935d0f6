/* SPDX-License-Identifier: Apache-2.0 */
#include "outside.h"

#define WORLD 8192u

static struct sp_engine_ops plain;
struct sp_engine_ops outside_ops;
struct outside outside;

static bool on_node_1(const void *mm)
{
    for (unsigned i = 0; i < 4; i++)
        if (mm == outside.elsewhere[i])
            return true;
    return false;
}

static int scan_by_node(void *ctx, void *mm, struct sp_scan *scan)
{
    int status = plain.scan(ctx, mm, scan);

    for (uint32_t i = 0; i < scan->npages; i++)
        scan->page[i].node = on_node_1(mm);
    return status;
}

static bool frame_mapped(void *ctx, sp_frame frame)
{
    return outside.mapped;
}

static int zero(void *ctx, void *mm, struct sp_merge_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].result = outside.zero_result;
    outside.zeros += n;
    return 0;
}

static int frame_migrate(void *ctx, sp_frame frame, unsigned *node)
{
    outside.migrates++;
    *node = 2;
    return outside.migrate;
}

/* As the pool would: every page that maps it maps the other. */
static int frame_move(void *ctx, sp_frame from, sp_frame to)
{
    struct fake_world *world = ctx;
    struct fake_frame *old =
        &world->frame[(SP_FRAME_SEGMENT(from) - 1) * FAKE_SEGMENT + SP_FRAME_INDEX(from)];

    if (outside.move)
        return outside.move;
    outside.moves++;
    world->frame[(SP_FRAME_SEGMENT(to) - 1) * FAKE_SEGMENT + SP_FRAME_INDEX(to)] = *old;
    old->state = FAKE_FREE;
    for (unsigned m = 0; m < world->nmms; m++)
        for (uint32_t i = 0; i < world->mm[m]->npages; i++)
            if (world->mm[m]->page[i].frame == from)
                world->mm[m]->page[i].frame = to;
    return 0;
}

static enum sp_use frame_referenced(void *ctx, sp_frame frame, uint32_t group)
{
    outside.groups += group;
    if (outside.later)
        return SP_USE_LATER;
    return outside.referenced && (!group || !outside.used_by || group == outside.used_by)
               ? SP_USE_SINCE
               : SP_USE_NONE;
}

static bool frame_locked(void *ctx, sp_frame frame)
{
    return outside.locked;
}

static enum sp_evicted frame_evict(void *ctx, sp_frame frame)
{
    outside.evicts++;
    return outside.evict;
}

static int frame_bring_back(void *ctx, sp_frame frame, unsigned *node)
{
    outside.bring_backs++;
    return outside.bring_back;
}

struct fake_world *outside_world_new(void)
{
    struct fake_world *world = fake_world_new(WORLD);

    memset(&outside, 0, sizeof(outside));
    plain = outside_ops = *world->engine->ops;
    outside_ops.scan = scan_by_node;
    outside_ops.frame_mapped = frame_mapped;
    outside_ops.zero = zero;
    outside_ops.frame_migrate = frame_migrate;
    outside_ops.frame_move = frame_move;
    outside_ops.frame_referenced = frame_referenced;
    outside_ops.frame_locked = frame_locked;
    outside_ops.frame_evict = frame_evict;
    outside_ops.frame_bring_back = frame_bring_back;
    world->engine->ops = &outside_ops;
    world->engine->zero_hash = fake_hash(0);
    return outside.world = world;
}

int outside_unmerge_all(struct fake_world *world)
{
    int more;

    sp_engine_set_run(world->engine, SP_RUN_UNMERGE);
    do
        more = sp_engine_unmerge_step(world->engine);
    while (more == 1);
    return more;
}

struct sp_reclaimed outside_reclaim(struct fake_world *world, uint32_t want, uint32_t group)
{
    struct sp_reclaimed out;

    assert_int_equal(sp_engine_reclaim(world->engine, want, group, &out), 0);
    return out;
}
