/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ELF objects that are loaded in this process, with their text, exported functions and
 * build-id.
 *
 * They are found in /proc/self/maps, not in the dynamic linker's list: the bytes that matter are
 * those that are mapped, whoever mapped them. Nothing is allocated; what an object points to is the
 * object's own memory.
 */
#ifndef SP_AGENT_ELF_OBJECTS_H
#define SP_AGENT_ELF_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/elf.h>

#define SP_ELF_NAME     48u
#define SP_ELF_BUILD_ID 41u

/* One executable mapping of an object; an object with two of them appears twice. */
struct sp_elf_object {
    uint64_t base;           /* where the ELF header is */
    uint64_t image_end;      /* behind its last segment */
    uint64_t bias;           /* to be added to its own addresses */
    uint64_t text, text_end; /* the mapping, readable and executable */
    const Elf64_Sym *symbols;
    const char *strings;
    const uint32_t *hash;           /* its DT_GNU_HASH table, NULL: none */
    const char *soname;             /* "" if it has none */
    char name[SP_ELF_NAME];         /* file name without folders, for messages */
    char build_id[SP_ELF_BUILD_ID]; /* hex, "unknown" if it has none */
};

/* Fills objects with at most max of them. Returns how many, -ENOSPC if there are more, or the
 * negative errno of reading /proc/self/maps. */
int sp_elf_find(struct sp_elf_object *objects, unsigned max);

/* Finds the exported function name: its [*start, *end). False if the object has none. */
bool sp_elf_function(const struct sp_elf_object *object, const char *name, uint64_t *start,
                     uint64_t *end);

#endif
