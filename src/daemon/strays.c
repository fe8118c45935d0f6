/* SPDX-License-Identifier: Apache-2.0 */
#include "strays.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "passes.h"
#include "self.h"
#include "storage.h"
#include "strays_look.h"

#define AGAIN_USECS   100000u  /* between two looks at one domain, */
#define PATIENT_USECS 5000000u /* ... so long */
#define LOOK_USECS    20000000u /* for one look: more than it takes itself before it gives up (strays_look.c) */
#define TOLD_USECS    60000000u /* between two lines in the log, of a domain */
#define SEGMENTS_MAX  65536u

/* One look; it is of all domains that wait for one when it begins. */
struct sp_strays {
    struct sp_daemon *daemon;
    struct sp_stray_paper *paper;
    size_t size;
    uint32_t nfiles; /* of the paper: what stands there may be changed by whoever looks */
    bool unknown;    /* not all segments are in it */
    uint64_t began;  /* us */
    pid_t pid;
    int pidfd;
    sd_event_source *end;
};

/* ---- what is asked ---- */

struct list {
    const struct sp_daemon *daemon;
    struct sp_pool_set *set;
    struct sp_stray_paper *paper; /* NULL: they are counted only */
    uint32_t n;
    bool unknown; /* of some it is not known which file they are */
};

static bool find_file(const struct list *list, uint32_t segment, struct sp_stray_file *file)
{
    int worker, mount;
    struct statx at;
    struct stat st;

    *file = (struct sp_stray_file){.set = sp_pool_set_id(list->set)};
    if (!sp_pool_is_stored(list->set, segment)) {
        if (sp_pool_segment_file(list->set, segment, &st))
            return false;
        file->dev_major = major(st.st_dev);
        file->dev_minor = minor(st.st_dev);
        file->inode = st.st_ino;
        return true;
    }
    if (!list->daemon->storage)
        return false;
    sp_storage_where(list->daemon->storage, &worker, &mount);
    /* What the kernel knows: the server need not be asked, perhaps there is none. */
    if (statx(mount, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &at))
        return false;
    file->dev_major = at.stx_dev_major;
    file->dev_minor = at.stx_dev_minor;
    file->inode = (uint64_t)segment + 1; /* as store_fuse.c numbers them */
    return true;
}

static void list_segment(void *arg, uint32_t segment, uint32_t npages, bool retiring)
{
    struct list *list = arg;

    if (!list->paper || (list->n < list->paper->nfiles && find_file(list, segment, &list->paper->file[list->n])))
        list->n++;
    else
        list->unknown = true; /* where the store is gone so are its mappings' bytes, but they are mapped */
}

static bool is_left(const struct sp_domain *domain)
{
    struct sp_pool_counters counters;

    sp_pool_set_counters(domain->set, &counters);
    return counters.segments != 0;
}

/* The segments of all domains that wait. */
static void list_segments(struct list *list)
{
    const struct sp_domain *domain;

    list->n = 0;
    TAILQ_FOREACH(domain, &list->daemon->domains, link) {
        list->set = domain->set;
        if (domain->strays == SP_STRAYS_LOOKED_FOR)
            sp_pool_segments(domain->set, list_segment, list);
    }
}

/* ---- what came of it ---- */

static bool is_client(const struct sp_daemon *daemon, pid_t pid)
{
    const struct sp_client *client;

    TAILQ_FOREACH(client, &daemon->clients, link) {
        if (client->program == pid)
            return true;
    }
    return false;
}

static bool may_change(const struct sp_daemon *daemon, const struct sp_stray_paper *paper, uint32_t set)
{
    for (uint32_t i = 0; i < paper->nprocesses && i < SP_STRAYS_PROCESSES; i++)
        if (paper->process[i].set == set && (paper->process[i].young || is_client(daemon, paper->process[i].pid)))
            return true;
    return false;
}

static uint64_t found_of(const struct sp_strays *look, uint32_t set)
{
    uint64_t found = 0;

    for (uint32_t i = 0; i < look->nfiles; i++)
        found += look->paper->file[i].set == set ? look->paper->file[i].found : 0;
    return found;
}

static void note_process(struct sp_domain *domain, const struct sp_stray_paper *paper)
{
    domain->stray_processes = 0;
    domain->stray_pid = 0;
    domain->stray_comm[0] = 0;
    for (uint32_t i = 0; i < paper->nprocesses && i < SP_STRAYS_PROCESSES; i++) {
        if (paper->process[i].set != domain->id)
            continue;
        if (domain->stray_processes++ == 0) {
            domain->stray_pid = paper->process[i].pid;
            sp_log_name(domain->stray_comm, sizeof(domain->stray_comm), paper->process[i].comm,
                        sizeof(paper->process[i].comm)); /* it goes to terminals, too */
        }
    }
}

/* Is there somebody of whom it is not known whether he maps frames of this domain? Of users it is theirs alone: who has the
 * reader wait keeps no other user from his answer. Root's programs become others', with what they map. */
static bool is_unknown(const struct sp_domain *domain, const struct sp_strays *look)
{
    const struct sp_stray_paper *paper = look ? look->paper : NULL;

    if (!paper || !paper->done || look->unknown)
        return true;
    for (uint32_t i = 0; i < paper->nunread && i < SP_STRAYS_UNREAD; i++)
        if (paper->unread[i].uid == domain->uid || domain->uid == 0 || paper->unread[i].uid == UINT32_MAX)
            return true;
    return false;
}

/* status: of sp_passes_strays_done(). */
static void finish(struct sp_domain *domain, uint64_t found, int status)
{
    char text[SP_STRAYS_TEXT];
    uint64_t now = sp_now_usecs();

    domain->strays = SP_STRAYS_KNOWN;
    domain->strays_awaited = false;
    domain->nstrays = found;
    if (found && (!domain->strays_told || now - domain->strays_told > TOLD_USECS)) {
        domain->strays_told = now;
        sp_strays_tell(domain->daemon, domain, text);
        sp_log(SP_LOG_WARNING, "not everything is un-merged: %s", text);
    }
    sp_passes_strays_done(domain, status);
}

/* look NULL: nobody could look, so it is not known who maps one. */
static void take_answer(struct sp_domain *domain, const struct sp_strays *look)
{
    uint64_t found = look ? found_of(look, domain->id) : 0, now = sp_now_usecs();
    bool unknown = !found && is_unknown(domain, look);
    bool changes = unknown || (found && may_change(domain->daemon, look->paper, domain->id));

    if (changes && now - domain->strays_since < PATIENT_USECS) {
        domain->strays = SP_STRAYS_WANTED;
        domain->strays_due = now + AGAIN_USECS;
        return;
    }
    if (found)
        note_process(domain, look->paper);
    finish(domain, found, found ? -EBUSY : unknown ? -ENODATA : 0);
}

/* err: why nobody could look, where look is NULL. */
static void tell_unread(struct sp_daemon *daemon, const struct sp_strays *look, int err)
{
    const struct sp_stray_paper *paper = look ? look->paper : NULL;
    char name[SP_COMM_SIZE];

    if (paper && paper->done && !paper->nunread && !look->unknown)
        return;
    if (daemon->unread_told && sp_now_usecs() - daemon->unread_told <= TOLD_USECS)
        return;
    daemon->unread_told = sp_now_usecs();
    if (!look) {
        sp_log(SP_LOG_WARNING, "cannot look who maps frames still: %s", strerror(-err));
    } else if (paper->nunread) {
        sp_log_name(name, sizeof(name), paper->unread[0].comm, sizeof(paper->unread[0].comm));
        sp_log(SP_LOG_WARNING, "%u processes could not be asked whether they map frames still, as %s (pid %d): they keep "
               "their memory locked, or memory is short", (unsigned)paper->nunread, name, (int)paper->unread[0].pid);
    } else {
        sp_log(SP_LOG_WARNING, "not all processes could be asked whether they map frames still");
    }
}

static void take_answers(struct sp_daemon *daemon, const struct sp_strays *look, int err)
{
    struct sp_domain *domain, *next;

    tell_unread(daemon, look, err);
    for (domain = TAILQ_FIRST(&daemon->domains); domain; domain = next) {
        next = TAILQ_NEXT(domain, link);
        if (domain->strays == SP_STRAYS_LOOKED_FOR)
            take_answer(domain, look);
    }
}

void sp_strays_tell(const struct sp_daemon *daemon, const struct sp_domain *domain, char text[SP_STRAYS_TEXT])
{
    const struct sp_domain *each, *first = domain;
    uint64_t n = 0;
    unsigned processes = 0;

    TAILQ_FOREACH(each, &daemon->domains, link) {
        if ((domain && each != domain) || each->strays != SP_STRAYS_KNOWN || !each->nstrays)
            continue;
        first = first ? first : each;
        n += each->nstrays;
        processes += each->stray_processes;
    }
    if (processes > 1)
        snprintf(text, SP_STRAYS_TEXT,
                 "%llu frames are mapped still, by %s (pid %d) and %u more processes without an agent; they are "
                 "theirs until they end",
                 (unsigned long long)n, first->stray_comm, (int)first->stray_pid, processes - 1);
    else
        snprintf(text, SP_STRAYS_TEXT, "%llu frames are mapped still, by %s (pid %d), which has no agent; they are its "
                 "until it ends", (unsigned long long)n, first ? first->stray_comm : "",
                 first ? (int)first->stray_pid : 0);
}

/* ---- a look ---- */

static void kill_it(struct sp_strays *look)
{
    if (look->pid && waitpid(look->pid, NULL, WNOHANG) == 0) {
        kill(look->pid, SIGKILL);
        (void)waitpid(look->pid, NULL, 0); /* it waits for nobody: its reader does */
    }
    look->pid = 0;
}

static void end(struct sp_strays *look)
{
    look->daemon->looked_for = NULL;
    sd_event_source_disable_unref(look->end);
    kill_it(look);
    if (look->pidfd >= 0)
        close(look->pidfd);
    if (look->paper)
        munmap(look->paper, look->size);
    free(look);
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *arg)
{
    struct sp_strays *look = arg;
    struct sp_daemon *daemon = look->daemon;

    take_answers(daemon, look, 0);
    end(look);
    sp_passes_ask(daemon);
    return 0;
}

/* 0; the process finds the paper as its descriptor. */
static int start(struct sp_strays *look, uint32_t nfiles)
{
    char *argv[] = {(char *)"samepaged", (char *)"--strays", NULL};
    int fd = memfd_create("samepage-strays", MFD_CLOEXEC | MFD_ALLOW_SEALING), err = 0;
    void *paper = MAP_FAILED;

    _Static_assert(SP_STRAYS_FD == SP_SELF_FD, "where it looks for the paper");
    look->size = sp_strays_paper_size(nfiles);
    if (fd >= 0 && !ftruncate(fd, (off_t)look->size) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL))
        paper = mmap(NULL, look->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (paper == MAP_FAILED) {
        err = -errno;
    } else {
        struct list list = {.daemon = look->daemon, .paper = paper};

        look->paper = paper;
        look->paper->nfiles = nfiles;
        list_segments(&list);
        look->nfiles = look->paper->nfiles = list.n;
        look->unknown = list.unknown;
        err = sp_self_start(&(struct sp_self){.argv = argv, .fd = &fd, .nfds = 1}, &look->pid);
    }
    if (fd >= 0)
        close(fd);
    if (err)
        return err;
    look->pidfd = pidfd_open(look->pid, 0);
    if (look->pidfd < 0)
        return -errno;
    err = sd_event_add_io(look->daemon->event, &look->end, look->pidfd, EPOLLIN, on_end, look);
    return err < 0 ? err : 0;
}

static void begin(struct sp_daemon *daemon)
{
    struct list list = {.daemon = daemon};
    struct sp_strays *look = calloc(1, sizeof(*look));
    int err;

    list_segments(&list);
    if (!look || list.n > SEGMENTS_MAX) {
        free(look);
        take_answers(daemon, NULL, look ? -E2BIG : -ENOMEM);
        return;
    }
    *look = (struct sp_strays){.daemon = daemon, .pidfd = -1, .began = sp_now_usecs()};
    daemon->looked_for = look;
    err = start(look, list.n);
    if (err) {
        end(look);
        take_answers(daemon, NULL, err);
    }
}

/* ---- when ---- */

static bool is_open(const struct sp_domain *domain)
{
    return domain->strays != SP_STRAYS_UNKNOWN && domain->strays != SP_STRAYS_KNOWN;
}

bool sp_strays_awaited(const struct sp_domain *domain)
{
    return domain->strays_awaited && is_open(domain);
}

void sp_strays_reset(struct sp_domain *domain)
{
    if (is_open(domain))
        domain->strays_awaited = false; /* that was all: nobody waits for it twice */
    domain->strays = SP_STRAYS_UNKNOWN;
    domain->nstrays = 0;
}

void sp_strays_ask(struct sp_domain *domain)
{
    if (!is_open(domain))
        domain->strays_since = sp_now_usecs();
    /* Whoever joins during each look does not put its answer off for ever. */
    if (domain->strays != SP_STRAYS_LOOKED_FOR || sp_now_usecs() - domain->strays_since < PATIENT_USECS)
        domain->strays = SP_STRAYS_ASKED;
    sp_passes_ask(domain->daemon);
}

void sp_strays_ask_dead(struct sp_daemon *daemon)
{
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (!domain->engine && domain->strays == SP_STRAYS_UNKNOWN)
            sp_strays_ask(domain);
    }
}

bool sp_strays_open(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (is_open(domain))
            return true;
    }
    return false;
}

bool sp_strays_any_awaited(const struct sp_daemon *daemon)
{
    const struct sp_domain *domain;

    TAILQ_FOREACH(domain, &daemon->domains, link) {
        if (sp_strays_awaited(domain))
            return true;
    }
    return false;
}

/* Once more, from the un-merging on: once, as its engine begins anew each time it is told so. */
static void ask_again(struct sp_domain *domain)
{
    if (!domain->engine) {
        sp_strays_ask(domain);
        return;
    }
    domain->strays_due = UINT64_MAX; /* sp_strays_ask() comes of it, or an error */
    sp_engine_set_run(domain->engine, SP_RUN_UNMERGE);
    domain->all_unmerged = false;
}

void sp_strays_work(struct sp_daemon *daemon)
{
    struct sp_domain *domain, *next;
    bool any = false;

    if (daemon->looked_for && sp_now_usecs() - daemon->looked_for->began > LOOK_USECS) {
        kill_it(daemon->looked_for);
        take_answers(daemon, daemon->looked_for, 0); /* what it found is true */
        end(daemon->looked_for);
    }
    if (daemon->looked_for)
        return;
    for (domain = TAILQ_FIRST(&daemon->domains); domain; domain = next) {
        next = TAILQ_NEXT(domain, link);
        if (domain->strays == SP_STRAYS_WANTED && sp_now_usecs() >= domain->strays_due)
            ask_again(domain);
        if (domain->strays != SP_STRAYS_ASKED)
            continue;
        if (is_left(domain)) {
            domain->strays = SP_STRAYS_LOOKED_FOR;
            any = true;
        } else {
            finish(domain, 0, 0);
        }
    }
    if (any)
        begin(daemon);
}

void sp_strays_stop(struct sp_daemon *daemon)
{
    if (daemon->looked_for)
        end(daemon->looked_for);
}
