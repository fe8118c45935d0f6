/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that are there before us: a library whose constructor comes first may start some (OpenBLAS does, the
 * thread sanitizer, too). The gate learns of a thread where it is made; of these nobody told it, and what must
 * never wait, their control blocks and robust lists, would be taken for memory as any other (X).
 *
 * Called when the gate is in: whoever is made from then on is known.
 */
#include "gate_inside.h"
#include "mem.h"
#include "sys.h"

#define BEGIN_TRIES 10000u /* for one that is just beginning to have its list */

struct entry { /* getdents64(2) */
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* glibc gives every thread a robust list at a fixed distance from its thread pointer. False: this one has none. */
static bool note(long tid)
{
    uint64_t head = 0, length;

    for (unsigned n = 0; n < BEGIN_TRIES; n++) {
        if (sp_is_err(sp_sys(__NR_get_robust_list, tid, &head, &length)))
            return true; /* it has ended */
        if (head) {
            sp_gate_note_tcb(head);
            sp_gate_note_thread(head - (uint64_t)sp_gate.robust_offset);
            return true;
        }
        sp_sys(__NR_sched_yield);
    }
    return false;
}

static bool note_all(const char *at, const char *end, long self)
{
    bool known = true;

    while (at < end && known) {
        const struct entry *e = (const struct entry *)at;
        const char *name = e->name;
        long tid = (long)sp_parse_dec(&name, at + e->length);

        if (tid && tid != self)
            known = sp_gate.robust_offset && note(tid);
        at += e->length;
    }
    return known;
}

bool sp_gate_note_early_threads(void)
{
    long fd = sp_sys(__NR_openat, -100, "/proc/self/task", 02000000), n;
    long self = sp_sys(__NR_gettid);
    _Alignas(8) char buf[4096];
    bool known = true;

    if (sp_is_err(fd))
        return false;
    while (known && (n = sp_sys(__NR_getdents64, fd, buf, sizeof(buf))) > 0)
        known = note_all(buf, buf + n, self);
    sp_sys(__NR_close, fd);
    return known;
}
