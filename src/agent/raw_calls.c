/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a system call instruction are rare, and most of them are not one: they lie in the middle
 * of an instruction, or in tables. So, from cheap to dear: is it reached by decoding from well before
 * it, is what stands around it code as compilers write it, and is its number a constant that stands
 * right before it.
 */
#include "raw_calls.h"

#include <stddef.h>

#ifdef __x86_64__

#include "site_check.h"
#include "x86_length.h"

#define RUN_UP     240u /* bytes that are decoded before a call */
#define SETTLED    48u  /* after so many of them decoding is in step */
#define STARTS     16u
#define AGREE      12u
#define BEHIND     24u /* bytes behind a call that are looked at */
#define LOAD_BACK  80u /* bytes before a call in which its number is looked for */
#define LOAD_STEPS 20u
#define FUNCTION_BACK 1024u
#define ENDBR64 0xfa1e0ff3u /* what functions begin with */
#define NO_NUMBER  UINT32_MAX
#define CALL_BYTES 2u
#define EAX        0u
#define EDI        7u

static uint32_t load32(const uint8_t *p)
{
    uint32_t value;

    __builtin_memcpy(&value, p, sizeof(value));
    return value;
}

/* The opcode behind the prefixes; *rex is the REX prefix or 0. */
static const uint8_t *opcode_of(const uint8_t *p, const uint8_t *end, uint8_t *rex)
{
    *rex = 0;
    for (; p < end; p++) {
        if ((*p & 0xf0) == 0x40)
            *rex = *p;
        else if (*p != 0x66 && *p != 0xf2 && *p != 0xf3 && *p != 0x2e && *p != 0x64)
            break;
    }
    return p;
}

/* Instructions that compilers do not write, nor people who write for user space: with tables taken for
 * code, one in seven is such a one. */
static bool is_odd(const uint8_t *p, const uint8_t *end)
{
    uint8_t rex;

    p = opcode_of(p, end, &rex);
    if (p >= end)
        return true;
    if ((*p == 0x00 && p + 1 < end && p[1] == 0x00) || (*p == 0xff && p + 1 < end && (p[1] >= 0xe8 || (p[1] & 0xf8) == 0xd8)))
        return true;
    switch (*p) {
    case 0x26: case 0x36: case 0x3e: case 0x65:
    case 0x6c: case 0x6d: case 0x6e: case 0x6f:
    case 0x9b: case 0x9e: case 0x9f: case 0xa0: case 0xa1: case 0xa2: case 0xa3:
    case 0xc2: case 0xc8: case 0xca: case 0xcb: case 0xce: case 0xcd: case 0xcf: case 0xd7:
    case 0xe0: case 0xe1: case 0xe2: case 0xe3: case 0xe4: case 0xe5: case 0xe6: case 0xe7:
    case 0xec: case 0xed: case 0xee: case 0xef: case 0xf1: case 0xf5: case 0xfa: case 0xfb:
        return true;
    case 0x0f:
        return p + 1 >= end || p[1] < 0x05 || (p[1] > 0x05 && p[1] < 0x0b) || p[1] == 0x0e ||
               p[1] == 0x0f || (p[1] >= 0x20 && p[1] <= 0x27) || p[1] == 0x30 ||
               (p[1] >= 0x32 && p[1] <= 0x37) || p[1] == 0xa0 || p[1] == 0xa1 || p[1] == 0xa8 ||
               p[1] == 0xa9 || p[1] == 0xaa;
    }
    return false;
}

static bool arrives(const uint8_t *p, const uint8_t *call, const uint8_t *end)
{
    while (p < call) {
        unsigned length = sp_x86_length(p, (size_t)(end - p));

        p += length ? length : 1;
    }
    return p == call;
}

/* Only instructions that are not odd from p to `to`, but for the first `settled` bytes. */
static bool is_plain_code(const uint8_t *p, const uint8_t *settled, const uint8_t *to,
                          const uint8_t *end)
{
    while (p < to) {
        unsigned length = sp_x86_length(p, (size_t)(end - p));

        if (p >= settled && (!length || is_odd(p, p + length)))
            return false;
        if (p >= settled && (*p == 0xc3 || *p == 0xeb || *p == 0xe9) && to == end)
            return true; /* behind the end of a function there may be anything */
        p += length ? length : 1;
    }
    return true;
}

static bool is_code(const uint8_t *text, const uint8_t *call, const uint8_t *end)
{
    const uint8_t *first = (size_t)(call - text) > RUN_UP ? call - RUN_UP : text, *in_step = NULL;
    const uint8_t *behind = (size_t)(end - call) > BEHIND + 16 ? call + BEHIND : call + CALL_BYTES;
    unsigned agree = 0, starts = 0;

    for (; starts < STARTS && first + starts < call; starts++)
        if (arrives(first + starts, call, end)) {
            agree++;
            in_step = in_step ? in_step : first + starts;
        }
    if (first == call)
        return true;
    if (!in_step || (starts == STARTS && first > text && agree < AGREE))
        return false;
    return is_plain_code(in_step, first > text ? in_step + SETTLED : in_step, call, end) &&
           is_plain_code(call + CALL_BYTES, call, behind, behind);
}

/* May the instruction give eax a value? It need only be right for what stands between the load of a
 * number and its call. */
static bool may_set_eax(const uint8_t *p, const uint8_t *end)
{
    uint8_t rex, op, modrm;
    bool two;

    p = opcode_of(p, end, &rex);
    if (p >= end)
        return true;
    two = *p == 0x0f;
    if (two && ++p >= end)
        return true;
    op = *p;
    modrm = p + 1 < end ? p[1] : 0;
    if (two) /* cmov, movzx, movsx, imul, cpuid and bit searches: to the register; setcc: to the other */
        return op == 0xa2 ||
               (((op & 0xf0) == 0x40 || op == 0xaf || (op >= 0xb6 && op <= 0xbf)) &&
                !(rex & 4) && (modrm & 0x38) == 0) ||
               ((op & 0xf0) == 0x90 && (modrm & 0xc7) == 0xc0 && !(rex & 1)) || op == 0xc0 ||
               op == 0xc1;
    if (op == 0x58)
        return !(rex & 1);
    if ((op & 0xf8) == 0x90)
        return op != 0x90;
    if (op == 0x8b || op == 0x8d || op == 0x8a || op == 0x63 || op == 0x69 || op == 0x6b ||
        (op < 0x38 && (op & 7) >= 2 && (op & 7) <= 3))
        return !(rex & 4) && (modrm & 0x38) == 0;
    if (op < 0x38 && ((op & 7) == 4 || (op & 7) == 5))
        return true;
    if (op == 0x89 || op == 0x88 || op == 0xc6 || op == 0xc7 || op == 0xc1 || op == 0xc0 ||
        (op >= 0xd0 && op <= 0xd3) || op == 0xfe || op == 0xff || op == 0x86 || op == 0x87 ||
        (op < 0x38 && (op & 7) <= 1) || ((op & 0xfc) == 0x80 && (modrm & 0x38) != 0x38))
        return !(rex & 1) && (modrm & 0xc7) == 0xc0;
    return op == 0xb8 || op == 0xb0 || op == 0x98 || op == 0xa8 + 4 || op == 0xa8 + 5 ||
           ((op == 0xf6 || op == 0xf7) && (modrm & 0x30) != 0) || op == 0xe8 || op == 0xe9 ||
           op == 0xeb || op == 0xc3;
}

/* The number that the instruction loads, or NO_NUMBER: mov $n,%eax; mov $n,%rax; xor %eax,%eax. */
static uint32_t number_at(const uint8_t *p, unsigned length)
{
    if (length == 5 && p[0] == 0xb8)
        return load32(p + 1);
    if (length == 7 && p[0] == 0x48 && p[1] == 0xc7 && p[2] == 0xc0)
        return load32(p + 3);
    return length == 2 && (p[0] == 0x31 || p[0] == 0x33) && p[1] == 0xc0 ? 0 : NO_NUMBER;
}

/* Does decoding from p, which loads eax, come to the call with the same number? */
static bool keeps_number(const uint8_t *p, const uint8_t *call)
{
    for (unsigned n = 0; n < LOAD_STEPS && p < call; n++) {
        unsigned length = sp_x86_length(p, (size_t)(call - p));

        if (!length || (n && may_set_eax(p, p + length)))
            return false;
        p += length;
    }
    return p == call;
}

/* The register that the instruction moves to eax, else NO_NUMBER. */
static uint32_t moved_at(const uint8_t *p, unsigned length)
{
    uint8_t rex = (*p & 0xf0) == 0x40 ? *p++ : 0;

    length -= rex != 0;
    if (length != 2 || p[1] < 0xc0)
        return NO_NUMBER;
    if (*p == 0x89 && (p[1] & 7) == 0 && !(rex & 1))
        return (uint32_t)(p[1] >> 3 & 7) | (rex & 4 ? 8 : 0);
    if (*p == 0x8b && (p[1] >> 3 & 7) == 0 && !(rex & 4))
        return (uint32_t)(p[1] & 7) | (rex & 1 ? 8 : 0);
    return NO_NUMBER;
}

/* What the instruction loads into the register: mov $n,%reg; xor %reg,%reg. */
static uint32_t loaded_at(const uint8_t *p, unsigned length, uint32_t reg)
{
    uint8_t rex = (*p & 0xf0) == 0x40 ? *p++ : 0, high = reg >= 8;

    length -= rex != 0;
    if (length == 5 && p[0] == (0xb8 | (reg & 7)) && (rex & 1) == high)
        return load32(p + 1);
    if (length == 2 && (p[0] == 0x31 || p[0] == 0x33) && p[1] == (0xc0 | (reg & 7) * 9) &&
        (rex & 5) == (high ? 5 : 0))
        return 0;
    return NO_NUMBER;
}

/* Does a function end with the instruction at p? What follows is filled up, or begins anew. */
static bool ends_function(const uint8_t *p, const uint8_t *call, bool padded)
{
    if (p + 6 > call || *p != 0xc3)
        return false;
    if (load32(p + 1) == ENDBR64)
        return true;
    return padded && (p[1] == 0xcc || p[1] == 0x90 || p[1] == 0x66 || (p[1] == 0x0f && p[2] == 0x1f));
}

/* Where decoding begins: some way before the call, not before the function as far as that can be told.
 * padded: is a gap behind a return the function's end? Blocks of one function have such gaps, too. */
static const uint8_t *function_of(const uint8_t *text, const uint8_t *call, bool padded)
{
    const uint8_t *p = (size_t)(call - text) > FUNCTION_BACK ? call - FUNCTION_BACK : text, *at = p;

    while (p < call) {
        unsigned length = sp_x86_length(p, (size_t)(call - p));

        if (ends_function(p, call, padded))
            at = p + 1;
        if (p + 4 <= call && load32(p) == ENDBR64)
            at = p;
        p += length ? length : 1;
    }
    return at;
}

/*
 * Compilers keep the number in another register where a loop or several ways lead to the call. All
 * constants that the function loads into that register before count: one that may be gated is
 * returned, else the last.
 */
static uint32_t number_in(const uint8_t *p, const uint8_t *call, uint32_t reg)
{
    uint32_t found = NO_NUMBER;

    while (p < call) {
        unsigned length = sp_x86_length(p, (size_t)(call - p));
        uint32_t number = length ? loaded_at(p, length, reg) : NO_NUMBER;

        if (number != NO_NUMBER && (found == NO_NUMBER || !sp_site_is_gated(found)))
            found = number;
        p += length ? length : 1;
    }
    return found;
}

static bool loads_eax_from_memory(const uint8_t *p, const uint8_t *end)
{
    uint8_t rex;

    p = opcode_of(p, end, &rex);
    return p + 1 < end && *p == 0x8b && !(rex & 4) && (p[1] & 0x38) == 0 && p[1] < 0xc0;
}

/* The register that eax comes from at last, 0 (eax itself) if from none; NO_NUMBER: from memory. */
static uint32_t source_of(const uint8_t *p, const uint8_t *call)
{
    uint32_t reg = 0;

    while (p < call) {
        unsigned length = sp_x86_length(p, (size_t)(call - p));
        uint32_t from = length ? moved_at(p, length) : NO_NUMBER;

        if (from != NO_NUMBER)
            reg = from;
        else if (length && loaded_at(p, length, 0) != NO_NUMBER)
            reg = 0;
        else if (length && loads_eax_from_memory(p, p + length))
            reg = NO_NUMBER;
        p += length ? length : 1;
    }
    return reg;
}

/* The number that a call is made with, as far as the code before it tells. A function that makes any
 * call has the number in its first argument (rdi), or in eax already. */
static uint32_t number_of(const uint8_t *text, const uint8_t *call)
{
    const uint8_t *function = function_of(text, call, true);
    uint32_t source;

    for (const uint8_t *p = call - 1; p >= function && p + LOAD_BACK >= call; p--) {
        uint32_t number = number_at(p, sp_x86_length(p, (size_t)(call - p)));

        if (number != NO_NUMBER && keeps_number(p, call))
            return number;
    }
    source = source_of(function, call);
    if (source == NO_NUMBER)
        return NO_NUMBER;
    if (source != EAX && source != EDI)
        function = function_of(text, call, false);
    return number_in(function, call, source);
}

/* Is the call at p one that the gate ought to see and does not? */
static bool is_raw(const uint8_t *text, const uint8_t *p, const uint8_t *end, bool patched)
{
    uint32_t number = number_of(text, p);

    if (number == NO_NUMBER)
        return is_code(text, p, end);
    if (!sp_site_is_gated(number))
        return false;
    return !(patched && sp_site_is_patched((uint64_t)p, (uint64_t)text, (uint64_t)end)) &&
           is_code(text, p, end);
}

uint64_t sp_raw_call(uint64_t text, uint64_t end, bool patched)
{
    const uint8_t *first = (const uint8_t *)text, *last = (const uint8_t *)end;

    for (const uint8_t *p = first; (p = sp_site_find_call(p, last)); p += CALL_BYTES)
        if (is_raw(first, p, last, patched))
            return (uint64_t)p;
    return 0;
}

#else

uint64_t sp_raw_call(uint64_t text, uint64_t end, bool patched)
{
    (void)text;
    (void)end;
    (void)patched;
    return 0;
}

#endif
