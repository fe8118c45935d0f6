/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stable nodes: frames with their fingerprint and number of sites, found by frame and fingerprint.
 * This table is always true: a frame's bytes never change (K11). A node without sites stays
 * findable until it is swept (K9), for a page that equals it may merge into it again.
 */
#include "types.h"

#include <errno.h>

#define SP_LINKED_MAX 512u /* frames of one content that are looked through at most */
#define SP_ROW_MAX    32u  /* neighbouring frames with equal bytes that are told apart at most */

static struct sp_node_chunk *sp_stable_chunk(const struct sp_engine *engine, sp_frame frame)
{
    uint32_t segment = SP_FRAME_SEGMENT(frame);

    if (segment >= engine->nsegments || !engine->segment[segment])
        return NULL;
    return engine->segment[segment]->chunk[SP_FRAME_INDEX(frame) >> SP_CHUNK_SHIFT];
}

struct sp_node *sp_stable_node(const struct sp_engine *engine, sp_frame frame)
{
    struct sp_node_chunk *chunk = sp_stable_chunk(engine, frame);
    struct sp_node *node;

    if (!chunk)
        return NULL;
    node = &chunk->node[frame & (SP_CHUNK_PAGES - 1)];
    return node->live ? node : NULL;
}

static uint64_t sp_stable_key_of(const struct sp_engine *engine, uint32_t frame)
{
    return sp_stable_chunk(engine, frame)->node[frame & (SP_CHUNK_PAGES - 1)].fingerprint;
}

void sp_stable_prefetch(const struct sp_engine *engine, sp_frame frame)
{
    __builtin_prefetch(&sp_stable_chunk(engine, frame)->node[frame & (SP_CHUNK_PAGES - 1)]);
}

uint32_t sp_stable_first(const struct sp_engine *engine, uint64_t fingerprint)
{
    return sp_table_find(engine, &engine->nodes, sp_stable_key_of, fingerprint);
}

/* Frames with one content stand in a row, of which the table knows the first. */
static int sp_stable_file(struct sp_engine *engine, sp_frame frame, struct sp_node *node)
{
    uint32_t first = sp_stable_first(engine, node->fingerprint), at = first;
    unsigned length = 0;

    node->link = SP_NONE;
    if (first == SP_NONE)
        return sp_table_insert(engine, &engine->nodes, sp_stable_key_of, frame);
    for (; at != SP_NONE; at = sp_stable_node(engine, at)->link)
        if (++length == SP_LINKED_MAX)
            return -ENOSPC;
    node->link = first;
    sp_table_replace(&engine->nodes, node->fingerprint, first, frame);
    return 0;
}

static void sp_stable_unfile(struct sp_engine *engine, sp_frame frame, struct sp_node *node)
{
    uint32_t at = sp_stable_first(engine, node->fingerprint);

    if (at != frame) {
        while (sp_stable_node(engine, at)->link != frame)
            at = sp_stable_node(engine, at)->link;
        sp_stable_node(engine, at)->link = node->link;
    } else if (node->link != SP_NONE) {
        sp_table_replace(&engine->nodes, node->fingerprint, frame, node->link);
    } else {
        sp_table_remove(engine, &engine->nodes, sp_stable_key_of, frame);
    }
}

static int sp_stable_grow_directory(struct sp_engine *engine, uint32_t segment)
{
    uint32_t size = segment + segment / 2 + 8;
    struct sp_node_segment **grown;

    if (segment < engine->nsegments)
        return 0;
    grown = sp_memory_resize(engine, engine->segment, engine->nsegments * sizeof(*grown),
                             size * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    for (uint32_t i = engine->nsegments; i < size; i++)
        grown[i] = NULL;
    engine->segment = grown;
    engine->nsegments = size;
    return 0;
}

/* Frees the chunk and the segment of a frame if they hold nothing. */
static void sp_stable_trim(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node_segment **segment = &engine->segment[SP_FRAME_SEGMENT(frame)];
    struct sp_node_chunk **chunk;

    if (!*segment)
        return;
    chunk = &(*segment)->chunk[SP_FRAME_INDEX(frame) >> SP_CHUNK_SHIFT];
    if (*chunk && (*chunk)->used == 0) {
        sp_piece_put(engine, SP_PIECE_NODES, *chunk);
        *chunk = NULL;
        (*segment)->used--;
    }
    if ((*segment)->used == 0) {
        sp_memory_put(engine, *segment, sizeof(**segment));
        *segment = NULL;
    }
}

static struct sp_node_chunk *sp_stable_get_chunk(struct sp_engine *engine, sp_frame frame)
{
    uint32_t number = SP_FRAME_SEGMENT(frame);
    struct sp_node_segment *segment;
    struct sp_node_chunk **chunk;

    if (sp_stable_grow_directory(engine, number) != 0)
        return NULL;
    if (!engine->segment[number])
        engine->segment[number] = sp_memory_get(engine, sizeof(*segment));
    segment = engine->segment[number];
    if (!segment)
        return NULL;
    chunk = &segment->chunk[SP_FRAME_INDEX(frame) >> SP_CHUNK_SHIFT];
    if (!*chunk) {
        *chunk = sp_piece_get(engine, SP_PIECE_NODES);
        if (*chunk)
            segment->used++;
        else
            sp_stable_trim(engine, frame);
    }
    return engine->segment[number] ? *chunk : NULL;
}

int sp_stable_add(struct sp_engine *engine, sp_frame frame, uint64_t fingerprint, unsigned node_id)
{
    struct sp_node_chunk *chunk;
    struct sp_node *node;

    if (SP_FRAME_SEGMENT(frame) == 0 || frame == SP_NONE)
        return -EINVAL;
    chunk = sp_stable_get_chunk(engine, frame);
    if (!chunk)
        return -ENOMEM;
    node = &chunk->node[frame & (SP_CHUNK_PAGES - 1)];
    sp_assert(!node->live);
    if (sp_chain_frame_added(engine, fingerprint) != 0)
        goto no_chain;
    *node = (struct sp_node){.fingerprint = fingerprint, .node = node_id & (SP_NODES_MAX - 1)};
    if (sp_stable_file(engine, frame, node) != 0)
        goto no_place;
    node->live = node->linked = 1;
    chunk->used++;
    chunk->empty++;
    engine->nnodes++;
    return 0;
no_place:
    sp_chain_frame_removed(engine, fingerprint);
no_chain:
    sp_stable_trim(engine, frame);
    return -ENOMEM;
}

uint32_t sp_stable_limit(const struct sp_engine *engine)
{
    return engine->max_page_sharing ? engine->max_page_sharing : SP_SITES_FULL;
}

/* A candidate with the node's content waits for a page to be reported, which none will be: its mm
 * is asked for its pages again. */
static void sp_stable_meets(struct sp_engine *engine, uint64_t fingerprint)
{
    uint32_t candidate = sp_item_candidate(engine, fingerprint);

    if (candidate != SP_NONE)
        sp_policy_retry_later(sp_item_mm(engine, candidate));
}

/* A node without room leaves the table, so that rows there stay short however many frames a
 * content has; one that has room again comes back. Without memory it stays where it is: who looks
 * for a frame asks for the room anyway. */
static void sp_stable_link(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node *node = sp_stable_node(engine, frame);
    bool room = node->nsites < sp_stable_limit(engine) && !node->lost;

    if (room && !node->linked) {
        node->linked = sp_stable_file(engine, frame, node) == 0;
        sp_stable_meets(engine, node->fingerprint);
    } else if (!room && node->linked && sp_chain_make(engine, node->fingerprint)) {
        sp_stable_unfile(engine, frame, node);
        node->linked = 0;
    }
}

bool sp_stable_has_room(const struct sp_engine *engine, sp_frame frame, uint32_t n)
{
    const struct sp_node *node = sp_stable_node(engine, frame);
    uint32_t sites = node->nsites + n;

    if (engine->max_page_sharing && engine->batch)
        sites += sp_reserved(engine->batch, frame);
    return !node->lost && sites <= sp_stable_limit(engine);
}

void sp_stable_set_lost(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node *node = sp_stable_node(engine, frame);

    engine->nlost += !node->lost;
    node->lost = 1;
    sp_stable_link(engine, frame);
}

void sp_stable_set_evicted(struct sp_engine *engine, sp_frame frame, bool evicted)
{
    struct sp_node *node = sp_stable_node(engine, frame);

    engine->nevicted += evicted;
    engine->nevicted -= node->evicted;
    node->evicted = evicted;
}

void sp_stable_refile(struct sp_engine *engine, sp_frame frame, unsigned node_id)
{
    struct sp_node *node = sp_stable_node(engine, frame);
    uint64_t old = node->fingerprint;
    uint64_t key = sp_node_key(engine, sp_node_key(engine, old, node->node), node_id);

    /* Whatever comes of it: where the frame lies must be right, or a drain prunes it that is
     * there, or keeps it that is gone (H4). */
    node->node = node_id & (SP_NODES_MAX - 1);
    if (key == old || node->lost)
        return;
    /* With both chains made beforehand nothing fails half-way. */
    if (!sp_chain_make(engine, old) || !sp_chain_make(engine, key) ||
        sp_chain_frame_added(engine, key) != 0) {
        sp_stable_set_lost(engine, frame);
        return;
    }
    if (node->linked)
        sp_stable_unfile(engine, frame, node);
    node->linked = 0;
    sp_chain_frame_removed(engine, old);
    node->fingerprint = key;
    sp_stable_link(engine, frame);
}

void sp_stable_transfer(struct sp_engine *engine, sp_frame from, sp_frame to)
{
    struct sp_node *old = sp_stable_node(engine, from), *new = sp_stable_node(engine, to);
    bool evicted = old->evicted, lost = old->lost;

    sp_assert(new->nsites == 0);
    new->nsites = old->nsites;
    new->idle = old->idle;
    if (old->nsites) {
        sp_stable_chunk(engine, from)->empty++;
        sp_stable_chunk(engine, to)->empty--;
    }
    old->nsites = 0;
    if (evicted)
        sp_stable_set_evicted(engine, to, true);
    if (lost)
        sp_stable_set_lost(engine, to);
    sp_stable_link(engine, to);
    sp_stable_remove(engine, from);
}

void sp_stable_remove(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node *node = sp_stable_node(engine, frame);
    struct sp_node_chunk *chunk = sp_stable_chunk(engine, frame);

    sp_assert(node && node->nsites == 0);
    if (node->linked)
        sp_stable_unfile(engine, frame, node);
    sp_chain_frame_removed(engine, node->fingerprint);
    engine->nevicted -= node->evicted;
    engine->nlost -= node->lost;
    engine->nnodes--;
    node->live = 0;
    chunk->used--;
    chunk->empty--;
    sp_stable_trim(engine, frame);
}

void sp_stable_site_added(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node *node = sp_stable_node(engine, frame);

    sp_assert(node && node->nsites < SP_SITES_MAX);
    if (node->nsites++ == 0) {
        sp_stable_chunk(engine, frame)->empty--;
        engine->nshared++;
    }
    node->idle = 0;
    engine->nsites++;
    if (node->nsites >= sp_stable_limit(engine))
        sp_stable_link(engine, frame);
}

void sp_stable_site_removed(struct sp_engine *engine, sp_frame frame)
{
    struct sp_node *node = sp_stable_node(engine, frame);

    sp_assert(node && node->nsites > 0);
    if (--node->nsites == 0) {
        sp_stable_chunk(engine, frame)->empty++;
        engine->nshared--;
    }
    engine->nsites--;
    if (!node->linked)
        sp_stable_link(engine, frame);
}

bool sp_stable_holds(const struct sp_engine *engine, sp_frame frame, uint64_t fingerprint)
{
    const struct sp_node *node = sp_stable_node(engine, frame);

    return node && node->fingerprint == fingerprint;
}

void sp_engine_avoid(struct sp_engine *engine, uint32_t segment, bool avoid)
{
    if (segment < engine->nsegments && engine->segment[segment])
        engine->segment[segment]->avoided = avoid;
}

/* There is a node of this frame, with this fingerprint, and it may get one more site. */
static bool sp_stable_suits(const struct sp_engine *engine, sp_frame frame, uint64_t fingerprint)
{
    return sp_stable_holds(engine, frame, fingerprint) && sp_stable_has_room(engine, frame, 1) &&
           !engine->segment[SP_FRAME_SEGMENT(frame)]->avoided;
}

static bool sp_stable_neighbours(const struct sp_engine *engine, sp_frame frame,
                                 uint64_t fingerprint)
{
    return SP_FRAME_INDEX(frame) != 0 && sp_stable_suits(engine, frame - 1, fingerprint);
}

static unsigned sp_stable_row(const struct sp_engine *engine, sp_frame frame, uint64_t fingerprint)
{
    unsigned row = 1;

    while (row < SP_ROW_MAX && SP_FRAME_INDEX(frame + row) != 0 &&
           sp_stable_suits(engine, frame + row, fingerprint))
        row++;
    return row;
}

sp_frame sp_stable_find(const struct sp_engine *engine, uint64_t fingerprint, sp_frame wanted,
                        unsigned *row)
{
    sp_frame best = 0;
    unsigned longest = 0;

    *row = 1;
    if (wanted && sp_stable_suits(engine, wanted, fingerprint))
        return wanted;
    for (uint32_t frame = sp_stable_first(engine, fingerprint); frame != SP_NONE;
         frame = sp_stable_node(engine, frame)->link) {
        unsigned length;

        if (!sp_stable_suits(engine, frame, fingerprint) ||
            sp_stable_neighbours(engine, frame, fingerprint))
            continue;
        length = sp_stable_row(engine, frame, fingerprint);
        if (length > longest) {
            longest = length;
            best = frame;
        }
    }
    *row = longest;
    return best;
}

bool sp_stable_is_mapped(struct sp_engine *engine, sp_frame frame)
{
    if (!engine->ops->frame_mapped || !engine->ops->frame_mapped(engine->ctx, frame))
        return false;
    engine->stale_mapped++;
    return true;
}

static void sp_stable_sweep_chunk(struct sp_engine *engine, sp_frame first, bool at_once)
{
    struct sp_node_chunk *chunk = sp_stable_chunk(engine, first);

    for (uint32_t i = 0; i < SP_CHUNK_PAGES; i++) {
        struct sp_node *node = &chunk->node[i];

        if (!node->live || node->nsites)
            continue;
        if (!node->idle && !at_once) {
            node->idle = 1;
            continue;
        }
        if (sp_stable_is_mapped(engine, first + i))
            continue;
        bool last = chunk->used == 1;

        sp_stable_remove(engine, first + i);
        engine->ops->frame_forget(engine->ctx, first + i);
        if (last)
            return; /* the chunk went with its last node */
    }
}

void sp_stable_sweep(struct sp_engine *engine, bool at_once)
{
    if (engine->nnodes == engine->nshared)
        return;
    for (uint32_t s = 0; s < engine->nsegments; s++)
        for (uint32_t i = 0; engine->segment[s] && i < SP_SEGMENT_PAGES_MAX >> SP_CHUNK_SHIFT; i++)
            if (engine->segment[s]->chunk[i] && engine->segment[s]->chunk[i]->empty)
                sp_stable_sweep_chunk(engine, SP_FRAME(s, i << SP_CHUNK_SHIFT), at_once);
}

static int sp_stable_each_of(struct sp_engine *engine, uint32_t s,
                             int (*fn)(struct sp_engine *engine, sp_frame frame, void *arg),
                             void *arg)
{
    int status = 0;

    for (uint32_t i = 0; status == 0 && i < SP_SEGMENT_PAGES_MAX; i++) {
        /* fn may free the chunk, and the segment */
        if (!engine->segment[s])
            break;
        if (!engine->segment[s]->chunk[i >> SP_CHUNK_SHIFT])
            i |= SP_CHUNK_PAGES - 1;
        else if (sp_stable_node(engine, SP_FRAME(s, i)))
            status = fn(engine, SP_FRAME(s, i), arg);
    }
    return status;
}

int sp_stable_each(struct sp_engine *engine, uint32_t segment,
                   int (*fn)(struct sp_engine *engine, sp_frame frame, void *arg), void *arg)
{
    uint32_t first = segment == SP_NONE ? 0 : segment;
    int status = 0;

    for (uint32_t s = first; status == 0 && s < engine->nsegments; s++) {
        if (engine->segment[s])
            status = sp_stable_each_of(engine, s, fn, arg);
        if (segment != SP_NONE)
            break;
    }
    return status;
}

void sp_stable_free(struct sp_engine *engine)
{
    for (uint32_t s = 0; s < engine->nsegments; s++) {
        struct sp_node_segment *segment = engine->segment[s];

        for (uint32_t i = 0; segment && i < SP_SEGMENT_PAGES_MAX >> SP_CHUNK_SHIFT; i++)
            sp_piece_put(engine, SP_PIECE_NODES, segment->chunk[i]);
        sp_memory_put(engine, segment, sizeof(*segment));
    }
    sp_memory_put(engine, engine->segment, engine->nsegments * sizeof(engine->segment[0]));
    engine->segment = NULL;
    engine->nsegments = 0;
    sp_table_free(engine, &engine->nodes);
    sp_chains_free(engine);
}
