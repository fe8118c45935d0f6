/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel asks of the file system, answered as sysfs does (docs/ksmfs.md has where not).
 *
 * A read at the beginning, or one that does not go on where the last one ended, asks the daemon;
 * one that goes on has the rest of that text. So a value is never torn, and a program that keeps a
 * file open and seeks to 0 has the present value (seq_file does the same for sysfs).
 */
#include "ksmfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define BLOCK_SIZE 4096 /* of what sysfs says of a file: its size, and a block's */

struct open_file {
    struct ksmfs_place place;
    uid_t uid;            /* who opened it */
    pthread_mutex_t lock; /* of what follows */
    char text[KSMFS_TEXT_MAX];
    size_t size;
    off_t next; /* where the last read ended */
};

static struct open_file *file_of(const struct fuse_file_info *fi)
{
    return (struct open_file *)(uintptr_t)fi->fh;
}

/* The caller; -1 is nobody whom the daemon could know. */
static uid_t caller(void)
{
    return fuse_get_context()->uid;
}

/* Is that domain or process there, for the caller? 0, -ENOENT, or why it cannot be said. */
static int check_there(const struct ksmfs_place *place)
{
    char text[KSMFS_TEXT_MAX];
    json_object *answer;
    int err = 0;

    if (*place->domain)
        return ksmfs_get(caller(), place->domain, "run", text, sizeof(text));
    if (place->pid) {
        err = ksmfs_process(caller(), place->pid, &answer);
        json_object_put(err ? NULL : answer);
    }
    return err == -ESRCH ? -ENOENT : err;
}

static int find(const char *path, struct ksmfs_place *place)
{
    int err = ksmfs_place_of(path, place);

    return err ? err : check_there(place);
}

static mode_t mode_of(const struct ksmfs_place *place)
{
    if (ksmfs_is_dir(place))
        return S_IFDIR | 0755;
    return S_IFREG | (ksmfs_is_writable(place) ? 0644 : 0444);
}

static void describe(const struct ksmfs_place *place, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = mode_of(place);
    st->st_nlink = ksmfs_is_dir(place) ? 2 : 1;
    st->st_uid = geteuid();
    st->st_gid = getegid();
    st->st_size = place->kind == KSMFS_SETTING ? BLOCK_SIZE : 0;
    st->st_blksize = BLOCK_SIZE;
    clock_gettime(CLOCK_REALTIME_COARSE, &st->st_mtim);
    st->st_atim = st->st_ctim = st->st_mtim;
}

static int ksmfs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    struct ksmfs_place place;
    int err = 0;

    if (fi && !path)
        place = file_of(fi)->place;
    else
        err = find(path, &place);
    if (!err)
        describe(&place, st);
    return err;
}

/* Remembers the place and who opened it. */
static int new_file(const struct ksmfs_place *place, struct fuse_file_info *fi)
{
    struct open_file *file = calloc(1, sizeof(*file));

    if (!file)
        return -ENOMEM;
    file->place = *place;
    file->uid = caller();
    pthread_mutex_init(&file->lock, NULL);
    fi->fh = (uintptr_t)file;
    return 0;
}

static int ksmfs_open(const char *path, struct fuse_file_info *fi)
{
    bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;
    struct ksmfs_place place;
    int err = find(path, &place);

    if (err)
        return err;
    if (writes && !ksmfs_is_writable(&place))
        return -EACCES; /* sysfs says so to root too, whom modes do not stop */
    if (fi->flags & O_DIRECT)
        return -EINVAL;
    fi->direct_io = 1;
    fi->noflush = 1; /* a close has nothing to say, also when the server is gone */
    return new_file(&place, fi);
}

static int ksmfs_opendir(const char *path, struct fuse_file_info *fi)
{
    struct ksmfs_place place;
    int err = find(path, &place);

    return err ? err : new_file(&place, fi);
}

static int ksmfs_release(const char *path, struct fuse_file_info *fi)
{
    pthread_mutex_destroy(&file_of(fi)->lock);
    free(file_of(fi));
    return 0;
}

static int64_t number(json_object *answer, const char *key)
{
    return json_object_get_int64(json_object_object_get(answer, key));
}

static const char *yes_no(json_object *answer, const char *key)
{
    return json_object_get_boolean(json_object_object_get(answer, key)) ? "yes" : "no";
}

/* As fs/proc/base.c writes them. */
static int show_process(const struct open_file *file, char text[KSMFS_TEXT_MAX])
{
    json_object *answer;
    int err = ksmfs_process(file->uid, file->place.pid, &answer);

    if (err)
        return err;
    if (file->place.kind == KSMFS_MERGING)
        snprintf(text, KSMFS_TEXT_MAX, "%" PRId64 "\n", number(answer, "ksm_merging_pages"));
    else
        snprintf(text, KSMFS_TEXT_MAX,
                 "ksm_rmap_items %" PRId64 "\nksm_zero_pages %" PRId64
                 "\nksm_merging_pages %" PRId64 "\nksm_process_profit %" PRId64
                 "\nksm_merge_any: %s\nksm_mergeable: %s\n",
                 number(answer, "ksm_rmap_items"), number(answer, "ksm_zero_pages"),
                 number(answer, "ksm_merging_pages"), number(answer, "ksm_process_profit"),
                 yes_no(answer, "ksm_merge_any"), yes_no(answer, "ksm_mergeable"));
    json_object_put(answer);
    return 0;
}

/* A file of a domain that is gone says what one of a device that is gone says. */
static int gone(const struct ksmfs_place *place, int err)
{
    return err == -ENOENT && *place->domain ? -ENODEV : err;
}

/* The present text of a file, from the daemon: without the lock, for that may take long. */
static int ask_text(const struct open_file *file, char text[KSMFS_TEXT_MAX])
{
    int err;

    if (file->place.kind == KSMFS_SETTING)
        err = ksmfs_get(file->uid, file->place.domain, file->place.setting->key, text,
                        KSMFS_TEXT_MAX - 1);
    else
        err = show_process(file, text);
    if (err)
        return gone(&file->place, err);
    if (file->place.kind == KSMFS_SETTING)
        strcat(text, "\n");
    return 0;
}

static void take_text(struct open_file *file, const char *text)
{
    file->size = strlen(text);
    memcpy(file->text, text, file->size);
}

static size_t copy_text(struct open_file *file, char *buf, size_t size, off_t offset)
{
    size_t n = 0;

    if (offset < (off_t)file->size) {
        n = file->size - (size_t)offset;
        n = n < size ? n : size;
        memcpy(buf, file->text + offset, n);
    }
    file->next = offset + (off_t)n;
    return n;
}

static int ksmfs_read(const char *path, char *buf, size_t size, off_t offset,
                      struct fuse_file_info *fi)
{
    struct open_file *file = file_of(fi);
    char text[KSMFS_TEXT_MAX];
    size_t n = 0;
    bool goes_on;
    int err;

    pthread_mutex_lock(&file->lock);
    goes_on = offset && offset == file->next;
    if (goes_on)
        n = copy_text(file, buf, size, offset);
    pthread_mutex_unlock(&file->lock);
    if (goes_on)
        return (int)n;
    err = ask_text(file, text);
    if (err)
        return err;
    pthread_mutex_lock(&file->lock);
    take_text(file, text);
    n = copy_text(file, buf, size, offset);
    pthread_mutex_unlock(&file->lock);
    return (int)n;
}

/* The offset means nothing, as in sysfs. */
static int ksmfs_write(const char *path, const char *buf, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    const struct open_file *file = file_of(fi);
    char text[SP_SETTING_TEXT_SIZE];
    int err;

    err = ksmfs_written(file->place.setting, buf, size, text);
    if (!err)
        err = ksmfs_set(file->uid, file->place.domain, file->place.setting->key, text);
    if (err)
        return gone(&file->place, err);
    return (int)(size < KSMFS_WRITE_MAX ? size : KSMFS_WRITE_MAX);
}

/* Directories. */

static void list_settings(void *buf, fuse_fill_dir_t fill)
{
    for (unsigned i = 0; i < SP_KEYS; i++)
        if (ksmfs_shows(&sp_settings[i]))
            fill(buf, sp_settings[i].key, NULL, 0, 0);
}

static int list_domains(uid_t uid, void *buf, fuse_fill_dir_t fill)
{
    json_object *answer, *names;
    int err = ksmfs_domains(uid, &answer);

    if (err)
        return err;
    names = json_object_object_get(answer, "domains");
    for (size_t i = 0; names && i < json_object_array_length(names); i++) {
        const char *domain = json_object_get_string(json_object_array_get_idx(names, i));

        if (domain && *domain && !strchr(domain, '/'))
            fill(buf, domain, NULL, 0, 0);
    }
    json_object_put(answer);
    return 0;
}

static int list_processes(uid_t uid, void *buf, fuse_fill_dir_t fill)
{
    json_object *answer, *processes;
    char name[16];
    int err = ksmfs_processes(uid, &answer);

    if (err)
        return err;
    processes = json_object_object_get(answer, "processes");
    for (size_t i = 0; processes && i < json_object_array_length(processes); i++) {
        snprintf(name, sizeof(name), "%d",
                 (int)number(json_object_array_get_idx(processes, i), "pid"));
        fill(buf, name, NULL, 0, 0);
    }
    json_object_put(answer);
    return 0;
}

static int ksmfs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
                         struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    const struct open_file *dir = file_of(fi);

    fill(buf, ".", NULL, 0, 0);
    fill(buf, "..", NULL, 0, 0);
    if (dir->place.kind == KSMFS_DOMAINS)
        return list_domains(dir->uid, buf, fill);
    if (dir->place.kind == KSMFS_PROC)
        return list_processes(dir->uid, buf, fill);
    if (dir->place.kind == KSMFS_PID) {
        fill(buf, "ksm_merging_pages", NULL, 0, 0);
        fill(buf, "ksm_stat", NULL, 0, 0);
        return 0;
    }
    list_settings(buf, fill);
    if (dir->place.kind == KSMFS_ROOT) {
        fill(buf, "domains", NULL, 0, 0);
        fill(buf, "proc", NULL, 0, 0);
    }
    return 0;
}

/* What changes nothing. */

static int ksmfs_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    return 0;
}

static int ksmfs_utimens(const char *path, const struct timespec tv[2], struct fuse_file_info *fi)
{
    return 0;
}

/* Modes and owners cannot be changed: the daemon decides who may. */
static int ksmfs_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    struct ksmfs_place place;
    int err = 0;

    if (fi && !path)
        place = file_of(fi)->place;
    else
        err = find(path, &place);
    if (err)
        return err;
    return (mode & 07777) == (mode_of(&place) & 07777) ? 0 : -EPERM;
}

static int ksmfs_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
    bool same = (uid == (uid_t)-1 || uid == geteuid()) && (gid == (gid_t)-1 || gid == getegid());

    return same ? 0 : -EPERM;
}

static int ksmfs_statfs(const char *path, struct statvfs *st)
{
    memset(st, 0, sizeof(*st));
    st->f_bsize = st->f_frsize = BLOCK_SIZE;
    st->f_namemax = NAME_MAX;
    return 0;
}

/* What is refused, with the errno of sysfs. */

static int ksmfs_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    return -EACCES;
}

static int ksmfs_mknod(const char *path, mode_t mode, dev_t dev)
{
    return S_ISREG(mode) ? -EACCES : -EPERM;
}

static int ksmfs_mkdir(const char *path, mode_t mode)
{
    return -EPERM;
}

static int ksmfs_remove(const char *path)
{
    return -EPERM;
}

static int ksmfs_link(const char *from, const char *to)
{
    return -EPERM;
}

static int ksmfs_rename(const char *from, const char *to, unsigned flags)
{
    return -EPERM;
}

/* Nothing is remembered of names and attributes, for they depend on who asks. */
static void *ksmfs_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
    config->nullpath_ok = 1;
    config->intr = 1; /* a signal to a program that waits for us ends our waiting */
    config->intr_signal = KSMFS_INTERRUPT;
    return NULL;
}

const struct fuse_operations ksmfs_operations = {
    .init = ksmfs_init,
    .getattr = ksmfs_getattr,
    .open = ksmfs_open,
    .release = ksmfs_release,
    .read = ksmfs_read,
    .write = ksmfs_write,
    .opendir = ksmfs_opendir,
    .releasedir = ksmfs_release,
    .readdir = ksmfs_readdir,
    .truncate = ksmfs_truncate,
    .utimens = ksmfs_utimens,
    .chmod = ksmfs_chmod,
    .chown = ksmfs_chown,
    .statfs = ksmfs_statfs,
    .create = ksmfs_create,
    .mknod = ksmfs_mknod,
    .mkdir = ksmfs_mkdir,
    .unlink = ksmfs_remove,
    .rmdir = ksmfs_remove,
    .symlink = ksmfs_link,
    .link = ksmfs_link,
    .rename = ksmfs_rename,
};
