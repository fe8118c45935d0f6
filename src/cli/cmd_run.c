/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage run: becomes the program, with the agent preloaded.
 *
 * There is no process in between: pid, signals, terminal and exit status are the program's own. A
 * program that cannot be merged runs all the same, after exactly one line that says why.
 */
#include "control_client.h"
#include "daemon_start.h"
#include "exe_probe.h"

#include "socket_path.h"
#include "wire.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AGENT_NAME          "libsamepage-agent.so"
#define EXIT_NOT_EXECUTABLE 126 /* as shells have it */
#define EXIT_NOT_FOUND      127

struct run {
    const char *domain; /* NULL: the user's */
    bool all;
    char **argv; /* the program's */
};

static bool domain_is_valid(const char *name)
{
    size_t len = strlen(name);

    if (len < 1 || len >= SP_DOMAIN_MAX)
        return false;
    for (; *name; name++)
        if (!(isascii(*name) && isalnum((unsigned char)*name)) && !strchr("_.-", *name))
            return false;
    return true;
}

static int parse_options(int argc, char **argv, struct run *run)
{
    static const struct option options[] = {
        {"domain", required_argument, NULL, 'd'}, {"all", no_argument, NULL, 'a'}, {0}};
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, "+:d:a", options, NULL)) != -1) {
        if (opt == 'a')
            run->all = true;
        else if (opt == 'd')
            run->domain = optarg;
        else
            return sp_bad_option(&sp_command_run, argv, opt);
    }
    if (run->domain && !domain_is_valid(run->domain))
        return sp_bad_use(&sp_command_run,
                          "'%s' is no domain name, which is 1 to %u letters, digits, '_', '.', '-'",
                          run->domain, SP_DOMAIN_MAX - 1);
    if (optind >= argc)
        return sp_bad_use(&sp_command_run, "needs a command to run");
    run->argv = argv + optind;
    return SP_EXIT_DONE;
}

static bool is_agent(const char *entry, size_t len)
{
    const size_t name = strlen(AGENT_NAME);

    return len >= name && memcmp(entry + len - name, AGENT_NAME, name) == 0 &&
           (len == name || entry[len - name - 1] == '/');
}

/*
 * Sets LD_PRELOAD to the agent (NULL: none) and whatever else stands there. An agent that stands
 * there already, because we run under samepage run ourselves, is replaced.
 */
static int set_preload(const char *agent)
{
    const char *old = getenv("LD_PRELOAD");
    size_t room = (agent ? strlen(agent) : 0) + (old ? strlen(old) : 0) + 2;
    char *value, *end;
    int ret;

    if (!old && !agent)
        return 0;
    value = calloc(1, room);
    if (!value)
        return -1;
    end = stpcpy(value, agent ? agent : "");
    for (old = old ? old : ""; *old;) {
        size_t len = strcspn(old, ": ");

        if (len && !is_agent(old, len)) {
            if (end != value)
                *end++ = ':';
            memcpy(end, old, len);
            end += len;
            *end = 0;
        }
        old += len + (old[len] != 0);
    }
    ret = *value ? setenv("LD_PRELOAD", value, 1) : unsetenv("LD_PRELOAD");
    free(value);
    return ret;
}

/* The absolute form: the program may change its folder before it forks or execs. */
static int absolute_socket(char *path, size_t size, char *why, size_t why_size)
{
    char given[256], cwd[PATH_MAX];

    if (sp_socket_choose(given, sizeof(given)) < 0) {
        snprintf(why, why_size, "the socket's path is too long; set SAMEPAGE_SOCKET to another");
        return -1;
    }
    if (given[0] == '/') {
        snprintf(path, size, "%s", given);
        return 0;
    }
    if (!getcwd(cwd, sizeof(cwd)) || (size_t)snprintf(path, size, "%s/%s", cwd, given) >= size) {
        snprintf(why, why_size, "the socket %s has no absolute path that can be used", given);
        return -1;
    }
    return 0;
}

/*
 * A program that is linked with ASan's shared runtime refuses to start when a preloaded library comes
 * before the runtime: it fears that the library replaces what it replaces. Ours exports nothing. The
 * program's own options come later, and win.
 */
static int allow_asan(void)
{
    const char *old = getenv("ASAN_OPTIONS");
    char *value;
    int ret;

    if (asprintf(&value, "verify_asan_link_order=0%s%s", old && *old ? ":" : "", old ? old : "") < 0)
        return -1;
    ret = setenv("ASAN_OPTIONS", value, 1);
    free(value);
    return ret;
}

/* All that merging needs. Returns 0; or -1 and the reason in why, with the environment as it was.
 */
static int prepare_merging(const struct run *run, const char *program, char *why, size_t size)
{
    char agent[PATH_MAX], socket_path[PATH_MAX];
    const char *objection = sp_exe_objection(program);

    if (objection) {
        snprintf(why, size, "%s", objection);
        return -1;
    }
    if (sp_part_find(AGENT_NAME, agent, sizeof(agent)) < 0) {
        snprintf(why, size, AGENT_NAME " is not installed beside samepage");
        return -1;
    }
    if (agent[strcspn(agent, ": \t\n")]) {
        snprintf(why, size,
                 "the path %.500s has a blank or colon in it, which LD_PRELOAD cannot carry",
                 agent);
        return -1;
    }
    if (absolute_socket(socket_path, sizeof(socket_path), why, size) < 0 ||
        sp_daemon_ensure(socket_path, why, size) < 0)
        return -1;
    if (setenv("SAMEPAGE_SOCKET", socket_path, 1) < 0 ||
        setenv("SAMEPAGE_MODE", run->all ? "all" : "advised", 1) < 0 ||
        (run->domain && setenv("SAMEPAGE_DOMAIN", run->domain, 1) < 0) || set_preload(agent) < 0 ||
        allow_asan() < 0) {
        snprintf(why, size, "out of memory");
        return -1;
    }
    return 0;
}

static int report_exec_failure(const char *cmd, int err)
{
    if (err == ENOENT) {
        sp_say("%s: command not found", cmd);
        return EXIT_NOT_FOUND;
    }
    sp_say("%s: cannot be executed: %s", cmd, strerror(err));
    return EXIT_NOT_EXECUTABLE;
}

static int run_program(int argc, char **argv)
{
    struct run run = {0};
    char program[PATH_MAX], why[1024] = "";
    int ret = parse_options(argc, argv, &run);

    if (ret != SP_EXIT_DONE)
        return ret;
    ret = sp_exe_find(run.argv[0], program, sizeof(program));
    if (ret < 0)
        return report_exec_failure(run.argv[0], -ret);
    if (prepare_merging(&run, program, why, sizeof(why)) < 0) {
        sp_say("%s is not merged: %s", run.argv[0], why);
        if (set_preload(NULL) < 0)
            sp_say("out of memory");
    }
    execv(program, run.argv);
    if (errno == ENOEXEC && !sp_exe_is_elf(program))
        execvp(run.argv[0], run.argv); /* a script without "#!": the shell's */
    return report_exec_failure(run.argv[0], errno);
}

const struct sp_command sp_command_run = {
    .name = "run",
    .usage = "run [--domain D] [--all] [--] CMD [ARGUMENT]...",
    .summary = "Runs a program whose memory is merged",
    .help = "Starts a daemon for this user if none serves them. Without --all only memory is merged that\n"
            "the program itself advises (MADV_MERGEABLE, PR_SET_MEMORY_MERGE).\n"
            "  --all       merge all large private memory of the program\n"
            "  --domain D  share only with programs of the same domain; 1 to 31 letters, digits,\n"
            "              '_', '.' or '-'\n"
            "The exit status is the program's; 127: not found, 126: cannot be executed. A program\n"
            "that cannot be merged runs unmerged, and one line says why.\n",
    .run = run_program,
};
