/* SPDX-License-Identifier: Apache-2.0 */
#include "samepage.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "inside.h"

#define PATIENCE_MS                                                                                \
    10000 /* for an answer that needs no work, and for a child's agent to be there */
#define NAP_MS      2
#define DAEMON_GONE "its samepage agent ended, or the program cannot be merged any more"

/* The agent, which is loaded together with this, finds it by its name (linked.h). */
__attribute__((visibility("default"))) extern const uint32_t samepage_is_linked;
const uint32_t samepage_is_linked = 1;

static __thread char why[256];

const char *samepage_version(void)
{
    return SP_VERSION;
}

const char *samepage_why(void)
{
    return why;
}

/* NULL, and why: the program is not merged. */
static const struct sp_linked *agent(void)
{
    const struct sp_linked *linked = samepage_agent_linked();

    why[0] = 0;
    if (linked->size >= sizeof(*linked) && linked->page_size && linked->merges())
        return linked;
    if (linked->size < sizeof(*linked))
        snprintf(why, sizeof(why), "the agent that was preloaded is of another version");
    else if (linked->why[0])
        snprintf(why, sizeof(why), "%s", linked->why);
    else
        snprintf(why, sizeof(why), DAEMON_GONE);
    return NULL;
}

int samepage_init(void)
{
    return agent() ? SAMEPAGE_DONE : SAMEPAGE_NOT_MERGED;
}

static int wrong_use(const char *what)
{
    snprintf(why, sizeof(why), "%s", what);
    return SAMEPAGE_WRONG_USE;
}

/* The end of the range, rounded up; 0: there is none, and why. */
static uint64_t end_of(const void *address, size_t length)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = (uint64_t)address;
    uint64_t rounded = (length + page - 1) & ~(page - 1);

    why[0] = 0;
    if (start % page)
        wrong_use("the address is not that of a page");
    else if (rounded < length || start + rounded < start)
        wrong_use("the range goes beyond all memory");
    else
        return start + rounded;
    return 0;
}

static int advise(void *address, size_t length, bool merge)
{
    if (!end_of(address, length))
        return SAMEPAGE_WRONG_USE;
    if (madvise(address, length, merge ? MADV_MERGEABLE : MADV_UNMERGEABLE) == 0)
        return agent() || !merge ? SAMEPAGE_DONE : SAMEPAGE_NOT_MERGED;
    if (errno == ENOMEM)
        return wrong_use("not all of the range is mapped");
    /* A kernel without KSM knows the advice only from the agent. */
    return agent() || !merge ? SAMEPAGE_DONE : SAMEPAGE_NOT_MERGED;
}

static int advise_constant(void *address, size_t length)
{
    const struct sp_linked *linked;
    int ret = advise(address, length, true);

    if (ret != SAMEPAGE_DONE)
        return ret;
    linked = agent();
    if (linked)
        linked->constant((uint64_t)address, end_of(address, length));
    return linked ? SAMEPAGE_DONE : SAMEPAGE_NOT_MERGED;
}

int samepage_advise(void *address, size_t length, enum samepage_advice advice)
{
    int err = errno, ret;

    if (advice == SAMEPAGE_MERGE)
        ret = advise(address, length, true);
    else if (advice == SAMEPAGE_CONSTANT)
        ret = advise_constant(address, length);
    else if (advice == SAMEPAGE_DONT_MERGE)
        ret = advise(address, length, false);
    else
        ret = wrong_use("there is no such advice");
    if (ret == SAMEPAGE_DONE)
        why[0] = 0;
    errno = err;
    return ret;
}

/* Asks about this process: SAMEPAGE_DONE only if the daemon merges it. */
static int ask(const struct sp_linked *linked, const char *request, int timeout_ms, char *answer)
{
    char state[32];
    int ret = sp_lib_ask(linked->socket, request, timeout_ms, answer, why, sizeof(why));

    if (ret != SAMEPAGE_DONE)
        return ret;
    sp_lib_text(answer, "state", state, sizeof(state));
    if (!strcmp(state, "merging"))
        return SAMEPAGE_DONE;
    snprintf(why, sizeof(why), "the daemon says of this process: %.31s", state);
    return SAMEPAGE_NOT_MERGED;
}

static void fill_merged(struct samepage_merged *to, const struct sp_linked *linked,
                        const void *address, size_t length)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = (uint64_t)address;
    struct samepage_merged m = {.size = to->size, .pages = (length + page - 1) / page};

    if (linked)
        m.pages_merged = sp_lib_count(linked, start, start + m.pages * page);
    memcpy(to, &m, to->size < sizeof(m) ? to->size : sizeof(m));
}

/* The agent of a child that was just forked may not have said that it is there, nor one whose daemon was
 * replaced: it is waited for, all in all for as long as the caller would. */
static int ask_to_merge(const struct sp_linked *linked, int timeout_ms)
{
    const struct timespec nap = {.tv_nsec = NAP_MS * 1000000L};
    int patience = timeout_ms < 0 || timeout_ms > PATIENCE_MS ? PATIENCE_MS : timeout_ms;
    int64_t began = sp_lib_now_ms();
    int left = timeout_ms;
    char answer[SP_ANSWER_MAX + 1];

    for (;;) {
        int ret = ask(linked, "{\"op\":\"merge\"}", left, answer);
        int64_t passed = sp_lib_now_ms() - began;

        if (ret != SAMEPAGE_NOT_MERGED || !strstr(answer, "\"unknown\"") || passed >= patience ||
            !linked->merges())
            return ret;
        nanosleep(&nap, NULL);
        if (timeout_ms >= 0)
            left = timeout_ms > passed ? (int)(timeout_ms - passed) : 0;
    }
}

int samepage_merge_now(void *address, size_t length, int timeout_ms, struct samepage_merged *merged)
{
    int err = errno, ret = advise(address, length, true);
    const struct sp_linked *linked = NULL;

    if (ret == SAMEPAGE_DONE) {
        linked = agent();
        ret = linked ? ask_to_merge(linked, timeout_ms) : SAMEPAGE_NOT_MERGED;
    }
    if (merged && ret != SAMEPAGE_WRONG_USE)
        fill_merged(merged, linked, address, length);
    errno = err;
    return ret;
}

/* Pages that have an equal, and no mapping was spent on: as `samepage explain` counts them. */
static uint64_t pages_left(const struct sp_linked *linked, const char *self)
{
    char request[64], answer[SP_ANSWER_MAX + 1];
    const char *pages;

    snprintf(request, sizeof(request), "{\"op\":\"explain\",\"pid\":%u}",
             (unsigned)sp_lib_number(self, "pid")); /* as the daemon numbers processes */
    if (ask(linked, request, PATIENCE_MS, answer) != SAMEPAGE_DONE)
        return 0;
    pages = strstr(answer, "\"pages\":{");
    return pages ? (uint64_t)(sp_lib_number(pages, "mappings") + sp_lib_number(pages, "short_run"))
                 : 0;
}

int samepage_statistics(struct samepage_statistics *statistics)
{
    struct samepage_statistics s = {.size = statistics->size};
    char answer[SP_ANSWER_MAX + 1];
    const struct sp_linked *linked = agent();
    int err = errno, ret = SAMEPAGE_NOT_MERGED;

    if (linked)
        ret = ask(linked, "{\"op\":\"self\"}", PATIENCE_MS, answer);
    if (ret == SAMEPAGE_DONE) {
        s.pages_tracked = (uint64_t)sp_lib_number(answer, "pages_tracked");
        s.pages_merged = (uint64_t)sp_lib_number(answer, "sites");
        s.frames = (uint64_t)sp_lib_number(answer, "pages_shared");
        s.frames_sites = s.frames + (uint64_t)sp_lib_number(answer, "pages_sharing");
        s.cpu_seconds = sp_lib_number(answer, "cpu_seconds");
        s.mappings = (uint64_t)sp_lib_number(answer, "mappings");
        s.mappings_budget = (uint64_t)sp_lib_number(answer, "mappings_budget");
        if (s.size >= sizeof(s)) /* it takes a look at all pages: not for who cannot be told */
            s.pages_left = pages_left(linked, answer);
        why[0] = 0;
    }
    memcpy(statistics, &s, s.size < sizeof(s) ? s.size : sizeof(s));
    errno = err;
    return ret == SAMEPAGE_NOT_IN_TIME ? SAMEPAGE_NOT_MERGED : ret;
}
