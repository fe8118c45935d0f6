/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ksmfs: the files of /sys/kernel/mm/ksm, of samepage's values, for programs that know KSM.
 *
 * What exists. A **place** is what a path of the mount names (path.c): a directory, a file of a
 * setting or counter of src/common/settings.h (of the daemon, or below domains/NAME/ of one
 * domain), or a file of a process below proc/PID/. An **open file** (files.c) is a place and the
 * one who opened it, with the text that it read last. The server knows no value and keeps none:
 * every read and write is one request to the daemon (ask.c, docs/control.md) on a connection of its
 * own. So it needs not be told when the daemon dies or starts: while there is none, reads and
 * writes are EIO.
 *
 * Who sees what. The kernel checks modes and owner as for any file (default_permissions). What a
 * file says is the daemon's to decide: root's server names the user who opened the file in each
 * request ("uid"), and the daemon answers as it would that user. Nothing is cached, in the kernel
 * neither (no timeouts, direct I/O), so no user finds what another one looked up.
 *
 * Threads. libfuse calls in here from several at once; only an open file's text is shared, under
 * its lock, with which nobody waits. A request that waits holds one thread: at most half a minute, or, for run 2, as
 * long as the daemon answers others. It ends early when the one who waits is interrupted, or the server
 * told to end. So that writers never take all threads from the readers, there is a most of them.
 */
#ifndef SP_KSMFS_KSMFS_H
#define SP_KSMFS_KSMFS_H

#define FUSE_USE_VERSION 312

#include <fuse.h>
#include <fuse_lowlevel.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "settings.h"
#include "wire.h"

#define KSMFS_DOMAIN_SIZE (SP_DOMAIN_MAX + 16) /* "u<uid>:<name>", with its 0: no / is in it */
#define KSMFS_TEXT_MAX    512                  /* what a file says, at most */
#define KSMFS_INTERRUPT   SIGUSR1
#define KSMFS_WRITE_MAX   4096 /* bytes that one write takes, as sysfs */
#define KSMFS_THREADS_MAX 64 /* that may wait for the daemon at once */
#define KSMFS_WRITERS_MAX (KSMFS_THREADS_MAX / 2) /* of them */

enum ksmfs_kind {
    KSMFS_ROOT,
    KSMFS_DOMAINS,
    KSMFS_DOMAIN,
    KSMFS_PROC,
    KSMFS_PID,
    KSMFS_SETTING, /* of the daemon where domain is empty */
    KSMFS_STAT,    /* proc/PID/ksm_stat */
    KSMFS_MERGING, /* proc/PID/ksm_merging_pages */
};

struct ksmfs_place {
    enum ksmfs_kind kind;
    const struct sp_setting *setting;
    char domain[KSMFS_DOMAIN_SIZE];
    pid_t pid;
};

/* path.c: pure. */

/* What the path names. 0, or -ENOENT; whether a domain or process is there only the daemon knows.
 */
int ksmfs_place_of(const char *path, struct ksmfs_place *place);
bool ksmfs_is_dir(const struct ksmfs_place *place);
bool ksmfs_is_writable(const struct ksmfs_place *place);
/* Is it one of KSM's files (max_mappings is not)? */
bool ksmfs_shows(const struct sp_setting *setting);
/*
 * What size bytes written to the setting's file mean, as sysfs reads them: at most 4096 of them, up
 * to the first 0, one newline at the end left out. Writes the value as the daemon wants it to text.
 * 0, or -EINVAL or -ERANGE as the kernel's file has it.
 */
int ksmfs_written(const struct sp_setting *setting, const char *data, size_t size,
                  char text[SP_SETTING_TEXT_SIZE]);

/* ask.c: the daemon. All return 0 or a negative errno: the one that the daemon named, -EIO where no
 * daemon answers, -EINTR where the caller was interrupted. uid is whom to answer. */

/* Says where the daemon listens, and which server may be told to end. Before anything else. */
void ksmfs_ask_init(const char *socket_path, struct fuse *fuse);
/* The value of a setting or counter, of a domain where that is not empty, without newline. */
int ksmfs_get(uid_t uid, const char *domain, const char *key, char *text, size_t size);
/* Also -EAGAIN: too many others wait for theirs. Of run 2 it waits for the end of it. */
int ksmfs_set(uid_t uid, const char *domain, const char *key, const char *text);
/* The answers to domains, ps and process; the caller's: json_object_put(). Process: -ESRCH where it
 * is not merged, or not that user's. */
int ksmfs_domains(uid_t uid, json_object **answer);
int ksmfs_processes(uid_t uid, json_object **answer);
int ksmfs_process(uid_t uid, pid_t pid, json_object **answer);

/* files.c */
extern const struct fuse_operations ksmfs_operations;

/* mounts.c */
struct ksmfs_mount {
    unsigned id;
    bool ours; /* a ksmfs */
};

/* Writes the absolute path of a mount point, which may be a dead one. 0 or a negative errno. */
int ksmfs_mount_path(const char *dir, char *path, size_t size);
/* What is mounted there, uppermost. 0, -ENOENT: nothing, or another negative errno. */
int ksmfs_mount_find(const char *path, struct ksmfs_mount *mount);
/* Is its server gone? */
bool ksmfs_mount_is_dead(const char *path);
/* Takes the uppermost mount away; files that are open in it stay so. 0 or a negative errno. */
int ksmfs_mount_remove(const char *path);

#endif
