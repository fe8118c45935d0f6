/* SPDX-License-Identifier: Apache-2.0 */
/* A file system with one file, "file", whose flush ends when our standard input does. */
#define FUSE_USE_VERSION 31
#include <fuse3/fuse.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int get_attributes(const char *path, struct stat *st, struct fuse_file_info *file)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = strcmp(path, "/") ? S_IFREG | 0644 : S_IFDIR | 0755;
    st->st_nlink = 1;
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *file)
{
    return 0;
}

static int flush(const char *path, struct fuse_file_info *file)
{
    char byte;

    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}

int main(int argc, char **argv)
{
    const struct fuse_operations operations = {
        .getattr = get_attributes, .open = open_file, .flush = flush};

    return fuse_main(argc, argv, &operations, NULL);
}
