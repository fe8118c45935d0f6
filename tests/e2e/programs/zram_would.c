/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zram_would [DEVICE]: how many bytes zram with lz4 would hold for the pages that are named on
 * stdin, one a line, as "PID ADDRESS" (hexadecimal). Each is packed by itself and takes a multiple
 * of 16 bytes (the size classes of zsmalloc); what does not pack to less than 3264 takes a page.
 * With a DEVICE the pages are written to it, one behind the other, too: a zram's own mm_stat says
 * then what it holds.
 */
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <unistd.h>

#define PAGE   4096u
#define HANDLE 8u    /* of zsmalloc, in each object */
#define HUGE   3264u /* zsmalloc's last class below a page */

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

int main(int argc, char **argv)
{
    static _Alignas(4096) char page[PAGE];
    unsigned long long address, total = 0;
    char packed[LZ4_COMPRESSBOUND(PAGE)];
    int device = -1, pid;

    if (argc > 1) {
        device = open(argv[1], O_WRONLY | O_DIRECT | O_CLOEXEC);
        if (device < 0) {
            perror(argv[1]);
            return 1;
        }
    }
    while (scanf("%d %llx", &pid, &address) == 2) {
        unsigned n;

        if (read_page(pid, address, page) || (device >= 0 && write(device, page, PAGE) != PAGE)) {
            perror("zram_would");
            return 1;
        }
        n = (unsigned)LZ4_compress_default(page, packed, PAGE, sizeof(packed)) + HANDLE;
        total += n < HUGE ? (n + 15) / 16 * 16 : PAGE;
    }
    printf("%llu\n", total);
    return 0;
}
