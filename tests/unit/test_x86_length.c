/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction lengths agree with objdump over the whole text of libc, ld.so and other
 * libraries. Skipped where objdump is missing. Arguments: files to look at instead.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "x86_length.h"

#define SKIPPED 77

/* Reads the bytes of one line "  addr:\t12 34 56 \tmnemonic": their number, 0 if it is no such
 * line. */
static unsigned read_bytes(const char *line, uint8_t *bytes, unsigned size)
{
    const char *p = strchr(line, ':');
    unsigned n = 0;

    if (!p || p[1] != '\t')
        return 0;
    for (p += 2; n < size; p += 3) {
        char *end;
        unsigned long byte = strtoul(p, &end, 16);

        if (end != p + 2 || *end != ' ')
            break;
        bytes[n++] = (uint8_t)byte;
    }
    return n;
}

/* objdump shows 9b (fwait) together with the instruction behind it, and what it does not know as
 * (bad) or as a lonely prefix: those prove nothing. */
static int is_doubtful(const char *line, const uint8_t *bytes, unsigned n)
{
    return strstr(line, "(bad)") || bytes[0] == 0x9b || strstr(line, ".byte") ||
           (n == 1 && ((bytes[0] & 0xf0) == 0x40 || bytes[0] == 0x66 || bytes[0] == 0x67 ||
                       bytes[0] == 0x2e || bytes[0] == 0x3e || bytes[0] == 0xf2 ||
                       bytes[0] == 0xf3 || bytes[0] == 0xf0));
}

static int check_file(const char *path)
{
    char command[512], line[4096];
    unsigned long checked = 0, wrong = 0;
    FILE *pipe;

    snprintf(command, sizeof(command),
             "objdump -d -w --insn-width=15 -j .text -j .plt '%s' 2>/dev/null", path);
    pipe = popen(command, "r");
    if (!pipe)
        return 1;
    while (fgets(line, sizeof(line), pipe)) {
        uint8_t bytes[32] = {0};
        unsigned n = read_bytes(line, bytes, 15), length;

        if (!n || is_doubtful(line, bytes, n))
            continue;
        memset(bytes + n, 0, sizeof(bytes) - n);
        length = sp_x86_length(bytes, 15);
        checked++;
        if (length != n && wrong++ < 20)
            fprintf(stderr, "%s: %u bytes, not %u: %s", path, length, n, line);
    }
    pclose(pipe);
    printf("%s: %lu instructions, %lu wrong\n", path, checked, wrong);
    return wrong != 0;
}

int main(int argc, char **argv)
{
    static const char *const usual[] = {
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib64/libc.so.6",
    };
    int failed = 0, seen = 0;

    if (system("objdump --version >/dev/null 2>&1") != 0) {
        puts("skipped: objdump is not installed");
        return SKIPPED;
    }
    for (int i = 1; i < argc; i++)
        failed |= check_file(argv[i]);
    for (size_t i = 0; argc == 1 && i < sizeof(usual) / sizeof(usual[0]); i++)
        if (access(usual[i], R_OK) == 0) {
            failed |= check_file(usual[i]);
            seen++;
        }
    if (argc == 1 && !seen)
        return SKIPPED;
    return failed;
}
