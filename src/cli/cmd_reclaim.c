/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage reclaim: shared frames that nobody uses leave memory (S1).
 *
 * The daemon does a part of it at a time, so that others are served meanwhile: we ask until there
 * is enough. What was used since the last look is passed over once (S2); when nothing else is left
 * it is asked for once more.
 */
#include "control_client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_INTERRUPTED (128 + SIGINT)
#define LOOK_USECS       20000 /* between two questions whether the look is over */
#define EMPTY_ROUNDS     2     /* that freed nothing: a second chance is over after the first */

struct reclaim {
    bool json, all, progress;
    const char *domain;
    uint64_t want;
    int64_t evicted, bytes, referenced, locked, again, cannot;
    unsigned empty; /* rounds that freed nothing, over everything */
    int64_t last;   /* frames, after the first of them: no more leave */
    int64_t idle;   /* to the machine's swap: frames that stayed since one left last */
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static bool read_bytes(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    size_t len = strlen(text);
    const char *unit = len > 1 ? strchr(units, text[len - 1]) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    char digits[24];

    len -= unit != NULL;
    if (len >= sizeof(digits))
        return false;
    memcpy(digits, text, len);
    digits[len] = 0;
    if (!sp_parse_number(digits, (uint64_t)INT64_MAX >> shift, bytes))
        return false;
    *bytes <<= shift;
    return *bytes > 0;
}

static int parse_options(int argc, char **argv, struct reclaim *r)
{
    static const struct option options[] = {
        {"domain", required_argument, NULL, 'd'}, {"json", no_argument, NULL, 'j'}, {0}};
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":d:j", options, NULL)) != -1) {
        if (opt == 'j')
            r->json = true;
        else if (opt == 'd')
            r->domain = optarg;
        else
            return sp_bad_option(&sp_command_reclaim, argv, opt);
    }
    if (argc - optind != 1)
        return sp_bad_use(&sp_command_reclaim, "takes how many bytes, like 512M, or \"all\"");
    r->all = !strcmp(argv[optind], "all");
    if (!r->all && !read_bytes(argv[optind], &r->want))
        return sp_bad_use(&sp_command_reclaim,
                          "'%s' is no number of bytes; give one like 512M, or \"all\"",
                          argv[optind]);
    if (r->all)
        r->want = INT64_MAX;
    return SP_EXIT_DONE;
}

static int ask(const struct reclaim *r, bool look, json_object **answer)
{
    json_object *request = json_object_new_object();
    int ret = SP_EXIT_COULD_NOT;

    if (!request || json_object_object_add(request, "op", json_object_new_string("reclaim")) < 0 ||
        json_object_object_add(request, "bytes",
                               json_object_new_int64((int64_t)r->want - r->bytes)) < 0 ||
        (look && json_object_object_add(request, "look", json_object_new_boolean(true)) < 0) ||
        (r->domain &&
         json_object_object_add(request, "domain", json_object_new_string(r->domain)) < 0))
        sp_say("out of memory");
    else
        ret = sp_control_ask(request, SP_ASK_PATIENCE, answer);
    json_object_put(request);
    return ret;
}

static void add(struct reclaim *r, json_object *answer)
{
    r->evicted += sp_answer_number(answer, "evicted");
    r->bytes += sp_answer_number(answer, "bytes");
    r->referenced += sp_answer_number(answer, "referenced");
    /* Each round meets these anew. */
    r->locked = sp_answer_number(answer, "locked");
    r->again = sp_answer_number(answer, "again");
    r->cannot = sp_answer_number(answer, "cannot");
}

static void show_progress(const struct reclaim *r)
{
    char bytes[32];

    if (r->progress)
        fprintf(stderr, "\r\033[K%s in %" PRId64 " frames",
                sp_human_bytes(r->bytes, bytes, sizeof(bytes)), r->evicted);
}

/* Is it so, by the answer? */
static bool says(json_object *answer, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(answer, key, &value) && json_object_get_boolean(value);
}

/*
 * To the machine's swap frames go some at a time: was everything looked at twice since one left last? What is on
 * its way yet is in the next answer.
 */
static void count_round(struct reclaim *r, json_object *answer, bool freed)
{
    if (freed)
        r->empty = r->idle = 0;
    if (freed || sp_answer_number(answer, "later"))
        return;
    r->idle += sp_answer_number(answer, "referenced") + r->locked + r->again + r->cannot;
    if (says(answer, "whole"))
        r->empty++;
    else if (r->idle >= EMPTY_ROUNDS * sp_answer_number(answer, "in_memory"))
        r->empty = EMPTY_ROUNDS;
}

/* After the first round that freed nothing only those are left that were passed over: as many may
 * leave yet, for what is in use comes back meanwhile. */
static void count_stored_round(struct reclaim *r, bool freed)
{
    if (!freed && ++r->empty == 1)
        r->last = r->evicted + r->referenced + r->again;
}

/* Until there is enough, or two rounds freed nothing. */
static int reclaim_all(struct reclaim *r)
{
    bool look = true;
    int ret = SP_EXIT_DONE;

    r->last = INT64_MAX;
    while (!interrupted && r->empty < EMPTY_ROUNDS && (uint64_t)r->bytes < r->want &&
           r->evicted < r->last) {
        json_object *answer = NULL;
        int64_t before = r->evicted;

        ret = ask(r, look, &answer);
        if (ret != SP_EXIT_DONE)
            break;
        look = says(answer, "looking");
        if (look) {
            json_object_put(answer);
            usleep(LOOK_USECS);
            continue;
        }
        add(r, answer);
        if (json_object_object_get_ex(answer, "in_memory", NULL))
            count_round(r, answer, r->evicted > before);
        else
            count_stored_round(r, r->evicted > before);
        json_object_put(answer);
        show_progress(r);
    }
    if (r->progress)
        fputs("\r\033[K", stderr);
    return ret;
}

static int print(const struct reclaim *r)
{
    char bytes[32];

    if (r->json)
        printf("{\"evicted\":%" PRId64 ",\"bytes\":%" PRId64 ",\"referenced\":%" PRId64
               ",\"locked\":%" PRId64 ",\"again\":%" PRId64 ",\"cannot\":%" PRId64 "}\n",
               r->evicted, r->bytes, r->referenced, r->locked, r->again, r->cannot);
    else
        printf("%" PRId64 " frames left memory: %s\n", r->evicted,
               sp_human_bytes(r->bytes, bytes, sizeof(bytes)));
    return sp_finish_output();
}

static int verdict(const struct reclaim *r)
{
    if (interrupted)
        return EXIT_INTERRUPTED;
    if (r->cannot) {
        sp_say("reclaim: the store is full, or cannot be written, or the machine's swap is full: %" PRId64
               " frames stay in memory; give the store more in [swap] of samepaged.conf, or the machine more swap",
               r->cannot);
        return SP_EXIT_COULD_NOT;
    }
    return SP_EXIT_DONE;
}

static int reclaim(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = note_interrupt};
    struct reclaim r = {0};
    int ret = parse_options(argc, argv, &r);

    if (ret != SP_EXIT_DONE)
        return ret;
    r.progress = !r.json && isatty(STDERR_FILENO);
    sigaction(SIGINT, &action, NULL);
    ret = reclaim_all(&r);
    if (ret != SP_EXIT_DONE)
        return ret;
    ret = print(&r);
    return ret != SP_EXIT_DONE ? ret : verdict(&r);
}

const struct sp_command sp_command_reclaim = {
    .name = "reclaim",
    .usage = "reclaim [--domain NAME] [--json] BYTES|all",
    .summary = "Has shared frames that nobody uses leave memory",
    .help = "Frames go, packed, to the store, where they take less memory or none, or to the machine's swap, and\n"
            "come back, still shared, when they are touched. BYTES may end with K, M, G or T. Frames that were used\n"
            "since they were looked at last, and those of locked memory, stay. Prints what left; exit status 1 if\n"
            "there is no room. It needs \"swap = store\" in samepaged.conf(5), or swap on the machine, DAMON in its\n"
            "kernel, and a samepaged of root's.\n"
            "\n"
            "  --domain NAME  only frames of that domain\n"
            "  --json         print the numbers as JSON\n",
    .run = reclaim,
};
