/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stubs and patched pages.
 *
 * Everything that can fail comes before the first page of text is replaced: places for the stubs
 * are found and reserved, stubs and pages written, the stubs mapped (which also shows whether the
 * kernel lets us map code from a memfd at all). If a page of text then cannot be mapped all the
 * same, the sites' old bytes are written back into the file, which the pages mapped so far show at
 * once.
 *
 * A stub is the site's first instruction, rcx = 1f, a jump to sp_gate_entry, and three ways on, of
 * which the C code behind the entry chooses one:
 *   1: jmp behind the site                          the call is done
 *   2: jmp to the site's own syscall                native, no stack touched
 *   3: syscall; rcx = 1b; jmp sp_gate_after_fork    fork
 * The site's own syscall stands where it stood, so that a thread which is cancelled in the call can
 * be unwound: nobody knows the frames of a stub. Only a head of less than five bytes leaves no room for
 * it; then 2 is as 3 begins, and a jump behind the site.
 */
#include "patch.h"

#ifdef __x86_64__

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include <linux/fcntl.h>
#include <linux/memfd.h>
#include <linux/mman.h>

#include "code_known.h"
#include "gate_entry.h"
#include "mem.h"
#include "sys.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#endif
#define SEALS 0xfu /* against seals, shrinking, growing, writing */

#define AREAS 16u
#define STUB_BYTES 64u
#define NEAR ((uint64_t)1 << 30)   /* well within a jump's 2 GiB, whatever the object's size */
#define STEP ((uint64_t)2 << 20)
#define JUMP 0xe9u
#define TRAP 0xccu
#define NOP  0x90u
#define RUN_GAP 4u /* pages between two sites that go into one mapping */

static const uint8_t system_call[2] = {0x0f, 0x05};

/* A place for stubs near some sites; its first two words point to the gate. */
struct area {
    uint64_t address;
    uint32_t used; /* stubs */
};

struct patch {
    struct sp_patch_site *sites;
    unsigned n;
    uint64_t page_size;
    uint64_t area_bytes; /* of each: enough for all sites */
    struct area area[AREAS];
    unsigned areas;
    int stubs, text; /* memfds */
};

static int open_memfd(const char *name)
{
    long fd = sp_sys(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);

    if (fd == -EINVAL)
        fd = sp_sys(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return (int)fd;
}

static int write_at(int fd, const void *bytes, uint64_t size, uint64_t offset)
{
    while (size) {
        long n = sp_sys(__NR_pwrite64, fd, bytes, size, offset);

        if (n <= 0)
            return n ? (int)n : -EIO;
        bytes = (const char *)bytes + n;
        size -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static bool is_near(uint64_t a, uint64_t b)
{
    return a > b ? a - b < NEAR : b - a < NEAR;
}

static bool reserve_at(struct patch *patch, uint64_t address)
{
    long ret = sp_sys(__NR_mmap, address, patch->area_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    if (sp_is_err(ret))
        return false;
    if ((uint64_t)ret == address)
        return true;
    sp_sys(__NR_munmap, ret, patch->area_bytes);
    return false;
}

/* Below first: what lies above may be the heap, which wants to grow. */
static uint64_t reserve_near(struct patch *patch, uint64_t site)
{
    uint64_t middle = site & ~(STEP - 1);

    for (uint64_t away = STEP; away < NEAR; away += STEP)
        if (middle > away + STEP && reserve_at(patch, middle - away))
            return middle - away;
    for (uint64_t away = STEP; away < NEAR - STEP; away += STEP)
        if (reserve_at(patch, middle + away))
            return middle + away;
    return 0;
}

static struct area *area_for(struct patch *patch, uint64_t site)
{
    struct area *area;

    for (unsigned i = 0; i < patch->areas; i++)
        if (is_near(patch->area[i].address, site))
            return &patch->area[i];
    if (patch->areas == AREAS)
        return NULL;
    area = &patch->area[patch->areas];
    area->address = reserve_near(patch, site);
    if (!area->address)
        return NULL;
    patch->areas++;
    return area;
}

static void put_distance(uint8_t *at, uint64_t from, uint64_t to)
{
    int32_t distance = (int32_t)(to - from);

    memcpy(at, &distance, sizeof(distance));
}

/* Writes the code of a stub that will stand at stub; area begins with the two pointers. */
static void make_stub(uint8_t *code, uint64_t area, const struct sp_patch_site *site)
{
    static const uint8_t form[] = {
        0x48, 0x8d, 0x0d, 6, 0, 0, 0,    /*  9: lea 22(here), %rcx */
        0xff, 0x25, 0,    0, 0, 0,       /* 16: jmp *area */
        0xe9, 0,    0,    0, 0,          /* 22: jmp behind the site */
        0x0f, 0x05,                      /* 27: syscall, or a jmp to the site's */
        0xe9, 0,    0,    0, 0,          /* 29: jmp behind the site */
        0x0f, 0x05,                      /* 34: syscall */
        0x48, 0x8d, 0x0d, 0xeb, 0xff, 0xff, 0xff, /* 36: lea 22(here), %rcx */
        0xff, 0x25, 0,    0, 0, 0,       /* 43: jmp *area+8 */
    };
    _Static_assert(22 + SP_STUB_NATIVE == 27 && 22 + SP_STUB_FORK == 34, "as the entry knows it");
    _Static_assert(SP_SITE_LONG_HEAD + sizeof(form) <= STUB_BYTES, "a stub has room for it");
    uint64_t behind = sp_site_end(site), stub = site->stub;

    memset(code, TRAP, STUB_BYTES);
    memset(code, NOP, SP_SITE_LONG_HEAD);
    memcpy(code, (const void *)site->address, site->head);
    memcpy(code + SP_SITE_LONG_HEAD, form, sizeof(form));
    put_distance(code + 18, stub + 22, area);
    put_distance(code + 23, stub + 27, behind);
    put_distance(code + 30, stub + 34, behind);
    if (site->head >= SP_SITE_HEAD) {
        code[27] = JUMP;
        put_distance(code + 28, stub + 32, behind - 2);
    }
    put_distance(code + 45, stub + 49, area + 8);
}

static int write_area_head(struct patch *patch, unsigned index)
{
    uint64_t pointers[2] = {(uint64_t)&sp_gate_entry, (uint64_t)&sp_gate_after_fork};

    return write_at(patch->stubs, pointers, sizeof(pointers), index * patch->area_bytes);
}

static int write_stub(struct patch *patch, struct sp_patch_site *site)
{
    struct area *area = area_for(patch, site->address);
    uint8_t code[STUB_BYTES];
    uint64_t offset;

    if (!area)
        return -ENOMEM;
    offset = (uint64_t)++area->used * STUB_BYTES;
    site->stub = area->address + offset;
    make_stub(code, area->address, site);
    return write_at(patch->stubs, code, sizeof(code),
                    (uint64_t)(area - patch->area) * patch->area_bytes + offset);
}

static int map_code(uint64_t address, uint64_t size, int fd, uint64_t offset)
{
    long ret = sp_sys(__NR_mmap, address, size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd,
                      offset);

    return sp_is_err(ret) ? (int)ret : 0;
}

static int place_stubs(struct patch *patch)
{
    int ret = 0;

    for (unsigned i = 0; i < patch->n && ret == 0; i++)
        ret = write_stub(patch, &patch->sites[i]);
    for (unsigned i = 0; i < patch->areas && ret == 0; i++)
        ret = write_area_head(patch, i);
    if (ret == 0)
        ret = (int)sp_sys(__NR_ftruncate, patch->stubs, patch->areas * patch->area_bytes);
    for (unsigned i = 0; i < patch->areas && ret == 0; i++)
        ret = map_code(patch->area[i].address, patch->area_bytes, patch->stubs,
                       i * patch->area_bytes);
    return ret;
}

/* Pages of text that become one mapping. */
struct run {
    uint64_t start, end, offset; /* offset: in the file */
    unsigned first, last;        /* sites [first, last) */
};

/* Sets run to the one after it, 0 at the start; false: there is none. */
static bool next_run(const struct patch *patch, struct run *run)
{
    uint64_t mask = ~(patch->page_size - 1);
    const struct sp_patch_site *site = patch->sites;

    if (run->last == patch->n)
        return false;
    run->offset += run->end - run->start;
    run->first = run->last;
    run->start = site[run->first].address & mask;
    do {
        run->end = (sp_site_end(&site[run->last]) + patch->page_size - 1) & mask;
        run->last++;
    } while (run->last < patch->n && site[run->last].text == site[run->first].text &&
             (site[run->last].address & mask) <= run->end + RUN_GAP * patch->page_size);
    return true;
}

static uint64_t file_offset(const struct run *run, uint64_t address)
{
    return run->offset + (address - run->start);
}

static int write_jump(const struct patch *patch, const struct run *run, unsigned i)
{
    const struct sp_patch_site *site = &patch->sites[i];
    uint8_t code[SP_SITE_MAX];

    memset(code, TRAP, sizeof(code));
    code[0] = JUMP;
    put_distance(code + 1, site->address + 5, site->stub);
    if (site->head >= SP_SITE_HEAD)
        memcpy(code + site->head, system_call, sizeof(system_call));
    return write_at(patch->text, code, site->head + 2, file_offset(run, site->address));
}

static int write_text(struct patch *patch)
{
    struct run run = {0};
    int ret = 0;

    while (ret == 0 && next_run(patch, &run)) {
        ret = write_at(patch->text, (const void *)run.start, run.end - run.start, run.offset);
        for (unsigned i = run.first; i < run.last && ret == 0; i++)
            ret = write_jump(patch, &run, i);
    }
    return ret;
}

/* Takes the jumps out of the file again; original is a stub's copy of the site's head. */
static void write_back(struct patch *patch)
{
    struct run run = {0};

    while (next_run(patch, &run))
        for (unsigned i = run.first; i < run.last; i++) {
            const struct sp_patch_site *site = &patch->sites[i];
            uint64_t offset = file_offset(&run, site->address);

            write_at(patch->text, (const void *)site->stub, site->head, offset);
            write_at(patch->text, system_call, sizeof(system_call), offset + site->head);
        }
}

static int replace_text(struct patch *patch)
{
    struct run run = {0};

    while (next_run(patch, &run)) {
        int ret = map_code(run.start, run.end - run.start, patch->text, run.offset);

        if (ret != 0) {
            write_back(patch);
            return ret;
        }
    }
    return 0;
}

static void drop_areas(struct patch *patch)
{
    for (unsigned i = 0; i < patch->areas; i++)
        sp_sys(__NR_munmap, patch->area[i].address, patch->area_bytes);
}

int sp_patch_sites(struct sp_patch_site *sites, unsigned n, uint32_t page_size)
{
    struct patch patch = {.sites = sites, .n = n, .page_size = page_size, .stubs = -1, .text = -1};
    int ret;

    patch.area_bytes =
        ((uint64_t)(n + 1) * STUB_BYTES + page_size - 1) & ~((uint64_t)page_size - 1);
    ret = patch.stubs = open_memfd("samepage-gate");
    if (ret < 0)
        goto out;
    ret = patch.text = open_memfd("samepage-text");
    if (ret < 0)
        goto out;
    ret = place_stubs(&patch);
    if (ret == 0)
        ret = write_text(&patch);
    if (ret == 0)
        ret = replace_text(&patch);
    if (ret == 0) {
        sp_sys(__NR_fcntl, patch.stubs, F_ADD_SEALS, SEALS);
        sp_sys(__NR_fcntl, patch.text, F_ADD_SEALS, SEALS);
        for (unsigned i = 0; i < patch.areas; i++)
            sp_code_add(patch.area[i].address, patch.area[i].address + patch.area_bytes,
                        SP_CODE_ANY);
    } else {
        drop_areas(&patch);
    }
out:
    if (patch.text >= 0)
        sp_sys(__NR_close, patch.text);
    if (patch.stubs >= 0)
        sp_sys(__NR_close, patch.stubs);
    return ret < 0 ? ret : 0;
}

#endif
