/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold: after every step, at rest, and at the end. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void sim_fail(struct sim *sim, const char *format, ...)
{
    va_list args;

    if (sim->error[0])
        return;
    va_start(args, format);
    vsnprintf(sim->error, sizeof(sim->error), format, args);
    va_end(args);
}

/* X: every process reads what it wrote, and nothing else. */
static void check_model(struct sim *sim)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            const struct sim_page *page = &sim->mm[m].page[i];

            if (sim_is_mapped(page) && sim_read(&sim->mm[m], i) != page->model)
                sim_fail(sim, "X: process %u reads %x at page %u, not %x", m,
                         sim_read(&sim->mm[m], i), i, page->model);
            if (sim_is_mapped(page) && !sim->mm[m].alive)
                sim_fail(sim, "D4: process %u has ended and maps page %u", m, i);
            if ((page->frame != 0) + (page->anon != NULL) + page->zero > 1)
                sim_fail(sim, "process %u: page %u is two things", m, i);
        }
}

/* The machine's own sums, lest a fault of it hides one of the engine. */
static void check_machine(struct sim *sim)
{
    static uint32_t maps[SIM_FRAMES];
    uint32_t memory = 0;

    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        maps[at] = 0;
        memory += sim->frame[at].state != SIM_FREE && !sim->frame[at].out;
    }
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            sp_frame frame = sim->mm[m].page[i].frame;

            if (frame)
                maps[sim_frame(sim, frame) - sim->frame]++;
        }
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        if (maps[at] != sim->frame[at].maps)
            sim_fail(sim, "frame %u is mapped %u times, and %u are counted", at, maps[at],
                     sim->frame[at].maps);
        if (maps[at] && sim->frame[at].state != SIM_FILLED && sim->frame[at].state != SIM_FORGOTTEN)
            sim_fail(sim, "frame %u is mapped in state %u", at, sim->frame[at].state);
    }
    if (memory > sim->memory_used)
        sim_fail(sim, "%u frames in %u pages of memory", memory, sim->memory_used);
}

struct walk {
    uint64_t sites, candidates, refused, met, zero;
    uint32_t of_frame[SIM_FRAMES];
};

static void walk_chunk(struct sim *sim, uint32_t number, struct walk *walk)
{
    const struct sp_engine *engine = sim->engine;
    const struct sp_chunk *chunk = engine->chunk[number];
    uint32_t used = 0;

    for (uint32_t i = 0; i < SP_CHUNK_PAGES; i++) {
        const struct sp_item *item = &chunk->item[i];
        uint32_t id = (number << SP_CHUNK_SHIFT) + i;

        used += item->state != SP_ITEM_UNKNOWN;
        walk->refused += item->state == SP_ITEM_REFUSED;
        walk->candidates += item->state == SP_ITEM_CANDIDATE;
        walk->met += item->state == SP_ITEM_CANDIDATE && item->met;
        if (item->state == SP_ITEM_CANDIDATE &&
            sp_item_candidate(engine, sp_item_key(engine, id)) != id)
            sim_fail(sim, "K5: candidate %u is not found by its fingerprint", id);
        if (item->state != SP_ITEM_SITE)
            continue;
        if (sp_item_key(engine, id) == 0) {
            walk->zero++;
            continue;
        }
        walk->sites++;
        walk->of_frame[sim_frame(sim, (sp_frame)sp_item_key(engine, id)) - sim->frame]++;
    }
    if (used != chunk->used)
        sim_fail(sim, "chunk %u uses %u items, not %u", number, used, chunk->used);
}

static int compare(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;

    return *a < *b ? -1 : *a > *b;
}

/* K14: contents with several frames, and these. */
static void check_chains(struct sim *sim)
{
    static uint64_t key[SIM_FRAMES];
    uint64_t chains = 0, dups = 0;
    uint32_t n = 0, end;

    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        const struct sp_node *node =
            sp_stable_node(sim->engine, SP_FRAME(at / SIM_SEGMENT + 1, at % SIM_SEGMENT));

        if (node)
            key[n++] = node->fingerprint;
        if (node && !node->linked)
            sim_took(sim, SIM_P_K14_FULL);
    }
    qsort(key, n, sizeof(key[0]), compare);
    for (uint32_t i = 0; i < n; i = end) {
        for (end = i + 1; end < n && key[end] == key[i];)
            end++;
        chains += end - i > 1;
        dups += end - i > 1 ? end - i : 0;
    }
    sim->count[SIM_P_K14_CHAIN] += chains;
    if (chains != sim->engine->nchains || dups != sim->engine->ndups)
        sim_fail(sim, "K14: %u chains of %u frames are counted, not %u of %u",
                 (unsigned)sim->engine->nchains, (unsigned)sim->engine->ndups, (unsigned)chains,
                 (unsigned)dups);
}

/* What the engine keeps of one frame is so on the machine (N3, S1, K14). */
static void check_node(struct sim *sim, const struct sp_node *node, const struct sim_frame *frame)
{
    sp_frame number = sim_frame_number(sim, frame);

    if (sim->news)
        return; /* it has yet to be told */
    if (node->evicted != frame->out)
        sim_fail(sim, "S1: frame %x is %sin the store", number, frame->out ? "" : "not ");
    if (!frame->out && !node->lost && node->node != frame->node)
        sim_fail(sim, "N3: frame %x lies on node %u and is filed under %u", number, frame->node,
                 node->node);
    if (!node->linked && !node->lost && node->nsites < sp_stable_limit(sim->engine) &&
        !sim->engine->memory_limit)
        sim_fail(sim, "K14: frame %x has room and is not found", number);
}

static void check_nodes(struct sim *sim, const struct walk *walk)
{
    struct sp_engine_counters counters;
    uint64_t frames = 0, shared = 0;

    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        sp_frame frame = SP_FRAME(at / SIM_SEGMENT + 1, at % SIM_SEGMENT);
        const struct sp_node *node = sp_stable_node(sim->engine, frame);

        if ((node ? node->nsites : 0) != walk->of_frame[at])
            sim_fail(sim, "K12: frame %x has %u sites, %u are counted", frame, walk->of_frame[at],
                     node ? node->nsites : 0);
        if ((node != NULL) != (sim->frame[at].state == SIM_FILLED))
            sim_fail(sim, "H1: frame %x is %sa node in state %u", frame, node ? "" : "not ",
                     sim->frame[at].state);
        if (node && !node->lost && /* those are not found any more */
            node->fingerprint !=
                sp_node_key(sim->engine, sim_hash(sim->frame[at].content).lo, node->node))
            sim_fail(sim, "K11: frame %x is filed under another content", frame);
        if (node)
            check_node(sim, node, &sim->frame[at]);
        frames += node != NULL;
        shared += walk->of_frame[at] != 0;
    }
    check_chains(sim);
    sp_engine_counters(sim->engine, &counters);
    if (counters.ksm_zero_pages != walk->zero)
        sim_fail(sim, "K15: %u zero pages, %u are counted", (unsigned)walk->zero,
                 (unsigned)counters.ksm_zero_pages);
    if (counters.frames != frames || counters.pages_shared != shared ||
        counters.pages_sharing != walk->sites - shared)
        sim_fail(sim, "K12: %llu shared and %llu sharing of %llu frames, not %llu and %llu of %llu",
                 (unsigned long long)counters.pages_shared,
                 (unsigned long long)counters.pages_sharing, (unsigned long long)counters.frames,
                 (unsigned long long)shared, (unsigned long long)(walk->sites - shared),
                 (unsigned long long)frames);
    if (sim->engine->max_kernel_pages && frames > sim->engine->max_kernel_pages)
        sim_took(sim, SIM_P_K10_LIMITED);
}

void sim_check_sums(struct sim *sim)
{
    uint64_t sites = 0, candidates = 0, frames = 0, shared = 0;
    struct sp_engine_counters counters;

    if (sim->asked++ % 8)
        return;
    for (const struct sp_mm *mm = sim->engine->first; mm; mm = mm->next) {
        struct sp_mm_counters of_mm;

        sp_engine_mm_counters(mm, &of_mm);
        sites += of_mm.sites;
        candidates += of_mm.candidates;
    }
    for (uint32_t at = 0; at < SIM_FRAMES; at++) {
        const struct sp_node *node =
            sp_stable_node(sim->engine, SP_FRAME(at / SIM_SEGMENT + 1, at % SIM_SEGMENT));

        frames += node != NULL;
        shared += node && node->nsites;
    }
    sp_engine_counters(sim->engine, &counters);
    if (counters.pages_shared != shared || counters.pages_sharing != sites - shared ||
        counters.pages_unshared != candidates || counters.frames != frames)
        sim_fail(sim, "K12: while it asks the engine counts %llu, %llu, %llu, %llu, not %llu, %llu, %llu, %llu",
                 (unsigned long long)counters.pages_shared, (unsigned long long)counters.pages_sharing,
                 (unsigned long long)counters.pages_unshared, (unsigned long long)counters.frames,
                 (unsigned long long)shared, (unsigned long long)(sites - shared),
                 (unsigned long long)candidates, (unsigned long long)frames);
}

static void check_engine(struct sim *sim)
{
    static struct walk walk;
    uint64_t sites = 0, candidates = 0, refused = 0, met = 0, zero = 0;

    walk = (struct walk){0};
    for (uint32_t c = 0; c < sim->engine->nchunks; c++)
        if (sim->engine->chunk[c])
            walk_chunk(sim, c, &walk);
    for (const struct sp_mm *mm = sim->engine->first; mm; mm = mm->next) {
        sites += mm->sites;
        candidates += mm->candidates;
        met += mm->met;
        zero += mm->zero_pages;
        for (unsigned i = 0; i < SP_REFUSALS; i++)
            refused += mm->refused[i];
    }
    if (sites != walk.sites || sites != sim->engine->nsites)
        sim_fail(sim, "K12: %llu sites, %llu are counted", (unsigned long long)walk.sites,
                 (unsigned long long)sites);
    if (candidates != walk.candidates || candidates != sim->engine->candidates.count)
        sim_fail(sim, "K12: %llu candidates, %llu are counted", (unsigned long long)walk.candidates,
                 (unsigned long long)candidates);
    if (refused != walk.refused || met != walk.met || zero != walk.zero)
        sim_fail(sim, "K12: refused or met candidates are not as counted");
    check_nodes(sim, &walk);
}

void sim_check(struct sim *sim)
{
    check_model(sim);
    check_machine(sim);
    if (sim->engine && sim->stepped)
        check_engine(sim);
    sim->stepped = false;
}

/* ---- at rest ---- */

static bool is_mergeable(const struct sim_mm *mm, const struct sim_page *page)
{
    return mm->mm && sim_is_tracked(page) && !(page->anon && page->anon->pins);
}

/* Contents that had one of the same fingerprint beside them once: such pages wait for each other,
 * or are refused until they are written again. */
static bool had_twin(const struct sim *sim, uint32_t content)
{
    return sim->twin[content % SIM_TWINS];
}

/* Another page of the same content that the engine can merge: a site, or memory of its own. */
static int node_of(const struct sim *sim, const struct sim_page *page)
{
    return page->anon    ? page->anon->node
           : page->frame ? sim->frame[(SP_FRAME_SEGMENT(page->frame) - 1) * SIM_SEGMENT +
                                      SP_FRAME_INDEX(page->frame)]
                               .node
                         : -1;
}

/* A frame that takes no more sites is nobody's partner. */
static bool is_partner(const struct sim *sim, const struct sim_page *page)
{
    const struct sp_node *node = page->frame ? sp_stable_node(sim->engine, page->frame) : NULL;

    return !page->zero && (!page->frame || (node && !node->lost));
}

/* K14: where so many are equal, one may be left over. */
static bool may_be_full(const struct sim *sim, const struct sim_page *of)
{
    uint32_t equal = 0;

    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            equal += sim_is_mapped(&sim->mm[m].page[i]) && sim->mm[m].page[i].model == of->model;
    return sim->engine->max_page_sharing && equal >= sim->engine->max_page_sharing;
}

static bool has_partner(const struct sim *sim, const struct sim_page *of)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            const struct sim_page *page = &sim->mm[m].page[i];

            if (page->model != of->model || page->anon == of->anon ||
                !is_mergeable(&sim->mm[m], page) || !is_partner(sim, page))
                continue;
            if (sim->engine->merge_across_nodes || node_of(sim, page) == of->anon->node)
                return true;
        }
    return false;
}

void sim_check_rest(struct sim *sim)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; sim->mm[m].mm && i < SIM_PAGES; i++) {
            const struct sim_page *page = &sim->mm[m].page[i];
            sp_frame known = sp_item_frame(sim->mm[m].mm, sim_addr(i));

            if (known != (sim_is_site(page) ? page->frame : 0))
                sim_fail(sim, "K12: page %u of process %u maps frame %x, the engine knows %x", i, m,
                         page->frame, known);
            if (page->anon && is_mergeable(&sim->mm[m], page) && page->anon->users == 1 &&
                has_partner(sim, page) && !had_twin(sim, page->model) && !may_be_full(sim, page))
                sim_fail(sim, "K4: page %u of process %u, contents %x, is not merged", i, m,
                         page->model);
            if (page->anon && is_mergeable(&sim->mm[m], page) && page->model == 0 &&
                sim->engine->use_zero_pages && !had_twin(sim, 0))
                sim_fail(sim, "K15: page %u of process %u is of zeros and not given back", i, m);
        }
}

void sim_check_end(struct sim *sim)
{
    for (uint32_t at = 0; at < SIM_FRAMES; at++)
        if (sim->frame[at].state != SIM_FREE)
            sim_fail(sim, "K9: frame %u is left in state %u", at, sim->frame[at].state);
    for (unsigned i = 0; i < SIM_SLOTS; i++)
        if (sim->slot[i].state != SIM_SLOT_FREE)
            sim_fail(sim, "S10: slot %u is left", i);
    if (sim->memory_used)
        sim_fail(sim, "D4: %u pages of memory are left", sim->memory_used);
    if (sim->engine && sim->engine->nnodes)
        sim_fail(sim, "T1: %u stable nodes are left", (unsigned)sim->engine->nnodes);
}
