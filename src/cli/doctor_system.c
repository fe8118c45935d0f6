/* SPDX-License-Identifier: Apache-2.0 */
#include "doctor.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include "cli.h"

#define MAPPINGS_USUAL 65530u
#define LIMIT_NONE     (1ull << 60) /* cgroup v1 has a large number for "no limit" */

/* A small file's first line; false if it cannot be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    bool got = f && fgets(line, (int)size, f);

    if (f)
        fclose(f);
    line[got ? strcspn(line, "\n") : 0] = 0;
    return got;
}

static void check_mappings(struct sp_checks *checks)
{
    char line[32];
    uint64_t count = 0;

    read_line("/proc/sys/vm/max_map_count", line, sizeof(line));
    count = strtoull(line, NULL, 10);
    sp_checks_add(checks, "max_map_count",
                  count >= MAPPINGS_USUAL ? SP_STATE_OK
                  : count >= 64           ? SP_STATE_WARNING
                                          : SP_STATE_MISSING,
                  "set vm.max_map_count=65530 or more",
                  "%" PRIu64 " mappings a process, of which merging uses a quarter at most", count);
}

static void check_ksm(struct sp_checks *checks)
{
    static const char folder[] = "/sys/kernel/mm/ksm";
    struct statfs fs;
    char line[32];

    if (statfs(folder, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC) {
        sp_checks_add(checks, "ksmd", SP_STATE_OK, "samepage umount --over-sysfs shows it again",
                      "not seen: \"samepage mount\" lies over %s", folder);
        return;
    }
    read_line("/sys/kernel/mm/ksm/run", line, sizeof(line));
    sp_checks_add(checks, "ksmd", line[0] == '1' ? SP_STATE_WARNING : SP_STATE_OK,
                  "echo 2 > /sys/kernel/mm/ksm/run: both scan the same memory, and what ksmd has "
                  "merged samepage leaves alone",
                  "%s", line[0] == '1' ? "runs at the same time" : "does not run");
}

static void check_huge_pages(struct sp_checks *checks)
{
    char line[80];
    bool always = read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)) &&
                  strstr(line, "[always]");

    sp_checks_add(checks, "huge pages", always ? SP_STATE_WARNING : SP_STATE_OK,
                  "set transparent_hugepage/enabled to madvise if memory matters more than speed",
                  "%s",
                  always ? "always: merging splits them" : "only where programs ask for them");
}

/* The memory controller's limit of the cgroup that a process is in, 0: none that can be seen. */
static uint64_t memory_limit(pid_t pid)
{
    char path[64], line[512], file[700], text[32];
    uint64_t limit = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *controllers = strchr(line, ':'), *group;

        group = controllers ? strchr(++controllers, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        if (!strcmp(controllers, "memory"))
            snprintf(file, sizeof(file), "/sys/fs/cgroup/memory%s/memory.limit_in_bytes", group);
        else if (!*controllers)
            snprintf(file, sizeof(file), "/sys/fs/cgroup%s/memory.max", group);
        else
            continue;
        if (read_line(file, text, sizeof(text)) && text[0] >= '0' && text[0] <= '9')
            limit = strtoull(text, NULL, 10);
    }
    if (f)
        fclose(f);
    return limit < LIMIT_NONE ? limit : 0;
}

static void check_cgroup(struct sp_checks *checks, pid_t daemon)
{
    uint64_t limit = daemon > 0 ? memory_limit(daemon) : 0;
    char bytes[32];

    if (limit)
        sp_checks_add(checks, "cgroup", SP_STATE_WARNING,
                      "raise the limit: the frames of all programs are charged there",
                      "the daemon's memory is limited to %s",
                      sp_human_bytes((int64_t)limit, bytes, sizeof(bytes)));
    else
        sp_checks_add(checks, "cgroup", SP_STATE_OK, NULL, "%s",
                      daemon > 0 ? "the daemon's memory is not limited" : "no daemon runs");
}

static unsigned count_nodes(void)
{
    DIR *dir = opendir("/sys/devices/system/node");
    struct dirent *entry;
    unsigned n = 0, number;

    while (dir && (entry = readdir(dir)))
        n += sscanf(entry->d_name, "node%u", &number) == 1;
    if (dir)
        closedir(dir);
    return n;
}

static void check_numa(struct sp_checks *checks)
{
    unsigned nodes = count_nodes();

    sp_checks_add(checks, "NUMA", nodes > 1 ? SP_STATE_WARNING : SP_STATE_OK,
                  "samepage set merge_across_nodes=0, while nothing is merged, if distance matters",
                  nodes > 1 ? "%u nodes: a frame lies on one of them" : "%u node",
                  nodes ? nodes : 1);
}

/* As the daemon does (decision 0017): there frames would count besides what programs are charged. */
static void check_accounting(struct sp_checks *checks)
{
    char line[32];
    bool strict = read_line("/proc/sys/vm/overcommit_memory", line, sizeof(line)) && line[0] == '2';

    sp_checks_add(checks, "accounting", strict ? SP_STATE_MISSING : SP_STATE_OK,
                  "set vm.overcommit_memory=0 or 1", "%s",
                  strict ? "strict (vm.overcommit_memory is 2): nothing is merged" : "not strict");
}

#define DAMON "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds"

/* As the daemon does (src/daemon/damon.h). */
static bool has_damon(void)
{
    return access(DAMON, W_OK) == 0;
}

static void check_swap(struct sp_checks *checks)
{
    FILE *f = fopen("/proc/swaps", "re");
    char line[256];
    unsigned n = 0;

    while (f && fgets(line, sizeof(line), f))
        n++;
    if (f)
        fclose(f);
    sp_checks_add(checks, "swap", SP_STATE_OK, NULL, "%s",
                  n <= 1        ? "none"
                  : has_damon() ? "there is some: merged pages are swapped as others are, and by \"samepage reclaim\""
                  : access(DAMON, F_OK)
                      ? "there is some: merged pages are swapped as others are; \"samepage reclaim\" sends none there (no DAMON)"
                      : "there is some: merged pages are swapped as others are; \"samepage reclaim\" sends them there for root's "
                        "daemon alone");
}

/* Nothing to put right: it is off where nobody asked for it. */
static void check_store(struct sp_checks *checks)
{
    bool fuse = access("/dev/fuse", R_OK | W_OK) == 0, told = access("/proc/pressure/memory", R_OK) == 0;
    bool there = access("/dev/fuse", F_OK) == 0;

    sp_checks_add(checks, "store", SP_STATE_OK, NULL, "%s",
                  !there ? "no /dev/fuse (modprobe fuse): frames leave memory for swap alone"
                  : !fuse ? "this user may not open /dev/fuse: frames leave memory under root's daemon, or a store of "
                            "one's own needs it with mode 666"
                  : told ? "frames can leave memory (swap = store in samepaged.conf), also by themselves"
                         : "frames can leave memory (swap = store in samepaged.conf); this kernel does not tell when "
                           "memory is short (no PSI)");
}

void sp_doctor_system(struct sp_checks *checks, pid_t daemon)
{
    check_mappings(checks);
    check_ksm(checks);
    check_huge_pages(checks);
    check_cgroup(checks, daemon);
    check_numa(checks);
    check_swap(checks);
    check_store(checks);
    check_accounting(checks);
}
