/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains (K14): contents that have several frames, because one frame takes only max_page_sharing
 * sites, or because a stretch of pages maps a ladder of them (match.c).
 *
 * A frame that has room is found in the table of nodes; one that is full is not there, for the
 * search would walk past thousands of them. So that frames of a content can be counted none the
 * less, every content with a full frame, or with several, has a record here. It is pruned with the
 * content's last frame.
 */
#include "types.h"

#include <errno.h>

static uint64_t sp_chain_key_of(const struct sp_engine *engine, uint32_t chain)
{
    return engine->chain[chain].fingerprint;
}

static struct sp_chain *sp_chain_find(const struct sp_engine *engine, uint64_t fingerprint,
                                      uint32_t *number)
{
    *number = sp_table_find(engine, &engine->chains, sp_chain_key_of, fingerprint);
    return *number == SP_NONE ? NULL : &engine->chain[*number];
}

/* Frames with this content in the table of nodes: all there are while they have no chain. */
static uint32_t sp_chain_count(const struct sp_engine *engine, uint64_t fingerprint)
{
    uint32_t n = 0;

    for (uint32_t frame = sp_stable_first(engine, fingerprint); frame != SP_NONE;
         frame = sp_stable_node(engine, frame)->link)
        n++;
    return n;
}

static int sp_chain_grow(struct sp_engine *engine)
{
    uint32_t room = engine->chain_room, more = room + room / 2 + 8;
    struct sp_chain *grown;

    if (engine->free_chain < room)
        return 0;
    grown = sp_memory_resize(engine, engine->chain, room * sizeof(*grown), more * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    for (uint32_t i = room; i < more; i++)
        grown[i] = (struct sp_chain){.link = i + 1};
    engine->chain = grown;
    engine->chain_room = more;
    return 0;
}

static int sp_chain_new(struct sp_engine *engine, uint64_t fingerprint, uint32_t nframes)
{
    struct sp_chain *chain;
    uint32_t number, next;

    if (sp_chain_grow(engine) != 0)
        return -ENOMEM;
    number = engine->free_chain;
    chain = &engine->chain[number];
    next = chain->link;
    *chain = (struct sp_chain){.fingerprint = fingerprint, .nframes = nframes};
    if (sp_table_insert(engine, &engine->chains, sp_chain_key_of, number) != 0) {
        *chain = (struct sp_chain){.link = next};
        return -ENOMEM;
    }
    engine->free_chain = next;
    return 0;
}

int sp_chain_frame_added(struct sp_engine *engine, uint64_t fingerprint)
{
    uint32_t number, others;
    struct sp_chain *chain = sp_chain_find(engine, fingerprint, &number);

    others = chain ? chain->nframes : sp_chain_count(engine, fingerprint);
    if (chain)
        chain->nframes++;
    else if (others && sp_chain_new(engine, fingerprint, others + 1) != 0)
        return -ENOMEM;
    if (others) {
        engine->nchains += others == 1;
        engine->ndups += others == 1 ? 2 : 1;
    }
    return 0;
}

void sp_chain_frame_removed(struct sp_engine *engine, uint64_t fingerprint)
{
    uint32_t number;
    struct sp_chain *chain = sp_chain_find(engine, fingerprint, &number);

    if (!chain)
        return;
    chain->nframes--;
    if (chain->nframes) {
        engine->nchains -= chain->nframes == 1;
        engine->ndups -= chain->nframes == 1 ? 2 : 1;
        return;
    }
    sp_table_remove(engine, &engine->chains, sp_chain_key_of, number);
    *chain = (struct sp_chain){.link = engine->free_chain};
    engine->free_chain = number;
}

bool sp_chain_make(struct sp_engine *engine, uint64_t fingerprint)
{
    uint32_t number;

    return sp_chain_find(engine, fingerprint, &number) ||
           sp_chain_new(engine, fingerprint, sp_chain_count(engine, fingerprint)) == 0;
}

void sp_chains_free(struct sp_engine *engine)
{
    sp_memory_put(engine, engine->chain, engine->chain_room * sizeof(engine->chain[0]));
    engine->chain = NULL;
    engine->chain_room = engine->free_chain = 0;
    sp_table_free(engine, &engine->chains);
}

/* ---- pages of the batch that are on their way to a frame ---- */

static uint32_t sp_reserve_place(const struct sp_batch *batch, sp_frame frame)
{
    uint32_t at = frame * 2654435761u % SP_RESERVES;

    while (batch->reserve[at].frame && batch->reserve[at].frame != frame)
        at = (at + 1) % SP_RESERVES;
    return at;
}

void sp_reserve_page(struct sp_batch *batch, sp_frame frame)
{
    struct sp_reserve *reserve = &batch->reserve[sp_reserve_place(batch, frame)];

    reserve->frame = frame;
    reserve->npages++;
}

uint32_t sp_reserved(const struct sp_batch *batch, sp_frame frame)
{
    return batch->reserve[sp_reserve_place(batch, frame)].npages;
}
