/* SPDX-License-Identifier: Apache-2.0 */
/* samepage: the table of commands, and what stands in front of a command. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

static const struct sp_command *const commands[] = {
    &sp_command_run, &sp_command_status, &sp_command_ps,      &sp_command_get,
    &sp_command_set, &sp_command_wait,   &sp_command_unmerge, &sp_command_off,
    &sp_command_explain, &sp_command_estimate, &sp_command_doctor,
    &sp_command_mount, &sp_command_umount, &sp_command_reclaim,
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct sp_command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static void print_overview(FILE *out)
{
    fputs("usage: samepage COMMAND [OPTION]... [ARGUMENT]...\n"
          "Keeps identical memory pages of running programs only once.\n\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n\"samepage COMMAND --help\" explains a command, \"samepage --version\" prints the\n"
          "version. Exit status: 0 done, 1 could not, 2 wrong use.\n",
          out);
}

static int print_help(const char *name)
{
    const struct sp_command *cmd;

    if (!name) {
        print_overview(stdout);
        return sp_finish_output();
    }
    cmd = find_command(name);
    if (!cmd) {
        sp_say("unknown command '%s'; \"samepage --help\" lists them", name);
        return SP_EXIT_WRONG_USE;
    }
    printf("usage: samepage %s\n%s.\n\n%s", cmd->usage, cmd->summary, cmd->help);
    return sp_finish_output();
}

/* Help counts only before "--" and, for run, before the program's own words. */
static bool wants_help(const struct sp_command *cmd, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return true;
        if (cmd != &sp_command_run)
            continue;
        if (argv[i][0] != '-')
            return false;
        if (strcmp(argv[i], "--domain") == 0 || strcmp(argv[i], "-d") == 0)
            i++;
    }
    return false;
}

int main(int argc, char **argv)
{
    const struct sp_command *cmd;

    if (argc < 2) {
        print_overview(stderr);
        return SP_EXIT_WRONG_USE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return print_help(argc > 2 ? argv[2] : NULL);
    if (strcmp(argv[1], "--version") == 0) {
        printf("samepage %s\n", SP_VERSION);
        return sp_finish_output();
    }
    cmd = find_command(argv[1]);
    if (!cmd) {
        sp_say("unknown %s '%s'; \"samepage --help\" lists the commands",
               argv[1][0] == '-' ? "option" : "command", argv[1]);
        return SP_EXIT_WRONG_USE;
    }
    if (wants_help(cmd, argc - 1, argv + 1))
        return print_help(cmd->name);
    return cmd->run(argc - 1, argv + 1);
}
