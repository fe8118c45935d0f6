/* SPDX-License-Identifier: Apache-2.0 */
#include "site_check.h"

#ifdef __x86_64__

#include "mem.h"
#include "sys.h"
#include "x86_length.h"

#ifndef __NR_set_mempolicy_home_node
#define __NR_set_mempolicy_home_node 450
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

#define MOV_EAX 0xb8

/* Decoding starts so far before a site: a start between two instructions falls in step with the
 * real ones within a few of them, and stays in step. */
#define RUN_UP 240u
#define STARTS 16u
#define AGREE 12u /* of the starts must arrive at the site */
#define SHORT_JUMP 144u /* more than a short jump's reach, and an instruction */

static uint32_t load32(const uint8_t *p)
{
    uint32_t value;

    memcpy(&value, p, sizeof(value));
    return value;
}

static bool is_gated_number(uint32_t nr)
{
    static const uint16_t numbers[] = {
        __NR_mmap,     __NR_munmap,   __NR_mremap,     __NR_mprotect,
        __NR_madvise,  __NR_brk,      __NR_mlock,      __NR_mlock2,
        __NR_munlock,  __NR_mlockall, __NR_munlockall, __NR_mbind,
        __NR_shmat,    __NR_shmdt,    __NR_clone,      __NR_clone3,
        __NR_fork,     __NR_execve,   __NR_execveat,   __NR_ioctl,
        __NR_prctl,    __NR_mseal,    __NR_pkey_mprotect,
        __NR_remap_file_pages,        __NR_process_madvise,
        __NR_set_mempolicy_home_node,
    };

    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (numbers[i] == nr)
            return true;
    return false;
}

uint32_t sp_site_number(uint64_t address)
{
    const uint8_t *p = (const uint8_t *)address;

    return *p == MOV_EAX ? load32(p + 1) : 0;
}

void sp_site_scan_init(struct sp_site_scan *scan, uint64_t text, uint64_t text_end)
{
    *scan = (struct sp_site_scan){.at = text + SP_SITE_HEAD, .end = text_end};
}

/* Is the system call instruction at p that of a site? */
static bool ends_site(const struct sp_site_scan *scan, const uint8_t *p)
{
    static const uint8_t load_r9[SP_SITE_HEAD] = {0x4c, 0x8b, 0x4c, 0x24, 0x08};

    if (p[-5] == MOV_EAX)
        return is_gated_number(load32(p - 4));
    return (uint64_t)p > scan->function && (uint64_t)p < scan->function_end &&
           memcmp(p - SP_SITE_HEAD, load_r9, SP_SITE_HEAD) == 0;
}

uint64_t sp_site_scan_next(struct sp_site_scan *scan)
{
    const uint8_t *p = (const uint8_t *)scan->at, *last = (const uint8_t *)scan->end - 1;

    for (; p < last; p++) {
        if (p[0] != 0x0f || p[1] != 0x05 || !ends_site(scan, p))
            continue;
        /* The next site is at least a whole site away: they never overlap. */
        scan->at = (uint64_t)p + SP_SITE_BYTES;
        return (uint64_t)p - SP_SITE_HEAD;
    }
    scan->at = scan->end;
    return 0;
}

/* Decodes from start; where no instruction is, goes on at the next byte. Returns whether it arrives
 * at to exactly. */
static bool arrives(uint64_t start, uint64_t to, uint64_t text_end)
{
    while (start < to) {
        unsigned length = sp_x86_length((const uint8_t *)start, text_end - start);

        start += length ? length : 1;
    }
    return start == to;
}

static bool leads_into(uint64_t target, uint64_t site)
{
    return target > site && target < site + SP_SITE_BYTES;
}

/* Looks at the instructions from start, which is in step, to end for short jumps into the site. */
static bool short_jump_into(uint64_t start, uint64_t end, uint64_t site, uint64_t text_end)
{
    int distance;

    while (start < end) {
        unsigned length = sp_x86_length((const uint8_t *)start, text_end - start);

        if (length && sp_x86_short_jump((const uint8_t *)start, length, &distance) &&
            leads_into(start + length + (uint64_t)(int64_t)distance, site))
            return true;
        start += length ? length : 1;
    }
    return false;
}

bool sp_site_is_code(uint64_t site, uint64_t text, uint64_t text_end)
{
    uint64_t start = site - text > RUN_UP ? site - RUN_UP : text, in_step = 0, end;
    unsigned agree = 0;

    if (sp_x86_length((const uint8_t *)site, SP_SITE_BYTES) != SP_SITE_HEAD)
        return false;
    for (unsigned i = 0; i < STARTS && start + i <= site; i++)
        if (arrives(start + i, site, text_end)) {
            agree++;
            in_step = in_step ? in_step : start + i;
        }
    if (agree < AGREE && site - text > RUN_UP)
        return false;
    if (!in_step)
        return false;
    end = site + SP_SITE_BYTES + SHORT_JUMP;
    return !short_jump_into(in_step, end < text_end ? end : text_end, site, text_end);
}

/* A filter before the search: which 64-byte pieces of the text, modulo its size, have a site. */
#define FILTER_BITS 4096u

struct filter {
    uint64_t word[FILTER_BITS / 64];
};

static uint32_t filter_bit(uint64_t address)
{
    return (uint32_t)(address >> 6) % FILTER_BITS;
}

static bool filter_has(const struct filter *filter, uint64_t address)
{
    uint32_t bit = filter_bit(address);

    return filter->word[bit / 64] >> (bit % 64) & 1;
}

static void filter_add(struct filter *filter, uint64_t address)
{
    uint32_t bit = filter_bit(address);

    filter->word[bit / 64] |= (uint64_t)1 << (bit % 64);
}

static uint64_t site_with(const struct sp_patch_site *sites, unsigned n, uint64_t target)
{
    for (unsigned i = 0; i < n; i++)
        if (leads_into(target, sites[i].address))
            return sites[i].address;
    return 0;
}

/* Every byte that could begin a long jump or a call counts, in step or not. */
uint64_t sp_site_jump_into(const struct sp_patch_site *sites, unsigned n, uint64_t text,
                           uint64_t text_end)
{
    const uint8_t *p = (const uint8_t *)text, *last = (const uint8_t *)text_end - 5;
    struct filter filter = {0};
    uint64_t target, hit;

    for (unsigned i = 0; i < n; i++) {
        filter_add(&filter, sites[i].address + 1);
        filter_add(&filter, sites[i].address + SP_SITE_BYTES - 1);
    }
    for (; p <= last; p++) {
        bool jump = (p[0] & 0xfe) == 0xe8 || ((p[0] & 0xf0) == 0x80 && p > (uint8_t *)text &&
                                              p[-1] == 0x0f);

        if (!jump)
            continue;
        target = (uint64_t)p + 5 + (uint64_t)(int64_t)(int32_t)load32(p + 1);
        if (filter_has(&filter, target) && (hit = site_with(sites, n, target)))
            return hit;
    }
    return 0;
}

#define STRAY_STEPS 8u

/* Does a system call follow the load at address, with nothing between that changes eax or leaves? */
static bool reaches_syscall(uint64_t address, uint64_t text_end)
{
    const uint8_t *p = (const uint8_t *)address + SP_SITE_HEAD;

    for (unsigned i = 0; i < STRAY_STEPS; i++) {
        unsigned length = sp_x86_length(p, text_end - (uint64_t)p);

        if (length == 0)
            return false;
        if (length == 2 && p[0] == 0x0f && p[1] == 0x05)
            return i > 0;
        if (p[0] == MOV_EAX || (p[0] & 0xf0) == 0x70 || (p[0] >= 0xe0 && p[0] <= 0xef) ||
            p[0] == 0xc3 || p[0] == 0xff || (p[0] == 0x0f && (p[1] & 0xf0) == 0x80))
            return false;
        p += length;
    }
    return false;
}

uint64_t sp_site_stray(uint64_t text, uint64_t text_end)
{
    const uint8_t *p = (const uint8_t *)text, *last = (const uint8_t *)text_end - 16;

    for (; p <= last; p++)
        if (*p == MOV_EAX && p[3] == 0 && p[4] == 0 && is_gated_number(load32(p + 1)) &&
            reaches_syscall((uint64_t)p, text_end) && sp_site_is_code((uint64_t)p, text, text_end))
            return (uint64_t)p;
    return 0;
}

#endif
