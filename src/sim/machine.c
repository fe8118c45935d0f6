/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs do, and the kernel for them: private memory with copy on write, fork, exec, exit,
 * pins. Memory that is short makes a step do nothing: the program waits.
 */
#include "sim.h"

#include <stdlib.h>

static void note_twin(struct sim *sim, uint32_t content)
{
    if (content & (SIM_TWIN | SIM_LOOKALIKE))
        sim->twin[content % SIM_TWINS] = true;
}

static struct sim_anon *anon_new(struct sim *sim, uint32_t content, unsigned home)
{
    struct sim_anon *anon;

    int node = sim_memory_take(sim, home, false);

    if (node < 0)
        return NULL;
    anon = calloc(1, sizeof(*anon));
    if (!anon)
        abort();
    anon->node = (uint8_t)node;
    anon->content = content;
    anon->users = 1;
    return anon;
}

/* The node that a process runs on. */
static unsigned home(const struct sim_mm *mm)
{
    return mm->sim->real ? 0 : (unsigned)(mm - mm->sim->mm) % SIM_NODES;
}

static void drop_frame(struct sim_mm *mm, struct sim_page *page)
{
    if (!page->frame)
        return;
    sim_frame(mm->sim, page->frame)->maps--;
    page->frame = 0;
    page->left = !page->stray; /* the agent keeps a map of its sites, and tells of what leaves it */
    page->stray = 0;
}

static void drop_anon(struct sim_mm *mm, struct sim_page *page)
{
    struct sim_anon *anon = page->anon;

    if (!anon)
        return;
    anon->pins -= page->pins;
    page->pins = 0;
    page->anon = NULL;
    page->kept = 0;
    if (--anon->users)
        return;
    sim_memory_give(mm->sim, anon->node);
    free(anon);
}

/* Nothing is mapped there; the agent notices when it looks. */
static void clear(struct sim_mm *mm, struct sim_page *page)
{
    drop_frame(mm, page);
    drop_anon(mm, page);
    page->left |= page->zero;
    page->zero = page->special = page->locked = page->used = 0;
    page->left |= page->tracked;
}

struct sim_mm *sim_mm_new(struct sim *sim)
{
    for (unsigned i = 0; i < SIM_MMS; i++) {
        struct sim_mm *mm = &sim->mm[i];

        if (mm->alive || mm->mm)
            continue;
        *mm = (struct sim_mm){.sim = sim, .alive = true, .mappings_budget = SIM_PAGES};
        return mm;
    }
    return NULL;
}

static void clear_all(struct sim_mm *mm)
{
    for (uint32_t i = 0; i < SIM_PAGES; i++)
        clear(mm, &mm->page[i]);
}

void sim_mm_exit(struct sim_mm *mm)
{
    clear_all(mm);
    mm->alive = false;
    mm->leave = mm->mm != NULL;
    sim_took(mm->sim, mm->sim->depth ? SIM_P_D4_EXITED_IN_CALL : SIM_P_D4_EXITED);
}

/* The program goes on as another, in another address space; the old one's agent ends. */
void sim_mm_exec(struct sim_mm *mm)
{
    struct sim *sim = mm->sim;

    sim_mm_exit(mm);
    (void)sim_mm_new(sim);
}

struct sim_mm *sim_mm_fork(struct sim_mm *parent)
{
    struct sim *sim = parent->sim;
    struct sim_mm *child = sim_mm_new(sim);

    if (!child)
        return NULL;
    child->mappings_budget = parent->mappings_budget;
    for (uint32_t i = 0; i < SIM_PAGES; i++) {
        struct sim_page *from = &parent->page[i], *to = &child->page[i];

        if (!sim_is_mapped(from))
            continue;
        *to = (struct sim_page){.frame = from->frame,
                                .kept = from->kept,
                                .model = from->model,
                                .special = from->special,
                                .zero = from->zero,
                                .stray = from->stray,
                                .dirty = !from->frame && !from->zero};
        if (from->frame)
            sim_frame(sim, from->frame)->maps++;
        if (!from->anon)
            continue;
        /* What is pinned is copied at once: the pin must go on meaning the parent's page. */
        to->anon = from->anon->pins ? anon_new(sim, from->anon->content, home(child)) : from->anon;
        if (!to->anon) {
            sim_mm_exit(child);
            return NULL;
        }
        if (to->anon == from->anon)
            to->anon->users++;
    }
    if (sim->depth)
        sim_took(sim, SIM_P_FORKED_IN_CALL);
    return child;
}

uint32_t sim_read(const struct sim_mm *mm, uint32_t page)
{
    const struct sim_page *p = &mm->page[page];

    if (p->zero)
        return 0;
    return p->anon ? p->anon->content : sim_frame(mm->sim, p->frame)->content;
}

void sim_map(struct sim_mm *mm, uint32_t page, uint32_t content)
{
    struct sim_anon *anon = anon_new(mm->sim, content, home(mm));
    struct sim_page *p = &mm->page[page];

    if (!anon)
        return;
    note_twin(mm->sim, content);
    clear(mm, p);
    p->anon = anon;
    p->model = content;
    p->dirty = 1;
}

void sim_unmap(struct sim_mm *mm, uint32_t page)
{
    clear(mm, &mm->page[page]);
}

bool sim_page_copy(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];
    struct sim_anon *anon;

    if (p->frame && sim_frame(mm->sim, p->frame)->out &&
        !sim_store_reads(mm->sim, sim_frame(mm->sim, p->frame)))
        return false;
    anon = anon_new(mm->sim, sim_read(mm, page), home(mm));
    if (!anon)
        return false;
    drop_frame(mm, p);
    drop_anon(mm, p);
    p->zero = 0;
    p->anon = anon;
    return true;
}

/* A write: who shares the page gets one of their own first (K11). */
static bool make_own(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];
    bool site = sim_is_site(p), evicted = p->frame && sim_frame(mm->sim, p->frame)->out;
    bool kept =
        p->kept; /* with relatives that fork shares it with: the mapping is a frame's still */

    sim_used(mm, page);
    if (p->anon && p->anon->users == 1)
        return true;
    p->dirty |= p->zero; /* told of as written */
    if (!sim_page_copy(mm, page))
        return false;
    if (evicted)
        sim_took(mm->sim, SIM_P_S7_WRITTEN);
    p->kept = site || kept;
    if (site)
        sim_took(mm->sim, SIM_P_K11_COPIED);
    return true;
}

void sim_write(struct sim_mm *mm, uint32_t page, uint32_t content)
{
    struct sim_page *p = &mm->page[page];

    if (!sim_is_mapped(p) || !make_own(mm, page))
        return;
    note_twin(mm->sim, content);
    p->anon->content = content;
    p->model = content;
    p->dirty = 1;
}

void sim_zero(struct sim_mm *mm, uint32_t page)
{
    if (sim_is_mapped(&mm->page[page]) && !mm->page[page].special)
        sim_map(mm, page, 0);
}

/* The gate un-merges a page before its mapping gets an attribute that a merge would lose. */
void sim_set_special(struct sim_mm *mm, uint32_t page, bool special)
{
    struct sim_page *p = &mm->page[page];

    if (!sim_is_mapped(p) || p->special == special || (!p->anon && !sim_page_copy(mm, page)))
        return;
    p->special = special;
    p->dirty = 1;
    p->left |= special && p->tracked;
}

void sim_pin(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];

    if (!sim_is_mapped(p) || p->pins == 3 || !make_own(mm, page))
        return;
    p->pins++;
    p->anon->pins++;
    p->dirty |= p->kept;
}

void sim_unpin(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];

    if (!p->pins)
        return;
    p->pins--;
    p->anon->pins--;
}

void sim_lock(struct sim_mm *mm, uint32_t page)
{
    const struct sim_anon *anon = mm->page[page].anon;

    if (!sim_is_mapped(&mm->page[page]) || !sim_touch(mm, page))
        return;
    if (anon && anon->users > 1 && !make_own(mm, page)) /* the kernel brings it in as for a write */
        return;
    mm->page[page].locked = 1;
}

void sim_unlock(struct sim_mm *mm, uint32_t page)
{
    mm->page[page].locked = 0;
}

void sim_anon_move(struct sim *sim, struct sim_anon *anon, unsigned node)
{
    sim_memory_give(sim, anon->node);
    sim->memory_used++;
    sim->node_used[node]++;
    anon->node = (uint8_t)node;
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            if (sim->mm[m].page[i].anon == anon)
                sim->mm[m].page[i].reported = 0;
}

void sim_balance(struct sim_mm *mm, uint32_t page, uint32_t node)
{
    struct sim *sim = mm->sim;
    struct sim_anon *anon = mm->page[page].anon;

    node %= SIM_NODES;
    if (!anon || anon->pins || anon->node == node || sim->node_off[node] ||
        sim->drain_node == (int)node || sim->node_used[node] >= sim->node_room[node])
        return;
    sim_anon_move(sim, anon, node);
    sim_took(sim, SIM_P_N4_BALANCED);
}

void sim_page_zero(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];

    drop_anon(mm, p);
    p->zero = 1;
    p->dirty = p->left = 0;
}

void sim_restore(struct sim_mm *mm, uint32_t page)
{
    struct sim_page *p = &mm->page[page];

    if (!p->kept || p->anon->pins)
        return;
    p->kept = 0;
    p->dirty = 1;
    sim_took(mm->sim, SIM_P_KEPT_PRIVATE);
}

void sim_page_site(struct sim_mm *mm, uint32_t page, sp_frame frame)
{
    struct sim_page *p = &mm->page[page];

    drop_anon(mm, p);
    p->frame = frame;
    p->dirty = p->left = 0; /* what came before the merge is not reported after it */
    sim_frame(mm->sim, frame)->maps++;
}

uint32_t sim_mappings(const struct sim_mm *mm)
{
    uint32_t mappings = 0;

    for (uint32_t i = 0; i < SIM_PAGES; i++)
        if (mm->page[i].frame &&
            !(i && mm->page[i - 1].frame && mm->page[i].frame == mm->page[i - 1].frame + 1))
            mappings++;
    return mappings;
}
