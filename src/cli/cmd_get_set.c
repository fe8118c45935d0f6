/* SPDX-License-Identifier: Apache-2.0 */
/* samepage get and set: single values by name. Names and ranges are those of docs/control.md. */
#include "control_client.h"
#include "settings.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Those of status that are not in the table of settings. */
static const char *const counters[] = {
    "pages_kept_private",
    "kept_unknown",
    "kept_none",
    "kept_pinned_memory",
    "kept_aio",
    "kept_io_uring",
    "kept_direct_io",
    "kept_file_system",
    "kept_device",
    "kept_socket",
    "pages_tracked",
    "bytes_saved",
    "bytes_per_tracked_page",
    "cpu_seconds",
    "daemon_pid",
    "domains",
    "processes",
    "mappings",
    "strict_accounting",
    "quiet_passes",
    "pages_lifted",
    "pages_put_back",
    "pages_merged",
    "pages_unmerged",
    "merge_changed",
    "merge_pinned",
    "merge_gone",
    "merge_fork",
    "merge_attributes",
    "merge_mappings",
    "merge_memory",
    "frames_lingering",
    "frames_stray",
    "segments",
    "pool_bytes",
    "frames_evicted",
    "evictions",
    "second_chances",
    "looks",
    "store_errors",
    "store_memory_bytes",
    "store_file_bytes",
    "store_read_errors",
    "store_checksum_errors",
    "store_write_errors",
    "pressure_bytes",
    "repairs",
    "takeovers",
    "version",
};

static bool is_counter(const char *key)
{
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        if (strcmp(counters[i], key) == 0)
            return true;
    return false;
}

/* Both want exactly one word, and take a domain's name, NULL without one. Returns SP_EXIT_DONE to go on. */
static int parse_one_word(const struct sp_command *cmd, int argc, char **argv, const char *what,
                          const char **domain)
{
    static const struct option options[] = {{"domain", required_argument, NULL, 'd'}, {0}};
    int opt;

    *domain = NULL;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, "+:", options, NULL)) != -1) {
        if (opt != 'd')
            return sp_bad_option(cmd, argv, opt);
        *domain = optarg;
    }
    if (*domain && !**domain)
        return sp_bad_use(cmd, "--domain needs a name; \"samepage ps\" shows them");
    if (optind + 1 != argc)
        return sp_bad_use(cmd, "needs exactly one %s", what);
    return SP_EXIT_DONE;
}

static json_object *make_request(const char *op, const char *domain, const char *key,
                                 const char *value)
{
    json_object *request = json_object_new_object();

    if (!request)
        goto fail;
    if (json_object_object_add(request, "op", json_object_new_string(op)) < 0 ||
        json_object_object_add(request, "key", json_object_new_string(key)) < 0)
        goto fail;
    if (value && json_object_object_add(request, "value", json_object_new_string(value)) < 0)
        goto fail;
    if (domain && json_object_object_add(request, "domain", json_object_new_string(domain)) < 0)
        goto fail;
    return request;
fail:
    json_object_put(request);
    sp_say("out of memory");
    return NULL;
}

static int get(int argc, char **argv)
{
    json_object *request, *answer = NULL;
    const char *domain;
    int ret = parse_one_word(&sp_command_get, argc, argv, "KEY", &domain);

    if (ret != SP_EXIT_DONE)
        return ret;
    if (!sp_key_find(argv[optind]) && !is_counter(argv[optind]))
        return sp_bad_use(&sp_command_get,
                          "unknown key '%s'; keys are " SP_SETTING_NAMES
                          " and the counters that \"samepage status --json\" prints",
                          argv[optind]);
    request = make_request("get", domain, argv[optind], NULL);
    ret = request ? sp_control_ask(request, SP_ASK_PATIENCE, &answer) : SP_EXIT_COULD_NOT;
    if (ret == SP_EXIT_DONE) {
        puts(sp_answer_text(answer, "value"));
        ret = sp_finish_output();
    }
    json_object_put(answer);
    json_object_put(request);
    return ret;
}

const struct sp_command sp_command_get = {
    .name = "get",
    .usage = "get [--domain NAME] KEY",
    .summary = "Prints one setting or counter",
    .help = "Settings: " SP_SETTING_NAMES ".\n"
            "Counters: those that \"samepage status --json\" prints.\n",
    .run = get,
};

/* Checks KEY=VALUE and cuts it in two. Returns SP_EXIT_DONE to go on. */
static int parse_assignment(char *word, char **value)
{
    const struct sp_setting *setting;
    char bounds[80];
    uint64_t number;

    *value = strchr(word, '=');
    if (!*value)
        return sp_bad_use(&sp_command_set, "'%s' has no '='", word);
    *(*value)++ = 0;
    setting = sp_setting_find(word);
    if (!setting && (sp_key_find(word) || is_counter(word)))
        return sp_bad_use(&sp_command_set, "'%s' can only be read; settings are " SP_SETTING_NAMES,
                          word);
    if (!setting)
        return sp_bad_use(&sp_command_set, "unknown key '%s'; settings are " SP_SETTING_NAMES, word);
    if (sp_setting_read(setting, *value, &number) == 0)
        return SP_EXIT_DONE;
    sp_setting_bounds(setting, bounds, sizeof(bounds));
    return sp_bad_use(&sp_command_set, "'%s' is no value for %s, which is %s", *value,
                      setting->key, bounds);
}

static int set(int argc, char **argv)
{
    json_object *request, *answer = NULL;
    char *word, *value = NULL;
    const char *domain;
    int ret = parse_one_word(&sp_command_set, argc, argv, "KEY=VALUE", &domain);

    if (ret != SP_EXIT_DONE)
        return ret;
    word = strdup(argv[optind]); /* cut there: the process list keeps what was typed */
    if (!word) {
        sp_say("out of memory");
        return SP_EXIT_COULD_NOT;
    }
    ret = parse_assignment(word, &value);
    if (ret == SP_EXIT_DONE) {
        request = make_request("set", domain, word, value);
        ret = request ? sp_control_ask(request, SP_ASK_HOWEVER_LONG, &answer) : SP_EXIT_COULD_NOT;
        json_object_put(request);
    }
    json_object_put(answer);
    free(word);
    return ret;
}

const struct sp_command sp_command_set = {
    .name = "set",
    .usage = "set [--domain NAME] KEY=VALUE",
    .summary = "Changes one setting; returns when it is in force",
    .help = "  run=0               stop; merged pages stay merged\n"
            "  run=1               merge\n"
            "  run=2               stop and un-merge everything; returns when that is done\n"
            "  pages_to_scan=N     pages looked at between two sleeps; 0: nothing is scanned\n"
            "  sleep_millisecs=N   length of such a sleep, 0 to 4294967295\n"
            "  max_kernel_pages=N  frames at most; 0: no limit\n"
            "  max_mappings=N      mappings that merging may use in a process; 0: built-in\n"
            "Those of KSM, with its meaning, all in samepage-set(1): merge_across_nodes,\n"
            "max_page_sharing, stable_node_chains_prune_millisecs, use_zero_pages, smart_scan,\n"
            "advisor_mode=none or scan-time, advisor_max_cpu, advisor_min_pages_to_scan,\n"
            "advisor_max_pages_to_scan, advisor_target_scan_time.\n",
    .run = set,
};
