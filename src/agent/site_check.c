/* SPDX-License-Identifier: Apache-2.0 */
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "site_check.h"

#include <stddef.h>

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
#define RUN_UP     240u
#define STARTS     16u
#define AGREE      12u  /* of the starts must arrive at the site */
#define SHORT_JUMP 144u /* more than a short jump's reach, and an instruction */

#define LOAD_BEFORE 48u /* bytes before a system call in which its number is looked for */
#define LOAD_STEPS  10u /* instructions between the two */

static uint32_t load32(const uint8_t *p)
{
    uint32_t value;

    __builtin_memcpy(&value, p, sizeof(value)); /* inline: freestanding code would call memcpy */
    return value;
}

bool sp_site_is_gated(uint32_t nr)
{
    static const uint16_t numbers[] = {
        __NR_mmap,
        __NR_munmap,
        __NR_mremap,
        __NR_mprotect,
        __NR_madvise,
        __NR_brk,
        __NR_mlock,
        __NR_mlock2,
        __NR_munlock,
        __NR_mlockall,
        __NR_munlockall,
        __NR_mbind,
        __NR_shmat,
        __NR_shmdt,
        __NR_clone,
        __NR_clone3,
        __NR_fork,
        __NR_execve,
        __NR_execveat,
        __NR_ioctl,
        __NR_prctl,
        __NR_mseal,
        __NR_pkey_mprotect,
        __NR_remap_file_pages,
        __NR_process_madvise,
        __NR_set_mempolicy_home_node,
        __NR_vmsplice,
    };

    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (numbers[i] == nr)
            return true;
    return false;
}

uint32_t sp_site_number(const struct sp_patch_site *site)
{
    const uint8_t *p = (const uint8_t *)site->address;

    return *p == MOV_EAX ? load32(p + 1) : 0;
}

void sp_site_scan_init(struct sp_site_scan *scan, uint64_t text, uint64_t text_end)
{
    *scan = (struct sp_site_scan){.text = text, .at = text + SP_SITE_HEAD, .end = text_end};
}

static bool is_syscall(const uint8_t *p)
{
    return p[0] == 0x0f && p[1] == 0x05;
}

/* Eight bytes at a time: texts are long. */
const uint8_t *sp_site_find_call(const uint8_t *p, const uint8_t *end)
{
    const uint64_t ones = 0x0101010101010101u, high = ones << 7;
    uint64_t word;

    for (; p + 9 <= end; p += 8) {
        __builtin_memcpy(&word, p + 1, sizeof(word));
        word ^= ones * 0x05;
        if (!((word - ones) & ~word & high))
            continue;
        for (unsigned i = 0; i < 8; i++)
            if (is_syscall(p + i))
                return p + i;
    }
    for (; p + 2 <= end; p++)
        if (is_syscall(p))
            return p;
    return NULL;
}

/* Does decoding after the load of eax at p lead to the system call, with nothing between that gives
 * eax another value or leaves? *before is the instruction before the call. */
static bool load_reaches(const uint8_t *p, const uint8_t *call, const uint8_t **before)
{
    unsigned length = SP_SITE_HEAD;

    for (unsigned i = 0; i < LOAD_STEPS && length && p + length <= call; i++) {
        *before = p;
        p += length;
        if (p == call)
            return true;
        length = sp_x86_length(p, (size_t)(call - p));
        if (*p == MOV_EAX || (*p & 0xf0) == 0x70 || (*p >= 0xe0 && *p <= 0xef) || *p == 0xc3 ||
            *p == 0xff || (*p == 0x0f && (p[1] & 0xf0) == 0x80))
            return false;
    }
    return false;
}

/* Is the operand that this byte describes in a register, or at a place that does not depend on where the
 * instruction stands? */
static bool is_fixed_operand(uint8_t modrm)
{
    return (modrm & 0xc7) != 0x05;
}

/* Does the instruction do the same at another place? Known are those that compilers put between the load
 * of a number and its call: moves, lea, and xor of a register with itself. */
static bool may_stand_elsewhere(const uint8_t *p, unsigned length)
{
    const uint8_t *end = p + length;

    if (length < SP_SITE_SHORT_HEAD || length > SP_SITE_LONG_HEAD)
        return false;
    if (*p == 0x66)
        p++;
    if ((*p & 0xf0) == 0x40)
        p++;
    if ((*p & 0xf8) == 0xb8)
        return true;
    if (end - p < 2)
        return false;
    if (*p == 0x31 || *p == 0x33)
        return p[1] >= 0xc0;
    if (*p == 0x89 || *p == 0x8b || *p == 0x8d || *p == 0xc7)
        return is_fixed_operand(p[1]);
    return end - p >= 3 && *p == 0x0f && (p[1] == 0x11 || p[1] == 0x29 || p[1] == 0x7f) &&
           is_fixed_operand(p[2]);
}

/* io_uring_register: what it does to buffers the gate wants to know (gate_ring.c), but nothing is wrong at
 * once if it does not. */
static bool is_wanted(uint32_t nr)
{
    return sp_site_is_gated(nr) || nr == __NR_io_uring_register;
}

/* What may open a file of the program's own (gate_own.c). */
static bool is_open(uint32_t nr)
{
    return nr == __NR_openat || nr == __NR_open;
}

/* Looks for the load of a number that is wanted, and ends in the system call at call, from near to far. */
static enum sp_site_found by_load(const uint8_t *call, uint64_t text, uint64_t text_end,
                                  bool (*wanted)(uint32_t nr), struct sp_patch_site *site)
{
    const uint8_t *p = call - SP_SITE_HEAD, *before;

    for (unsigned i = 0; i < LOAD_BEFORE && (uint64_t)p >= text; i++, p--) {
        struct sp_patch_site load = {.address = (uint64_t)p, .head = SP_SITE_HEAD, .text = text};

        if (*p != MOV_EAX || !wanted(load32(p + 1)) || !load_reaches(p, call, &before))
            continue;
        if (before == p) {
            *site = load;
            return SP_SITE_FOUND;
        }
        if (!sp_site_is_code(&load, text_end))
            continue;
        *site = (struct sp_patch_site){
            .address = (uint64_t)before, .head = (uint32_t)(call - before), .text = text};
        if (may_stand_elsewhere(before, site->head))
            return SP_SITE_FOUND;
        site->address = (uint64_t)call;
        return sp_site_is_gated(load32(p + 1)) ? SP_SITE_STRAY : SP_SITE_NONE;
    }
    return SP_SITE_NONE;
}

bool sp_site_is_patched(uint64_t call, uint64_t text, uint64_t text_end)
{
    struct sp_patch_site site;

    return call - text >= SP_SITE_HEAD &&
           by_load((const uint8_t *)call, text, text_end, is_wanted, &site) == SP_SITE_FOUND;
}

/* The end of libc's syscall(). */
static bool in_function(const struct sp_site_scan *scan, const uint8_t *call)
{
    static const uint8_t load_r9[SP_SITE_HEAD] = {0x4c, 0x8b, 0x4c, 0x24, 0x08};

    return (uint64_t)call > scan->function && (uint64_t)call < scan->function_end &&
           memcmp(call - SP_SITE_HEAD, load_r9, SP_SITE_HEAD) == 0;
}

enum sp_site_found sp_site_scan_next(struct sp_site_scan *scan, struct sp_patch_site *site)
{
    const uint8_t *call;
    enum sp_site_found found;

    while ((call = sp_site_find_call((const uint8_t *)scan->at, (const uint8_t *)scan->end))) {
        scan->at = (uint64_t)call + 2;
        if (in_function(scan, call)) {
            *site = (struct sp_patch_site){
                .address = (uint64_t)call - SP_SITE_HEAD, .head = SP_SITE_HEAD, .text = scan->text};
            return SP_SITE_FOUND;
        }
        found = by_load(call, scan->text, scan->end, is_wanted, site);
        if (found == SP_SITE_NONE && scan->opens) {
            found = by_load(call, scan->text, scan->end, is_open, site);
            site->optional = true;
        }
        if (found != SP_SITE_NONE)
            return found;
    }
    return SP_SITE_NONE;
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

static bool leads_into(uint64_t target, const struct sp_patch_site *site)
{
    return target > site->address && target < sp_site_end(site);
}

/* Looks at the instructions from start, which is in step, to end for short jumps into the site. */
static bool short_jump_into(uint64_t start, uint64_t end, const struct sp_patch_site *site)
{
    int distance;

    while (start < end) {
        unsigned length = sp_x86_length((const uint8_t *)start, end - start);

        if (length && sp_x86_short_jump((const uint8_t *)start, length, &distance) &&
            leads_into(start + length + (uint64_t)(int64_t)distance, site))
            return true;
        start += length ? length : 1;
    }
    return false;
}

bool sp_site_is_code(const struct sp_patch_site *site, uint64_t text_end)
{
    uint64_t before = site->address - site->text, start, in_step = 0, end;
    unsigned agree = 0;

    if (sp_x86_length((const uint8_t *)site->address, site->head) != site->head)
        return false;
    start = before > RUN_UP ? site->address - RUN_UP : site->text;
    for (unsigned i = 0; i < STARTS && start + i <= site->address; i++)
        if (arrives(start + i, site->address, text_end)) {
            agree++;
            in_step = in_step ? in_step : start + i;
        }
    if (!in_step || (agree < AGREE && before > RUN_UP))
        return false;
    end = sp_site_end(site) + SHORT_JUMP;
    return !short_jump_into(in_step, end < text_end ? end : text_end, site);
}

static bool is_long_jump(const uint8_t *p, uint64_t text)
{
    return (p[0] & 0xfe) == 0xe8 || ((p[0] & 0xf0) == 0x80 && (uint64_t)p > text && p[-1] == 0x0f);
}

/* Every four bytes that could be the distance of a jump count, in step or not. That they lead near
 * the sites at all is rare, so that comes first. */
#define NEAR_BITS 65536u

/* One bit for each 32 bytes of the text, folded: which of them a site lies in. */
static uint64_t near_site[NEAR_BITS / 64];

static void mark_near(uint64_t address)
{
    uint64_t bit = address / 32 % NEAR_BITS;

    near_site[bit / 64] |= 1ull << (bit % 64);
}

static bool is_near(uint64_t address)
{
    uint64_t bit = address / 32 % NEAR_BITS;

    return near_site[bit / 64] >> (bit % 64) & 1;
}

/* Which of the 16 bytes at p could be the last byte of a long jump's or call's opcode (e8, e9, 0f
 * 80 to 0f 8f): bit i for byte i. */
static uint32_t opcodes(const uint8_t *p)
{
#if defined(__SSE2__)
    __m128i v = _mm_loadu_si128((const __m128i *)p), before = _mm_loadu_si128((const __m128i *)(p - 1));
    __m128i direct = _mm_cmpeq_epi8(_mm_or_si128(v, _mm_set1_epi8(1)), _mm_set1_epi8((char)0xe9));
    __m128i high = _mm_cmpeq_epi8(_mm_and_si128(v, _mm_set1_epi8((char)0xf0)),
                                  _mm_set1_epi8((char)0x80));
    __m128i two = _mm_and_si128(high, _mm_cmpeq_epi8(before, _mm_set1_epi8(0x0f)));

    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(direct, two));
#else
    (void)p;
    return 0xffff;
#endif
}

static const struct sp_patch_site *jump_into(const struct sp_patch_site *sites, unsigned n,
                                             const uint8_t *p, uint64_t text)
{
    uint64_t target = (uint64_t)p + 5 + (uint64_t)(int64_t)(int32_t)load32(p + 1);

    if (!is_near(target) || !is_long_jump(p, text))
        return NULL;
    for (unsigned i = 0; i < n; i++)
        if (leads_into(target, &sites[i]))
            return &sites[i];
    return NULL;
}

const struct sp_patch_site *sp_site_jump_into(const struct sp_patch_site *sites, unsigned n,
                                              uint64_t text_end)
{
    uint64_t text = sites[0].text;
    const uint8_t *last = (const uint8_t *)text_end - 5, *p = (const uint8_t *)text;
    const struct sp_patch_site *found = NULL;

    memset(near_site, 0, sizeof(near_site));
    for (unsigned i = 0; i < n; i++)
        for (uint64_t at = sites[i].address; at < sp_site_end(&sites[i]); at++)
            mark_near(at);
    if (p <= last)
        found = jump_into(sites, n, p++, text); /* there is no byte before the first */
    for (; !found && p + 16 + 4 <= last; p += 16)
        for (uint32_t bits = opcodes(p); bits && !found; bits &= bits - 1)
            found = jump_into(sites, n, p + __builtin_ctz(bits), text);
    for (; !found && p <= last; p++)
        found = jump_into(sites, n, p, text);
    return found;
}

#endif
