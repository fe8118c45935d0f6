/* SPDX-License-Identifier: Apache-2.0 */
#include "storage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "log.h"
#include "looks.h"
#include "stalls.h"
#include "storage_start.h"
#include "store_fuse.h"
#include "store_place.h"

struct sp_storage {
    struct sp_daemon *daemon;
    int fd[SP_STORAGE_FDS];
    struct sp_store_link *link;
    sd_event_source *server, *worker;
    uint64_t started_at[2]; /* us: of a process that ends at once the next one waits */
    bool told;
    bool watched;                        /* the event loop has them */
    bool new_worker;                     /* has no connections of agents yet */
    uint64_t lost;                       /* frames that somebody could not have (S8) */
    uint32_t write_errors;               /* of the worker's file, that were logged */
    uint64_t *locked[SP_STORE_SEGMENTS]; /* bits: frames with a locked site */
    uint64_t *back[SP_STORE_SEGMENTS];   /* bits: frames that came back, and nobody asked since */
};

#define RESTART_USECS 100000u

/* ---- its processes ---- */

/* The source first: the keeper has this open file, too, so closing does not end its events, and
 * sd-event aborts when one comes of a source that is gone. */
static void forget_process(struct sp_storage *storage, int which)
{
    sd_event_source **source = which == SP_STORAGE_SERVER ? &storage->server : &storage->worker;

    *source = sd_event_source_disable_unref(*source);
    if (storage->fd[which] >= 0)
        close(storage->fd[which]);
    storage->fd[which] = -1;
}

static struct sp_storage_how how(const struct sp_storage *storage)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;

    return (struct sp_storage_how){config->memory, config->zstd};
}

static int start(struct sp_storage *storage, int which)
{
    uint64_t now = sp_now_usecs(), *started_at = &storage->started_at[which == SP_STORAGE_WORKER];
    const struct sp_storage_how as = how(storage);
    int fd;

    if (now < *started_at + RESTART_USECS)
        return -EAGAIN;
    *started_at = now;
    fd = sp_storage_start(storage->fd, (enum sp_storage_fd)which, &as,
                          storage->daemon->config.socket);
    if (fd < 0) {
        if (!storage->told)
            sp_log(SP_LOG_ERROR, "cannot start the store's %s: %s",
                   which == SP_STORAGE_SERVER ? "server" : "worker", strerror(-fd));
        storage->told = true;
        return fd;
    }
    forget_process(storage, which);
    storage->fd[which] = fd;
    return 0;
}

static void reap(const struct sp_storage *storage, int which)
{
    siginfo_t info;

    if (storage->fd[which] >= 0)
        (void)waitid(P_PIDFD, (id_t)storage->fd[which], &info, WEXITED | WNOHANG);
}

static void keep_one(struct sp_storage *storage, int which)
{
    const struct sp_storage_how as = how(storage);
    struct sp_pool_record record = sp_storage_record((enum sp_storage_fd)which, &as);

    if (storage->fd[which] >= 0 && storage->daemon->keeper)
        (void)sp_keeper_put_pool(storage->daemon->keeper, &record, storage->fd[which]);
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *arg);

static int watch_one(struct sp_storage *storage, int which)
{
    sd_event_source **source = which == SP_STORAGE_SERVER ? &storage->server : &storage->worker;

    *source = sd_event_source_disable_unref(*source);
    if (!storage->daemon->event || storage->fd[which] < 0)
        return 0;
    return sd_event_add_io(storage->daemon->event, source, storage->fd[which], EPOLLIN, on_end,
                           storage);
}

/* 1: it was started anew, 0: it runs, or a negative errno. */
static int restart(struct sp_storage *storage, int which)
{
    int err;

    if (!sp_storage_has_ended(storage->fd[which]))
        return 0;
    reap(storage, which);
    err = start(storage, which);
    if (err)
        return err;
    keep_one(storage, which);
    if (storage->watched)
        (void)watch_one(storage, which);
    return 1;
}

/* The server first: the worker may not end before there is one (sp_store_tend_fn). */
static int tend(void *arg)
{
    struct sp_storage *storage = arg;
    int server = restart(storage, SP_STORAGE_SERVER), worker = restart(storage, SP_STORAGE_WORKER);

    if (server == 1 || worker == 1)
        sp_log(SP_LOG_WARNING, "the store's %s ended; a new one goes on",
               server != 1   ? "worker"
               : worker != 1 ? "server"
                             : "processes");
    storage->new_worker |= worker == 1;
    /* It is tried again shortly: whoever asks has patience. */
    return worker == 1;
}

/* Not while it is asked something. */
static void give_agents(struct sp_storage *storage)
{
    if (!storage->new_worker)
        return;
    storage->new_worker = false;
    sp_stall_give_all(storage->daemon);
}

void sp_storage_tend(struct sp_storage *storage)
{
    if (!storage)
        return;
    (void)tend(storage);
    give_agents(storage);
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_storage *storage = arg;

    sp_storage_tend(storage);
    /* Not yet, or it cannot be started: the next second has it tried again, see below. */
    if (source == storage->server || source == storage->worker)
        (void)sd_event_source_set_enabled(
            source,
            sp_storage_has_ended(sd_event_source_get_io_fd(source)) ? SD_EVENT_OFF : SD_EVENT_ON);
    return 0;
}

/* ---- its beginning and its end ---- */

bool sp_storage_is_record(const struct sp_pool_record *record)
{
    struct sp_storage_how as;
    enum sp_storage_fd which;

    return sp_storage_of_record(record, &which, &as);
}

static struct sp_storage *storage_alloc(struct sp_daemon *daemon)
{
    struct sp_storage *storage = calloc(1, sizeof(*storage));

    if (!storage)
        return NULL;
    storage->daemon = daemon;
    for (int i = 0; i < SP_STORAGE_FDS; i++)
        storage->fd[i] = -1;
    return storage;
}

/* fd: that, or -1 with its errno. */
static int take(struct sp_storage *storage, int which, int fd)
{
    if (fd < 0)
        return -errno;
    storage->fd[which] = fd;
    return 0;
}

static int make_file(struct sp_storage *storage, char *why, size_t why_size)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;
    int fd;

    if (!config->file[0])
        return 0;
    fd = sp_store_place(config->file, config->size, why, why_size);
    return fd < 0 ? fd : take(storage, SP_STORAGE_PLACE, fd);
}

static int make_memory(struct sp_storage *storage)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;
    const struct sp_store_config store_config = {
        .codec = config->zstd ? SP_STORE_ZSTD : SP_STORE_LZ4,
        .memory_bytes = config->memory,
        .file = storage->fd[SP_STORAGE_PLACE],
        .file_bytes = config->size,
        .encrypt = config->encrypt,
    };
    size_t bytes = SP_STORE_PAGES * (size_t)storage->daemon->page_size;
    int pair[2], fd[SP_STORE_FDS], err;
    struct sp_store *store;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    err = take(storage, SP_STORAGE_ASK, pair[0]);
    if (take(storage, SP_STORAGE_ANSWER, pair[1]) || err)
        return -EMFILE;
    err = take(storage, SP_STORAGE_PAGES, memfd_create("samepage-store-pages", MFD_CLOEXEC));
    if (!err && ftruncate(storage->fd[SP_STORAGE_PAGES], (off_t)bytes))
        err = -errno;
    if (!err)
        err = sp_store_new(&store, &store_config);
    if (err)
        return err;
    sp_store_fds(store, fd);
    err = take(storage, SP_STORAGE_INDEX, fcntl(fd[SP_STORE_FD_INDEX], F_DUPFD_CLOEXEC, 0));
    if (!err)
        err = take(storage, SP_STORAGE_PIECES, fcntl(fd[SP_STORE_FD_PIECES], F_DUPFD_CLOEXEC, 0));
    sp_store_free(store);
    return err;
}

static int make(struct sp_storage *storage, char *why, size_t why_size)
{
    int fd[SP_STORE_FUSE_FDS], err;

    if (storage->daemon->page_size > SP_STORE_PAGE_SIZE_MAX) {
        snprintf(why, why_size,
                 "the store is for pages of at most %u KiB, and this kernel's have %u: set swap = none",
                 SP_STORE_PAGE_SIZE_MAX / 1024, (unsigned)storage->daemon->page_size / 1024);
        return -EINVAL;
    }
    err = sp_store_fuse_open(fd, why, why_size);
    if (err)
        return err;
    err = take(storage, SP_STORAGE_DEV, fd[SP_STORE_FUSE_DEV]);
    if (take(storage, SP_STORAGE_CLONE, fd[SP_STORE_FUSE_CLONE]))
        err = -EMFILE;
    if (take(storage, SP_STORAGE_MOUNT, fd[SP_STORE_FUSE_MOUNT]) || err)
        err = -EMFILE;
    if (!err)
        err = make_memory(storage);
    if (err)
        snprintf(why, why_size, "cannot make the store: %s", strerror(-err));
    else
        err = make_file(storage, why, why_size);
    return err;
}

/* A store that was taken over is as the daemon made it that began it. */
static void tell_what_stays(const struct sp_storage *storage)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;
    const int fd[SP_STORE_FDS] = {storage->fd[SP_STORAGE_INDEX], storage->fd[SP_STORAGE_PIECES]};
    uint64_t bytes = sp_storage_file_bytes(storage->fd[SP_STORAGE_PLACE]),
             wanted = config->file[0] ? config->size : 0;
    bool encrypts = sp_store_encrypts(fd) == 1;

    if (!config->store) {
        sp_log(SP_LOG_INFO, "swap = none: nothing more goes to the store, which stays while "
                            "programs use what it has");
        return;
    }
    if (bytes == wanted && (!bytes || encrypts == config->encrypt))
        return;
    sp_log(SP_LOG_WARNING,
           "the store is in use with a file of %llu bytes%s, and stays so: swap_file, swap_size and"
           " swap_encrypt of the configuration file count when samepaged is started after all merged"
           " programs have ended",
           (unsigned long long)bytes, encrypts ? ", encrypted" : "");
}

static bool is_whole(const struct sp_storage *storage)
{
    for (int i = 0; i < SP_STORAGE_FDS; i++)
        if (storage->fd[i] < 0 && i != SP_STORAGE_PLACE && i != SP_STORAGE_SERVER &&
            i != SP_STORAGE_WORKER)
            return false;
    return true;
}

int sp_storage_open(struct sp_daemon *daemon, struct sp_storage **out,
                    const struct sp_pool_record *record, const int *fd, size_t n, char *why,
                    size_t why_size)
{
    struct sp_storage *storage = storage_alloc(daemon);
    int err = storage ? 0 : -ENOMEM;

    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        struct sp_storage_how as;
        enum sp_storage_fd which;

        if (!storage || !sp_storage_of_record(&record[i], &which, &as))
            close(fd[i]);
        else
            storage->fd[which] = fd[i];
    }
    if (!err && !is_whole(storage)) {
        if (!daemon->config.swap.store) {
            sp_storage_close(storage);
            return 0;
        }
        err = make(storage, why, why_size);
    } else if (!err) {
        tell_what_stays(storage);
    }
    if (!err)
        err = sp_store_link_new(&storage->link, storage->fd[SP_STORAGE_ASK],
                                storage->fd[SP_STORAGE_PAGES], tend, storage);
    if (!err && restart(storage, SP_STORAGE_SERVER) < 0)
        err = -ECHILD;
    if (!err && restart(storage, SP_STORAGE_WORKER) < 0)
        err = -ECHILD;
    if (err) {
        if (!*why)
            snprintf(why, why_size, "cannot start the store: %s", strerror(-err));
        sp_storage_close(storage);
        return err;
    }
    *out = storage;
    return 0;
}

void sp_storage_keep(struct sp_storage *storage)
{
    for (int i = 0; storage && i < SP_STORAGE_FDS; i++)
        keep_one(storage, i);
}

int sp_storage_watch(struct sp_storage *storage)
{
    int err = watch_one(storage, SP_STORAGE_SERVER);

    storage->watched = true;
    return err < 0 ? err : watch_one(storage, SP_STORAGE_WORKER);
}

void sp_storage_close(struct sp_storage *storage)
{
    if (!storage)
        return;
    sd_event_source_disable_unref(storage->server);
    sd_event_source_disable_unref(storage->worker);
    sp_store_link_free(storage->link);
    sp_storage_unlock_all(storage);
    for (uint32_t i = 0; i < SP_STORE_SEGMENTS; i++)
        free(storage->back[i]);
    for (int i = 0; i < SP_STORAGE_FDS; i++)
        if (storage->fd[i] >= 0)
            close(storage->fd[i]);
    free(storage);
}

struct sp_store_link *sp_storage_link(const struct sp_storage *storage)
{
    return storage ? storage->link : NULL;
}

/* ---- what is learnt from it ---- */

static struct sp_domain *domain_of(const struct sp_daemon *daemon, uint32_t segment)
{
    const struct sp_pool_set *set = sp_pool_set_of(daemon->pool, segment);
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link)
    if (set && domain->set == set)
        return domain->engine ? domain : NULL;
    return NULL;
}

void sp_storage_where(const struct sp_storage *storage, int *worker, int *mount)
{
    *worker = storage->fd[SP_STORAGE_WORKER];
    *mount = storage->fd[SP_STORAGE_MOUNT];
}

/* Without memory a frame is forgotten to have come back: it may leave once too often. */
static void note_back(struct sp_storage *storage, sp_frame frame)
{
    uint64_t **map = &storage->back[SP_FRAME_SEGMENT(frame)];

    if (!*map)
        *map = calloc(SP_STORE_WORDS, sizeof(**map));
    if (*map && SP_FRAME_INDEX(frame) < SP_POOL_SEGMENT_PAGES)
        sp_store_set_bit(*map, SP_FRAME_INDEX(frame), true);
}

bool sp_storage_came_back(struct sp_storage *storage, sp_frame frame)
{
    uint64_t *map = storage ? storage->back[SP_FRAME_SEGMENT(frame)] : NULL;
    uint32_t i = SP_FRAME_INDEX(frame);

    if (!map || i >= SP_POOL_SEGMENT_PAGES || !sp_store_bit(map, i))
        return false;
    sp_store_set_bit(map, i, false);
    return true;
}

/* Without memory for the map all of the segment is: it stays in memory. */
static uint64_t all_locked[SP_STORE_WORDS];

void sp_storage_lock(struct sp_storage *storage, uint32_t segment, uint32_t index, uint32_t n)
{
    uint64_t **map;

    if (!storage || segment >= SP_STORE_SEGMENTS || index >= SP_POOL_SEGMENT_PAGES ||
        n > SP_POOL_SEGMENT_PAGES - index)
        return;
    map = &storage->locked[segment];
    if (!*map)
        *map = calloc(SP_STORE_WORDS, sizeof(**map));
    if (!*map)
        *map = all_locked;
    for (uint32_t i = 0; i < n && *map != all_locked; i++)
        sp_store_set_bit(*map, index + i, true);
}

void sp_storage_unlock_all(struct sp_storage *storage)
{
    for (uint32_t i = 0; storage && i < SP_STORE_SEGMENTS; i++) {
        if (storage->locked[i] != all_locked)
            free(storage->locked[i]);
        storage->locked[i] = NULL;
    }
}

bool sp_storage_is_locked(const struct sp_storage *storage, sp_frame frame)
{
    const uint64_t *map = storage ? storage->locked[SP_FRAME_SEGMENT(frame)] : NULL;
    uint32_t i = SP_FRAME_INDEX(frame);

    return map && (map == all_locked || (i < SP_POOL_SEGMENT_PAGES && sp_store_bit(map, i)));
}

struct sp_store_counters sp_storage_counters(struct sp_storage *storage)
{
    const struct sp_store_answer *said;

    if (!storage || sp_store_ask(storage->link, SP_STORE_COUNT, 0, 0, 0, &said))
        return (struct sp_store_counters){0};
    return said->counters;
}

uint64_t sp_storage_lost(const struct sp_storage *storage)
{
    return storage ? storage->lost : 0;
}

static void take_news(struct sp_storage *storage, const struct sp_store_news *news)
{
    struct sp_domain *domain = domain_of(storage->daemon, SP_FRAME_SEGMENT(news->frame));

    storage->lost += news->lost;
    if (news->lost)
        sp_log(SP_LOG_ERROR,
               "frame %u of segment %u is lost: the store cannot give its bytes back;"
               " who touches it gets SIGBUS",
               SP_FRAME_INDEX(news->frame), SP_FRAME_SEGMENT(news->frame));
    if (domain && news->lost)
        sp_engine_frame_lost(domain->engine, news->frame);
    else if (domain)
        sp_engine_frame_back(domain->engine, news->frame, 0);
    if (!news->lost) {
        note_back(storage, news->frame);
        sp_looks_came_back(storage->daemon, news->frame);
    }
}

/* The next worker begins at 0 again. */
static void tell_write_errors(struct sp_storage *storage, uint32_t now)
{
    if (now > storage->write_errors)
        sp_log(SP_LOG_ERROR,
               "the store's file could not be written (%u times so far); frames that were to go there stay in memory."
               " See what is wrong with its disk: swap_file, %s",
               now, storage->daemon->config.swap.file);
    storage->write_errors = now;
}

void sp_storage_take_news(struct sp_storage *storage)
{
    const struct sp_store_answer *said;

    if (!storage)
        return;
    do {
        if (sp_store_ask(storage->link, SP_STORE_TELL, 0, 0, 0, &said))
            return;
        for (uint32_t i = 0; i < said->n && i < SP_STORE_NEWS; i++)
            take_news(storage, &said->news[i]);
        tell_write_errors(storage, said->write_errors);
    } while (said->n == SP_STORE_NEWS);
}

void sp_storage_each_second(struct sp_storage *storage)
{
    if (!storage)
        return;
    sp_storage_tend(storage);
    sp_stall_look(storage->daemon);
    sp_pool_tell_forgotten(storage->daemon->pool);
    sp_storage_take_news(storage);
}

/* ---- what the processes run ---- */

/* Waits until no other process has that byte of the index: one that nobody knows of may live. */
static bool be_the_only_one(int index, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return !fcntl(index, F_SETLKW, &lock);
}

static int be_server(char **argv)
{
    const struct sp_store_server_run run = {SP_STORAGE_FIRST_FD,
                                            {SP_STORAGE_FIRST_FD + 1, SP_STORAGE_FIRST_FD + 2},
                                            argv[2][0] == '1' ? SP_STORAGE_FIRST_FD + 3 : -1};

    if (!be_the_only_one(run.store[SP_STORE_FD_INDEX], 0))
        return 1;
    return sp_store_server_process(&run) ? 1 : 0;
}

static int be_worker(char **argv)
{
    const int fd[SP_STORE_FDS] = {SP_STORAGE_FIRST_FD + 4, SP_STORAGE_FIRST_FD + 5};
    struct sp_store_config config = {
        .codec = strcmp(argv[4], "zstd") ? SP_STORE_LZ4 : SP_STORE_ZSTD,
        .memory_bytes = strtoull(argv[2], NULL, 10),
        .file_bytes = strtoull(argv[3], NULL, 10),
    };
    struct sp_store_worker_run run = {.dev = SP_STORAGE_FIRST_FD,
                                      .mount = SP_STORAGE_FIRST_FD + 1,
                                      .sock = SP_STORAGE_FIRST_FD + 2,
                                      .pages = SP_STORAGE_FIRST_FD + 3};

    config.file = config.file_bytes ? SP_STORAGE_FIRST_FD + 6 : -1;
    if (!be_the_only_one(fd[SP_STORE_FD_INDEX], 1) || sp_store_attach(&run.store, fd, &config))
        return 1;
    return sp_store_worker_process(&run) ? 1 : 0;
}

/* The worker maps all that is kept in memory, which would not be free for its end, and what is kept
 * is so by its locks. Without CAP_SYS_RESOURCE it is as the daemon is (OOMScoreAdjust= of its
 * unit). */
static void spare_from_oom(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)!write(fd, "-1000", 5);
    close(fd);
}

int sp_storage_main(int argc, char **argv)
{
    bool server = argc == 4 && !strcmp(argv[1], "--store-server");

    if (!server && !(argc == 6 && !strcmp(argv[1], "--store-worker")))
        return -1;
    signal(SIGPIPE, SIG_IGN);
    spare_from_oom();
    /* Other programs' memory, and the key of what is in the file: no core dump, and no debugger of
     * the same user. */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return server ? be_server(argv) : be_worker(argv);
}
