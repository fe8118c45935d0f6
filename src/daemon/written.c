/* SPDX-License-Identifier: Apache-2.0 */
#include "written.h"

#include <errno.h>

#include "admit.h"
#include "answers.h"
#include "ask.h"
#include "engine_ops.h"
#include "log.h"
#include "turns.h"

#define LOOK_USECS  2000000u /* between two looks at a process, at least: an age (lasting.c) */
#define LOOK_SHARE  100u     /* looking takes at most a hundredth of the time; */
#define HOLD_SHARE  32u      /* all looks, those while pages are held included, a thirtieth */
#define STALE       4u       /* a look counts for so many times as long as until the next one */
#define UNTIMELY_USECS 8000000u /* after a look that took too long; twice as long after each more, */
#define UNTIMELY_MOST  4u       /* so often. Then it is told: until then it may have been the machine */
#define RETRY_USECS 2000000u /* after a give back that gave nothing */
/* At once, and then nothing for so many times what it took: until they are merged again, nothing is saved. */
#define GIVE_BACK_PAGES 128u
#define GIVE_BACK_SHARE 32u
#define GIVE_BACK_USECS 400000u /* but no longer */

/* So long must nothing have been seen that may pin, until what it may have begun before has ended: a
 * descriptor that is closed may go on with its I/O for a moment. */
static bool is_clean(const struct sp_client *client, uint64_t now)
{
    return client->pins == SP_PINS_NONE && now - client->clean_since >= LOOK_USECS && now < client->clean_until;
}

/* Whether looking took too much is asked for a whole pass: in a part of one the agent would come to a part of
 * what is due, again and again. */
bool sp_written_may_report(struct sp_client *client, bool pass_begins)
{
    uint64_t now = sp_now_usecs();

    if (pass_begins)
        client->reports = now >= client->hold_due;
    return client->reports && is_clean(client, now);
}

bool sp_written_may_hold(const struct sp_client *client)
{
    return is_clean(client, sp_now_usecs());
}

void sp_written_want_look(struct sp_client *client)
{
    if ((client->kept || client->useless) && sp_now_usecs() >= client->look_due)
        sp_looker_want(client);
}

void sp_written_each_second(struct sp_daemon *daemon)
{
    struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->state == SP_CLIENT_READY &&
            client->domain->value[SP_KEY_RUN] == SP_RUN_MERGE)
            sp_written_want_look(client);
    }
}

/* Everybody may have waited for it. */
static void note_untimely(struct sp_client *client, const struct sp_look *look)
{
    char name[sizeof(client->comm) + 1];

    if (sp_admit_is_limited(client->daemon, client->uid))
        sp_turns_note_slow(client->daemon, client->uid, look->usecs);
    if (++client->untimely != UNTIMELY_MOST)
        return;
    sp_log(SP_LOG_WARNING,
           "%s (pid %d): to look what it has open took more than %u ms: pages that it writes after their merge "
           "stay private",
           sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm)), (int)client->program,
           (unsigned)(look->usecs / 1000));
}

void sp_written_looked(struct sp_client *client, const struct sp_look *look)
{
    uint64_t now = sp_now_usecs(), rest = look->usecs * LOOK_SHARE;

    if (rest < LOOK_USECS)
        rest = LOOK_USECS;
    if (look->timely) {
        client->untimely = 0;
    } else {
        note_untimely(client, look);
        rest = (uint64_t)UNTIMELY_USECS
               << (client->untimely < UNTIMELY_MOST ? client->untimely - 1 : UNTIMELY_MOST - 1);
    }
    if (client->pins != SP_PINS_NONE || now >= client->clean_until)
        client->clean_since = now;
    client->pins = look->pins;
    client->clean_until = now + rest * STALE;
    client->look_due = now + rest;
    client->hold_due = (client->hold_due > now ? client->hold_due : now) + look->usecs * HOLD_SHARE;
}

static int let_go(struct sp_client *client)
{
    struct sp_merge_ask ask = {0};
    const struct sp_merged *merged;
    const void *body;
    size_t size;
    int err = sp_ask(client, SP_MSG_MERGE, &ask, sizeof(ask), -1, SP_MSG_MERGE, &body, &size);

    if (!err && sp_check_merged(body, size, 0, 0, &merged))
        err = sp_ask_malformed(client);
    return err;
}

/* Looks while pages are held. */
static bool may_go_on(struct sp_client *client)
{
    bool was_clean = is_clean(client, sp_now_usecs());
    struct sp_look look = sp_looker_look(client);

    sp_written_looked(client, &look);
    return was_clean && client->pins == SP_PINS_NONE;
}

int sp_written_merge(struct sp_client *client, struct sp_merge_page *page, unsigned n)
{
    struct sp_merge_page held[SP_MERGE_PAGES];
    unsigned nheld = 0, at = 0;
    int err = 0;

    for (unsigned i = 0; i < n && nheld < SP_MERGE_PAGES; i++) {
        if (page[i].result != SP_RESULT_HELD)
            continue;
        page[i].result = SP_CHANGED; /* if it comes to nothing: it is reported again */
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
        page[i].result = held[at].result;
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

    if (!client->useless || !is_clean(client, began) || began < client->give_back_due)
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
