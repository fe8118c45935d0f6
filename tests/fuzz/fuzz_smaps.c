/* SPDX-License-Identifier: Apache-2.0 */
/* X: a program names its files as it likes, so any text in smaps is read within bounds, and the
 * same mappings come out wherever the reader's buffer happens to end. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "agent.h"
#include "gate.h"
#include "maps.h"

#define BUFFER   65536u /* the reader's; the text is put across its end */
#define MAPPINGS 4096u

struct sp_agent sp_agent;
struct sp_gate sp_gate;

struct found {
    struct sp_mapping mapping[MAPPINGS];
    unsigned n;
};

static bool take(void *arg, const struct sp_mapping *m)
{
    struct found *found = arg;

    expect(!m->advised || m->merge_keeps || found->n < MAPPINGS); /* reads every field */
    expect(m->merge_keeps == !m->lost && m->lost < SP_LEFT_KINDS);
    found->mapping[found->n++] = *m;
    return found->n < MAPPINGS;
}

static void read_text(const void *head, size_t head_size, const void *text, size_t size,
                      struct found *found)
{
    found->n = 0;
    expect(ftruncate(sp_agent.smaps, 0) == 0);
    expect(pwrite(sp_agent.smaps, head, head_size, 0) == (ssize_t)head_size);
    expect(pwrite(sp_agent.smaps, text, size, (off_t)head_size) == (ssize_t)size);
    expect(sp_maps_read(take, found) == 0);
}

static bool is_same(const struct sp_mapping *a, const struct sp_mapping *b)
{
    return a->start == b->start && a->end == b->end && a->offset == b->offset &&
           a->inode == b->inode && a->readable == b->readable && a->writable == b->writable &&
           a->executable == b->executable && a->shared == b->shared && a->named == b->named &&
           a->stack == b->stack && a->special == b->special && a->lost == b->lost &&
           a->merge_keeps == b->merge_keeps && a->advised == b->advised &&
           a->tracked == b->tracked && a->dontfork == b->dontfork && a->given == b->given;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct found plain, split;
    static char head[BUFFER];
    size_t before;

    if (!sp_agent.smaps)
        sp_agent.smaps = memfd_create("smaps", MFD_CLOEXEC);
    if (size < 2 || size > BUFFER / 2)
        return 0;
    before = BUFFER - 2 - (size_t)(data[0] << 8 | data[1]) % size;
    memset(head, 'X', before - 1);
    head[before - 1] = '\n';
    read_text(NULL, 0, data + 2, size - 2, &plain);
    read_text(head, before, data + 2, size - 2, &split);
    expect(plain.n == split.n);
    for (unsigned i = 0; i < plain.n; i++)
        expect(is_same(&plain.mapping[i], &split.mapping[i]));
    return 0;
}
