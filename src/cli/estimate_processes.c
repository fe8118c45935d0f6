/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes samepage estimate looks at. */
#include "estimate.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "exe_probe.h"

#define PF_KTHREAD 0x00200000u
#define PID_MAX    4194304 /* PID_MAX_LIMIT of the kernel: no pid reaches it */

struct identity {
    char comm[16];
    char state;
    unsigned flags;
    uid_t uid;   /* effective */
    uid_t owner; /* of its folder in /proc: root's when it is not dumpable */
};

/* A short file of /proc as a string. Returns its length, or a negative errno. */
static int read_text(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    size_t n;
    FILE *f;
    int err;

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    f = fopen(path, "re");
    if (!f)
        return -errno;
    n = fread(text, 1, size - 1, f);
    err = ferror(f) ? -ESRCH : 0;
    fclose(f);
    text[n] = 0;
    return err ? err : (int)n;
}

/* "pid (comm) state ppid pgrp session tty tpgid flags": a comm may hold anything, ")" too. */
static bool read_stat(char *text, struct identity *who)
{
    char *begin = strchr(text, '('), *end = strrchr(text, ')');

    if (!begin || !end || end < begin)
        return false;
    *end = 0;
    snprintf(who->comm, sizeof(who->comm), "%s", begin + 1);
    return sscanf(end + 1, " %c %*d %*d %*d %*d %*d %u", &who->state, &who->flags) == 2;
}

static int identify(pid_t pid, struct identity *who)
{
    char text[4096], path[64], *line;
    struct stat st;
    unsigned uid;
    int n;

    *who = (struct identity){0};
    n = read_text(pid, "stat", text, sizeof(text));
    if (n < 0)
        return n;
    if (!read_stat(text, who))
        return -ESRCH;
    n = read_text(pid, "status", text, sizeof(text));
    if (n < 0)
        return n;
    line = strstr(text, "\nUid:");
    if (!line || sscanf(line, "\nUid: %*u %u", &uid) != 1)
        return -ESRCH;
    who->uid = uid;
    snprintf(path, sizeof(path), "/proc/%d", pid);
    if (stat(path, &st))
        return -errno;
    who->owner = st.st_uid;
    return 0;
}

static bool is_own(pid_t pid, const struct identity *who)
{
    return pid == getpid() || strcmp(who->comm, "samepaged") == 0 ||
           strncmp(who->comm, "samepage-", strlen("samepage-")) == 0;
}

/* True if the process is not to be looked at. Whether it may be read shows when it is. */
static bool objects(pid_t pid, const struct identity *who, enum sp_estimate_skip *skip, char *why,
                    size_t size)
{
    const char *objection = NULL;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    if (is_own(pid, who)) {
        *skip = SP_SKIP_OWN;
        snprintf(why, size, "it is samepage's own");
    } else if (who->flags & PF_KTHREAD) {
        *skip = SP_SKIP_KERNEL;
        snprintf(why, size, "it is a thread of the kernel");
    } else if (who->state == 'Z' || who->state == 'X') {
        *skip = SP_SKIP_GONE;
        snprintf(why, size, "it has ended");
    } else if (who->uid != who->owner) {
        *skip = SP_SKIP_NOT_DUMPABLE;
        snprintf(why, size,
                 "it forbids looking into it (it is not dumpable), so samepage would "
                 "leave it alone");
    } else if ((objection = sp_exe_objection(path)) != NULL) {
        *skip = SP_SKIP_UNFIT;
        snprintf(why, size, "samepage cannot merge it: %s", objection);
    } else {
        return false;
    }
    return true;
}

static int append(struct sp_estimate_list *list, pid_t pid, const struct identity *who)
{
    if (list->n == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        struct sp_estimate_process *more = reallocarray(list->process, room, sizeof(*more));

        if (!more)
            return -ENOMEM;
        list->process = more;
        list->room = room;
    }
    list->process[list->n] = (struct sp_estimate_process){.pid = pid, .uid = who->uid};
    memcpy(list->process[list->n].comm, who->comm, sizeof(who->comm));
    list->n++;
    return 0;
}

int sp_estimate_list_add(struct sp_estimate_list *list, pid_t pid, enum sp_estimate_skip *skip,
                         char *why, size_t size)
{
    struct identity who;
    int err = identify(pid, &who);

    if (err == -EACCES || err == -EPERM) {
        *skip = SP_SKIP_DENIED;
        snprintf(why, size, "it may not be read; ask as its user or as root");
    } else if (err) {
        *skip = SP_SKIP_GONE;
        snprintf(why, size, "there is no such process");
    } else if (!objects(pid, &who, skip, why, size)) {
        return append(list, pid, &who);
    }
    list->skipped[*skip]++;
    return 1;
}

static int compare_pids(const void *left, const void *right)
{
    const struct sp_estimate_process *a = left, *b = right;

    return a->pid < b->pid ? -1 : a->pid > b->pid;
}

int sp_estimate_list_all(struct sp_estimate_list *list)
{
    enum sp_estimate_skip skip;
    struct dirent *entry;
    char why[256];
    uint64_t pid;
    int err = 0;
    DIR *dir = opendir("/proc");

    if (!dir)
        return -errno;
    while (err >= 0 && (entry = readdir(dir)) != NULL)
        if (sp_parse_number(entry->d_name, PID_MAX, &pid) && pid)
            err = sp_estimate_list_add(list, (pid_t)pid, &skip, why, sizeof(why));
    closedir(dir);
    if (list->n)
        qsort(list->process, list->n, sizeof(*list->process), compare_pids);
    return err < 0 ? err : 0;
}

void sp_estimate_list_drop(struct sp_estimate_list *list, size_t i, enum sp_estimate_skip skip)
{
    sp_estimate_process_free(&list->process[i]);
    list->n--;
    memmove(&list->process[i], &list->process[i + 1], (list->n - i) * sizeof(*list->process));
    list->skipped[skip]++;
}

void sp_estimate_list_free(struct sp_estimate_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        sp_estimate_process_free(&list->process[i]);
    free(list->process);
    list->process = NULL;
    list->n = list->room = 0;
}
