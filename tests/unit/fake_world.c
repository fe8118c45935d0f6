/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_world.h"

struct sp_hash fake_hash(uint32_t content)
{
    uint64_t x = (content & ~FAKE_LOOKALIKE) * UINT64_C(0x9e3779b97f4a7c15) + 1;

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (struct sp_hash){.lo = x ^ (x >> 31), .hi = content & FAKE_LOOKALIKE ? x : ~x};
}

static struct fake_frame *fake_frame(struct fake_world *world, sp_frame frame)
{
    uint32_t place = (SP_FRAME_SEGMENT(frame) - 1) * FAKE_SEGMENT + SP_FRAME_INDEX(frame);

    assert_true(SP_FRAME_SEGMENT(frame) >= 1 && SP_FRAME_INDEX(frame) < FAKE_SEGMENT);
    assert_true(place < world->nframes);
    return &world->frame[place];
}

static struct fake_page *fake_page(struct fake_mm *mm, uint64_t addr)
{
    uint64_t page = (addr - FAKE_BASE) / FAKE_PAGE;

    assert_true(addr >= FAKE_BASE && addr % FAKE_PAGE == 0 && page < mm->npages);
    return &mm->page[page];
}

uint32_t fake_mappings(const struct fake_mm *mm)
{
    uint32_t mappings = 0;

    for (uint32_t i = 0; i < mm->npages; i++)
        if (mm->page[i].frame &&
            !(i && mm->page[i - 1].frame && mm->page[i].frame == mm->page[i - 1].frame + 1))
            mappings++;
    return mappings;
}

static void fake_add_run(struct sp_scan_run *run, uint32_t *n, uint64_t addr)
{
    if (*n && run[*n - 1].addr + run[*n - 1].npages * FAKE_PAGE == addr)
        run[*n - 1].npages++;
    else
        run[(*n)++] = (struct sp_scan_run){.addr = addr, .npages = 1};
}

static void fake_scan_page(struct fake_mm *mm, uint32_t i, struct sp_scan *scan)
{
    struct fake_page *page = &mm->page[i];
    uint64_t addr = fake_addr(i);

    if (page->left) {
        page->left = 0;
        fake_add_run(scan->gone, &scan->ngone, addr);
    }
    if (!page->present)
        return;
    if (page->dirty) {
        page->dirty = page->reported = 0;
        fake_add_run(scan->changed, &scan->nchanged, addr);
        scan->looked++;
        scan->waiting++;
    } else if (!page->frame && !page->reported) {
        page->reported = 1;
        scan->page[scan->npages++] =
            (struct sp_scan_page){.addr = addr, .hash = fake_hash(page->content), .kept = page->kept};
        scan->looked++;
    } else {
        scan->passed++;
    }
}

static int fake_scan(void *ctx, void *ref, struct sp_scan *scan)
{
    struct fake_mm *mm = ref;
    uint32_t i = scan->from ? (uint32_t)((scan->from - FAKE_BASE) / FAKE_PAGE) : 0;

    if (mm->scan_error)
        return mm->scan_error;
    assert_true(scan->budget >= 1 && scan->budget <= scan->max_pages);
    if (mm->scans++ == 0)
        mm->first_from_zero = scan->from == 0;
    if (scan->restart) {
        mm->restarts++;
        for (uint32_t k = 0; k < mm->npages; k++)
            mm->page[k].reported = 0;
    }
    for (uint32_t k = 0; k < mm->npages; k++)
        scan->tracked += mm->page[k].present;
    for (; i < mm->npages && scan->looked < scan->budget && scan->ngone < scan->max_runs; i++)
        fake_scan_page(mm, i, scan);
    scan->next = i < mm->npages ? fake_addr(i) : 0;
    scan->mappings = fake_mappings(mm);
    scan->mappings_budget = mm->mappings_budget;
    return 0;
}

static int fake_fill(void *ctx, void *ref, struct sp_fill_page *ask, unsigned n)
{
    struct fake_world *world = ctx;
    struct fake_mm *mm = ref;

    if (mm->fill_error)
        return mm->fill_error;
    assert_true(n >= 1 && n <= SP_FILL_PAGES_MAX);
    world->fills += n;
    for (unsigned i = 0; i < n; i++) {
        const struct fake_page *page = fake_page(mm, ask[i].addr);
        struct fake_frame *target = fake_frame(world, ask[i].frame);
        struct sp_hash hash = fake_hash(page->content);

        assert_true(i == 0 || ask[i].addr > ask[i - 1].addr);
        assert_int_equal(target->state, FAKE_TAKEN);
        target->content = page->content;
        ask[i].ok = page->present && hash.lo == ask[i].want.lo && hash.hi == ask[i].want.hi;
        if (ask[i].ok)
            target->state = FAKE_FILLED;
    }
    return 0;
}

static uint8_t fake_merge_page(struct fake_mm *mm, const struct sp_merge_page *ask)
{
    struct fake_page *page = fake_page(mm, ask->addr);
    const struct fake_frame *frame = fake_frame(mm->world, ask->frame);

    assert_int_equal(frame->state, FAKE_FILLED);
    if (!page->present)
        return SP_GONE;
    if (page->fault == SP_PINNED || page->fault == SP_ATTRIBUTES)
        page->reported = 0; /* it was in the air: whether it was written there nobody knows */
    if (page->fault && !(page->fault == SP_SHARED_BY_FORK && ask->break_fork))
        return page->fault;
    if (page->content != frame->content)
        return SP_CHANGED;
    assert_true(page->frame == 0 || page->frame == ask->frame);
    page->frame = ask->frame;
    if (mm->mappings_budget < mm->npages && fake_mappings(mm) > mm->mappings_budget) {
        page->frame = 0;
        return SP_OUT_OF_MAPPINGS;
    }
    page->fault = 0;
    page->dirty = page->left = 0; /* what came before the merge is not reported after it */
    return SP_MERGED;
}

static int fake_merge(void *ctx, void *ref, struct sp_merge_page *page, unsigned n)
{
    struct fake_mm *mm = ref;

    assert_true(n >= 1 && n <= 512);
    mm->merge_calls++;
    if (mm->merge_error && !mm->lose_answer)
        return mm->merge_error;
    for (unsigned i = 0; i < n; i++) {
        assert_true(i == 0 || page[i].addr > page[i - 1].addr);
        if (i == 0 || page[i].addr != page[i - 1].addr + FAKE_PAGE ||
            page[i].frame != page[i - 1].frame + 1)
            mm->merge_runs++;
        page[i].result = fake_merge_page(mm, &page[i]);
    }
    return mm->merge_error;
}

static int fake_unmerge(void *ctx, void *ref, uint64_t start, uint64_t end, uint64_t *next,
                        uint64_t *npages)
{
    struct fake_mm *mm = ref;
    uint32_t i = start > FAKE_BASE ? (uint32_t)((start - FAKE_BASE) / FAKE_PAGE) : 0;
    uint32_t done = 0;

    *next = 0;
    *npages = 0;
    for (; i < mm->npages && fake_addr(i) < end; i++) {
        if (mm->unmerge_error || (mm->unmerge_part && done == mm->unmerge_part)) {
            *next = fake_addr(i);
            return mm->unmerge_error;
        }
        if (mm->page[i].frame)
            done++;
        mm->page[i].frame = 0;
    }
    *npages = done;
    return 0;
}

static sp_frame fake_frame_alloc(void *ctx, unsigned *node, unsigned want, unsigned *got)
{
    struct fake_world *world = ctx;
    uint32_t first;

    if (world->alloc_fails)
        return 0;
    if (world->alloc_most && want > world->alloc_most)
        want = world->alloc_most;
    while (world->next_frame < world->nframes && world->frame[world->next_frame].state != FAKE_FREE)
        world->next_frame++;
    first = world->next_frame;
    for (*got = 0; *got < want && world->next_frame < world->nframes; world->next_frame++) {
        if (world->frame[world->next_frame].state != FAKE_FREE ||
            world->next_frame / FAKE_SEGMENT != first / FAKE_SEGMENT)
            break;
        world->frame[world->next_frame].state = FAKE_TAKEN;
        (*got)++;
    }
    return *got ? SP_FRAME(first / FAKE_SEGMENT + 1, first % FAKE_SEGMENT) : 0;
}

static void fake_assert_unmapped(struct fake_world *world, sp_frame frame)
{
    for (unsigned m = 0; m < world->nmms; m++)
        for (uint32_t i = 0; i < world->mm[m]->npages; i++)
            if (world->mm[m]->mm)
                assert_int_not_equal(world->mm[m]->page[i].frame, frame);
}

static void fake_frame_free_unused(void *ctx, sp_frame frame, unsigned n)
{
    struct fake_world *world = ctx;

    for (unsigned i = 0; i < n; i++) {
        struct fake_frame *f = fake_frame(world, frame + i);

        assert_true(f->state == FAKE_TAKEN || f->state == FAKE_FILLED);
        fake_assert_unmapped(world, frame + i);
        f->state = FAKE_FREE;
        world->freed_unused++;
    }
    world->next_frame = 0;
}

static void fake_frame_forget(void *ctx, sp_frame frame)
{
    struct fake_world *world = ctx;

    assert_int_equal(fake_frame(world, frame)->state, FAKE_FILLED);
    if (world->nframes <= FAKE_SEGMENT * 2) /* the walk is too slow for the big worlds */
        fake_assert_unmapped(world, frame);
    fake_frame(world, frame)->state = FAKE_FORGOTTEN;
    world->forgotten++;
}

static const struct sp_engine_ops fake_ops = {
    .scan = fake_scan,
    .fill = fake_fill,
    .merge = fake_merge,
    .unmerge = fake_unmerge,
    .frame_alloc = fake_frame_alloc,
    .frame_free_unused = fake_frame_free_unused,
    .frame_forget = fake_frame_forget,
};

struct fake_world *fake_world_new(uint32_t frames)
{
    struct fake_world *world = calloc(1, sizeof(*world));
    struct sp_engine_config config = {.ops = &fake_ops, .ctx = world, .page_size = FAKE_PAGE};

    assert_non_null(world);
    world->frame = calloc(frames, sizeof(*world->frame));
    world->nframes = frames;
    world->engine = sp_engine_new(&config);
    assert_non_null(world->engine);
    return world;
}

void fake_world_free(struct fake_world *world)
{
    sp_engine_free(world->engine);
    for (unsigned m = 0; m < world->nmms; m++) {
        free(world->mm[m]->page);
        free(world->mm[m]);
    }
    free(world->frame);
    free(world);
}

struct fake_mm *fake_mm_new(struct fake_world *world, uint32_t npages, uint32_t first)
{
    struct fake_mm *mm = calloc(1, sizeof(*mm));

    assert_non_null(mm);
    assert_true(world->nmms < 16);
    mm->world = world;
    mm->page = calloc(npages, sizeof(*mm->page));
    mm->npages = npages;
    mm->mappings_budget = 1000000;
    for (uint32_t i = 0; i < npages; i++)
        mm->page[i] = (struct fake_page){.content = first + i, .present = 1, .dirty = 1};
    mm->mm = sp_engine_mm_add(world->engine, mm);
    assert_non_null(mm->mm);
    world->mm[world->nmms++] = mm;
    return mm;
}

void fake_mm_remove(struct fake_mm *mm)
{
    struct fake_world *world = mm->world;
    unsigned m = 0;

    while (world->mm[m] != mm)
        m++;
    world->mm[m] = world->mm[--world->nmms];
    sp_engine_mm_remove(world->engine, mm->mm);
    free(mm->page);
    free(mm);
}

void fake_write(struct fake_mm *mm, uint32_t page, uint32_t content)
{
    mm->page[page].content = content;
    mm->page[page].frame = 0;
    mm->page[page].dirty = 1;
}

void fake_passes(struct fake_world *world, unsigned n)
{
    bool done;

    while (n) {
        uint64_t looked = sp_engine_step(world->engine, 300, &done);

        assert_true(looked == 0 || !done);
        assert_true(looked != 0 || done);
        n -= done;
    }
    fake_check(world);
}

struct sp_engine_counters fake_counters(struct fake_world *world)
{
    struct sp_engine_counters counters;

    sp_engine_counters(world->engine, &counters);
    return counters;
}

static void fake_check_pages(struct fake_world *world)
{
    for (unsigned m = 0; m < world->nmms; m++)
        for (uint32_t i = 0; i < world->mm[m]->npages; i++) {
            const struct fake_page *page = &world->mm[m]->page[i];

            if (!page->frame)
                continue;
            assert_int_not_equal(fake_frame(world, page->frame)->state, FAKE_FREE);
            assert_int_equal(fake_frame(world, page->frame)->content, page->content);
        }
}

static void fake_check_nodes(struct fake_world *world, const uint32_t *sites)
{
    struct sp_engine_counters counters = fake_counters(world);
    uint64_t shared = 0, frames = 0;

    for (uint32_t f = 0; f < world->nframes; f++) {
        sp_frame frame = SP_FRAME(f / FAKE_SEGMENT + 1, f % FAKE_SEGMENT);
        const struct sp_node *node = sp_stable_node(world->engine, frame);

        assert_int_equal(node ? node->nsites : 0, sites[f]);
        assert_int_equal(node != NULL, world->frame[f].state == FAKE_FILLED);
        if (node && !node->lost) /* those are not found any more */
            assert_int_equal(sp_node_key(world->engine, node->fingerprint, node->node),
                             fake_hash(world->frame[f].content).lo);
        frames += node != NULL;
        shared += sites[f] != 0;
    }
    assert_int_equal(counters.frames, frames);
    assert_int_equal(counters.pages_shared, shared);
}

void fake_check(struct fake_world *world)
{
    struct sp_engine *engine = world->engine;
    uint32_t *sites = calloc(world->nframes, sizeof(*sites));
    uint64_t candidates = 0, nsites = 0, mm_sites = 0, mm_candidates = 0;
    uint64_t met = 0, refused = 0, mm_met = 0, mm_refused = 0;

    assert_non_null(sites);
    for (uint32_t c = 0; c < engine->nchunks; c++) {
        const struct sp_chunk *chunk = engine->chunk[c];
        uint32_t first = c << SP_CHUNK_SHIFT, used = 0;

        for (uint32_t i = 0; chunk && i < SP_CHUNK_PAGES; i++) {
            used += chunk->item[i].state != SP_ITEM_UNKNOWN;
            candidates += chunk->item[i].state == SP_ITEM_CANDIDATE;
            met += chunk->item[i].state == SP_ITEM_CANDIDATE && chunk->item[i].met;
            refused += chunk->item[i].state == SP_ITEM_REFUSED;
            if (chunk->item[i].state == SP_ITEM_CANDIDATE)
                assert_int_equal(sp_item_candidate(engine, sp_item_key(engine, first + i)),
                                 first + i);
            if (chunk->item[i].state != SP_ITEM_SITE || chunk->item[i].key_low == 0)
                continue; /* frame 0 is the kernel's zero page (K15) */
            nsites++;
            sites[(SP_FRAME_SEGMENT(chunk->item[i].key_low) - 1) * FAKE_SEGMENT +
                  SP_FRAME_INDEX(chunk->item[i].key_low)]++;
        }
        if (chunk)
            assert_int_equal(used, chunk->used);
        if (chunk)
            assert_true(used > 0);
    }
    for (const struct sp_mm *mm = engine->first; mm; mm = mm->next) {
        mm_sites += mm->sites;
        mm_candidates += mm->candidates;
        mm_met += mm->met;
        for (unsigned i = 0; i < SP_REFUSALS; i++)
            mm_refused += mm->refused[i];
    }
    assert_int_equal(met, mm_met);
    assert_int_equal(refused, mm_refused);
    assert_int_equal(candidates, engine->candidates.count);
    assert_int_equal(candidates, mm_candidates);
    assert_int_equal(nsites, mm_sites);
    assert_int_equal(nsites, engine->nsites);
    fake_check_nodes(world, sites);
    fake_check_pages(world);
    free(sites);
}

void fake_check_exact(struct fake_world *world)
{
    for (unsigned m = 0; m < world->nmms; m++)
        for (uint32_t i = 0; i < world->mm[m]->npages; i++)
            assert_int_equal(sp_item_frame(world->mm[m]->mm, fake_addr(i)),
                             world->mm[m]->page[i].frame);
    fake_check(world);
}
