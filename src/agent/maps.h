/* SPDX-License-Identifier: Apache-2.0 */
/* Reads /proc/PID/smaps line by line, in small pieces, without allocation. */
#ifndef SP_AGENT_MAPS_H
#define SP_AGENT_MAPS_H

#include <stdbool.h>
#include <stdint.h>

/* One mapping, with what its VmFlags say. */
struct sp_mapping {
    uint64_t start, end, offset, inode;
    uint64_t device; /* as st_dev */
    bool readable, writable, executable, shared;
    bool named;      /* a file, [stack], [vdso]: anything but [heap] and [anon:…] */
    bool stack, special; /* of the named ones: [stack]; [vdso] and the like */
    bool ring;       /* the jobs of an io_uring */
    bool merge_keeps; /* every flag is one that a merge keeps (K17), and there is no key */
    uint8_t lost; /* if not: enum sp_left of the first that is not */
    bool lock_alone; /* it would keep every flag, but for the lock */
    bool advised;    /* MADV_MERGEABLE */
    bool dontfork;   /* MADV_DONTFORK, which merge_keeps says nothing of */
    bool tracked;    /* registered for write tracking: ours, as far as we know */
    bool awaited;    /* registered for missing or minor faults: the program's */
    uint8_t word;    /* enum sp_gate_word; ranges.c, where the flag does not tell */
    uint32_t given; /* SP_RANGE_ attributes, its protection among them */
};

/* Calls fn for each mapping, ascending, until it returns false. Negative errno: could not read. */
int sp_maps_read(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg);
/* The same in parts of about `most` bytes of text: what the mappings are when their part is read. 1: there is
 * more; 0: that was all. A negative errno: begin anew (first); -EINTR if sp_maps_read() came in between. */
int sp_maps_read_part(bool (*fn)(void *arg, const struct sp_mapping *m), void *arg, uint64_t most,
                      bool first);

#endif
