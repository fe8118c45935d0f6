/* SPDX-License-Identifier: Apache-2.0 */
#include "storage_start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "self.h"

#define KIND  16u /* of the keeper's records: this and the number of the descriptor */
#define ABOVE 32  /* none with a higher number is in the place of one that a process finds */

static const enum sp_storage_fd of_server[] = {SP_STORAGE_DEV, SP_STORAGE_INDEX, SP_STORAGE_PIECES,
                                               SP_STORAGE_PLACE};
static const enum sp_storage_fd of_worker[] = {
    SP_STORAGE_CLONE, SP_STORAGE_MOUNT,  SP_STORAGE_ANSWER, SP_STORAGE_PAGES,
    SP_STORAGE_INDEX, SP_STORAGE_PIECES, SP_STORAGE_PLACE};

struct sp_pool_record sp_storage_record(enum sp_storage_fd which, const struct sp_storage_how *how)
{
    return (struct sp_pool_record){.kind = KIND + (uint32_t)which,
                                   .reserved = {how->memory, how->zstd}};
}

bool sp_storage_of_record(const struct sp_pool_record *record, enum sp_storage_fd *which,
                          struct sp_storage_how *how)
{
    if (record->kind < KIND || record->kind >= KIND + SP_STORAGE_FDS)
        return false;
    *which = (enum sp_storage_fd)(record->kind - KIND);
    *how = (struct sp_storage_how){record->reserved[0], record->reserved[1] != 0};
    return true;
}

bool sp_storage_has_ended(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return pidfd < 0 || poll(&p, 1, 0) > 0;
}

/* Nothing of whoever starts them stays open with them: they live longer, and say nothing. */
static int spawn_with(char **argv, const int fd[SP_STORAGE_FDS], const enum sp_storage_fd *which,
                      size_t n)
{
    int high[SP_STORAGE_FDS], err = 0;

    _Static_assert(SP_STORAGE_FIRST_FD == SP_SELF_FD, "where they look for theirs");
    for (size_t i = 0; i < n; i++) {
        high[i] = fd[which[i]] < 0 ? -1 : fcntl(fd[which[i]], F_DUPFD_CLOEXEC, ABOVE);
        if (high[i] < 0 && fd[which[i]] >= 0)
            err = -errno;
    }
    if (!err)
        err = sp_self_start_pidfd(&(struct sp_self){.argv = argv, .fd = high, .nfds = n, .apart = true});
    for (size_t i = 0; i < n; i++)
        if (high[i] >= 0)
            close(high[i]);
    return err;
}

uint64_t sp_storage_file_bytes(int place)
{
    struct stat st;

    return place < 0 || fstat(place, &st) ? 0 : (uint64_t)st.st_size;
}

int sp_storage_start(const int fd[SP_STORAGE_FDS], enum sp_storage_fd which,
                     const struct sp_storage_how *how, const char *socket)
{
    char memory[24], file[24];
    char *server[] = {(char *)"samepaged", (char *)"--store-server",
                      (char *)(fd[SP_STORAGE_PLACE] < 0 ? "0" : "1"), (char *)socket, NULL};
    char *worker[] = {(char *)"samepaged",
                      (char *)"--store-worker",
                      memory,
                      file,
                      (char *)(how->zstd ? "zstd" : "lz4"),
                      (char *)socket,
                      NULL};

    snprintf(memory, sizeof(memory), "%llu", (unsigned long long)how->memory);
    snprintf(file, sizeof(file), "%llu",
             (unsigned long long)sp_storage_file_bytes(fd[SP_STORAGE_PLACE]));
    if (which == SP_STORAGE_SERVER)
        return spawn_with(server, fd, of_server, sizeof(of_server) / sizeof(of_server[0]));
    return spawn_with(worker, fd, of_worker, sizeof(of_worker) / sizeof(of_worker[0]));
}
