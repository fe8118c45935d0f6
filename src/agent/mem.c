/* SPDX-License-Identifier: Apache-2.0 */
#include "mem.h"

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
#if defined(__x86_64__)
    void *d = dst;

    __asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
#else
    unsigned char *d = dst;
    const unsigned char *s = src;

    while (n--)
        *d++ = *s++;
#endif
    return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
    unsigned char *d = dst;
    const unsigned char *s = src;

    if (d <= s || d >= s + n)
        return memcpy(dst, src, n);
    while (n--)
        d[n] = s[n];
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
#if defined(__x86_64__)
    void *d = dst;

    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
#else
    unsigned char *d = dst;

    while (n--)
        *d++ = (unsigned char)c;
#endif
    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;

    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t sp_strlen(const char *s)
{
    size_t n = 0;

    while (s[n])
        n++;
    return n;
}

int sp_starts(const char *s, const char *prefix)
{
    while (*prefix)
        if (*s++ != *prefix++)
            return 0;
    return 1;
}

int sp_streq(const char *a, const char *b)
{
    return sp_starts(a, b) && sp_strlen(a) == sp_strlen(b);
}

void sp_text_init(struct sp_text *text, char *buf, size_t size)
{
    text->buf = buf;
    text->size = size;
    text->len = 0;
    if (size)
        buf[0] = 0;
}

void sp_text_str(struct sp_text *text, const char *s)
{
    while (*s && text->len + 1 < text->size)
        text->buf[text->len++] = *s++;
    if (text->size)
        text->buf[text->len] = 0;
}

static void text_number(struct sp_text *text, uint64_t value, unsigned base)
{
    char digits[24];
    unsigned n = sizeof(digits);

    digits[--n] = 0;
    do {
        digits[--n] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    sp_text_str(text, digits + n);
}

void sp_text_dec(struct sp_text *text, uint64_t value)
{
    text_number(text, value, 10);
}

void sp_text_hex(struct sp_text *text, uint64_t value)
{
    text_number(text, value, 16);
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return 99;
}

static uint64_t parse(const char **p, const char *end, int base)
{
    uint64_t value = 0;

    while (*p < end && digit(**p) < base)
        value = value * (uint64_t)base + (uint64_t)digit(*(*p)++);
    return value;
}

uint64_t sp_parse_hex(const char **p, const char *end)
{
    return parse(p, end, 16);
}

uint64_t sp_parse_dec(const char **p, const char *end)
{
    return parse(p, end, 10);
}
