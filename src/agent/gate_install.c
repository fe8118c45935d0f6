/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting the gate in: finds the sites, makes sure of each, has them patched.
 *
 * A site is `b8 nr 00 00 00 0f 05` (mov $nr,%eax; syscall) with the number of a gated call, the
 * same with moves in the middle (of which then the last is taken), and the end of the function
 * syscall(). Such bytes count only if decoding from before arrives at them, and
 * nothing jumps into them. No gated number may go into a system call that cannot be patched; and
 * libc and ld.so must be as we know them: every function that ends in a gated call holds a site.
 * Everything loaded must pass, or the process is not merged. What is loaded later (dlopen) is not
 * looked at.
 */
#include <errno.h>
#include <stddef.h>

#include <linux/mman.h>
#include <linux/prctl.h>

#include "code_known.h"
#include "elf_objects.h"
#include "gate_inside.h"
#include "mem.h"
#include "patch.h"
#include "raw_calls.h"
#include "site_check.h"
#include "sys.h"

#ifdef __x86_64__

#define OBJECTS 1024u
#define SITES   1024u

#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif

struct install {
    struct sp_elf_object object[OBJECTS];
    struct sp_patch_site site[SITES];
    unsigned objects, sites;
    char *why;
    size_t why_size;
};

static int refuse(struct install *in, const struct sp_elf_object *object, const char *what)
{
    struct sp_text text;

    sp_text_init(&text, in->why, in->why_size);
    if (object) {
        sp_text_str(&text, "its ");
        sp_text_str(&text, object->name);
        sp_text_str(&text, " (build-id ");
        sp_text_str(&text, object->build_id);
        sp_text_str(&text, ") is not one that samepage knows: ");
    }
    sp_text_str(&text, what);
    return -1;
}

static int refuse_name(struct install *in, const struct sp_elf_object *object, const char *before,
                       const char *name, const char *after)
{
    char what[128];
    struct sp_text text;

    sp_text_init(&text, what, sizeof(what));
    sp_text_str(&text, before);
    sp_text_str(&text, name);
    sp_text_str(&text, after);
    return refuse(in, object, what);
}

static int refuse_address(struct install *in, const struct sp_elf_object *object,
                          const char *before, uint64_t address)
{
    char number[24];
    struct sp_text text;

    sp_text_init(&text, number, sizeof(number));
    sp_text_str(&text, "0x");
    sp_text_hex(&text, address - object->bias);
    return refuse_name(in, object, before, number, "");
}

static bool is_libc(const struct sp_elf_object *object)
{
    return sp_streq(object->soname, "libc.so.6");
}

static bool is_linker(const struct sp_elf_object *object)
{
    return sp_starts(object->soname, "ld-linux");
}

/* It maps and unmaps its rings with calls that have no form for the gate: files, which are shared, and which
 * nobody merges. */
static bool is_ring_library(const struct sp_elf_object *object)
{
    return sp_starts(object->soname, "liburing.so.");
}

static bool is_ours(const struct sp_elf_object *object)
{
    return (uint64_t)&sp_gate >= object->base && (uint64_t)&sp_gate < object->image_end;
}

/* Adds the sites of one mapping of text. */
static int find_sites(struct install *in, const struct sp_elf_object *object)
{
    enum sp_site_found found;
    struct sp_patch_site site;
    struct sp_site_scan scan;

    sp_site_scan_init(&scan, object->text, object->text_end);
    if (is_libc(object)) {
        sp_elf_function(object, "syscall", &scan.function, &scan.function_end);
        scan.opens = true;
    }
    while ((found = sp_site_scan_next(&scan, &site)) == SP_SITE_FOUND) {
        if (in->sites == SITES)
            return refuse(in, object, "it has too many system calls of its own");
        in->site[in->sites++] = site;
    }
    return found == SP_SITE_STRAY
               ? refuse_address(in, object, "a gated system call stands alone at ", site.address)
               : 0;
}

static void drop_site(struct install *in, unsigned i)
{
    for (in->sites--; i < in->sites; i++)
        in->site[i] = in->site[i + 1];
}

/* Of sites that are optional those stay that pass. */
static int check_sites(struct install *in, const struct sp_elf_object *object, unsigned first)
{
    const struct sp_patch_site *bad;

    for (unsigned i = first; i < in->sites;) {
        if (sp_site_is_code(&in->site[i], object->text_end))
            i++;
        else if (in->site[i].optional)
            drop_site(in, i);
        else
            return refuse_address(in, object, "no whole system call stands at ",
                                  in->site[i].address);
    }
    while (first < in->sites &&
           (bad = sp_site_jump_into(&in->site[first], in->sites - first, object->text_end))) {
        if (!bad->optional)
            return refuse_address(in, object, "a jump leads into the system call at ", bad->address);
        drop_site(in, (unsigned)(bad - in->site));
    }
    return 0;
}

static bool has_site_in(const struct install *in, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < in->sites; i++)
        if (in->site[i].address >= start && in->site[i].address < end)
            return true;
    return false;
}

static bool has_site_of(const struct install *in, const struct sp_elf_object *object, uint32_t nr)
{
    for (unsigned i = 0; i < in->sites; i++)
        if (in->site[i].address >= object->text && in->site[i].address < object->text_end &&
            sp_site_number(&in->site[i]) == nr)
            return true;
    return false;
}

static int check_libc(struct install *in, const struct sp_elf_object *object)
{
    static const char *const functions[] = {
        "mmap",  "mmap64",  "munmap",           "mremap",     "mprotect",      "madvise", "brk",
        "mlock", "munlock", "mlockall",         "munlockall", "pkey_mprotect", "shmat",   "shmdt",
        "clone", "syscall", "remap_file_pages", "ioctl",      "prctl",
    };
    uint64_t start, end;

    for (unsigned i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (!sp_elf_function(object, functions[i], &start, &end))
            return refuse_name(in, object, "it has no function ", functions[i], "");
        if (!has_site_in(in, start, end))
            return refuse_name(in, object, "its ", functions[i], " does the system call elsewhere");
    }
    /* _Fork came with glibc 2.34; before, fork itself held the call. */
    if ((!sp_elf_function(object, "_Fork", &start, &end) &&
         !sp_elf_function(object, "fork", &start, &end)) ||
        !has_site_in(in, start, end))
        return refuse(in, object, "its fork does the system call elsewhere");
    return 0;
}

static int check_linker(struct install *in, const struct sp_elf_object *object)
{
    static const uint32_t numbers[] = {__NR_mmap, __NR_munmap, __NR_mprotect};

    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (!has_site_of(in, object, numbers[i]))
            return refuse(in, object, "its system calls have another form");
    return 0;
}

/* libc and ld.so are known: what else makes calls in them makes none that matters (check_libc). */
static int check_raw_calls(struct install *in, const struct sp_elf_object *object)
{
    char address[24], what[128];
    struct sp_text text;
    uint64_t call;

    if (is_libc(object) || is_linker(object) || is_ring_library(object))
        return 0;
    call = sp_raw_call(object->text, object->text_end, true);
    if (!call)
        return 0;
    sp_text_init(&text, address, sizeof(address));
    sp_text_hex(&text, call - object->bias);
    sp_text_init(&text, what, sizeof(what));
    sp_text_str(&text, "it makes system calls of its own (at 0x");
    sp_text_str(&text, address);
    sp_text_str(&text, ") that samepage cannot see");
    refuse(in, object, what);
    return SP_GATE_RAW_CALLS;
}

static int look_into(struct install *in, const struct sp_elf_object *object)
{
    unsigned first = in->sites;
    int ret = find_sites(in, object);

    if (ret == 0)
        ret = check_sites(in, object, first);
    if (ret == 0 && is_libc(object))
        ret = check_libc(in, object);
    if (ret == 0 && is_linker(object))
        ret = check_linker(in, object);
    if (ret == 0)
        ret = check_raw_calls(in, object);
    if (ret == 0)
        sp_code_add(object->text, object->text_end, SP_CODE_ANY);
    return ret;
}

static int look_everywhere(struct install *in)
{
    int count = sp_elf_find(in->object, OBJECTS);
    bool libc = false, linker = false;
    int ret;

    if (count < 0)
        return refuse(in, NULL, "its mappings cannot be read from /proc/self/maps");
    in->objects = (unsigned)count;
    for (unsigned i = 0; i < in->objects; i++) {
        const struct sp_elf_object *object = &in->object[i];

        libc |= is_libc(object);
        linker |= is_linker(object);
        if (is_ours(object))
            sp_code_add(object->text, object->text_end, SP_CODE_ANY);
        else if ((ret = look_into(in, object)) != 0)
            return ret;
    }
    if (!libc || !linker)
        return refuse(in, NULL, "it does not use glibc (libc.so.6 and ld-linux) dynamically");
    return 0;
}

static void note_main_thread(void)
{
    uint64_t tls, head = 0, length;

    __asm__("mov %%fs:0, %0" : "=r"(tls));
    sp_gate_note_thread(tls);
    /* In struct pthread, wherever that lies. */
    if (sp_sys(__NR_get_robust_list, 0, &head, &length) == 0 && head) {
        sp_gate_note_tcb(head - 0x800);
        sp_gate_note_tcb(head);
        sp_gate_note_tcb(head + 0x400);
        sp_gate.robust_offset = (int64_t)(head - tls);
    }
}

/* What the gate must know of kernel and process. A range of no pages asks only whether the kernel
 * knows the advice. */
static void probe(void)
{
    uint64_t page = (uint64_t)&sp_gate & ~((uint64_t)sp_gate.page_size - 1);

    sp_gate_no_ksm = sp_sys(__NR_madvise, page, 0, MADV_MERGEABLE) != 0 ||
                     sp_sys(__NR_prctl, PR_GET_MEMORY_MERGE) < 0;
    sp_gate_brk = (uint64_t)sp_sys(__NR_brk, 0);
    note_main_thread();
}

int sp_gate_install(char *why, size_t why_size)
{
    uint64_t size = (sizeof(struct install) + 4095) & ~(uint64_t)4095;
    long memory =
        sp_sys(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct install *in = (struct install *)memory;
    struct sp_text text;
    int ret;

    if (sp_is_err(memory)) {
        sp_text_init(&text, why, why_size);
        sp_text_str(&text, "there is no memory to look at its code");
        return -1;
    }
    in->why = why;
    in->why_size = why_size;
    if (!sp_gate.page_size)
        sp_gate.page_size = 4096;
    ret = look_everywhere(in);
    if (ret == 0) {
        probe();
        if (sp_patch_sites(in->site, in->sites, sp_gate.page_size) != 0)
            ret = refuse(in, NULL, "patched code cannot be mapped (memfd_create or mmap refused)");
        else if (!sp_gate_note_early_threads())
            ret = refuse(in, NULL, "it has threads already that are not glibc's, or that cannot be seen");
    }
    sp_sys(__NR_munmap, memory, size);
    return ret;
}

#else

int sp_gate_install(char *why, size_t why_size)
{
    struct sp_text text;

    sp_text_init(&text, why, why_size);
    sp_text_str(&text, "not on this processor yet");
    return -1;
}

#endif
