/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage-scale: what the engine costs on memory far larger than the machine. Pages exist only as
 * a function of their address: nothing but the engine's own bookkeeping takes memory. Several
 * passes over 1, 10 and 100 million pages; time and bytes a page; beside it a red-black tree
 * ordered by content (the C library's), the classic structure, with the same contents in the same
 * order.
 *
 * How pages lie is as measured in real programs: three kinds of memory, whose equal pages come in
 * runs of 3 (node), 5 (QEMU guests) and 32 (Redis, python). Half of all runs are distinct, a
 * twentieth are zeros, the rest are each like three others somewhere.
 *
 * The time of the ops, which make up the contents, is measured apart and taken off. Everything is
 * run ROUNDS times, and the fastest counts: what else the machine does, and its host, makes it only
 * ever slower.
 */
#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block.h"
#include "engine.h"

#define PAGE        4096u
#define BASE        UINT64_C(0x100000000)
#define SPACE_PAGES 25600u /* of an address space: 100 MiB */
#define BLOCK       64u    /* pages of one kind of memory */
#define PASSES      4u
#define ROUNDS      3u
#define PERCENT     100u /* a hundredth of the pages is written in each pass */

#define BYTES_MOST 24.0  /* a page */
#define NS_MOST    150.0 /* for a lookup and an insert */
#define GROWTH     1.25  /* of that, from the size before the largest to the largest */

struct space {
    struct world *world;
    uint64_t number;
};

struct world {
    uint64_t pages, nspaces, originals;
    bool adding; /* pages are reported of what was added last only, none like another */
    struct space *space;
    unsigned pass;
    uint64_t frames, merged, op_ns;
};

struct figures {
    double first_ns, insert_ns, later_ns, bytes;
    uint64_t pages, shared, sharing;
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* what others do on the machine does not count */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The pass in which a page is written, of every hundred. */
static unsigned written_in(uint64_t page)
{
    return (unsigned)(mix(page ^ 0x5151) % PERCENT);
}

static uint64_t content_of(const struct world *world, uint64_t page, unsigned pass)
{
    static const unsigned run_lengths[] = {3, 5, 32, 32};
    uint64_t block = mix(page / BLOCK + 1);
    unsigned length = run_lengths[block % 4], offset = (unsigned)(page % BLOCK) % length;
    uint64_t run = mix(block + page % BLOCK / length), kind = run % 20;

    if (pass > written_in(page))
        return mix(mix(page) + 77 * pass);
    if (kind < 10)
        return mix(page + UINT64_C(0x1000000000000));
    if (kind == 10)
        return mix(42);
    return mix((run >> 8) % world->originals * 64 + offset + UINT64_C(0x2000000000000) * length);
}

static void scan_added(const struct world *world, uint64_t page, uint64_t addr,
                       struct sp_scan *scan)
{
    uint64_t content = mix(page + UINT64_C(0x1000000000000));

    if (page < world->pages) {
        scan->passed++;
        return;
    }
    scan->looked++;
    scan->page[scan->npages++] = (struct sp_scan_page){.addr = addr, .hash = {content, ~content}};
}

static void scan_page(struct world *world, uint64_t page, uint64_t addr, struct sp_scan *scan)
{
    unsigned written = written_in(page);

    if (world->adding) {
        scan_added(world, page, addr, scan);
        return;
    }
    if (world->pass && written == world->pass - 1) {
        struct sp_scan_run *last = scan->nchanged ? &scan->changed[scan->nchanged - 1] : NULL;

        scan->looked++;
        if (last && last->addr + last->npages * PAGE == addr)
            last->npages++;
        else
            scan->changed[scan->nchanged++] = (struct sp_scan_run){addr, 1};
    }
    if (world->pass && written + 2 != world->pass) {
        scan->passed++;
        return;
    }
    scan->looked++;
    scan->page[scan->npages++] =
        (struct sp_scan_page){.addr = addr, .hash = {content_of(world, page, world->pass), ~addr}};
    scan->page[scan->npages - 1].hash.hi = ~scan->page[scan->npages - 1].hash.lo;
}

static int op_scan(void *ctx, void *ref, struct sp_scan *scan)
{
    struct world *world = ctx;
    const struct space *space = ref;
    uint64_t begin = now_ns(), i = scan->from ? (scan->from - BASE) / PAGE : 0;

    for (; i < SPACE_PAGES && scan->looked + 1 < scan->budget && scan->nchanged < scan->max_runs;
         i++)
        scan_page(world, space->number * SPACE_PAGES + i, BASE + i * PAGE, scan);
    scan->tracked = SPACE_PAGES;
    scan->next = i < SPACE_PAGES ? BASE + i * PAGE : 0;
    scan->mappings_budget = UINT32_MAX;
    world->op_ns += now_ns() - begin;
    return 0;
}

static int op_fill(void *ctx, void *ref, struct sp_fill_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].ok = 1;
    return 0;
}

static int op_merge(void *ctx, void *ref, struct sp_merge_page *page, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        page[i].result = SP_MERGED;
    ((struct world *)ctx)->merged += n;
    return 0;
}

static int op_unmerge(void *ctx, void *ref, uint64_t start, uint64_t end, uint64_t *next,
                      uint64_t *npages)
{
    *next = *npages = 0;
    return 0;
}

/* Side by side, in segments as large as the pool's. */
static sp_frame op_frame_alloc(void *ctx, unsigned *node, unsigned want, unsigned *got)
{
    struct world *world = ctx;
    uint64_t left = 4096 - world->frames % 4096, first = world->frames;

    *got = want < left ? want : (unsigned)left;
    world->frames += *got;
    return SP_FRAME(first / 4096 + 1, first % 4096);
}

static void op_free_unused(void *ctx, sp_frame frame, unsigned n)
{
}

static void op_forget(void *ctx, sp_frame frame)
{
}

static const struct sp_engine_ops world_ops = {
    .scan = op_scan,
    .fill = op_fill,
    .merge = op_merge,
    .unmerge = op_unmerge,
    .frame_alloc = op_frame_alloc,
    .frame_free_unused = op_free_unused,
    .frame_forget = op_forget,
    .block_get = sp_block_get,
    .block_put = sp_block_put,
};

/* One pass. Returns nanoseconds of the engine's own. */
static uint64_t run_pass(struct world *world, struct sp_engine *engine)
{
    uint64_t begin = now_ns();
    bool done;

    world->op_ns = 0;
    do
        (void)sp_engine_step(engine, 2048, &done);
    while (!done);
    world->pass++;
    return now_ns() - begin - world->op_ns;
}

/* What is added to the spaces, to see what one more page costs. */
static uint64_t added_spaces(const struct world *world)
{
    return world->nspaces / 50 + 1;
}

static int add_spaces(struct world *world, struct sp_engine *engine, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        world->space[i] = (struct space){.world = world, .number = i};
        if (!sp_engine_mm_add(engine, &world->space[i]))
            return -ENOMEM;
    }
    return 0;
}

/* A look-up and an insert, when all pages are known: pages that are like none are added. */
static int measure_insert(struct world *world, struct sp_engine *engine, struct figures *figures)
{
    uint64_t more = added_spaces(world), ns;
    int status = add_spaces(world, engine, world->nspaces, world->nspaces + more);

    if (status)
        return status;
    world->adding = true;
    ns = run_pass(world, engine);
    ns += run_pass(world, engine); /* in case that the first did not reach them yet (K2) */
    world->adding = false;
    figures->insert_ns = (double)ns / (double)(more * SPACE_PAGES);
    return 0;
}

static int measure(struct world *world, struct figures *figures)
{
    struct sp_engine_config config = {.ops = &world_ops, .ctx = world, .page_size = PAGE};
    struct sp_engine *engine = sp_engine_new(&config);
    struct sp_engine_counters counters;
    uint64_t before, touched = 0, later = 0;
    int status = engine ? add_spaces(world, engine, 0, world->nspaces) : -ENOMEM;

    if (status)
        goto out;
    (void)run_pass(world, engine); /* of the space that was added first only (K2) */
    world->pass = 0;
    figures->first_ns = (double)run_pass(world, engine) / (double)world->pages;
    sp_engine_counters(engine, &counters);
    figures->bytes = (double)counters.memory_bytes / (double)world->pages;
    figures->shared = counters.pages_shared;
    figures->sharing = counters.pages_sharing;
    before = counters.pages_scanned;
    for (unsigned i = 1; i < PASSES; i++)
        later += run_pass(world, engine);
    sp_engine_counters(engine, &counters);
    touched = counters.pages_scanned - before;
    figures->later_ns = touched ? (double)later / (double)touched : 0;
    if (counters.memory_bytes > figures->bytes * (double)world->pages)
        figures->bytes = (double)counters.memory_bytes / (double)world->pages;
    status = measure_insert(world, engine, figures);
out:
    sp_engine_free(engine);
    return status;
}

/* ---- the classic structure ---- */

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return a < b ? -1 : a > b;
}

static void keep(void *key)
{
}

/* Every page is looked up, and put in if its content is new. */
static int measure_tree(const struct world *world, double *ns)
{
    uint64_t *key = malloc(world->pages * sizeof(*key)), begin;
    void *root = NULL;

    if (!key)
        return -ENOMEM;
    for (uint64_t i = 0; i < world->pages; i++)
        key[i] = content_of(world, i, 0);
    begin = now_ns();
    for (uint64_t i = 0; i < world->pages; i++)
        (void)tsearch(&key[i], &root, compare);
    *ns = (double)(now_ns() - begin) / (double)world->pages;
    tdestroy(root, keep);
    free(key);
    return 0;
}

/* Times are the least of all rounds; the rest is the same in each. */
static int measure_rounds(const struct world *world, struct figures *figures)
{
    int status = 0;

    for (unsigned i = 0; i < ROUNDS && status == 0; i++) {
        struct world anew = *world;
        struct figures one = {.pages = world->pages};

        status = measure(&anew, &one);
        if (i > 0 && figures->first_ns < one.first_ns)
            one.first_ns = figures->first_ns;
        if (i > 0 && figures->insert_ns < one.insert_ns)
            one.insert_ns = figures->insert_ns;
        if (i > 0 && figures->later_ns < one.later_ns)
            one.later_ns = figures->later_ns;
        *figures = one;
    }
    return status;
}

static struct world world_of(uint64_t pages)
{
    struct world world = {.nspaces = (pages + SPACE_PAGES - 1) / SPACE_PAGES};

    world.pages = world.nspaces * SPACE_PAGES;
    world.originals =
        world.pages * 9 / 20 / 20 / 4 + 1; /* runs of 20 pages on average, 4 of each */
    return world;
}

static int run_size(uint64_t pages, struct figures *figures)
{
    struct world world = world_of(pages);
    int status;

    world.space = calloc(world.nspaces + added_spaces(&world), sizeof(*world.space));
    status = world.space ? measure_rounds(&world, figures) : -ENOMEM;
    free(world.space);
    if (status)
        return status;
    printf(
        "%9.1f million pages (%7.1f GiB), %" PRIu64
        " address spaces: %5.1f ns to look up and insert a page, %5.1f ns a page of a first pass, "
        "merges included, %5.1f ns for each page looked at in a later one, %5.2f bytes a page; "
        "%.0f %% saved\n",
        (double)world.pages / 1e6, (double)world.pages * PAGE / (1 << 30), world.nspaces,
        figures->insert_ns, figures->first_ns, figures->later_ns, figures->bytes,
        100.0 * (double)figures->sharing / (double)world.pages);
    fflush(stdout);
    return 0;
}

static int run_tree(uint64_t pages)
{
    struct world world = world_of(pages);
    double ns;
    int status = measure_tree(&world, &ns);

    if (status)
        return status;
    printf("%9.1f million pages in a red-black tree: %.0f ns to look up and insert a page\n",
           (double)world.pages / 1e6, ns);
    fflush(stdout);
    return 0;
}

/* What a host, and a fleet, would spend. */
static void on_paper(const struct figures *last)
{
    double host_pages = 2e12 / PAGE; /* 2 TB */

    printf("On a host with 2 TB, all of it tracked: %.1f GB of bookkeeping (%.2f %% of its "
           "memory), %.0f s "
           "of one processor for a first pass, and %.1f s for one in which a hundredth was "
           "written. On "
           "10,000 such hosts: %.0f TB, and %.0f processor hours for all first passes. (Hashing, "
           "comparing "
           "and mapping are the agents', and are not in this.)\n",
           host_pages * last->bytes / 1e9, 100.0 * last->bytes / PAGE,
           host_pages * last->first_ns / 1e9, host_pages / 100 * 2 * last->later_ns / 1e9,
           1e4 * host_pages * last->bytes / 1e12, 1e4 * host_pages * last->first_ns / 1e9 / 3600);
}

static int check(const struct figures *all, unsigned n)
{
    const struct figures *last = &all[n - 1];
    int status = 0;

    for (unsigned i = 0; i < n; i++)
        if (all[i].bytes > BYTES_MOST) {
            printf("too much: %.2f bytes a page, at most %.0f are allowed\n", all[i].bytes,
                   BYTES_MOST);
            status = 1;
        }
    if (last->insert_ns > NS_MOST) {
        printf("too slow: %.1f ns, at most %.0f are allowed\n", last->insert_ns, NS_MOST);
        status = 1;
    }
    if (n > 1 && last->insert_ns > GROWTH * all[n - 2].insert_ns) {
        printf("not flat: %.1f ns after %.1f, at most %.2f times as much is allowed\n",
               last->insert_ns, all[n - 2].insert_ns, GROWTH);
        status = 1;
    }
    return status;
}

int main(int argc, char **argv)
{
    static const uint64_t sizes[] = {1000000, 10000000, 100000000};
    struct figures all[3];
    unsigned n = 3;

    if (argc > 2 || (argc == 2 && (argv[1][0] < '1' || argv[1][0] > '3' || argv[1][1]))) {
        fprintf(stderr,
                "usage: samepage-scale [1|2|3]\nMeasures the engine on 1, 10 and 100 million "
                "pages, or on the first sizes of them only. The largest takes 5 GB of memory and "
                "ten minutes, most of it "
                "the tree's.\n");
        return 2;
    }
    if (argc == 2)
        n = (unsigned)(argv[1][0] - '0');
    /* The trees come after: what they leave of memory is in small pieces. */
    for (unsigned i = 0; i < 2 * n; i++) {
        uint64_t pages = sizes[i % n];
        int status = i < n ? run_size(pages, &all[i]) : run_tree(pages);

        if (status) {
            fprintf(stderr, "samepage-scale: %" PRIu64 " pages: %s\n", pages, strerror(-status));
            return 1;
        }
        if (i + 1 == n)
            on_paper(&all[n - 1]);
    }
    return check(all, n);
}
