/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake world with the ops that not every outside has. The test is the outside: it sets what an
 * op answers.
 */
#ifndef SP_TESTS_OUTSIDE_H
#define SP_TESTS_OUTSIDE_H

#include "fake_world.h"

struct outside {
    bool mapped, locked, referenced, later;
    uint32_t used_by; /* the group whose references those are (S5); 0: every group's */
    enum sp_evicted evict;
    int bring_back, move, migrate;
    unsigned evicts, bring_backs, moves, migrates, zeros, groups;
    uint8_t zero_result;
    struct fake_mm *elsewhere[4]; /* their pages lie on node 1 */
    struct fake_world *world;
};
extern struct outside outside;
extern struct sp_engine_ops outside_ops; /* of the worlds below */

/* Up to 8192 frames; outside begins anew. */
struct fake_world *outside_world_new(void);
/* Run 2 (K13): what the last step said. */
int outside_unmerge_all(struct fake_world *world);
struct sp_reclaimed outside_reclaim(struct fake_world *world, uint32_t want, uint32_t group);

#endif
