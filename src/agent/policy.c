/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include "attributes.h"
#include "gate.h"
#include "kernel.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define NODES     1024u       /* more no kernel knows */
#define MAX_NODE  (NODES + 1) /* the kernel takes one off */
#define SHIFT     16u
#define POLICIES  (SP_RANGE_POLICY >> SHIFT)
#define STRETCHES 256u

struct policy {
    uint64_t nodes[NODES / 64];
    int mode;
    uint64_t sample; /* a page that has it and that nobody uses */
};

/* Policy n is known[n - 1]. Whole before it is counted. */
static struct policy known[POLICIES];
static uint32_t nknown;

struct stretch {
    uint64_t start, end;
    uint32_t policy;
};

static struct stretch stretch[STRETCHES]; /* none overlaps another */
static uint32_t nstretches;

static long bind(uint64_t addr, uint64_t length, const struct policy *p)
{
    return sp_sys(__NR_mbind, addr, length, p->mode, p->nodes, MAX_NODE, 0);
}

static bool same(const struct policy *a, const struct policy *b)
{
    if (a->mode != b->mode)
        return false;
    for (uint32_t i = 0; i < NODES / 64; i++)
        if (a->nodes[i] != b->nodes[i])
            return false;
    return true;
}

static bool add(const struct policy *p)
{
    struct policy *new = &known[nknown];
    long page;

    if (nknown == POLICIES)
        return false;
    page = sp_sys(__NR_mmap, 0, sp_gate.page_size, 0 /* PROT_NONE */, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (sp_is_err(page))
        return false;
    if (sp_is_err(bind((uint64_t)page, sp_gate.page_size, p))) {
        sp_sys(__NR_munmap, page, sp_gate.page_size);
        return false;
    }
    memcpy(new, p, sizeof(*new));
    new->sample = (uint64_t)page;
    __atomic_store_n(&nknown, nknown + 1, __ATOMIC_SEQ_CST);
    return true;
}

bool sp_policy_of(uint64_t addr, uint32_t *policy)
{
    struct policy p = {.mode = SP_MPOL_DEFAULT};
    long ret = sp_sys(__NR_get_mempolicy, &p.mode, p.nodes, MAX_NODE, addr, SP_MPOL_F_ADDR);

    /* A kernel without NUMA does not know the call, and has no policies. */
    *policy = 0;
    if (sp_is_err(ret) || p.mode == SP_MPOL_DEFAULT)
        return true;
    if (__atomic_load_n(&sp_gate.home_nodes, __ATOMIC_SEQ_CST))
        return false; /* which memory has one cannot be asked */
    for (uint32_t i = 0; i < nknown && !*policy; i++)
        if (same(&known[i], &p))
            *policy = (i + 1) << SHIFT;
    if (*policy)
        return true;
    if (!add(&p))
        return false;
    *policy = nknown << SHIFT;
    return true;
}

static const struct policy *policy_in(uint32_t attributes)
{
    uint32_t n = (attributes & SP_RANGE_POLICY) >> SHIFT;

    return n && n <= __atomic_load_n(&nknown, __ATOMIC_SEQ_CST) ? &known[n - 1] : NULL;
}

long sp_policy_give(uint64_t addr, uint64_t length, uint32_t attributes)
{
    const struct policy *p = policy_in(attributes);

    return p && bind(addr, length, p) == -ENOMEM ? -ENOMEM : 0;
}

static void take_out(uint32_t i)
{
    stretch[i] = stretch[nstretches - 1];
    nstretches--;
}

/* Stretches in which nothing is merged any more. */
static void clean(void)
{
    for (uint32_t i = nstretches; i-- > 0;)
        if (!sp_sitemap_any(stretch[i].start, stretch[i].end))
            take_out(i);
}

/* One may become two. */
static void cut_out(uint64_t addr, uint64_t end)
{
    for (uint32_t i = nstretches; i-- > 0;) {
        struct stretch *s = &stretch[i], old = *s;

        if (old.end <= addr || old.start >= end)
            continue;
        if (old.start < addr && old.end > end)
            stretch[nstretches++] = (struct stretch){end, old.end, old.policy};
        if (old.start < addr)
            s->end = addr;
        else if (old.end > end)
            s->start = end;
        else
            take_out(i);
    }
}

bool sp_policy_set_sites(uint64_t addr, uint64_t end, uint32_t policy)
{
    uint64_t stop = end;

    if ((!nstretches && !policy) || (sp_policy_of_sites(addr, &stop) == policy && stop == end))
        return true;
    if (nstretches + 2 > STRETCHES)
        clean();
    if (nstretches + 2 > STRETCHES)
        return false;
    cut_out(addr, end);
    if (policy)
        stretch[nstretches++] = (struct stretch){addr, end, policy};
    return true;
}

uint32_t sp_policy_of_sites(uint64_t addr, uint64_t *end)
{
    uint32_t policy = 0;

    for (uint32_t i = 0; i < nstretches; i++) {
        const struct stretch *s = &stretch[i];
        uint64_t border = s->start > addr ? s->start : s->end;

        if (s->end <= addr)
            continue;
        if (border < *end)
            *end = border;
        if (s->start <= addr)
            policy = s->policy;
    }
    return policy;
}

bool sp_policy_any(uint64_t addr, uint64_t end)
{
    for (uint32_t i = 0; i < nstretches; i++) {
        uint64_t start = stretch[i].start > addr ? stretch[i].start : addr;
        uint64_t stop = stretch[i].end < end ? stretch[i].end : end;

        if (start < stop && sp_sitemap_any(start, stop))
            return true;
    }
    return false;
}

uint64_t sp_policy_sample(uint64_t addr)
{
    uint64_t page = addr & ~((uint64_t)sp_gate.page_size - 1), end = page + sp_gate.page_size;
    const struct policy *p;

    if (!sp_sitemap_any(page, end))
        return 0;
    p = policy_in(sp_policy_of_sites(page, &end));
    return p ? p->sample : (uint64_t)&sp_gate; /* which has none */
}
