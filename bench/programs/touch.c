/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads every page of processes' private memory once, as the processes themselves would.
 *
 * Usage: touch PID...
 *
 * So nothing counts as saved only because it is out of sight: what is swapped out comes back, and
 * where a frame is mapped, the page table has its entry. Read are anonymous memory, but not what
 * was never written (a read would give it a page table), and all private mappings of files that can
 * be written, as those of frames are.
 *
 * Through /proc/PID/mem: process_vm_readv() pins what it reads, and for that the kernel un-merges
 * KSM's pages.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PAGE  4096u
#define BATCH 512u
#define THERE (UINT64_C(3) << 62) /* in an entry of pagemap: present, or swapped out */

static size_t touch_range(int mem, int pagemap, uint64_t start, uint64_t end, bool frames)
{
    uint64_t entries[BATCH];
    size_t touched = 0;
    char byte;

    for (uint64_t at = start; at < end; at += BATCH * (uint64_t)PAGE) {
        size_t want = (end - at) / PAGE < BATCH ? (end - at) / PAGE : BATCH;
        ssize_t got = pread(pagemap, entries, want * sizeof(*entries), (off_t)(at / PAGE * 8));

        for (size_t i = 0; got > 0 && i < (size_t)got / sizeof(*entries); i++) {
            if (frames || (entries[i] & THERE))
                touched += pread(mem, &byte, 1, (off_t)(at + i * PAGE)) == 1;
        }
    }
    return touched;
}

static size_t touch_process(pid_t pid)
{
    char path[64], line[4352], flags[8];
    uint64_t start, end;
    unsigned long inode;
    size_t touched = 0;
    FILE *maps;
    int pagemap, mem;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    pagemap = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    mem = open(path, O_RDONLY | O_CLOEXEC);
    while (maps && pagemap >= 0 && mem >= 0 && fgets(line, sizeof(line), maps)) {
        bool frames;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %lu", &start, &end, flags, &inode) !=
            4)
            continue;
        frames = inode && flags[1] == 'w';
        if (flags[0] == 'r' && flags[3] == 'p' && (!inode || frames) && !strstr(line, "[v"))
            touched += touch_range(mem, pagemap, start, end, frames);
    }
    if (maps)
        fclose(maps);
    if (pagemap >= 0)
        close(pagemap);
    if (mem >= 0)
        close(mem);
    return touched;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("%s %zu\n", argv[i], touch_process((pid_t)atoi(argv[i])));
    return argc < 2 ? 2 : 0;
}
