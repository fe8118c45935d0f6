/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptor of /dev/userfaultfd gives away what the kernel keeps for root: with it a process
 * makes userfaultfds that also stop the kernel in its tracks, in memory of that process. So it goes
 * only to those whom the administrator named, and it is opened for each of them anew: nobody has
 * anything in common through it.
 */
#include "admit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ask.h"
#include "hello.h"
#include "log.h"
#include "repair.h"

#define FILE_SHOWN 80 /* bytes of the configuration file's path in a sentence */

static char sentence[sizeof(((struct sp_refuse *)0)->why)];

static const char *config_file(const struct sp_daemon *daemon)
{
    const char *file = daemon->config.file;

    return file[0] && strlen(file) <= FILE_SHOWN ? file : "samepaged.conf";
}

bool sp_admit_is_limited(const struct sp_daemon *daemon, uid_t uid)
{
    return uid != 0 && uid != daemon->uid;
}

static bool is_allowed(const struct sp_daemon *daemon, const struct sp_asker *asker)
{
    return !sp_admit_is_limited(daemon, asker->uid) || sp_users_have(&daemon->config.allow, asker);
}

/* Without the program itself, which is known already if its agent comes back. */
static uint32_t programs_of(const struct sp_daemon *daemon, uid_t uid, pid_t program)
{
    const struct sp_client *client;
    uint32_t n = 0;

    TAILQ_FOREACH(client, &daemon->clients, link)
        n += client->uid == uid && client->program != program;
    return n;
}

const char *sp_admit_check(struct sp_daemon *daemon, int sock, pid_t program)
{
    struct sp_asker asker;
    int err = sp_asker_of(sock, &asker);

    if (err)
        return "the daemon cannot find out whose this program is";
    if (!is_allowed(daemon, &asker)) {
        snprintf(sentence, sizeof(sentence),
                 "the daemon does not serve this user: see allow in [users] of %s",
                 config_file(daemon));
        return sentence;
    }
    if (sp_admit_is_limited(daemon, asker.uid) &&
        programs_of(daemon, asker.uid, program) >= daemon->config.max_programs) {
        snprintf(sentence, sizeof(sentence),
                 "this user has %u merged programs already: see max_programs in [users] of %s",
                 daemon->config.max_programs, config_file(daemon));
        return sentence;
    }
    err = sp_repair_possible(program, asker.uid);
    if (err) {
        snprintf(
            sentence, sizeof(sentence),
            "the daemon may not open the program's memory (%s), so it could not repair it: see "
            "sysctl kernel.yama.ptrace_scope, or let root's daemon serve it",
            strerror(-err));
        return sentence;
    }
    return NULL;
}

/* A descriptor, or a negative errno. */
static int open_device(void)
{
    int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static bool gets_device(const struct sp_daemon *daemon, const struct sp_asker *asker)
{
    return is_allowed(daemon, asker) &&
           (asker->uid == 0 || sp_users_have(&daemon->config.userfaultfd, asker));
}

/* err 0: it is forbidden. */
static void refuse(const struct sp_daemon *daemon, int sock, uint32_t seq, int err)
{
    if (!err)
        snprintf(
            sentence, sizeof(sentence),
            "it may not use userfaultfd; the administrator can name its user at userfaultfd in "
            "[users] of %s, or set vm.unprivileged_userfaultfd=1",
            config_file(daemon));
    else
        snprintf(sentence, sizeof(sentence),
                 "it may not use userfaultfd, and the daemon cannot open /dev/userfaultfd to pass "
                 "it on: %s",
                 strerror(-err));
    sp_hello_refuse(sock, seq, sentence);
}

void sp_admit_pass_uffd(struct sp_daemon *daemon, int sock, uint32_t seq)
{
    struct sp_asker asker;
    int fd;

    if (sp_asker_of(sock, &asker) || !gets_device(daemon, &asker)) {
        refuse(daemon, sock, seq, 0);
        return;
    }
    fd = open_device();
    if (fd < 0) {
        refuse(daemon, sock, seq, fd);
        return;
    }
    (void)!sp_send(sock, SP_MSG_UFFD, seq, NULL, 0, fd);
    close(fd);
}
