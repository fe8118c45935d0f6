/* SPDX-License-Identifier: Apache-2.0 */
#include "meanwhile.h"

#include <poll.h>

#include "server.h"
#include "storage.h"

/* When the event loop came round last, us. */
static uint64_t woke_at(const struct sp_daemon *daemon)
{
    uint64_t at = 0;

    return sd_event_now(daemon->event, CLOCK_MONOTONIC, &at) < 0 ? 0 : at;
}

static int msecs_until(uint64_t at)
{
    uint64_t now = sp_now_usecs();

    return now >= at ? 0 : (int)((at - now) / 1000) + 1;
}

/* What is looked at in one go. */
struct round {
    struct pollfd pfd[SP_MAX_CONNECTIONS + 2]; /* the agent's, the socket that listens, connections */
    struct sp_conn *conn[SP_MAX_CONNECTIONS + 2];
    nfds_t n;
};

static void collect(struct sp_daemon *daemon, const struct pollfd *agent, bool listen, struct round *round)
{
    struct sp_conn *conn;

    listen = listen && sp_server_room(daemon);
    round->pfd[0] = agent ? *agent : (struct pollfd){.fd = -1};
    round->pfd[1] = (struct pollfd){.fd = listen ? daemon->listen_fd : -1, .events = POLLIN};
    round->n = 2;
    TAILQ_FOREACH(conn, &daemon->conns, link) {
        short events = sp_conn_wants(conn);

        if (!events || round->n == SP_MAX_CONNECTIONS + 2)
            continue;
        round->conn[round->n] = conn;
        round->pfd[round->n++] = (struct pollfd){.fd = conn->fd, .events = events};
    }
}

/* Until end at most: the agent may have answered. Who had no turn comes first in the next round, for who had one goes to
 * the end of the list. False: some had none. */
static bool serve(const struct round *round, uint64_t end)
{
    for (nfds_t i = 2; i < round->n; i++) {
        if (round->pfd[i].revents && sp_now_usecs() >= end)
            return false;
        if (round->pfd[i].revents)
            sp_conn_serve_reader(round->conn[i]);
    }
    return true;
}

/* New connections last: one may push out another; and only when all that spoke were looked at, so that none of them is
 * that (sp_server_room()). What the new ones ask is answered at once if there is time. */
static void serve_all(struct sp_daemon *daemon, struct round *round, bool *listen)
{
    uint64_t end = sp_now_usecs() + SP_SLICE_USECS;

    if (!serve(round, end) || !round->pfd[1].revents || !sp_server_room(daemon))
        return;
    *listen = sp_server_accept(daemon);
    collect(daemon, NULL, false, round);
    if (poll(round->pfd, round->n, 0) > 0)
        (void)serve(round, end);
}

/* Returns as poll() does for the agent's descriptor; 0 also when somebody was served. */
static int go_round(struct sp_daemon *daemon, struct pollfd *agent, int msecs, bool *listen)
{
    struct round round;
    int n;

    collect(daemon, agent, *listen, &round);
    n = poll(round.pfd, round.n, msecs);
    if (n > 0 && round.pfd[0].revents) {
        agent->revents = round.pfd[0].revents;
        return 1;
    }
    if (n > 0)
        serve_all(daemon, &round, listen);
    daemon->served_at = sp_now_usecs();
    return n < 0 ? n : 0;
}

/* When readers have their turn. A slice of theirs is followed by as long a wait as the first had: however many ask, agents
 * have most of the time. */
static uint64_t due_at(const struct sp_daemon *daemon)
{
    uint64_t at = woke_at(daemon);

    return (at > daemon->served_at ? at : daemon->served_at) + SP_AWAY_USECS;
}

/* Until when nobody need look after the store's processes, for which the agent may be waiting. */
static uint64_t tend_by(const struct sp_daemon *daemon, uint64_t deadline)
{
    uint64_t by = sp_now_usecs() + SP_STORAGE_TEND_USECS;

    return daemon->storage && by < deadline ? by : deadline;
}

int sp_meanwhile_poll(struct sp_daemon *daemon, struct pollfd *agent, uint64_t deadline)
{
    bool listen = true;
    uint64_t due;
    int n;

    do {
        uint64_t stop = tend_by(daemon, deadline);

        due = daemon->serving ? deadline : due_at(daemon);
        if (due >= deadline || sp_now_usecs() < due)
            n = poll(agent, 1, msecs_until(due < stop ? due : stop));
        else
            n = go_round(daemon, agent, msecs_until(stop), &listen);
        if (n == 0)
            sp_storage_tend(daemon->storage);
    } while (n == 0 && sp_now_usecs() < deadline);
    return n;
}

void sp_meanwhile_serve(struct sp_daemon *daemon)
{
    bool listen = true;

    if (!daemon->serving && sp_now_usecs() >= due_at(daemon))
        (void)go_round(daemon, NULL, 0, &listen);
}
