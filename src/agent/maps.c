/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"

#include "agent.h"
#include "attributes.h"
#include "mem.h"
#include "sys.h"
#include "vmflags.h"
#include "wire.h"

#define BUFFER 65536u

static char buffer[BUFFER];

static uint8_t why_not_kept(const char *f)
{
    static const struct {
        char flag[3];
        uint8_t left;
    } known[] = {
        {"lo", SP_LEFT_LOCKED},      {"wf", SP_LEFT_WIPEONFORK},
        {"dd", SP_LEFT_DONTDUMP},    {"sl", SP_LEFT_SEALED},      {"ht", SP_LEFT_HUGETLB},
        {"sr", SP_LEFT_READ_ADVICE}, {"rr", SP_LEFT_READ_ADVICE}, {"gd", SP_LEFT_STACK},
        {"um", SP_LEFT_USERFAULTFD}, {"ui", SP_LEFT_USERFAULTFD}, {"io", SP_LEFT_DEVICE},
        {"pf", SP_LEFT_DEVICE},
    };

    for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].flag[0] == f[0] && known[i].flag[1] == f[1])
            return known[i].left;
    return SP_LEFT_OTHER_FLAG;
}

/* What is known without the flag: guards are of pages, which move with them; code, by its protection. */
static bool says_nothing_new(const char *f)
{
    return (f[0] == 'g' && f[1] == 'u') || (f[0] == 'e' && f[1] == 'x');
}

static void read_flags(struct sp_mapping *m, const char *p, const char *end)
{
    m->merge_keeps = !m->lost; /* a key stands in a line before */
    if (m->lost)
        m->given |= SP_RANGE_OTHER;
    while (p + 1 < end) {
        uint32_t attribute;

        if (*p == ' ') {
            p++;
            continue;
        }
        attribute = sp_attribute_of(p);
        m->given |= attribute;
        if (p[0] == 'd' && p[1] == 'c') {
            m->dontfork = true;
        } else if (!sp_vmflag_kept(p)) {
            m->merge_keeps = false;
            if (!attribute && !says_nothing_new(p))
                m->given |= SP_RANGE_OTHER;
            if (!m->lost)
                m->lost = why_not_kept(p);
        }
        if (p[0] == 'm' && p[1] == 'g')
            m->advised = true;
        if (p[0] == 'u' && p[1] == 'w')
            m->tracked = true;
        p += 2;
    }
}

/* "start-end rwxp offset major:minor inode   name" */
static bool read_head(struct sp_mapping *m, const char *p, const char *end)
{
    *m = (struct sp_mapping){0};
    m->start = sp_parse_hex(&p, end);
    if (p >= end || *p++ != '-')
        return false;
    m->end = sp_parse_hex(&p, end);
    if (end - p < 6 || *p++ != ' ')
        return false;
    m->readable = p[0] == 'r';
    m->writable = p[1] == 'w';
    m->executable = p[2] == 'x';
    m->shared = p[3] == 's';
    m->given = (m->readable ? SP_RANGE_READ : 0) | (m->writable ? SP_RANGE_WRITE : 0) |
               (m->executable ? SP_RANGE_EXEC : 0);
    p += 5;
    m->offset = sp_parse_hex(&p, end);
    while (p < end && *p == ' ')
        p++;
    while (p < end && *p != ' ')
        p++;
    while (p < end && *p == ' ')
        p++;
    m->inode = sp_parse_dec(&p, end);
    while (p < end && *p == ' ')
        p++;
    m->named = p < end && !(end - p >= 6 && sp_starts(p, "[heap]")) &&
               !(end - p >= 6 && sp_starts(p, "[anon:"));
    m->stack = end - p >= 6 && sp_starts(p, "[stack");
    m->special = m->named && *p == '[' && !m->stack;
    return true;
}

static bool is_head(const char *p, const char *end)
{
    return p < end && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f'));
}

int sp_maps_read(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg)
{
    struct sp_mapping m;
    bool have = false;
    size_t kept = 0;

    if (sp_is_err(sp_sys(__NR_lseek, sp_agent.smaps, 0, 0)))
        return -5;
    for (;;) {
        long n = sp_sys(__NR_read, sp_agent.smaps, buffer + kept, BUFFER - 1 - kept);
        const char *p = buffer, *end;

        if (sp_is_err(n))
            return (int)n;
        if (!n)
            return 0;
        end = buffer + kept + n;
        buffer[kept + (size_t)n] = 0;
        for (const char *eol = p; p < end; p = eol + 1) {
            for (eol = p; eol < end && *eol != '\n'; eol++)
                ;
            if (eol == end)
                break;
            if (is_head(p, eol)) {
                have = read_head(&m, p, eol);
            } else if (have && eol - p > 14 && sp_starts(p, "ProtectionKey:")) {
                const char *number = p + 14;

                while (number < eol && *number == ' ')
                    number++;
                if (sp_parse_dec(&number, eol))
                    m.lost = SP_LEFT_KEYED;
            } else if (have && eol - p > 8 && sp_starts(p, "VmFlags:")) {
                read_flags(&m, p + 8, eol);
                have = false;
                if (!fn(arg, &m))
                    return 0;
            }
        }
        kept = (size_t)(end - p);
        if (kept >= BUFFER - 1) /* a line longer than the buffer: a name without end */
            kept = 0;
        memmove(buffer, p, kept);
    }
}
