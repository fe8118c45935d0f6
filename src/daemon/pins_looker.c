/* SPDX-License-Identifier: Apache-2.0 */
#include "pins_looker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "disposable.h"
#include "pins_looker_msg.h"
#include "written.h"

#define LIMIT_USECS 200000u /* for a look: pages may be held meanwhile (SP_HOLD_MSECS) */

struct sp_looker {
    struct sp_daemon *daemon;
    struct sp_disposable process;
    sd_event_source *io, *limit;
    bool busy;
    struct sp_client *client; /* at whose process it looks; NULL: he is gone */
    uint32_t serial;
    uint64_t began;               /* us */
    uint64_t cpu_us, cpu_us_past; /* of the present one, of those before */
};

/* ---- its life ---- */

/* What it looks at stays unanswered. */
static void end_looker(struct sp_looker *looker, bool its_fault)
{
    if (!looker->process.pid)
        return;
    looker->io = sd_event_source_disable_unref(looker->io);
    sp_disposable_kill(&looker->process, its_fault);
    looker->cpu_us_past += looker->cpu_us;
    looker->cpu_us = 0;
}

static int on_answer(sd_event_source *source, int fd, uint32_t events, void *arg);

/* 0, or a negative errno: then it is tried again after a while. */
static int start_looker(struct sp_looker *looker)
{
    int err = sp_disposable_start(&looker->process);

    if (err)
        return err;
    err = sd_event_add_io(looker->daemon->event, &looker->io, looker->process.fd, EPOLLIN, on_answer, looker);
    if (err < 0)
        end_looker(looker, true);
    return err < 0 ? err : 0;
}

static int on_limit(sd_event_source *source, uint64_t usec, void *arg);

static struct sp_looker *looker_of(struct sp_daemon *daemon)
{
    struct sp_looker *looker = daemon->looker;

    if (looker)
        return looker;
    looker = calloc(1, sizeof(*looker));
    if (!looker)
        return NULL;
    looker->daemon = daemon;
    looker->process.argument = SP_LOOKER_ARGUMENT;
    looker->process.what = "looks what programs have open";
    if (sd_event_add_time(daemon->event, &looker->limit, CLOCK_MONOTONIC, 0, 1000, on_limit, looker) < 0 ||
        sd_event_source_set_enabled(looker->limit, SD_EVENT_OFF) < 0) {
        sd_event_source_disable_unref(looker->limit);
        free(looker);
        return NULL;
    }
    daemon->looker = looker;
    return looker;
}

/* ---- a look ---- */

/* False: there is nobody who could look now. */
static bool begin(struct sp_looker *looker, struct sp_client *client)
{
    struct sp_looker_question question = {.serial = looker->serial + 1, .pid = (int32_t)client->program};

    if (!looker->process.pid && start_looker(looker))
        return false;
    if (send(looker->process.fd, &question, sizeof(question), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(question)) {
        end_looker(looker, true);
        return false;
    }
    looker->serial++;
    looker->busy = true;
    looker->client = client;
    looker->began = sp_now_usecs();
    sd_event_source_set_time(looker->limit, looker->began + LIMIT_USECS);
    sd_event_source_set_enabled(looker->limit, SD_EVENT_ONESHOT);
    return true;
}

/* The pid was the client's for as long as its pidfd says that it lives. */
static bool lives(const struct sp_client *client)
{
    struct pollfd pfd = {client->pidfd, POLLIN, 0};

    return poll(&pfd, 1, 0) == 0;
}

/* 0 and what it said; -EAGAIN: nothing yet; or it is no use any more. */
static int hear(struct sp_looker *looker, struct sp_look *look)
{
    struct sp_looker_answer answer;
    ssize_t n = recv(looker->process.fd, &answer, sizeof(answer), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    if (n != sizeof(answer) || answer.serial != looker->serial || answer.pins >= SP_PINS_KINDS)
        return -EPIPE;
    look->pins = (enum sp_pins)answer.pins;
    look->usecs = answer.usecs;
    looker->cpu_us = answer.cpu_us;
    return 0;
}

/* The end of the look that is under way, in which err came: whose it was gets what was found. */
static struct sp_client *finish(struct sp_looker *looker, int err, struct sp_look *look)
{
    struct sp_client *client = looker->client;

    looker->busy = false;
    looker->client = NULL;
    sd_event_source_set_enabled(looker->limit, SD_EVENT_OFF);
    look->timely = !err;
    if (err) {
        look->pins = SP_PINS_UNKNOWN;
        look->usecs = sp_now_usecs() - looker->began;
        end_looker(looker, err != -ETIMEDOUT);
    }
    if (client && !lives(client))
        look->pins = SP_PINS_UNKNOWN;
    return client;
}

static void tell(struct sp_client *client, const struct sp_look *look)
{
    if (!client)
        return;
    client->look_wanted = 0;
    sp_written_looked(client, look);
}

/* Who waits for a look longest. */
static void next(struct sp_looker *looker)
{
    struct sp_client *client, *first = NULL;

    if (looker->busy)
        return;
    TAILQ_FOREACH(client, &looker->daemon->clients, link) {
        if (client->look_wanted && (!first || client->look_wanted < first->look_wanted))
            first = client;
    }
    if (first && !begin(looker, first)) {
        struct sp_look look = {.pins = SP_PINS_UNKNOWN, .timely = true};

        tell(first, &look); /* it will ask again */
    }
}

static int on_answer(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_looker *looker = arg;
    struct sp_look look;
    int err = hear(looker, &look);

    if (err == -EAGAIN)
        return 0;
    if (looker->busy)
        tell(finish(looker, err, &look), &look);
    else
        end_looker(looker, true);
    next(looker);
    return 0;
}

/* It may have answered while the daemon was busy elsewhere. */
static int on_limit(sd_event_source *source, uint64_t usec, void *arg)
{
    struct sp_looker *looker = arg;
    struct sp_look look;
    int err;

    if (!looker->busy)
        return 0;
    err = hear(looker, &look);
    tell(finish(looker, err == -EAGAIN ? -ETIMEDOUT : err, &look), &look);
    next(looker);
    return 0;
}

/* Waits for the end of the look that is under way. */
static struct sp_client *wait_for_end(struct sp_looker *looker, struct sp_look *look)
{
    uint64_t deadline = looker->began + LIMIT_USECS;
    int err;

    while ((err = hear(looker, look)) == -EAGAIN) {
        struct pollfd pfd = {looker->process.fd, POLLIN, 0};
        uint64_t now = sp_now_usecs();

        if (now >= deadline) {
            err = -ETIMEDOUT;
            break;
        }
        poll(&pfd, 1, (int)((deadline - now) / 1000) + 1);
    }
    return finish(looker, err, look);
}

struct sp_look sp_looker_look(struct sp_client *client)
{
    struct sp_looker *looker = looker_of(client->daemon);
    struct sp_look look = {.pins = SP_PINS_UNKNOWN, .timely = true};

    if (looker && looker->busy) {
        struct sp_client *whose = wait_for_end(looker, &look);

        if (whose == client && !look.timely) {
            client->look_wanted = 0;
            next(looker);
            return look; /* it will not take less long now */
        }
        tell(whose, &look);
    }
    look = (struct sp_look){.pins = SP_PINS_UNKNOWN, .timely = true};
    if (looker && begin(looker, client))
        (void)wait_for_end(looker, &look);
    if (looker)
        next(looker);
    return look;
}

void sp_looker_want(struct sp_client *client)
{
    struct sp_looker *looker = looker_of(client->daemon);

    if (!looker)
        return;
    if (!client->look_wanted)
        client->look_wanted = sp_now_usecs();
    next(looker);
}

void sp_looker_forget(struct sp_client *client)
{
    struct sp_looker *looker = client->daemon->looker;

    if (looker && looker->client == client)
        looker->client = NULL;
}

void sp_looker_reap(struct sp_daemon *daemon)
{
    if (daemon->looker)
        sp_disposable_reap(&daemon->looker->process);
}

uint64_t sp_looker_cpu_us(const struct sp_daemon *daemon)
{
    return daemon->looker ? daemon->looker->cpu_us + daemon->looker->cpu_us_past : 0;
}

void sp_looker_stop(struct sp_daemon *daemon)
{
    struct sp_looker *looker = daemon->looker;

    if (!looker)
        return;
    end_looker(looker, true);
    sd_event_source_disable_unref(looker->limit);
    free(looker);
    daemon->looker = NULL;
}
