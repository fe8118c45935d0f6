/* SPDX-License-Identifier: Apache-2.0 */
#include "storage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "log.h"
#include "stalls.h"
#include "store_fuse.h"
#include "store_place.h"

#define KIND 16u /* of the keeper's records: this and a number of fd below */

enum {
    DEV,    /* of FUSE, */
    MOUNT,  /* ... and the mount that is served through it */
    ASK,    /* our end of the worker's socket, */
    ANSWER, /* ... and its own */
    PAGES,  /* shared with the worker */
    INDEX,  /* the store's, */
    PIECES,
    PLACE,  /* ... and its file; -1: none */
    SERVER, /* pidfds */
    WORKER,
    FDS
};

struct sp_storage {
    struct sp_daemon *daemon;
    int fd[FDS];
    struct sp_store_link *link;
    sd_event_source *server, *worker;
    uint64_t started_at[2]; /* us: of a process that ends at once the next one waits */
    bool told;
    bool watched;                        /* the event loop has them */
    bool new_worker;                     /* has no connections of agents yet */
    uint64_t lost;                       /* frames that somebody could not have (S8) */
    uint64_t *locked[SP_STORE_SEGMENTS]; /* bits: frames with a locked site */
    uint64_t *back[SP_STORE_SEGMENTS];   /* bits: frames that came back, and nobody asked since */
};

#define RESTART_USECS 100000u
#define ABOVE         32 /* ours have higher numbers: none is another one's place (put_descriptors()) */

/* ---- its processes ---- */

/* What they find at 3 and above, in this order. */
static const int of_server[] = {DEV, INDEX, PIECES, PLACE};
static const int of_worker[] = {DEV, MOUNT, ANSWER, PAGES, INDEX, PIECES, PLACE};
#define FIRST_FD 3

/* Nothing of the daemon's stays open with them: they live longer, and say nothing. */
static int put_descriptors(posix_spawn_file_actions_t *actions, const struct sp_storage *storage,
                           const int *which, size_t n)
{
    int err = 0;

    for (int fd = 0; fd < FIRST_FD && !err; fd++)
        err = posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_RDWR, 0);
    for (size_t i = 0; i < n && !err; i++)
        if (storage->fd[which[i]] >= 0)
            err =
                posix_spawn_file_actions_adddup2(actions, storage->fd[which[i]], FIRST_FD + (int)i);
    return err;
}

/* That descriptor with a number that is none of theirs; it is closed. */
static int above(int fd)
{
    int higher = fcntl(fd, F_DUPFD_CLOEXEC, ABOVE), err = -errno;

    close(fd);
    return higher < 0 ? err : higher;
}

static int spawn(const struct sp_storage *storage, char **argv, const int *which, size_t n)
{
    char *environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    int err;

    sigemptyset(&none);
    err = posix_spawn_file_actions_init(&actions);
    if (err)
        return -err;
    err = posix_spawnattr_init(&attributes);
    if (!err) {
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
        err = put_descriptors(&actions, storage, which, n);
        if (!err)
            err = posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, argv, environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    if (err)
        return -err;
    err = pidfd_open(pid, 0);
    return err < 0 ? -errno : err;
}

/* The source first: the keeper has this open file, too, so closing does not end its events, and
 * sd-event aborts when one comes of a source that is gone. */
static void forget_process(struct sp_storage *storage, int which)
{
    sd_event_source **source = which == SERVER ? &storage->server : &storage->worker;

    *source = sd_event_source_disable_unref(*source);
    if (storage->fd[which] >= 0)
        close(storage->fd[which]);
    storage->fd[which] = -1;
}

/* Of the store's file, whatever the configuration says by now; 0: there is none. */
static uint64_t file_bytes(const struct sp_storage *storage)
{
    struct stat st;

    return storage->fd[PLACE] < 0 || fstat(storage->fd[PLACE], &st) ? 0 : (uint64_t)st.st_size;
}

static int start(struct sp_storage *storage, int which)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;
    char memory[24], file[24];
    char *socket = storage->daemon->config.socket; /* says whose they are */
    char *server[] = {(char *)"samepaged", (char *)"--store-server",
                      (char *)(storage->fd[PLACE] < 0 ? "0" : "1"), socket, NULL};
    char *worker[] = {(char *)"samepaged",
                      (char *)"--store-worker",
                      memory,
                      file,
                      (char *)(config->zstd ? "zstd" : "lz4"),
                      socket,
                      NULL};
    uint64_t now = sp_now_usecs(), *started_at = &storage->started_at[which == WORKER];
    int fd;

    if (now < *started_at + RESTART_USECS)
        return -EAGAIN;
    *started_at = now;
    snprintf(memory, sizeof(memory), "%llu", (unsigned long long)config->memory);
    snprintf(file, sizeof(file), "%llu", (unsigned long long)file_bytes(storage));
    if (which == SERVER)
        fd = spawn(storage, server, of_server, sizeof(of_server) / sizeof(of_server[0]));
    else
        fd = spawn(storage, worker, of_worker, sizeof(of_worker) / sizeof(of_worker[0]));
    if (fd >= 0)
        fd = above(fd);
    if (fd < 0) {
        if (!storage->told)
            sp_log(SP_LOG_ERROR, "cannot start the store's %s: %s",
                   which == SERVER ? "server" : "worker", strerror(-fd));
        storage->told = true;
        return fd;
    }
    forget_process(storage, which);
    storage->fd[which] = fd;
    return 0;
}

static bool has_ended(const struct sp_storage *storage, int which)
{
    struct pollfd p = {.fd = storage->fd[which], .events = POLLIN};

    return p.fd < 0 || poll(&p, 1, 0) > 0;
}

static void reap(const struct sp_storage *storage, int which)
{
    siginfo_t info;

    if (storage->fd[which] >= 0)
        (void)waitid(P_PIDFD, (id_t)storage->fd[which], &info, WEXITED | WNOHANG);
}

static void keep_one(struct sp_storage *storage, int which)
{
    struct sp_pool_record record = {.kind = KIND + (unsigned)which};

    if (storage->fd[which] >= 0 && storage->daemon->keeper)
        (void)sp_keeper_put_pool(storage->daemon->keeper, &record, storage->fd[which]);
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *arg);

static int watch_one(struct sp_storage *storage, int which)
{
    sd_event_source **source = which == SERVER ? &storage->server : &storage->worker;

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

    if (!has_ended(storage, which))
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
    int server = restart(storage, SERVER), worker = restart(storage, WORKER);

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
            source, has_ended(storage, source == storage->server ? SERVER : WORKER) ? SD_EVENT_OFF
                                                                                    : SD_EVENT_ON);
    return 0;
}

/* ---- its beginning and its end ---- */

bool sp_storage_is_record(const struct sp_pool_record *record)
{
    return record->kind >= KIND && record->kind < KIND + FDS;
}

static struct sp_storage *storage_alloc(struct sp_daemon *daemon)
{
    struct sp_storage *storage = calloc(1, sizeof(*storage));

    if (!storage)
        return NULL;
    storage->daemon = daemon;
    for (int i = 0; i < FDS; i++)
        storage->fd[i] = -1;
    return storage;
}

static int take_high(struct sp_storage *storage, int which, int fd)
{
    if (fd >= 0)
        fd = above(fd);
    else
        fd = -errno;
    if (fd < 0)
        return fd;
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
    return fd < 0 ? fd : take_high(storage, PLACE, fd);
}

static int make_memory(struct sp_storage *storage)
{
    const struct sp_swap_config *config = &storage->daemon->config.swap;
    const struct sp_store_config store_config = {
        .codec = config->zstd ? SP_STORE_ZSTD : SP_STORE_LZ4,
        .memory_bytes = config->memory,
        .file = storage->fd[PLACE],
        .file_bytes = config->size,
        .encrypt = config->encrypt,
    };
    size_t bytes = SP_STORE_PAGES * (size_t)storage->daemon->page_size;
    int pair[2], fd[SP_STORE_FDS], err;
    struct sp_store *store;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    err = take_high(storage, ASK, pair[0]);
    if (take_high(storage, ANSWER, pair[1]) || err)
        return -EMFILE;
    err = take_high(storage, PAGES, memfd_create("samepage-store-pages", MFD_CLOEXEC));
    if (!err && ftruncate(storage->fd[PAGES], (off_t)bytes))
        err = -errno;
    if (!err)
        err = sp_store_new(&store, &store_config);
    if (err)
        return err;
    sp_store_fds(store, fd);
    err = take_high(storage, INDEX, fcntl(fd[SP_STORE_FD_INDEX], F_DUPFD_CLOEXEC, ABOVE));
    if (!err)
        err = take_high(storage, PIECES, fcntl(fd[SP_STORE_FD_PIECES], F_DUPFD_CLOEXEC, ABOVE));
    sp_store_free(store);
    return err;
}

static int make(struct sp_storage *storage, char *why, size_t why_size)
{
    int dev, mount, err = sp_store_fuse_open(&dev, &mount, why, why_size);

    if (err)
        return err;
    err = take_high(storage, DEV, dev);
    if (take_high(storage, MOUNT, mount) || err)
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
    const int fd[SP_STORE_FDS] = {storage->fd[INDEX], storage->fd[PIECES]};
    uint64_t bytes = file_bytes(storage), wanted = config->file[0] ? config->size : 0;
    bool encrypts = sp_store_encrypts(fd) == 1;

    if (config->store && bytes == wanted && (!bytes || encrypts == config->encrypt))
        return;
    sp_log(SP_LOG_WARNING,
           "the store is in use with a file of %llu bytes%s, and stays so: swap, swap_file, swap_size and"
           " swap_encrypt of the configuration file count when samepaged is started after it and all merged"
           " programs have ended",
           (unsigned long long)bytes, encrypts ? ", encrypted" : "");
}

static bool is_whole(const struct sp_storage *storage)
{
    for (int i = 0; i < FDS; i++)
        if (storage->fd[i] < 0 && i != PLACE && i != SERVER && i != WORKER)
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
        if (!storage || !sp_storage_is_record(&record[i]))
            close(fd[i]);
        else
            (void)take_high(storage, (int)(record[i].kind - KIND), fd[i]);
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
        err =
            sp_store_link_new(&storage->link, storage->fd[ASK], storage->fd[PAGES], tend, storage);
    if (!err && restart(storage, SERVER) < 0)
        err = -ECHILD;
    if (!err && restart(storage, WORKER) < 0)
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
    for (int i = 0; storage && i < FDS; i++)
        keep_one(storage, i);
}

int sp_storage_watch(struct sp_storage *storage)
{
    int err = watch_one(storage, SERVER);

    storage->watched = true;
    return err < 0 ? err : watch_one(storage, WORKER);
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
    for (int i = 0; i < FDS; i++)
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
    if (!news->lost)
        note_back(storage, news->frame);
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

static int be_server(char **argv)
{
    const struct sp_store_server_run run = {
        FIRST_FD, {FIRST_FD + 1, FIRST_FD + 2}, argv[2][0] == '1' ? FIRST_FD + 3 : -1};

    return sp_store_server_process(&run) ? 1 : 0;
}

static int be_worker(char **argv)
{
    const int fd[SP_STORE_FDS] = {FIRST_FD + 4, FIRST_FD + 5};
    struct sp_store_config config = {
        .codec = strcmp(argv[4], "zstd") ? SP_STORE_LZ4 : SP_STORE_ZSTD,
        .memory_bytes = strtoull(argv[2], NULL, 10),
        .file_bytes = strtoull(argv[3], NULL, 10),
    };
    struct sp_store_worker_run run = {
        .dev = FIRST_FD, .mount = FIRST_FD + 1, .sock = FIRST_FD + 2, .pages = FIRST_FD + 3};

    config.file = config.file_bytes ? FIRST_FD + 6 : -1;
    if (sp_store_attach(&run.store, fd, &config))
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
    /* Other programs' memory, and the key of what is in the file: no core dump, and no debugger of the
     * same user. */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return server ? be_server(argv) : be_worker(argv);
}
