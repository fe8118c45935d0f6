/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mapping has beside its bytes, so far as a mapping that takes its place must have it too (X):
 * as smaps tells it, and as a new mapping is given it.
 */
#ifndef SP_AGENT_ATTRIBUTES_H
#define SP_AGENT_ATTRIBUTES_H

#include <stdbool.h>
#include <stdint.h>

/* Memory with these is merged, and gets them back when it is un-merged. */
#define SP_RANGE_NORESERVE 0x1u
#define SP_RANGE_NO_HUGE   0x2u
#define SP_RANGE_HUGE      0x4u
#define SP_RANGE_DONTFORK  0x8u
#define SP_RANGE_ADVISED   0x10u /* MADV_MERGEABLE */
#define SP_RANGE_POLICY    0xf0000u /* of nodes, where the program advised it: its number (policy.h) */
#define SP_RANGE_MERGES    (0x21fu | SP_RANGE_POLICY)
#define SP_RANGE_OF_POOL   (0x20eu | SP_RANGE_POLICY) /* of these, what is known of a frame's mapping, too */
/* With these it is left alone (K17), but a page that was merged, and written, stays in its mapping of
 * the pool, and may be given them there. */
#define SP_RANGE_DONTDUMP   0x20u
#define SP_RANGE_WIPEONFORK 0x40u
#define SP_RANGE_RANDOM     0x80u
#define SP_RANGE_SEQUENTIAL 0x100u
#define SP_RANGE_LOCKED     0x200u /* but merged where the program advised it (S4), and un-merged in place */
#define SP_RANGE_ONFAULT    0x400u /* of the lock */
#define SP_RANGE_OTHER      0x800u /* something that cannot be given: a seal, a key … */
/* Protection: none of them is PROT_NONE. */
#define SP_RANGE_READ  0x1000u
#define SP_RANGE_WRITE 0x2000u
#define SP_RANGE_EXEC  0x4000u
#define SP_RANGE_RW    (SP_RANGE_READ | SP_RANGE_WRITE)

/* The attribute of the two letters at f in a line of VmFlags, 0 if it is none of these. */
uint32_t sp_attribute_of(const char *f);

/*
 * Maps private anonymous memory with these attributes: mmap's flags are added, addr is as for mmap.
 * The address, or a negative errno; if it could not be kept from fork, or bound, it is unmapped again,
 * but with MAP_FIXED it stays without that: a hole in the program would be worse. Advice
 * that the kernel refuses is left out. Raw system calls only: for the program's threads too.
 */
long sp_map_with(uint64_t addr, uint64_t length, int flags, uint32_t attributes);

/* Is any of [addr, addr + length) locked? It lies in private mappings, of which the call asks nothing else. */
bool sp_is_locked(uint64_t addr, uint64_t length);

/* Locks [addr, addr + length) as these attributes say: 0 or a negative errno. */
long sp_lock_as(uint64_t addr, uint64_t length, uint32_t attributes);

/* Gives a mapping, new and whole, what SP_RANGE_DONTFORK says: 0 or a negative errno. The kernel needs
 * a little memory for it: it is tried until there is some, and given up only where the program is as
 * good as lost. */
long sp_keep_from_fork(uint64_t addr, uint64_t length);

#endif
