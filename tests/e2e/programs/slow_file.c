/* SPDX-License-Identifier: Apache-2.0 */
/* A file system that has files of all names, whose flushes and writes end when our standard input does. */
#define FUSE_USE_VERSION 31
#include <fuse3/fuse.h>

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int get_attributes(const char *path, struct stat *st, struct fuse_file_info *file)
{
    bool is_file = strcmp(path, "/") != 0;

    memset(st, 0, sizeof(*st));
    st->st_mode = is_file ? S_IFREG | 0666 : S_IFDIR | 0755;
    st->st_size = is_file ? 65536 : 0;
    st->st_nlink = 1;
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *file)
{
    return 0;
}

static void wait_for_the_end(void)
{
    char byte;

    while (read(0, &byte, 1) > 0)
        ;
}

static int read_file(const char *path, char *bytes, size_t size, off_t at, struct fuse_file_info *file)
{
    memset(bytes, 0, size);
    return (int)size;
}

static int write_file(const char *path, const char *bytes, size_t size, off_t at, struct fuse_file_info *file)
{
    wait_for_the_end();
    return (int)size;
}

static int flush(const char *path, struct fuse_file_info *file)
{
    wait_for_the_end();
    return 0;
}

int main(int argc, char **argv)
{
    const struct fuse_operations operations = {
        .getattr = get_attributes, .open = open_file, .read = read_file, .write = write_file, .flush = flush};

    return fuse_main(argc, argv, &operations, NULL);
}
