/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "control_parse.h"
#include "socket_path.h"

static const char help[] =
    "usage: samepaged [OPTION...]\n"
    "Keeps identical memory pages of programs started with \"samepage run\" only once.\n"
    "\n"
    "  --socket PATH           where to listen (default: $SAMEPAGE_SOCKET, else\n"
    "                          $XDG_RUNTIME_DIR/samepage/samepage.sock, for root\n"
    "                          /run/samepage/samepage.sock)\n"
    "  --foreground            stay in the foreground and log to stderr\n"
    "  --log FILE              log to FILE\n"
    "  --pages-to-scan N       pages to look into before each sleep (default 5000)\n"
    "  --sleep-millisecs N     that sleep (default 20)\n"
    "  --help, --version\n"
    "\n"
    "Without --foreground it goes into the background as soon as it listens.\n"
    "Exit status: 0 done, 1 could not, 2 wrong use.\n";

enum { OPT_SOCKET = 256, OPT_FOREGROUND, OPT_LOG, OPT_PAGES, OPT_SLEEP, OPT_HELP, OPT_VERSION };

static const struct option options[] = {
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

static int number(const char *option, const char *text, uint32_t min, uint32_t *out)
{
    char how[80];
    uint64_t value;

    if (sp_parse_number(text, UINT32_MAX, &value) && value >= min) {
        *out = (uint32_t)value;
        return -1;
    }
    snprintf(how, sizeof(how), "give a number from %u to %u", min, UINT32_MAX);
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

static int take(int option, const char *text, struct sp_config *config)
{
    switch (option) {
    case OPT_SOCKET:
        return set_socket(text, config);
    case OPT_FOREGROUND:
        config->foreground = true;
        return -1;
    case OPT_LOG:
        config->log_file = text;
        return -1;
    case OPT_PAGES:
        return number("--pages-to-scan", text, 1, &config->pages_to_scan);
    case OPT_SLEEP:
        return number("--sleep-millisecs", text, 0, &config->sleep_millisecs);
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

int sp_options(int argc, char **argv, struct sp_config *config)
{
    char path[sizeof(config->socket)];
    int option, ret = -1;

    while (ret < 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0)
        ret = take(option, optarg, config);
    if (ret >= 0)
        return ret;
    if (optind < argc)
        return wrong(argv[optind], "not an option");
    if (config->socket[0])
        return -1;
    if (sp_socket_path(path, sizeof(path)))
        return wrong("SAMEPAGE_SOCKET", "the path is too long for a socket");
    return set_socket(path, config);
}
