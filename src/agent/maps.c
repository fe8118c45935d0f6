/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"

#include <linux/io_uring.h>

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
    m->lock_alone = m->merge_keeps;
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
            m->lock_alone &= (attribute & (SP_RANGE_LOCKED | SP_RANGE_ONFAULT)) != 0;
            if (!attribute && !says_nothing_new(p))
                m->given |= SP_RANGE_OTHER;
            if (!m->lost)
                m->lost = why_not_kept(p);
        }
        if (p[0] == 'm' && p[1] == 'g')
            m->advised = true;
        if (p[0] == 'u' && p[1] == 'w')
            m->tracked = true;
        if (p[0] == 'u' && (p[1] == 'm' || p[1] == 'i'))
            m->awaited = true;
        p += 2;
    }
}

/* "start-end rwxp offset major:minor inode   name" */
static bool read_head(struct sp_mapping *m, const char *p, const char *end)
{
    uint64_t major, minor;

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
    major = sp_parse_hex(&p, end);
    if (p < end && *p == ':')
        p++;
    minor = sp_parse_hex(&p, end);
    m->device = (minor & 0xff) | major << 8 | (minor & ~0xffull) << 12;
    while (p < end && *p == ' ')
        p++;
    m->inode = sp_parse_dec(&p, end);
    while (p < end && *p == ' ')
        p++;
    m->named = p < end && !(end - p >= 6 && sp_starts(p, "[heap]")) &&
               !(end - p >= 6 && sp_starts(p, "[anon:"));
    m->stack = end - p >= 6 && sp_starts(p, "[stack");
    m->special = m->named && *p == '[' && !m->stack;
    m->ring = m->shared && m->offset == IORING_OFF_SQES && sp_starts(p, "anon_inode:[io_uring]");
    return true;
}

static bool is_head(const char *p, const char *end)
{
    return p < end && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f'));
}

/* Where the reading stands, between parts of it. */
static struct {
    struct sp_mapping m;
    bool have;   /* the first line of it */
    size_t kept; /* bytes of a line that is not whole yet */
    bool in_parts;
} reader;

static int begin(void)
{
    reader.have = reader.in_parts = false;
    reader.kept = 0;
    return sp_is_err(sp_sys(__NR_lseek, sp_agent.smaps, 0, 0)) ? -5 : 0;
}

/* 0: at the end, or fn does not want more; 1: after `most` bytes or some more. */
static int go_on(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg, uint64_t most)
{
    for (uint64_t done = 0; done < most;) {
        long n = sp_sys(__NR_read, sp_agent.smaps, buffer + reader.kept, BUFFER - 1 - reader.kept);
        const char *p = buffer, *end;

        if (sp_is_err(n))
            return (int)n;
        if (!n)
            return 0;
        done += (uint64_t)n;
        end = buffer + reader.kept + n;
        buffer[reader.kept + (size_t)n] = 0;
        for (const char *eol = p; p < end; p = eol + 1) {
            for (eol = p; eol < end && *eol != '\n'; eol++)
                ;
            if (eol == end)
                break;
            if (is_head(p, eol)) {
                reader.have = read_head(&reader.m, p, eol);
            } else if (reader.have && eol - p > 14 && sp_starts(p, "ProtectionKey:")) {
                const char *number = p + 14;

                while (number < eol && *number == ' ')
                    number++;
                if (sp_parse_dec(&number, eol))
                    reader.m.lost = SP_LEFT_KEYED;
            } else if (reader.have && eol - p > 8 && sp_starts(p, "VmFlags:")) {
                read_flags(&reader.m, p + 8, eol);
                reader.have = false;
                if (!fn(arg, &reader.m))
                    return 0;
            }
        }
        reader.kept = (size_t)(end - p);
        if (reader.kept >= BUFFER - 1) /* a line longer than the buffer: a name without end */
            reader.kept = 0;
        memmove(buffer, p, reader.kept);
    }
    return 1;
}

int sp_maps_read(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg)
{
    int ret = begin();

    return ret ? ret : go_on(fn, arg, ~0ull);
}

int sp_maps_read_part(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg, uint64_t most,
                      bool first)
{
    int ret = 0;

    if (first)
        ret = begin();
    else if (!reader.in_parts)
        ret = -4; /* EINTR: all of it was read meanwhile */
    if (!ret)
        ret = go_on(fn, arg, most);
    reader.in_parts = ret == 1;
    return ret;
}
