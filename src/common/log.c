/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SP_LOG_LINE 512

static int log_fd = -1;
static bool log_owned; /* log_fd is a file of ours, and lines carry the time */

static void log_set(int fd, bool owned)
{
    if (log_owned)
        close(log_fd);
    log_fd = fd;
    log_owned = owned;
}

void sp_log_to_stderr(void)
{
    log_set(STDERR_FILENO, false);
}

void sp_log_to_nowhere(void)
{
    log_set(-1, false);
}

int sp_log_to_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);

    if (fd < 0)
        return -errno;
    log_set(fd, true);
    return 0;
}

static size_t log_prefix(char *line, size_t size, enum sp_log_level level)
{
    static const char *const word[] = {"error: ", "warning: ", ""};
    struct timespec now = {0};
    struct tm tm = {0};
    char stamp[32];
    int n;

    if (!log_owned)
        return (size_t)snprintf(line, size, "samepaged: %s", word[level]);
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    n = snprintf(line, size, "%s samepaged[%d]: %s", stamp, (int)getpid(), word[level]);
    return n < 0 ? 0 : (size_t)n;
}

void sp_log(enum sp_log_level level, const char *format, ...)
{
    int saved = errno;
    char line[SP_LOG_LINE];
    size_t used;
    ssize_t written;
    va_list args;
    int n;

    if (log_fd < 0)
        return;
    used = log_prefix(line, sizeof(line), level);
    errno = saved; /* for %m */
    va_start(args, format);
    n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    va_end(args);
    if (n > 0)
        used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
    line[used++] = '\n';
    written = write(log_fd, line, used);
    (void)written; /* a log that cannot be written is no reason to stop */
    errno = saved;
}

const char *sp_log_name(char *buf, size_t size, const char *name, size_t name_size)
{
    size_t i;

    for (i = 0; i + 1 < size && i < name_size && name[i]; i++)
        buf[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
    buf[i] = 0;
    return buf;
}
