/* SPDX-License-Identifier: Apache-2.0 */
/* samepage mount and umount: the files of KSM (docs/ksmfs.md). samepage-ksmfs does the work. */
#include "cli.h"
#include "daemon_start.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRAM "samepage-ksmfs"
#define SYSFS   "/sys/kernel/mm/ksm"

/* Becomes the program. Returns only if that fails. */
static int become(const char *what, const char *dir)
{
    char path[PATH_MAX];
    char *const argv[] = {PROGRAM, (char *)what, (char *)dir, NULL};

    if (sp_part_find(PROGRAM, path, sizeof(path)) < 0) {
        sp_say("this samepage was built without ksmfs: " PROGRAM " is not installed");
        return SP_EXIT_COULD_NOT;
    }
    unsetenv("LD_PRELOAD"); /* samepage does not merge itself */
    execv(path, argv);
    sp_say("cannot run %s: %s", path, strerror(errno));
    return SP_EXIT_COULD_NOT;
}

/* The folder that is meant, or NULL after saying what is wrong. */
static const char *choose_dir(const struct sp_command *cmd, int argc, char **argv, bool over_sysfs)
{
    if (over_sysfs ? optind == argc : optind + 1 == argc)
        return over_sysfs ? SYSFS : argv[optind];
    sp_bad_use(cmd, over_sysfs ? "--over-sysfs names the folder already" : "needs one folder");
    return NULL;
}

static int mount(int argc, char **argv)
{
    static const struct option options[] = {
        {"over-sysfs", no_argument, NULL, 's'}, {"foreground", no_argument, NULL, 'f'}, {0}};
    bool over_sysfs = false, foreground = false;
    const char *dir;
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":f", options, NULL)) != -1) {
        if (opt == 's')
            over_sysfs = true;
        else if (opt == 'f')
            foreground = true;
        else
            return sp_bad_option(&sp_command_mount, argv, opt);
    }
    dir = choose_dir(&sp_command_mount, argc, argv, over_sysfs);
    if (!dir)
        return SP_EXIT_WRONG_USE;
    if (over_sysfs && access(dir, F_OK) < 0 && errno == ENOENT) {
        sp_say("this kernel has no " SYSFS "; mount at a folder of your own");
        return SP_EXIT_COULD_NOT;
    }
    return become(foreground ? "--foreground" : "--mount", dir);
}

static int umount(int argc, char **argv)
{
    static const struct option options[] = {{"over-sysfs", no_argument, NULL, 's'}, {0}};
    bool over_sysfs = false;
    const char *dir;
    int opt;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (opt != 's')
            return sp_bad_option(&sp_command_umount, argv, opt);
        over_sysfs = true;
    }
    dir = choose_dir(&sp_command_umount, argc, argv, over_sysfs);
    return dir ? become("--umount", dir) : SP_EXIT_WRONG_USE;
}

const struct sp_command sp_command_mount = {
    .name = "mount",
    .usage = "mount [-f] DIR | --over-sysfs",
    .summary = "Shows KSM's files, of samepage's values, in a folder",
    .help =
        "The folder has every file of /sys/kernel/mm/ksm, and domains/NAME/ and proc/PID/ with\n"
        "those of a domain and a process. Programs that know KSM read and write them.\n\n"
        "      --over-sysfs  over /sys/kernel/mm/ksm itself, for programs that look only there\n"
        "  -f, --foreground  serve in the foreground; ends, and unmounts, on Ctrl-C\n",
    .run = mount,
};

const struct sp_command sp_command_umount = {
    .name = "umount",
    .usage = "umount DIR | --over-sysfs",
    .summary = "Takes what \"samepage mount\" mounted away",
    .help = "A program that has a file of it open keeps that file. A mount whose server died is\n"
            "taken away, too.\n\n"
            "      --over-sysfs  what lies over /sys/kernel/mm/ksm\n",
    .run = umount,
};
