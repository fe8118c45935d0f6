/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which process is the agent of this one: without one nothing is un-merged, so whoever looks at
 * what was wrong wants to know. Found as the kernel knows it, by the memory that both share.
 * Nothing is allocated: the bytes that were wrong may be malloc's.
 */
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

#define AGENT "samepage-agent\n"

struct entry { /* as getdents64 gives it */
    uint64_t inode, offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

static bool is_called_agent(const char *pid)
{
    char path[64], comm[32];
    ssize_t n = -1;
    int fd;

    snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, comm, sizeof(comm));
        close(fd);
    }
    return n == (ssize_t)strlen(AGENT) && !memcmp(comm, AGENT, (size_t)n);
}

static bool is_ours(const char *name)
{
    pid_t pid = (pid_t)atoi(name);

    return pid > 0 && is_called_agent(name) && !syscall(SYS_kcmp, getpid(), pid, KCMP_VM, 0, 0);
}

void say_its_agent(void)
{
    static _Alignas(struct entry) char buf[16384];
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    unsigned agents = 0;
    long n;

    while (proc >= 0 && (n = syscall(SYS_getdents64, proc, buf, sizeof(buf))) > 0)
        for (long at = 0; at < n; at += ((const struct entry *)(buf + at))->size) {
            const char *name = ((const struct entry *)(buf + at))->name;

            if (is_ours(name)) {
                dprintf(2, "  its agent is pid %s\n", name);
                agents++;
            }
        }
    if (!agents)
        dprintf(2, "  it has no agent that can be seen\n");
    if (proc >= 0)
        close(proc);
}
