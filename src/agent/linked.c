/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Was the agent loaded when the program began? Only then is there one thread, with nobody in libc,
 * no memory that was locked or spliced unseen: else the gate must not be put in (decision 0018).
 *
 * It was if the program needs it, or what the program needs, or if it was preloaded. Who opens it
 * later (dlopen of what is linked with libsamepage) is merged as little as without samepage.
 */
#include "linked.h"
#include "linked_start.h"

#include <stddef.h>

#include <linux/elf.h>

#include "mem.h"

#define SP_AGENT_LIBRARY "libsamepage-agent.so"
#define MOST             512u /* objects that a program begins with; with more it is not merged */

/* As in <link.h>, which is libc's. */
struct object {
    uint64_t bias;
    const char *name;
    const Elf64_Dyn *dynamic;
    struct object *next, *prev;
};

struct objects {
    int version;
    struct object *first;
};

extern struct objects _r_debug __attribute__((weak, visibility("default")));

struct search {
    const struct object *found[MOST];
    uint32_t n, looked;
};

static const char *strings_of(const struct object *o)
{
    for (const Elf64_Dyn *d = o->dynamic; d && d->d_tag != DT_NULL; d++)
        if (d->d_tag == DT_STRTAB)
            return (const char *)(d->d_un.d_ptr < o->bias ? d->d_un.d_ptr + o->bias
                                                          : d->d_un.d_ptr);
    return NULL;
}

static const char *base_name(const char *path)
{
    const char *base = path;

    for (; path && *path; path++)
        if (*path == '/')
            base = path + 1;
    return base;
}

static bool is_named(const struct object *o, const char *needed)
{
    const char *strings = strings_of(o);

    for (const Elf64_Dyn *d = o->dynamic; strings && d->d_tag != DT_NULL; d++)
        if (d->d_tag == DT_SONAME && sp_streq(strings + d->d_un.d_val, needed))
            return true;
    return o->name && sp_streq(base_name(o->name), base_name(needed));
}

static void add(struct search *s, const struct object *o)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->found[i] == o)
            return;
    if (s->n < MOST)
        s->found[s->n++] = o;
}

static void add_needed(struct search *s, const struct object *of)
{
    const char *strings = strings_of(of);

    for (const Elf64_Dyn *d = of->dynamic; strings && d->d_tag != DT_NULL; d++) {
        if (d->d_tag != DT_NEEDED)
            continue;
        for (const struct object *o = _r_debug.first; o; o = o->next)
            if (is_named(o, strings + d->d_un.d_val))
                add(s, o);
    }
}

bool sp_linked_is_needed(void)
{
    static struct search s;

    if (!&_r_debug || !_r_debug.first)
        return false;
    add(&s, _r_debug.first); /* the program */
    while (s.looked < s.n) {
        if (is_named(s.found[s.looked], SP_AGENT_LIBRARY))
            return true;
        add_needed(&s, s.found[s.looked++]);
    }
    return false;
}

static struct {
    uint64_t start, end;
} constant[SP_LINKED_CONSTANTS];
static uint32_t nconstant;

/* Two threads may tear one that both write: then it covers what neither said, and a hint is wrong.
 */
void sp_linked_constant(uint64_t start, uint64_t end)
{
    uint32_t i = __atomic_fetch_add(&nconstant, 1, __ATOMIC_SEQ_CST) % SP_LINKED_CONSTANTS;

    __atomic_store_n(&constant[i].end, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&constant[i].start, start, __ATOMIC_SEQ_CST);
    __atomic_store_n(&constant[i].end, end, __ATOMIC_SEQ_CST);
}

bool sp_linked_is_constant(uint64_t start, uint64_t end)
{
    if (!__atomic_load_n(&nconstant, __ATOMIC_SEQ_CST))
        return false;
    for (uint32_t i = 0; i < SP_LINKED_CONSTANTS; i++)
        if (constant[i].start <= start && end <= constant[i].end)
            return true;
    return false;
}
