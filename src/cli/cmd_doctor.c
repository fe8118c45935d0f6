/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage doctor: everything that decides whether programs of this user can be merged, a line
 * each, with what to change. It changes nothing and starts no daemon.
 */
#include "control_client.h"
#include "daemon_start.h"
#include "doctor.h"
#include "probes.h"
#include "socket_path.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_WIDTH 16

struct doctor {
    struct sp_checks checks;
    char socket[256];
    bool listens; /* somebody does, there */
    bool answers;
    pid_t daemon;
};

static void add_no_daemon(struct doctor *doctor)
{
    char why[300] = "";

    if (sp_daemon_can_start(doctor->socket, why, sizeof(why)) == 0)
        sp_checks_add(&doctor->checks, "daemon", SP_STATE_OK, NULL,
                      "none runs; \"samepage run\" starts one at %.90s", doctor->socket);
    else
        sp_checks_add(&doctor->checks, "daemon", SP_STATE_MISSING,
                      "have root start samepaged, or set SAMEPAGE_SOCKET (XDG_RUNTIME_DIR) to a "
                      "place of this user",
                      "%.190s", why);
}

static void check_daemon(struct doctor *doctor)
{
    json_object *status = NULL;
    const char *version;

    if (!doctor->listens) {
        add_no_daemon(doctor);
        return;
    }
    if (sp_doctor_ask_status(doctor->socket, &status)) {
        sp_checks_add(&doctor->checks, "daemon", SP_STATE_MISSING, "see its log, or start it again",
                      "somebody listens at %.90s but does not answer", doctor->socket);
        return;
    }
    version = sp_answer_text(status, "version");
    doctor->answers = true;
    doctor->daemon = (pid_t)sp_answer_number(status, "daemon_pid");
    sp_checks_add(
        &doctor->checks, "daemon", strcmp(version, SP_VERSION) ? SP_STATE_WARNING : SP_STATE_OK,
        "stop it, and start the one of this version", "version %.20s, pid %d, answers at %.90s",
        version, (int)doctor->daemon, doctor->socket);
    if (sp_answer_number(status, "run") != 1)
        sp_checks_add(&doctor->checks, "run", SP_STATE_WARNING, "samepage set run=1",
                      "merging is switched off (run is %d)", (int)sp_answer_number(status, "run"));
    if (sp_answer_scans_nothing(status))
        sp_checks_add(&doctor->checks, "scan", SP_STATE_WARNING, "samepage set pages_to_scan=5000",
                      "nothing is scanned while pages_to_scan is 0");
    json_object_put(status);
}

/* As the agent does: the kernel, the device, the daemon. Returns a userfaultfd, or -1. */
static int check_userfaultfd(struct doctor *doctor)
{
    char why[256] = "";
    const char *how;
    int fd = sp_features_userfaultfd(-1, &how), device = -1;

    if (fd < 0 && doctor->answers) {
        device = sp_doctor_ask_device(doctor->socket, why, sizeof(why));
        if (device >= 0)
            fd = sp_features_userfaultfd(device, &how);
    }
    if (fd >= 0)
        sp_checks_add(&doctor->checks, "userfaultfd", SP_STATE_OK, NULL, "%s", how);
    else
        sp_checks_add(&doctor->checks, "userfaultfd", SP_STATE_MISSING,
                      "name this user at userfaultfd in [users] of root's samepaged.conf, or set "
                      "vm.unprivileged_userfaultfd=1, or give the user /dev/userfaultfd",
                      "%s%.120s",
                      why[0] ? "neither the kernel nor the daemon gives it to this user"
                             : "the kernel does not give it to this user: ",
                      why[0] ? "" : strerror(-fd));
    if (device >= 0)
        close(device);
    return fd;
}

static void check_all(struct doctor *doctor)
{
    int uffd;

    check_daemon(doctor);
    uffd = check_userfaultfd(doctor);
    sp_features_kernel(&doctor->checks, uffd);
    if (uffd >= 0)
        close(uffd);
    sp_features_daemon(&doctor->checks, doctor->answers ? SP_STATE_WARNING : SP_STATE_MISSING);
    sp_doctor_program(&doctor->checks, doctor->answers);
    sp_doctor_system(&doctor->checks, doctor->daemon);
}

static enum sp_state worst(const struct sp_checks *checks)
{
    enum sp_state state = SP_STATE_OK;

    for (unsigned i = 0; i < checks->n; i++)
        state = checks->check[i].state > state ? checks->check[i].state : state;
    return state;
}

static int print_json(const struct doctor *doctor)
{
    json_object *to = json_object_new_object(), *list = json_object_new_array();
    int ret;

    if (!to || !list)
        goto fail;
    json_object_object_add(to, "ok",
                           json_object_new_boolean(worst(&doctor->checks) != SP_STATE_MISSING));
    json_object_object_add(to, "socket", json_object_new_string(doctor->socket));
    for (unsigned i = 0; i < doctor->checks.n; i++) {
        const struct sp_check *check = &doctor->checks.check[i];
        json_object *line = json_object_new_object();

        if (!line)
            goto fail;
        json_object_object_add(line, "name", json_object_new_string(check->name));
        json_object_object_add(line, "state", json_object_new_string(sp_state_name(check->state)));
        json_object_object_add(line, "found", json_object_new_string(check->found));
        json_object_object_add(line, "fix", json_object_new_string(check->fix));
        json_object_array_add(list, line);
    }
    json_object_object_add(to, "checks", list);
    ret = sp_print_json(to);
    json_object_put(to);
    return ret;
fail:
    json_object_put(to);
    json_object_put(list);
    sp_say("out of memory");
    return SP_EXIT_COULD_NOT;
}

static int print_table(const struct doctor *doctor)
{
    for (unsigned i = 0; i < doctor->checks.n; i++) {
        const struct sp_check *check = &doctor->checks.check[i];

        printf("%-8s %-*s %s%s%s\n", sp_state_name(check->state), NAME_WIDTH, check->name,
               check->found, check->fix[0] ? "; to change it: " : "", check->fix);
    }
    puts(worst(&doctor->checks) == SP_STATE_MISSING
             ? "Programs of this user cannot be merged: see the lines that say missing."
             : "Programs of this user can be merged.");
    return sp_finish_output();
}

static int doctor_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
    struct doctor doctor = {.daemon = 0};
    bool json = false;
    int opt, ret;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":j", options, NULL)) != -1) {
        if (opt != 'j')
            return sp_bad_option(&sp_command_doctor, argv, opt);
        json = true;
    }
    if (optind < argc)
        return sp_bad_use(&sp_command_doctor, "takes no argument '%s'", argv[optind]);
    if (sp_socket_choose(doctor.socket, sizeof(doctor.socket)) < 0) {
        sp_say("the socket's path is too long; set SAMEPAGE_SOCKET to a shorter one");
        return SP_EXIT_COULD_NOT;
    }
    doctor.listens = sp_socket_listens(doctor.socket);
    check_all(&doctor);
    ret = json ? print_json(&doctor) : print_table(&doctor);
    return ret != SP_EXIT_DONE || worst(&doctor.checks) == SP_STATE_MISSING ? SP_EXIT_COULD_NOT
                                                                            : SP_EXIT_DONE;
}

const struct sp_command sp_command_doctor = {
    .name = "doctor",
    .usage = "doctor [--json]",
    .summary = "Says whether programs of this user can be merged, and what to change",
    .help =
        "A line for each feature and permission: ok, warning or missing, what was found, and what\n"
        "to change. Changes nothing, and starts no daemon.\n"
        "  --json  the same as JSON\n"
        "Exit status: 0 programs of this user can be merged, 1 not, 2 wrong use.\n",
    .run = doctor_main,
};
