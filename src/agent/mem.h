/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes and small texts without libc. The four functions that the compiler may call by itself have
 * their usual names and hidden visibility, so that nothing of the program is interposed.
 */
#ifndef SP_AGENT_MEM_H
#define SP_AGENT_MEM_H

#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

size_t sp_strlen(const char *s);
/* 1 if s begins with prefix. */
int sp_starts(const char *s, const char *prefix);
int sp_streq(const char *a, const char *b);

/* A text that is put together piece by piece and never overflows; always ends with 0. */
struct sp_text {
    char *buf;
    size_t size, len;
};
void sp_text_init(struct sp_text *text, char *buf, size_t size);
void sp_text_str(struct sp_text *text, const char *s);
void sp_text_dec(struct sp_text *text, uint64_t value);
void sp_text_hex(struct sp_text *text, uint64_t value);

/* Reads digits of the base at *p, moves *p behind them. */
uint64_t sp_parse_hex(const char **p, const char *end);
uint64_t sp_parse_dec(const char **p, const char *end);

#endif
