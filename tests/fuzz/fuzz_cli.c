/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: what a user types and what a program's file holds is read within bounds: numbers mean what
 * they say, a domain's name is one that the daemon takes, LD_PRELOAD keeps all but our own agent,
 * and any file can be looked at.
 */
#include <sys/mman.h>

#include "fuzz.h"

/* Names and LD_PRELOAD are one command's own. */
#include "../../src/cli/cmd_run.c"

static void check_number(const char *text, uint64_t max)
{
    uint64_t value = 0;
    unsigned __int128 sum = 0;
    bool right = *text != 0;

    for (const char *p = text; *p && right; p++) {
        right = *p >= '0' && *p <= '9';
        sum = sum * 10 + (unsigned)(*p - '0');
        right = right && sum <= max;
    }
    expect(sp_parse_number(text, max, &value) == right);
    expect(!right || value == sum);
}

static void check_preload(const char *text)
{
    const char *value;

    expect(setenv("LD_PRELOAD", text, 1) == 0);
    expect(set_preload("/lib/" AGENT_NAME) == 0);
    value = getenv("LD_PRELOAD");
    expect(value && strncmp(value, "/lib/" AGENT_NAME, strlen("/lib/" AGENT_NAME)) == 0);
    expect(set_preload(NULL) == 0);
    value = getenv("LD_PRELOAD");
    for (const char *p = value; p && *p;) {
        size_t len = strcspn(p, ": ");

        expect(!is_agent(p, len));
        p += len + (p[len] != 0);
    }
    unsetenv("LD_PRELOAD");
}

static void check_file(const uint8_t *data, size_t size)
{
    static char path[32];
    static int fd = -1;

    if (fd < 0) {
        fd = memfd_create("program", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    expect(ftruncate(fd, 0) == 0);
    expect(pwrite(fd, data, size, 0) == (ssize_t)size);
    (void)sp_exe_objection(path);
    (void)sp_exe_is_elf(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t max[] = {2, 9, 10, UINT32_MAX, UINT64_MAX};
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    for (size_t i = 0; i < sizeof(max) / sizeof(max[0]); i++)
        check_number(text, max[i]);
    if (domain_is_valid(text))
        expect(strlen(text) < SP_DOMAIN_MAX && !strpbrk(text, ":/ \n"));
    check_preload(text);
    check_file(data, size);
    free(text);
    return 0;
}
