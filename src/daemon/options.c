/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config_file.h"
#include "control_parse.h"
#include "socket_path.h"

static const char help[] =
    "usage: samepaged [OPTION...]\n"
    "Keeps identical memory pages of programs started with \"samepage run\" only once.\n"
    "\n"
    "  --config FILE           read FILE (default for root:\n"
    "                          " SP_SYSCONFDIR "/samepage/samepaged.conf,\n"
    "                          else ~/.config/samepage/samepaged.conf)\n"
    "  --check-config          read it, say what is wrong, and start nothing\n"
    "  --socket PATH           where to listen (default: $SAMEPAGE_SOCKET, else\n"
    "                          $XDG_RUNTIME_DIR/samepage/samepage.sock, for root\n"
    "                          /run/samepage/samepage.sock)\n"
    "  --foreground            stay in the foreground and log to stderr\n"
    "  --log FILE              log to FILE\n"
    "  --pages-to-scan N       pages to look into before each sleep (default 5000)\n"
    "  --sleep-millisecs N     that sleep (default 20)\n"
    "  --help, --version\n"
    "\n"
    "What is given here wins over the file; samepaged.conf(5) explains that.\n"
    "Without --foreground it goes into the background as soon as it listens.\n"
    "Exit status: 0 done, 1 could not, 2 wrong use.\n";

enum {
    OPT_CONFIG = 256,
    OPT_CHECK,
    OPT_SOCKET,
    OPT_FOREGROUND,
    OPT_LOG,
    OPT_PAGES,
    OPT_SLEEP,
    OPT_HELP,
    OPT_VERSION
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"foreground", no_argument, NULL, OPT_FOREGROUND},
    {"log", required_argument, NULL, OPT_LOG},
    {"pages-to-scan", required_argument, NULL, OPT_PAGES},
    {"sleep-millisecs", required_argument, NULL, OPT_SLEEP},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {0},
};

static int wrong(const char *what, const char *how)
{
    fprintf(stderr, "samepaged: %s: %s; \"samepaged --help\" shows all options\n", what, how);
    return 2;
}

static int set(const char *option, const char *text, enum sp_key key, struct sp_config *config)
{
    char bounds[80], how[96];

    if (sp_setting_read(&sp_settings[key], text, &config->value[key]) == 0)
        return -1;
    sp_setting_bounds(&sp_settings[key], bounds, sizeof(bounds));
    snprintf(how, sizeof(how), "give %s", bounds);
    return wrong(option, how);
}

static int set_socket(const char *path, struct sp_config *config)
{
    if (path[0] != '/')
        return wrong("--socket", "give a path that starts with /");
    if (strlen(path) >= sizeof(config->socket))
        return wrong("--socket", "the path is too long for a socket");
    strcpy(config->socket, path);
    return -1;
}

static int set_path(const char *option, const char *path, char *to, size_t size)
{
    if (!*path || strlen(path) >= size)
        return wrong(option, "give a path, of less than 256 bytes");
    strcpy(to, path);
    return -1;
}

static int take(int option, const char *text, struct sp_config *config)
{
    switch (option) {
    case OPT_CONFIG:
        return set_path("--config", text, config->file, sizeof(config->file));
    case OPT_CHECK:
        config->check_config = true;
        return -1;
    case OPT_SOCKET:
        return set_socket(text, config);
    case OPT_FOREGROUND:
        config->foreground = true;
        return -1;
    case OPT_LOG:
        return set_path("--log", text, config->log_file, sizeof(config->log_file));
    case OPT_PAGES:
        return set("--pages-to-scan", text, SP_KEY_PAGES_TO_SCAN, config);
    case OPT_SLEEP:
        return set("--sleep-millisecs", text, SP_KEY_SLEEP_MILLISECS, config);
    case OPT_HELP:
        fputs(help, stdout);
        return 0;
    case OPT_VERSION:
        puts("samepaged " SP_VERSION);
        return 0;
    }
    fputs("\"samepaged --help\" shows all options\n", stderr); /* getopt said what is wrong */
    return 2;
}

static int take_all(int argc, char **argv, struct sp_config *config)
{
    int option, ret = -1;

    optind = 0; /* getopt begins anew */
    while (ret < 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0)
        ret = take(option, optarg, config);
    if (ret < 0 && optind < argc)
        return wrong(argv[optind], "not an option");
    return ret;
}

/* The file that is read without --config: the system's for root, else the user's own. A daemon that
 * a user starts is not meant by the administrator's socket and log. */
static void default_file(char *path, size_t size)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = 0;

    if (geteuid() == 0)
        n = snprintf(path, size, "%s", SP_SYSCONFDIR "/samepage/samepaged.conf");
    else if (config && config[0] == '/')
        n = snprintf(path, size, "%s/samepage/samepaged.conf", config);
    else if (home && home[0] == '/')
        n = snprintf(path, size, "%s/.config/samepage/samepaged.conf", home);
    if (n <= 0 || (size_t)n >= size)
        path[0] = 0;
}

static int read_file(struct sp_config *config, bool named)
{
    char why[800];

    if (!config->file[0])
        return -1;
    if (sp_config_file_read(config->file, named, config, why, sizeof(why)) == 0)
        return -1;
    fprintf(stderr, "samepaged: %s\n", why);
    return 2;
}

static int checked(const struct sp_config *config)
{
    if (config->file[0] && access(config->file, F_OK) == 0)
        printf("samepaged: %s is all right\n", config->file);
    else
        puts("samepaged: there is no configuration file; the defaults hold");
    return 0;
}

static int choose_socket(struct sp_config *config)
{
    const char *named = getenv("SAMEPAGE_SOCKET");
    char path[sizeof(config->socket)];

    if (config->socket[0] && !(named && *named))
        return -1; /* the file's */
    if (sp_socket_path(path, sizeof(path)))
        return wrong("SAMEPAGE_SOCKET", "the path is too long for a socket");
    return set_socket(path, config);
}

/* The words first, to know the file and that they are right; then the file, the environment, and
 * the words again: each wins over what was before it. */
int sp_options(int argc, char **argv, struct sp_config *config)
{
    struct sp_config words = *config;
    int ret = take_all(argc, argv, &words);

    if (ret >= 0)
        return ret;
    strcpy(config->file, words.file);
    if (!words.file[0])
        default_file(config->file, sizeof(config->file));
    ret = read_file(config, words.file[0] != 0);
    if (ret < 0 && words.check_config)
        return checked(config);
    if (ret < 0 && !words.socket[0])
        ret = choose_socket(config);
    return ret < 0 ? take_all(argc, argv, config) : ret;
}
