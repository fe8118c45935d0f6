/* SPDX-License-Identifier: Apache-2.0 */
#include "nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "notice.h"

#define SAID_USECS  1000000u  /* what the machine says holds for so long */
#define AGAIN_USECS 60000000u /* until pages are reported again, at least, */
#define AGAIN_TIMES 20u       /* and so many times as long as that takes: a twentieth of the work */
#define SILENT_MOST 8u        /* pages; one or two may just not have been in memory */
#define LOOK_PAGES  128u      /* frames in one question */

/* Where it cannot be read there is one. In test builds it may be pretended (src/pool/nodes.c). */
static void read_nodes(char *nodes, size_t size)
{
    FILE *f = fopen("/sys/devices/system/node/has_memory", "re");

    nodes[0] = 0;
    if (f && !fgets(nodes, (int)size, f))
        nodes[0] = 0;
    if (f)
        fclose(f);
#ifdef SP_FAULT_POINTS
    if (getenv("SAMEPAGE_TEST_NODES"))
        snprintf(nodes, size, "0-%d", atoi(getenv("SAMEPAGE_TEST_NODES")) - 1);
#endif
}

/* A list as "0-1,4": the last number is the highest. */
bool sp_nodes_too_many(void)
{
    char nodes[256];
    size_t at;

    read_nodes(nodes, sizeof(nodes));
    at = strcspn(nodes, "\n");
    while (at && nodes[at - 1] >= '0' && nodes[at - 1] <= '9')
        at--;
    return strtoul(nodes + at, NULL, 10) >= SP_NODES_MAX;
}

static bool several(struct sp_daemon *daemon)
{
    uint64_t now = sp_now_usecs();
    char nodes[256];

    if (daemon->nodes_said_at && now - daemon->nodes_said_at < SAID_USECS)
        return daemon->several_nodes;
    read_nodes(nodes, sizeof(nodes));
    daemon->several_nodes = strpbrk(nodes, "-,") != NULL;
    daemon->nodes_said_at = now;
    return daemon->several_nodes;
}

bool sp_nodes_matter(struct sp_domain *domain)
{
    return !domain->value[SP_KEY_MERGE_ACROSS_NODES] && several(domain->daemon);
}

void sp_nodes_pass_begins(struct sp_client *client)
{
    uint64_t now = sp_now_usecs(), rest = AGAIN_TIMES * client->nodes_took;

    if (client->nodes_at && now - client->nodes_at < (rest > AGAIN_USECS ? rest : AGAIN_USECS))
        return;
    client->nodes_at = now;
    client->nodes_took = 0;
    client->restart = true;
}

void sp_nodes_pass_ends(struct sp_client *client)
{
    if (!client->nodes_took)
        client->nodes_took = sp_now_usecs() - client->nodes_at;
    if (!client->nodes_known && client->nodes_silent >= SILENT_MOST)
        sp_notice_nodes(client);
}

void sp_nodes_reported(struct sp_client *client, uint32_t known, uint32_t silent)
{
    client->nodes_known |= known != 0;
    client->nodes_silent += silent;
}

void sp_nodes_refused(struct sp_daemon *daemon, int node, int err)
{
    if (daemon->nodes_refused || err != -EPERM)
        return;
    daemon->nodes_refused = true;
    sp_log(SP_LOG_WARNING,
           "no memory can be had on node %d, so nothing there is merged: the kernel refuses mbind(2); allow it to "
           "this daemon, or set merge_across_nodes to 1",
           node);
}

void sp_nodes_check_filled(struct sp_domain *domain, struct sp_fill_page *page, unsigned n)
{
    uint32_t segment = SP_FRAME_SEGMENT(page->frame), index = SP_FRAME_INDEX(page->frame);
    int wanted = sp_pool_segment_node(domain->set, segment), node[LOOK_PAGES], err;

    if (wanted < 0 || n > LOOK_PAGES)
        return;
    err = sp_pool_nodes(domain->set, segment, index, n, node);
    for (unsigned i = 0; i < n; i++) {
        if (!err && node[i] == wanted)
            continue;
        page[i].ok = 0;
        sp_pool_empty(domain->set, segment, index + i, 1);
    }
}

void sp_nodes_adopted(struct sp_domain *domain, uint32_t segment, uint32_t index, unsigned n)
{
    int node = sp_nodes_matter(domain) ? sp_pool_segment_node(domain->set, segment) : -1;

    for (unsigned i = 0; node >= 0 && i < n; i++)
        sp_engine_frame_moved(domain->engine, SP_FRAME(segment, index + i), (unsigned)node);
}

struct turn {
    uint32_t last, next,
        first; /* segments: of the turn before, of this one, with the lowest number */
};

static void find_next(void *arg, uint32_t segment, uint32_t npages, bool retiring)
{
    struct turn *turn = arg;

    (void)npages;
    if (retiring)
        return;
    if (!turn->first || segment < turn->first)
        turn->first = segment;
    if (segment > turn->last && (!turn->next || segment < turn->next))
        turn->next = segment;
}

static void look_at_segment(struct sp_domain *domain, uint32_t segment)
{
    uint32_t npages = sp_pool_segment_pages(domain->set, segment);
    int node[LOOK_PAGES];

    for (uint32_t at = 0; at < npages; at += LOOK_PAGES) {
        unsigned n = npages - at < LOOK_PAGES ? npages - at : LOOK_PAGES;

        if (sp_pool_nodes(domain->set, segment, at, n, node))
            return;
        for (unsigned i = 0; i < n; i++)
            if (node[i] >= 0)
                sp_engine_frame_moved(domain->engine, SP_FRAME(segment, at + i), (unsigned)node[i]);
    }
}

void sp_nodes_look(struct sp_daemon *daemon)
{
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    {
        struct turn turn = {.last = domain->nodes_segment};

        if (!domain->engine || !sp_nodes_matter(domain))
            continue;
        sp_pool_segments(domain->set, find_next, &turn);
        domain->nodes_segment = turn.next ? turn.next : turn.first;
        if (domain->nodes_segment)
            look_at_segment(domain, domain->nodes_segment);
    }
}
