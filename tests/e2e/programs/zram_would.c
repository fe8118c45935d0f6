/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zram_would: how many bytes zram with lz4 would hold for the pages that are named on stdin, one a
 * line, as "PID ADDRESS" (hexadecimal). Each is packed by itself and takes a multiple of 16 bytes
 * (the size classes of zsmalloc); what does not pack to less than 3264 takes a page.
 */
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <unistd.h>

#define PAGE 4096u
#define HUGE 3264u /* zsmalloc's last class below a page */

static int read_page(int pid, unsigned long long address, char *to)
{
    char path[32];
    int fd;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    n = pread(fd, to, PAGE, (off_t)address);
    close(fd);
    return n == PAGE ? 0 : -1;
}

int main(void)
{
    unsigned long long address, total = 0;
    char page[PAGE], packed[LZ4_COMPRESSBOUND(PAGE)];
    int pid;

    while (scanf("%d %llx", &pid, &address) == 2) {
        unsigned n;

        if (read_page(pid, address, page)) {
            perror("zram_would");
            return 1;
        }
        n = (unsigned)LZ4_compress_default(page, packed, PAGE, sizeof(packed));
        total += n && n < HUGE ? (n + 15) / 16 * 16 : PAGE;
    }
    printf("%llu\n", total);
    return 0;
}
