/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must be so on real memory (list.c), and what the list leaves open there: such pages are in
 * doubt, and with them those that equal them, for what is merged with what is a matter of contents.
 */
#include "list.h"

#include <stdio.h>
#include <string.h>

/* K14: where a frame's sites are limited, it depends on the order how many frames there are, and
 * which page is left over. And who equals a page that may be merged or not. */
static bool is_open(const struct sim_writer *w, uint32_t content)
{
    uint32_t equal = 0;

    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            const struct sim_mm *mm = &w->sim->mm[m];

            if (!sim_is_mapped(&mm->page[i]) || mm->page[i].model != content)
                continue;
            if (mm->mm && w->doubt[m][i])
                return true;
            equal++;
        }
    return equal >= w->sharing;
}

/* Is there an equal page that is another one? */
static bool has_equal(const struct sim *sim, const struct sim_page *of)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            const struct sim_page *page = &sim->mm[m].page[i];

            if (sim_is_mapped(page) && page->model == of->model && page->anon != of->anon)
                return true;
        }
    return false;
}

/*
 * Pages that fork shares are merged where that saves something (K8). Who is asked first decides
 * whether a merge finds that: two equal ones may be passed over, and one of them merged with a
 * third. What is merged alone is un-merged again (K7), and where it is locked that is done in its
 * place.
 */
void sim_doubt_forked(struct sim_writer *w)
{
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; w->sim->mm[m].mm && i < SIM_PAGES; i++) {
            const struct sim_page *page = &w->sim->mm[m].page[i];

            w->doubt[m][i] |= page->anon && page->anon->users > 1 && !page->kept &&
                              !page->special && has_equal(w->sim, page);
        }
}

/* Before anything of it is written down. */
void sim_doubt_at_rest(struct sim_writer *w)
{
    static bool open[SIM_MMS][SIM_PAGES];

    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++) {
            const struct sim_page *page = &w->sim->mm[m].page[i];

            open[m][i] = sim_is_mapped(page) && w->sim->mm[m].mm && !page->kept && !page->special &&
                         is_open(w, page->model);
        }
    for (unsigned m = 0; m < SIM_MMS; m++)
        for (uint32_t i = 0; i < SIM_PAGES; i++)
            w->doubt[m][i] |= open[m][i];
}

static char letter_of(const struct sim_writer *w, unsigned m, uint32_t i)
{
    const struct sim_page *page = &w->sim->mm[m].page[i];

    if (w->doubt[m][i])
        return '?';
    if (page->kept)
        return 'k';
    if (page->zero)
        return 'z';
    if (page->special)
        return 'x';
    if (page->frame)
        return 's';
    return w->was_kept[m][i] ? 'p' : 'a';
}

static void write_process(const struct sim_writer *w, unsigned m)
{
    const struct sim_mm *mm = &w->sim->mm[m];
    const char *between = "";

    printf("\"%u\":{\"agent\":\"%s\",\"pages\":[", m,
           mm->agent == SIM_AGENT_DEAD ? "dead"
           : mm->held                  ? "held"
                                       : "well");
    for (uint32_t i = 0; i < SIM_PAGES; i++) {
        const struct sim_page *page = &mm->page[i];

        if (!sim_is_mapped(page))
            continue;
        printf("%s[%u,%u,\"%c\",%u,%u]", between, i, page->model, letter_of(w, m, i), page->frame,
               page->frame ? sim_frame(w->sim, page->frame)->out : 0);
        between = ",";
    }
    printf("]}");
}

void sim_list_look(const struct sim_writer *w, bool rest, bool counted)
{
    struct sp_engine_counters counters = {0};
    bool first = true;

    if (w->sim->engine)
        sp_engine_counters(w->sim->engine, &counters);
    printf("{\"op\":\"look\",\"rest\":%s,\"counted\":%s,\"processes\":{", rest ? "true" : "false",
           counted ? "true" : "false");
    for (unsigned m = 0; m < SIM_MMS; m++) {
        if (!w->sim->mm[m].alive)
            continue;
        if (!first)
            putchar(',');
        first = false;
        write_process(w, m);
    }
    printf("},\"pages_shared\":%llu,\"pages_sharing\":%llu,\"ksm_zero_pages\":%llu,\"frames_"
           "evicted\":%llu}\n",
           (unsigned long long)counters.pages_shared, (unsigned long long)counters.pages_sharing,
           (unsigned long long)counters.ksm_zero_pages,
           (unsigned long long)counters.frames_evicted);
}

/* How a site or a page in a frame's mapping is made one of zeros (MADV_DONTNEED) is the agent's
 * affair: by new memory, or in its place if the program is busy. So is what becomes of it when it
 * gets an attribute: locked, or without an agent, the frame's mapping gets it. */
void sim_doubt_part(struct sim_writer *w, const char *name, const struct sim_part *part)
{
    for (uint32_t i = part->page; i < part->page + part->n; i++) {
        bool *doubt = &w->doubt[sim_number(w->sim, part->mm)][i];
        const struct sim_page *page = &part->mm->page[i];

        if (strcmp(name, "map") == 0 || strcmp(name, "unmap") == 0)
            *doubt = false;
        else if (strcmp(name, "zero") == 0 && !page->special)
            *doubt |= page->frame || page->kept;
        else if (strcmp(name, "special") == 0)
            *doubt |=
                page->kept || (page->frame && (page->locked || part->mm->agent == SIM_AGENT_DEAD));
        else if (strcmp(name, "lock") == 0)
            *doubt |= page->kept || (page->frame && part->mm->agent == SIM_AGENT_DEAD);
    }
}
