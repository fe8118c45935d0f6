/* SPDX-License-Identifier: Apache-2.0 */
/* samepage unmerge and off: giving programs their own pages back (K13). */
#include "control_client.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#define PID_MAX 4194304 /* PID_MAX_LIMIT of the kernel: no pid reaches it */

static int no_options(const struct sp_command *cmd, int argc, char **argv)
{
    static const struct option none[] = {{0}};
    int opt;

    opterr = 0;
    opt = getopt_long(argc, argv, ":", none, NULL);
    return opt == -1 ? SP_EXIT_DONE : sp_bad_option(cmd, argv, opt);
}

/* Sends op, with a pid unless that is 0, and prints how many pages came back. */
static int ask_unmerge(const char *op, uint64_t pid)
{
    json_object *answer = NULL, *pages;
    json_object *request = json_object_new_object();
    int ret = SP_EXIT_COULD_NOT;

    if (!request || json_object_object_add(request, "op", json_object_new_string(op)) < 0 ||
        (pid && json_object_object_add(request, "pid", json_object_new_int64((int64_t)pid)) < 0))
        sp_say("out of memory");
    else
        ret = sp_control_ask(request, SP_ASK_HOWEVER_LONG, &answer);
    if (ret == SP_EXIT_DONE && json_object_object_get_ex(answer, "pages", &pages)) {
        printf("un-merged %" PRId64 " pages\n", json_object_get_int64(pages));
        ret = sp_finish_output();
    }
    json_object_put(answer);
    json_object_put(request);
    return ret;
}

static int unmerge(int argc, char **argv)
{
    uint64_t pid = 0;
    int ret = no_options(&sp_command_unmerge, argc, argv);

    if (ret != SP_EXIT_DONE)
        return ret;
    if (argc - optind > 1)
        return sp_bad_use(&sp_command_unmerge, "takes one PID at most");
    if (optind < argc && (!sp_parse_number(argv[optind], PID_MAX, &pid) || pid == 0))
        return sp_bad_use(&sp_command_unmerge, "'%s' is no PID", argv[optind]);
    return ask_unmerge("unmerge", pid);
}

const struct sp_command sp_command_unmerge = {
    .name = "unmerge",
    .usage = "unmerge [PID]",
    .summary = "Gives every program, or one, its own pages back",
    .help =
        "Returns when it is done. A process that was named by its PID is not merged again until\n"
        "\"samepage set run=1\"; without a PID, merging goes on and begins anew (\"samepage off\"\n"
        "keeps everything un-merged). When memory is too short, it fails and no page is lost.\n",
    .run = unmerge,
};

static int off(int argc, char **argv)
{
    int ret = no_options(&sp_command_off, argc, argv);

    if (ret != SP_EXIT_DONE)
        return ret;
    if (optind < argc)
        return sp_bad_use(&sp_command_off, "does not know what to do with '%s'", argv[optind]);
    return ask_unmerge("off", 0);
}

const struct sp_command sp_command_off = {
    .name = "off",
    .usage = "off",
    .summary = "Un-merges everything and keeps it so until \"samepage set run=1\"",
    .help = "Returns when it is done.\n",
    .run = off,
};
