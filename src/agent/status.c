/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include "mem.h"
#include "sys.h"

#define PIECE      4096u
#define NAME_BYTES 32u /* of names that are asked for */
#define NONE       ~0u

struct line {
    char name[NAME_BYTES];
    unsigned length; /* of what is known of the name */
    bool named;      /* the colon was there */
    unsigned which;
};

static unsigned find(const struct line *line, const char *const *name, unsigned names)
{
    for (unsigned i = 0; i < names; i++)
        if (sp_strlen(name[i]) == line->length && !memcmp(name[i], line->name, line->length))
            return i;
    return NONE;
}

static void take(struct line *line, char c, const char *const *name, unsigned names,
                 void (*fn)(void *arg, unsigned which, char c), void *arg)
{
    if (line->named && line->which != NONE)
        fn(arg, line->which, c);
    if (c == '\n') {
        line->named = false;
        line->length = 0;
    } else if (!line->named && c == ':') {
        line->named = true;
        line->which = find(line, name, names);
    } else if (!line->named && line->length < NAME_BYTES) {
        line->name[line->length++] = c;
    }
}

/* The kernel makes the text at once, when it is read from its beginning, and keeps it until it is
 * read. What it gives less than there is room for is the end. */
int sp_status_read(int fd, const char *const *name, unsigned names,
                   void (*fn)(void *arg, unsigned which, char c), void *arg)
{
    static char piece[PIECE];
    struct line line = {.length = 0};
    long n = sp_sys(__NR_lseek, fd, 0, 0);

    if (sp_is_err(n))
        return (int)n;
    do {
        n = sp_sys(__NR_read, fd, piece, PIECE);
        if (sp_is_err(n))
            return (int)n;
        for (long i = 0; i < n; i++)
            take(&line, piece[i], name, names, fn, arg);
    } while (n == PIECE);
    return 0;
}
