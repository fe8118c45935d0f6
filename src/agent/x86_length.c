/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instruction is prefixes, an opcode in one of a few maps, a ModRM byte with SIB and
 * displacement if the opcode has one, and an immediate. One letter for each opcode says which:
 *
 *   .  nothing        b  imm8            z  imm16/32         d  always 32 bits
 *   m  ModRM          B  ModRM, imm8     Z  ModRM, imm16/32  w  imm16
 *   i  mov $imm,%reg  o  address         e  enter: imm24     t, T  test group: ModRM, imm if /0 /1
 *   -  no instruction in 64-bit mode, or a prefix or escape that is handled before
 *
 * The tables were written from the opcode maps in the processor's manual (Intel SDM, volume 2,
 * appendix A), and are tested against a disassembler over the whole of libc.
 */
#include "x86_length.h"

#define LENGTH_MAX 15u

static const char one_byte[257] =
    "mmmmbz--" "mmmmbz--" /* 00 */
    "mmmmbz--" "mmmmbz--" /* 10 */
    "mmmmbz--" "mmmmbz--" /* 20 */
    "mmmmbz--" "mmmmbz--" /* 30 */
    "--------" "--------" /* 40: REX */
    "........" "........" /* 50 */
    "---m----" "zZbB...." /* 60 */
    "bbbbbbbb" "bbbbbbbb" /* 70 */
    "BZ-Bmmmm" "mmmmmmmm" /* 80 */
    "........" "..-....." /* 90 */
    "oooo...." "bz......" /* a0 */
    "bbbbbbbb" "iiiiiiii" /* b0 */
    "BBw.--BZ" "e.w..b-." /* c0 */
    "mmmm---." "mmmmmmmm" /* d0 */
    "bbbbbbbb" "dd-b...." /* e0 */
    "-.--..tT" "......mm" /* f0 */;

static const char two_byte[257] =
    "mmmm-..." "..-.-m.B" /* 00 */
    "mmmmmmmm" "mmmmmmmm" /* 10 */
    "mmmm----" "mmmmmmmm" /* 20 */
    "......-." "--------" /* 30: 38 and 3a escape */
    "mmmmmmmm" "mmmmmmmm" /* 40 */
    "mmmmmmmm" "mmmmmmmm" /* 50 */
    "mmmmmmmm" "mmmmmmmm" /* 60 */
    "BBBBmmm." "mm--mmmm" /* 70 */
    "dddddddd" "dddddddd" /* 80 */
    "mmmmmmmm" "mmmmmmmm" /* 90 */
    "...mBmmm" "...mBmmm" /* a0 */
    "mmmmmmmm" "mmBmmmmm" /* b0 */
    "mmBmBBBm" "........" /* c0 */
    "mmmmmmmm" "mmmmmmmm" /* d0 */
    "mmmmmmmm" "mmmmmmmm" /* e0 */
    "mmmmmmmm" "mmmmmmmm" /* f0 */;

struct decode {
    const uint8_t *code;
    size_t size;
    unsigned at;
    bool operand16, address32, wide;
};

static bool is_prefix(uint8_t byte)
{
    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    }
    return false;
}

/* Passes over prefixes. A REX counts only directly before the opcode. */
static void prefixes(struct decode *d)
{
    for (; d->at < d->size; d->at++) {
        uint8_t byte = d->code[d->at];

        if ((byte & 0xf0) == 0x40) {
            d->wide = byte & 8;
            continue;
        }
        if (!is_prefix(byte))
            return;
        d->wide = false;
        d->operand16 |= byte == 0x66;
        d->address32 |= byte == 0x67;
    }
}

/* The letter of an opcode in VEX or EVEX map number map. */
static char vector_letter(unsigned map, uint8_t opcode)
{
    switch (map) {
    case 1:
        if (opcode == 0x77)
            return '.';
        return two_byte[opcode] == 'B' ? 'B' : 'm';
    case 2:
    case 5:
    case 6:
        return 'm';
    case 3:
        return 'B';
    }
    return '-';
}

/* c4, c5 or 62 stands at d->at; bytes of it come before the opcode. */
static char vector_opcode(struct decode *d, uint8_t first)
{
    unsigned bytes = first == 0xc5 ? 2 : first == 0xc4 ? 3 : 4, map = 1;

    if (d->at + bytes >= d->size)
        return '-';
    if (first == 0xc4)
        map = d->code[d->at + 1] & 0x1f;
    else if (first == 0x62)
        map = d->code[d->at + 1] & 7;
    d->at += bytes;
    return vector_letter(map, d->code[d->at++]);
}

/* Takes the opcode: its letter. */
static char opcode(struct decode *d)
{
    uint8_t byte = d->code[d->at];

    if (byte == 0xc4 || byte == 0xc5 || byte == 0x62)
        return vector_opcode(d, byte);
    d->at++;
    if (byte == 0x8f && d->at < d->size && (d->code[d->at] & 0x38))
        return '-'; /* AMD's XOP, which no processor has any more */
    if (byte != 0x0f)
        return one_byte[byte];
    if (d->at >= d->size)
        return '-';
    byte = d->code[d->at++];
    if (byte != 0x38 && byte != 0x3a)
        return two_byte[byte];
    if (d->at++ >= d->size)
        return '-';
    return byte == 0x38 ? 'm' : 'B';
}

/* Passes over ModRM, SIB and displacement; returns the ModRM byte, or -1 past the end. */
static int modrm(struct decode *d)
{
    uint8_t byte, base;

    if (d->at >= d->size)
        return -1;
    byte = d->code[d->at++];
    base = byte & 7;
    if (byte >= 0xc0)
        return byte;
    if (base == 4) {
        if (d->at >= d->size)
            return -1;
        base = d->code[d->at++] & 7;
    }
    if (byte >> 6 == 1)
        d->at += 1;
    else if (byte >> 6 == 2 || base == 5)
        d->at += 4;
    return byte;
}

unsigned sp_x86_length(const uint8_t *code, size_t size)
{
    struct decode d = {.code = code, .size = size < LENGTH_MAX ? size : LENGTH_MAX};
    unsigned full;
    char letter;
    int byte = 0;

    prefixes(&d);
    if (d.at >= d.size)
        return 0;
    letter = opcode(&d);
    full = d.operand16 && !d.wide ? 2 : 4;
    if (letter == 'm' || letter == 'B' || letter == 'Z' || letter == 't' || letter == 'T')
        byte = modrm(&d);
    if (letter == '-' || byte < 0)
        return 0;
    if (letter == 'b' || letter == 'B' || (letter == 't' && !(byte & 0x30)))
        d.at += 1;
    else if (letter == 'z' || letter == 'Z' || (letter == 'T' && !(byte & 0x30)))
        d.at += full;
    else if (letter == 'd')
        d.at += 4;
    else if (letter == 'w')
        d.at += 2;
    else if (letter == 'e')
        d.at += 3;
    else if (letter == 'o')
        d.at += d.address32 ? 4 : 8;
    else if (letter == 'i')
        d.at += d.wide ? 8 : full;
    return d.at <= d.size ? d.at : 0;
}

bool sp_x86_short_jump(const uint8_t *code, unsigned length, int *distance)
{
    unsigned at = 0;

    while (at < length && (is_prefix(code[at]) || (code[at] & 0xf0) == 0x40))
        at++;
    if (at + 2 != length)
        return false;
    if (code[at] != 0xeb && (code[at] & 0xf0) != 0x70 && (code[at] & 0xfc) != 0xe0)
        return false;
    *distance = (int8_t)code[at + 1];
    return true;
}
