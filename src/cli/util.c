/* SPDX-License-Identifier: Apache-2.0 */
/* Messages, numbers and output, the same in every command. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SP_LINE_MAX 2048

/* One write, so that a line is never torn by another writer of the same terminal. */
static void say(const char *fmt, va_list args)
{
    char line[SP_LINE_MAX] = "samepage: ";
    size_t len = strlen(line);
    int n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, args);

    if (n < 0)
        return;
    len = strlen(line);
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere left to complain */
}

void sp_say(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(fmt, args);
    va_end(args);
}

int sp_bad_use(const struct sp_command *cmd, const char *fmt, ...)
{
    char what[SP_LINE_MAX / 2];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    sp_say("%s: %s; usage: samepage %s", cmd->name, what, cmd->usage);
    return SP_EXIT_WRONG_USE;
}

int sp_bad_option(const struct sp_command *cmd, char **argv, int result)
{
    const char *word = argv[optind - 1];

    /* getopt_long tells an unknown long option by optopt 0; of the others it names the letter. */
    if (result == ':')
        return sp_bad_use(cmd, "option %s needs a value", word);
    if (!optopt)
        return sp_bad_use(cmd, "unknown option %s", word);
    if (strncmp(word, "--", 2) == 0 && strchr(word, '='))
        return sp_bad_use(cmd, "option %s takes no value", word);
    return sp_bad_use(cmd, "unknown option -%c", optopt);
}

int sp_finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return SP_EXIT_DONE;
    sp_say("cannot write the output: %s", strerror(errno));
    return SP_EXIT_COULD_NOT;
}

bool sp_parse_number(const char *text, uint64_t max, uint64_t *value)
{
    uint64_t sum = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        unsigned digit = (unsigned)(unsigned char)*text - '0';

        if (digit > 9 || sum > (max - digit) / 10 || digit > max)
            return false;
        sum = sum * 10 + digit;
    }
    *value = sum;
    return true;
}

const char *sp_human_bytes(int64_t bytes, char *buf, size_t size)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    unsigned i = 0;

    while ((value >= 1024 || value <= -1024) && i + 1 < sizeof(unit) / sizeof(unit[0])) {
        value /= 1024;
        i++;
    }
    if (i)
        snprintf(buf, size, "%.1f %s", value, unit[i]);
    else
        snprintf(buf, size, "%" PRId64 " B", bytes);
    return buf;
}
