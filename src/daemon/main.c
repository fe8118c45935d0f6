/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepaged: start, signals, stop. What it does in between: daemon.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "client.h"
#include "daemon.h"
#include "domain.h"
#include "keeper.h"
#include "log.h"
#include "lost_agent.h"
#include "options.h"
#include "pageout.h"
#include "passes.h"
#include "looks.h"
#include "looks_ask.h"
#include "pins_looker.h"
#include "pressure.h"
#include "repair.h"
#include "server.h"
#include "storage.h"
#include "strays.h"
#include "strays_look.h"
#include "taker.h"
#include "values.h"
#include "written.h"

#define WHY_SIZE 800 /* a path may be in it */

/* Six descriptors a client. Less than wanted is no error: then fewer clients fit. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    rlim_t want = SP_MAX_CLIENTS * 8 + SP_MAX_CONNECTIONS;

    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= want)
        return;
    if (limit.rlim_max < want) {
        struct rlimit more = {want, want};

        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            return;
    }
    limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        sp_log(SP_LOG_WARNING, "cannot raise the limit of open files: %m");
}

/* One daemon a socket: the lock ends with the process, however that ends. */
static int take_lock(struct sp_daemon *daemon, char *why, size_t why_size)
{
    char path[sizeof(daemon->config.socket) + 8];
    char *slash;
    int err;

    snprintf(path, sizeof(path), "%s", daemon->config.socket);
    slash = strrchr(path, '/');
    *slash = 0;
    if (slash != path && mkdir(path, daemon->uid == 0 ? 0755 : 0700) && errno != EEXIST) {
        err = -errno;
        snprintf(why, why_size, "cannot make the folder %s: %s", path, strerror(-err));
        return err;
    }
    snprintf(path, sizeof(path), "%s.lock", daemon->config.socket);
    daemon->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (daemon->lock_fd < 0 || flock(daemon->lock_fd, LOCK_EX | LOCK_NB)) {
        err = -errno;
        if (err == -EWOULDBLOCK)
            snprintf(why, why_size,
                     "another samepaged runs at %s: stop it first, or use another --socket",
                     daemon->config.socket);
        else
            snprintf(why, why_size, "cannot lock %s: %s", path, strerror(-err));
        return err;
    }
    return 0;
}

static void retry_repairs(struct sp_daemon *daemon)
{
    struct sp_client *client, *next;

    for (client = TAILQ_FIRST(&daemon->clients); client; client = next) {
        next = TAILQ_NEXT(client, link);
        if (client->repair_due && sp_repair(client))
            sp_client_free(client);
    }
    sp_repair_reap();
}

/* After a takeover: when all agents that live are back, or had their time, frames that nobody
 * claimed are forgotten (D1). */
static void end_takeover(struct sp_daemon *daemon)
{
    const struct sp_client *client;
    bool waiting = false;

    if (daemon->rejoin_seconds == 0)
        return;
    TAILQ_FOREACH(client, &daemon->clients, link)
        waiting = waiting || client->state != SP_CLIENT_READY;
    if (waiting && --daemon->rejoin_seconds)
        return;
    daemon->rejoin_seconds = 0;
    sp_pool_import_end(daemon->pool);
}

static int on_second(sd_event_source *source, uint64_t usec, void *arg)
{
    struct sp_daemon *daemon = arg;

    sp_server_expire(daemon);
    retry_repairs(daemon);
    end_takeover(daemon);
    if (daemon->rejoin_seconds == 0)
        sp_lost_agents_look(daemon);
    sp_looker_reap(daemon);
    sp_taker_each_second(daemon);
    sp_storage_each_second(daemon->storage);
    sp_looks_each_second(daemon);
    sp_pageout_each_second(daemon);
    sp_written_each_second(daemon);
    if (daemon->uid == 0)
        sp_ns_watch(daemon);
    sd_event_source_set_time(source, usec + 1000000);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int on_stop(sd_event_source *source, const struct signalfd_siginfo *info, void *arg)
{
    struct sp_daemon *daemon = arg;

    sp_log(SP_LOG_INFO, "stopping");
    return sd_event_exit(daemon->event, 0);
}

static int add_signals(struct sp_daemon *daemon)
{
    static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
    sigset_t mask;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    for (unsigned i = 0; i < 3; i++)
        sigaddset(&mask, stops[i]);
    if (sigprocmask(SIG_BLOCK, &mask, NULL))
        return -errno;
    for (unsigned i = 0; i < 3; i++) {
        int err = sd_event_add_signal(daemon->event, NULL, stops[i], on_stop, daemon);

        if (err < 0)
            return err;
    }
    return 0;
}

static int start_events(struct sp_daemon *daemon, char *why, size_t why_size)
{
    int err = sd_event_new(&daemon->event);

    if (err >= 0)
        err = add_signals(daemon);
    if (err >= 0)
        err = sd_event_add_time_relative(daemon->event, &daemon->second_source, CLOCK_MONOTONIC,
                                         1000000, 0, on_second, daemon);
    if (err >= 0)
        err = sp_passes_start(daemon);
    if (err < 0)
        snprintf(why, why_size, "cannot set up the event loop: %s", strerror(-err));
    return err < 0 ? err : 0;
}

static struct sp_daemon *daemon_new(const struct sp_config *config)
{
    struct sp_daemon *daemon = calloc(1, sizeof(*daemon));

    if (!daemon)
        return NULL;
    daemon->config = *config;
    daemon->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
    daemon->uid = geteuid();
    daemon->listen_fd = daemon->lock_fd = -1;
    daemon->next_client_id = 1;
    TAILQ_INIT(&daemon->conns);
    TAILQ_INIT(&daemon->clients);
    TAILQ_INIT(&daemon->domains);
    return daemon;
}

/* Lock, keeper and pool, then the socket: whoever connects finds everything there. */
static int daemon_open(struct sp_daemon *daemon, char *why, size_t why_size)
{
    int err = take_lock(daemon, why, why_size);

    raise_file_limit();
    if (!err)
        err = start_events(daemon, why, why_size);
    if (!err)
        err = sp_keep_open(daemon, why, why_size);
    if (!err)
        (void)sp_pressure_open(daemon);
    if (!err)
        sp_taker_begin(daemon);
    if (!err)
        err = sp_server_open(daemon, why, why_size);
    return err;
}

static void daemon_free(struct sp_daemon *daemon)
{
    sp_server_close(daemon);
    sp_keep_close(daemon); /* first: what follows is no news for it */
    sp_looker_stop(daemon);
    sp_taker_stop(daemon);
    sp_looks_stop(daemon);
    sp_strays_stop(daemon);
    while (!TAILQ_EMPTY(&daemon->clients))
        sp_client_free(TAILQ_FIRST(&daemon->clients));
    if (daemon->pool)
        sp_domains_free(daemon);
    if (daemon->pool)
        sp_pool_free(daemon->pool);
    sp_pressure_close(daemon);
    sp_pageout_free(daemon);
    sp_storage_close(daemon->storage);
    sd_event_source_disable_unref(daemon->pass_source);
    sd_event_source_disable_unref(daemon->second_source);
    sd_event_unref(daemon->event);
    if (daemon->lock_fd >= 0)
        close(daemon->lock_fd);
    free(daemon);
}

/*
 * Goes into the background: the child returns the pipe's end to report through, the parent waits
 * for the report and exits: 0, or 1 when the child could not start.
 */
static int to_background(void)
{
    int report[2];
    char ready = 0;
    pid_t pid;

    if (pipe2(report, O_CLOEXEC))
        return -errno;
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        close(report[0]);
        setsid();
        return report[1];
    }
    close(report[1]);
    while (read(report[0], &ready, 1) < 0 && errno == EINTR)
        ;
    _exit(ready ? 0 : 1);
}

/* The one who started us may go on; nothing of his is held any longer. */
static void report_ready(int report)
{
    int null;

    if (report < 0) {
        sd_notify(0, "READY=1");
        return;
    }
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    if (chdir("/") || write(report, "+", 1) < 0)
        sp_log(SP_LOG_WARNING, "cannot report that it started: %m");
    close(report);
}

static int open_log(const struct sp_config *config)
{
    int err = 0;

    if (config->log_file[0])
        err = sp_log_to_file(config->log_file);
    else if (config->foreground)
        sp_log_to_stderr();
    if (err)
        fprintf(stderr, "samepaged: cannot write to the log %s: %s\n", config->log_file,
                strerror(-err));
    return err;
}

static int serve(const struct sp_config *config, int report)
{
    struct sp_daemon *daemon = daemon_new(config);
    char why[WHY_SIZE] = "memory is short";
    int err = daemon ? daemon_open(daemon, why, sizeof(why)) : -ENOMEM;

    if (err) {
        if (!config->foreground || config->log_file[0]) /* else the log is on stderr */
            fprintf(stderr, "samepaged: %s\n", why);
        sp_log(SP_LOG_ERROR, "%s", why);
    } else {
        sp_log(SP_LOG_INFO, "version %s listens at %s", SP_VERSION, config->socket);
        report_ready(report);
        sp_passes_wake(daemon);
        err = sd_event_loop(daemon->event);
    }
    if (daemon)
        daemon_free(daemon);
    return err ? 1 : 0;
}

int main(int argc, char **argv)
{
    struct sp_config config = SP_CONFIG_DEFAULT;
    int ret = sp_keeper_main(argc, argv);
    int report = -1;

    if (ret < 0)
        ret = sp_looker_main(argc, argv);
    if (ret < 0)
        ret = sp_taker_main(argc, argv);
    if (ret < 0)
        ret = sp_looks_main(argc, argv);
    if (ret < 0)
        ret = sp_storage_main(argc, argv);
    if (ret < 0)
        ret = sp_pageout_main(argc, argv);
    if (ret < 0)
        ret = sp_strays_main(argc, argv);
    if (ret >= 0)
        return ret;
    ret = sp_options(argc, argv, &config);
    if (ret >= 0)
        return ret;
    sp_values_begin(&config);
    if (open_log(&config))
        return 1;
    if (!config.foreground) {
        report = to_background();
        if (report < 0) {
            fprintf(stderr, "samepaged: cannot go into the background: %s\n", strerror(-report));
            return 1;
        }
    }
    return serve(&config, report);
}
