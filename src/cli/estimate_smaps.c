/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which memory of a process an agent would track, from its smaps: the agent's own rule
 * (src/agent/ranges.c), as far as it can be seen from outside. Thread control blocks cannot; a
 * stack is known by a thread's stack pointer instead.
 */
#include "estimate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmflags.h"

#define MEMORY_STACK (UINT64_C(8) << 20) /* what a thread's stack is taken to have at most */

struct mapping {
    uint64_t start, end;
    bool readable, writable, executable, shared;
    bool plain; /* no file, not named [stack] or the like */
    bool pool;  /* of one of samepage's segments */
    bool keeps; /* every attribute is one that a merge keeps (K17) */
    bool advised;
};

struct build {
    struct sp_estimate_ranges *ranges;
    const uint64_t *stack;
    size_t nstacks;
    bool all;
    size_t first;        /* range that the stretch begins with */
    uint64_t start, end; /* of the stretch that grows; end 0: none */
    uint64_t guard_end;  /* of the last mapping that nobody may touch */
    bool keep;           /* however small: advised, or merged already */
};

/* A segment of the pool is a file of a tmpfs that is mounted nowhere, so its name there, "/" and a
 * number, is all of its path. */
static bool is_pool_name(const char *name, unsigned major, uint64_t inode)
{
    if (major != 0 || inode == 0 || name[0] != '/' || !name[1])
        return false;
    return name[1 + strspn(name + 1, "0123456789")] == 0;
}

static bool is_plain_name(const char *name)
{
    return !*name || strncmp(name, "[heap]", 6) == 0 || strncmp(name, "[anon:", 6) == 0;
}

/* "start-end rwxp offset major:minor inode   name" */
static bool read_head(const char *line, struct mapping *m)
{
    unsigned major, minor;
    uint64_t offset, inode;
    char access[5];
    int name = 0;

    *m = (struct mapping){.keeps = true};
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &m->start,
               &m->end, access, &offset, &major, &minor, &inode, &name) < 7 ||
        !name || m->start >= m->end || strlen(access) != 4)
        return false;
    m->readable = access[0] == 'r';
    m->writable = access[1] == 'w';
    m->executable = access[2] == 'x';
    m->shared = access[3] == 's';
    m->plain = inode == 0 && is_plain_name(line + name);
    m->pool = is_pool_name(line + name, major, inode);
    return true;
}

static void read_flags(const char *p, struct mapping *m)
{
    while (p[0] && p[1]) {
        if (*p == ' ') {
            p++;
            continue;
        }
        m->keeps &= sp_vmflag_kept(p) || (p[0] == 'd' && p[1] == 'c'); /* which is kept, too */
        m->advised |= p[0] == 'm' && p[1] == 'g';
        p += 2;
    }
}

/* Where the memory begins that is no thread's stack. */
static uint64_t behind_stacks(const struct build *b, const struct mapping *m)
{
    uint64_t at = m->start;

    if (m->start != b->guard_end)
        return at;
    for (size_t i = 0; i < b->nstacks; i++) {
        if (b->stack[i] < at || b->stack[i] >= m->end)
            continue;
        at = m->end - m->start > MEMORY_STACK ? m->start + MEMORY_STACK : m->end;
    }
    return at;
}

static bool is_eligible(const struct build *b, const struct mapping *m)
{
    if (m->shared || !m->plain || !m->readable || !m->writable || m->executable || !m->keeps)
        return false;
    return m->advised || b->all;
}

static void finish_stretch(struct build *b)
{
    uint64_t min = (uint64_t)sysconf(_SC_PAGESIZE) * SP_MIN_RANGE_PAGES;

    if (b->end - b->start < min && !b->keep)
        b->ranges->n = b->first;
    b->first = b->ranges->n;
    b->start = b->end = 0;
    b->keep = false;
}

static int add_range(struct sp_estimate_ranges *ranges, uint64_t start, uint64_t end, bool pool)
{
    struct sp_estimate_range *last = ranges->n ? &ranges->range[ranges->n - 1] : NULL;

    if (last && last->end == start && last->pool == pool) {
        last->end = end;
        return 0;
    }
    if (ranges->n == ranges->room) {
        size_t room = ranges->room ? ranges->room * 2 : 64;
        struct sp_estimate_range *more = reallocarray(ranges->range, room, sizeof(*more));

        if (!more)
            return -ENOMEM;
        ranges->range = more;
        ranges->room = room;
    }
    ranges->range[ranges->n++] = (struct sp_estimate_range){start, end, pool};
    return 0;
}

static void count_pool(struct sp_estimate_ranges *ranges, const struct mapping *m)
{
    ranges->pool_mappings++;
    ranges->pool_stretches += m->start != ranges->pool_end;
    ranges->pool_end = m->end;
}

static int add_mapping(struct build *b, const struct mapping *mapping)
{
    struct mapping m = *mapping;
    bool eligible, pool = m.pool && !m.shared;

    b->ranges->mappings++;
    if (m.pool && m.shared)
        return 0; /* the agent's view of a segment */
    if (pool)
        count_pool(b->ranges, &m);
    else
        m.start = behind_stacks(b, &m);
    if (!m.readable && !m.writable)
        b->guard_end = m.end;
    eligible = !pool && m.start < m.end && is_eligible(b, &m);
    if (b->end && (m.start != b->end || (!eligible && !pool)))
        finish_stretch(b);
    if (!eligible && !pool)
        return 0;
    if (!b->end)
        b->start = m.start;
    b->end = m.end;
    b->keep |= pool || m.advised;
    return add_range(b->ranges, m.start, m.end, pool);
}

int sp_estimate_read_smaps(FILE *f, bool all, const uint64_t *stack, size_t nstacks,
                           struct sp_estimate_ranges *ranges)
{
    struct build b = {.ranges = ranges, .stack = stack, .nstacks = nstacks, .all = all};
    struct mapping m = {0}, next;
    bool have = false;
    size_t size = 0;
    char *line = NULL;
    unsigned key;
    int err = 0;

    memset(ranges, 0, sizeof(*ranges));
    while (!err && getline(&line, &size, f) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (read_head(line, &next)) {
            m = next;
            have = true;
        } else if (have && sscanf(line, "ProtectionKey: %u", &key) == 1) {
            m.keeps &= key == 0;
        } else if (have && strncmp(line, "VmFlags:", 8) == 0) {
            read_flags(line + 8, &m);
            err = add_mapping(&b, &m);
            have = false;
        }
    }
    finish_stretch(&b);
    if (!err && ferror(f))
        err = -EIO;
    free(line);
    return err;
}
