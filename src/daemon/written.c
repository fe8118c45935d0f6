/* SPDX-License-Identifier: Apache-2.0 */
#include "written.h"

#include <errno.h>
#include <poll.h>

#include "answers.h"
#include "ask.h"
#include "engine_ops.h"

#define LOOK_USECS  2000000u /* between two looks at a process, at least */
#define LOOK_SHARE  100u     /* looking takes at most a hundredth of the time */
#define RETRY_USECS 2000000u /* after a give back that gave nothing */
/* At once, and then nothing for so many times what it took: until they are merged again, nothing is saved. */
#define GIVE_BACK_PAGES 128u
#define GIVE_BACK_SHARE 32u
#define GIVE_BACK_USECS 400000u /* but no longer */

/* The pid was the client's for as long as its pidfd says that it lives. */
static enum sp_pins look(const struct sp_client *client)
{
    enum sp_pins pins = sp_pins_look(client->program);
    struct pollfd pfd = {client->pidfd, POLLIN, 0};

    return poll(&pfd, 1, 0) == 0 ? pins : SP_PINS_UNKNOWN;
}

bool sp_written_look(struct sp_client *client)
{
    uint64_t now = sp_now_usecs(), cost;

    if (!client->kept && !client->useless)
        return client->pins == SP_PINS_NONE;
    if (now < client->pins_due)
        return client->pins == SP_PINS_NONE;
    client->pins = look(client);
    cost = (sp_now_usecs() - now) * LOOK_SHARE;
    client->pins_due = now + (cost > LOOK_USECS ? cost : LOOK_USECS);
    return client->pins == SP_PINS_NONE;
}

static int let_go(struct sp_client *client)
{
    struct sp_merge_ask ask = {0};
    const struct sp_merged *merged;
    const void *body;
    size_t size;
    int err = sp_ask(client, SP_MSG_MERGE, &ask, sizeof(ask), -1, SP_MSG_MERGE, &body, &size);

    if (!err && sp_check_merged(body, size, 0, &merged))
        err = sp_ask_malformed(client);
    return err;
}

/* Looks while pages are held. */
static bool may_go_on(struct sp_client *client)
{
    client->pins = look(client);
    return client->pins == SP_PINS_NONE;
}

int sp_written_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n)
{
    struct sp_merge_page held[SP_MERGE_PAGES];
    unsigned nheld = 0, at = 0;
    int err = 0;

    for (unsigned i = 0; i < n && nheld < SP_MERGE_PAGES; i++) {
        if (page[i].result != SP_RESULT_HELD)
            continue;
        page[i].result = SP_PINNED;
        held[nheld] = page[i];
        held[nheld++].break_fork = 0;
    }
    if (!nheld)
        return 0;
    if (!may_go_on(client)) {
        err = let_go(client);
        return err == -EHOSTDOWN ? 0 : err;
    }
    err = sp_engine_ask_merge(client, held, nheld, SP_MERGE_LOOKED);
    if (err == -EHOSTDOWN)
        return 0; /* it is not asked now: they are let go of in time */
    for (unsigned i = 0; !err && i < n && at < nheld; i++) {
        if (page[i].addr != held[at].addr)
            continue;
        page[i].result = held[at].result == SP_RESULT_HELD ? (uint8_t)SP_PINNED : held[at].result;
        at++;
    }
    return err;
}

static int ask_unmerge(struct sp_client *client, uint32_t flags, struct sp_unmerged *done)
{
    struct sp_unmerge_ask ask = {.end = UINT64_MAX, .max_pages = GIVE_BACK_PAGES, .flags = flags};
    const void *body;
    size_t size;
    int err = sp_ask(client, SP_MSG_UNMERGE, &ask, sizeof(ask), -1, SP_MSG_UNMERGE, &body, &size);

    if (!err && sp_check_unmerged(body, size, client->daemon->page_size, 0, UINT64_MAX, done))
        err = sp_ask_malformed(client);
    return err;
}

int sp_written_give_back(struct sp_client *client)
{
    uint64_t began = sp_now_usecs(), rest;
    struct sp_unmerged done;
    int err;

    if (!client->useless || client->pins != SP_PINS_NONE || began < client->give_back_due)
        return 0;
    client->useless = 0; /* until it says so again */
    client->give_back_due = began + RETRY_USECS;
    err = ask_unmerge(client, SP_UNMERGE_HOLD, &done);
    if (err || !done.npages)
        return err;
    if (!may_go_on(client))
        return let_go(client);
    err = ask_unmerge(client, SP_UNMERGE_LOOKED, &done);
    if (err)
        return err;
    client->mappings = done.mappings;
    rest = (sp_now_usecs() - began) * GIVE_BACK_SHARE;
    if (done.npages)
        client->give_back_due = began + (rest < GIVE_BACK_USECS ? rest : GIVE_BACK_USECS);
    return 0;
}
