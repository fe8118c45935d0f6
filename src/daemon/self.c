/* SPDX-License-Identifier: Apache-2.0 */
#include "self.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>

static int put_descriptors(posix_spawn_file_actions_t *actions, const struct sp_self *self)
{
    int err = 0;

    for (int i = 0; self->apart && i < SP_SELF_FD && !err; i++)
        err = posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0);
    for (size_t i = 0; i < self->nfds && !err; i++)
        if (self->fd[i] >= 0)
            err = posix_spawn_file_actions_adddup2(actions, self->fd[i], SP_SELF_FD + (int)i);
    return err;
}

static int put_attributes(posix_spawnattr_t *attributes, bool apart)
{
    int flags = POSIX_SPAWN_SETSIGMASK | (apart ? POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID : 0);
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &all);
    return posix_spawnattr_setflags(attributes, (short)flags);
}

int sp_self_start(const struct sp_self *self, pid_t *pid)
{
    char *environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int err = posix_spawn_file_actions_init(&actions);

    if (err)
        return -err;
    err = posix_spawnattr_init(&attributes);
    if (!err) {
        err = put_attributes(&attributes, self->apart);
        if (!err)
            err = put_descriptors(&actions, self);
        if (!err)
            err = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, self->argv, environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return -err;
}

int sp_self_start_pidfd(const struct sp_self *self)
{
    pid_t pid;
    int err = sp_self_start(self, &pid), fd;

    if (err)
        return err;
    fd = pidfd_open(pid, 0);
    return fd < 0 ? -errno : fd;
}
