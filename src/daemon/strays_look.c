/* SPDX-License-Identifier: Apache-2.0 */
/* The process that looks for strays (strays_look.h). */
#include "strays_look.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent_name.h"
#include "disposable.h"

#define PATIENCE_MS   1000 /* with one process, */
#define STEP_MS       100  /* ... looked at so often */
#define YOUNG_MS      2000u
#define AT_ONCE       512u /* entries of a pagemap */
#define ENTRY_THERE   (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE    (UINT64_C(1) << 61)

struct pids {
    int32_t *pid;
    uint32_t n, room;
};

struct mapping {
    uint64_t start, end, index; /* of its first page in the file */
    struct sp_stray_file *file;
};

size_t sp_strays_paper_size(uint32_t nfiles)
{
    return sizeof(struct sp_stray_paper) + nfiles * sizeof(struct sp_stray_file);
}

/* ---- one process ---- */

static struct sp_stray_file *file_of(struct sp_stray_paper *paper, unsigned dev_major, unsigned dev_minor,
                                     uint64_t inode)
{
    for (uint32_t i = 0; i < paper->nfiles; i++) {
        struct sp_stray_file *file = &paper->file[i];

        if (file->inode == inode && file->dev_major == dev_major && file->dev_minor == dev_minor)
            return file;
    }
    return NULL;
}

/* A line of /proc/PID/maps. Views, the daemon's, the store's and agents', are shared ones, and no site. */
static bool is_of_frames(struct sp_stray_paper *paper, const char *line, uint64_t page_size, struct mapping *m)
{
    unsigned long long start, end, offset, inode;
    unsigned dev_major, dev_minor;
    char shared;

    if (sscanf(line, "%llx-%llx %*3c%c %llx %x:%x %llu", &start, &end, &shared, &offset, &dev_major, &dev_minor,
               &inode) != 7 ||
        shared != 'p')
        return false;
    *m = (struct mapping){start, end, offset / page_size, file_of(paper, dev_major, dev_minor, inode)};
    return m->file != NULL;
}

/* One that the program wrote is its own, in memory or in swap. A frame that the kernel moves just now has SWAPPED, too. */
static bool is_frame(uint64_t entry)
{
    return entry & ENTRY_FILE || !(entry & (ENTRY_THERE | ENTRY_SWAPPED));
}

static void note_frame(struct sp_stray_file *file, uint64_t index)
{
    uint64_t bit = UINT64_C(1) << index % 64;

    file->found += !(file->frame[index / 64] & bit);
    file->frame[index / 64] |= bit;
}

/* Returns whether there is a frame; errno is 0, or why it could not be read to its end. */
static bool read_mapping(int pagemap, const struct mapping *m, uint64_t page_size)
{
    uint64_t n = (m->end - m->start) / page_size, entry[AT_ONCE];
    bool found = false;

    errno = 0;

    for (uint64_t i = 0; i < n && m->index + i < SP_POOL_SEGMENT_PAGES; i++) {
        size_t at = i % AT_ONCE, some = n - i < AT_ONCE ? (size_t)(n - i) : AT_ONCE;

        if (at == 0 && pread(pagemap, entry, some * sizeof(*entry),
                             (off_t)((m->start / page_size + i) * sizeof(*entry))) != (ssize_t)(some * sizeof(*entry)))
            break;
        if (!is_frame(entry[at]))
            continue;
        note_frame(m->file, m->index + i);
        found = true;
    }
    return found;
}

static FILE *open_of(int32_t pid, const char *name)
{
    char path[48];

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

/* Its real user, who need not be who owns its /proc: that is root where it may not be traced. */
static uint32_t uid_of(int32_t pid)
{
    FILE *f = open_of(pid, "status");
    unsigned uid = UINT32_MAX;
    char line[128];

    while (f && fgets(line, sizeof(line), f) && sscanf(line, "Uid: %u", &uid) != 1)
        ;
    if (f)
        fclose(f);
    return uid;
}

static bool is_gone(int32_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return access(path, F_OK) && errno == ENOENT;
}

/* False: they are too many. */
static bool note_unread(struct sp_stray_paper *paper, int32_t pid)
{
    struct sp_stray_unread *unread = &paper->unread[paper->nunread];

    if (is_gone(pid)) /* and maps nothing */
        return true;
    if (paper->nunread == SP_STRAYS_UNREAD)
        return false;
    *unread = (struct sp_stray_unread){.pid = pid, .uid = uid_of(pid)};
    (void)sp_read_comm(pid, unread->comm);
    paper->nunread++;
    return true;
}


/* The field after comm, which may hold anything, is the third; the 22nd is when it began, in ticks since the boot. */
static bool is_young(int32_t pid)
{
    unsigned long long ticks = 0;
    char line[1024] = "";
    const char *after;
    struct timespec now;
    FILE *f = open_of(pid, "stat");

    if (!f)
        return true; /* it ends just now, and will not be found again */
    (void)!fgets(line, sizeof(line), f);
    fclose(f);
    after = strrchr(line, ')');
    if (!after || sscanf(after + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
                         &ticks) != 1)
        return false;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK) + YOUNG_MS >=
           (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void note_process(struct sp_stray_paper *paper, int32_t pid, uint32_t set)
{
    struct sp_stray_process *process = &paper->process[paper->nprocesses];
    uint32_t n = 0;

    for (uint32_t i = 0; i < paper->nprocesses; i++)
        n += paper->process[i].set == set;
    if (n == SP_STRAYS_OF_SET || paper->nprocesses == SP_STRAYS_PROCESSES)
        return;
    *process = (struct sp_stray_process){.pid = pid, .set = set, .young = is_young(pid)};
    (void)sp_read_comm(pid, process->comm);
    paper->nprocesses++;
}

/* Is this the error of a process that is gone, or that is none of ours: that of another user's under a user's own daemon? */
static bool is_no_matter(int err)
{
    return err == ENOENT || err == ESRCH || err == EACCES || err == EPERM || err == 0;
}

/* Two files about the same memory: a process whose first thread ended has them with its others only. */
static bool open_memory(int32_t pid, FILE **maps, FILE **pagemap)
{
    const struct dirent *entry;
    char name[64];
    DIR *tasks;
    int err;

    *maps = open_of(pid, "maps");
    *pagemap = *maps ? open_of(pid, "pagemap") : NULL;
    if (*pagemap || errno != ESRCH)
        return *pagemap;
    snprintf(name, sizeof(name), "/proc/%d/task", (int)pid);
    tasks = opendir(name);
    while (tasks && !*pagemap && (entry = readdir(tasks))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        if (*maps)
            fclose(*maps);
        snprintf(name, sizeof(name), "task/%.20s/maps", entry->d_name);
        *maps = open_of(pid, name);
        snprintf(name, sizeof(name), "task/%.20s/pagemap", entry->d_name);
        *pagemap = *maps ? open_of(pid, name) : NULL;
    }
    err = *pagemap ? 0 : errno;
    if (tasks)
        closedir(tasks);
    errno = err;
    return *pagemap;
}

/* False: there were too many whose memory could not be looked at. */
static bool read_process(struct sp_stray_paper *paper, int32_t pid)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *maps, *pagemap;
    char line[512];
    struct mapping m;
    bool found = false, tail, is_long = false, here, read = true;

    if (sp_is_named_agent(pid)) /* it has its program's memory */
        return true;
    if (!open_memory(pid, &maps, &pagemap))
        read = is_no_matter(errno);
    while (pagemap && fgets(line, sizeof(line), maps)) {
        tail = is_long;
        is_long = !strchr(line, '\n');
        if (tail) /* of a path, in which anybody may write what looks like a line */
            continue;
        if (!is_of_frames(paper, line, page_size, &m))
            continue;
        here = read_mapping(fileno(pagemap), &m, page_size);
        read = read && is_no_matter(errno);
        if (here && !found) {
            note_process(paper, pid, m.file->set);
            found = true;
        }
        errno = 0; /* for the next line */
    }
    if (pagemap && ferror(maps))
        read = read && is_no_matter(errno);
    if (pagemap)
        fclose(pagemap);
    if (maps)
        fclose(maps);
    return read || note_unread(paper, pid);
}

/* ---- all of them ---- */

/* False: these are not all. */
static bool list_processes(struct pids *pids)
{
    const struct dirent *entry;
    DIR *proc = opendir("/proc");
    bool all = proc;

    for (errno = 0; proc && (entry = readdir(proc)); errno = 0) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        if (pids->n == pids->room) {
            int32_t *more = realloc(pids->pid, (pids->room + 1024) * sizeof(*more));

            if (!more) {
                all = false;
                break;
            }
            pids->pid = more;
            pids->room += 1024;
        }
        pids->pid[pids->n++] = atoi(entry->d_name);
    }
    all = all && errno == 0;
    if (proc)
        closedir(proc);
    return all;
}

static void read_on(struct sp_stray_paper *paper, const struct pids *pids, pid_t looker)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != looker)
        _exit(1);
    while (paper->at < pids->n && read_process(paper, pids->pid[paper->at]))
        __atomic_add_fetch(&paper->at, 1, __ATOMIC_SEQ_CST);
    _exit(paper->at < pids->n);
}

/* 1: the reader ended by itself; 0: it was killed, as it waited for the process at which it is for so long; or a negative
 * errno. */
static int watch(const struct sp_stray_paper *paper, pid_t reader)
{
    struct pollfd p = {.fd = pidfd_open(reader, 0), .events = POLLIN};
    uint32_t before = __atomic_load_n(&paper->at, __ATOMIC_SEQ_CST), at;
    int ended = p.fd < 0 ? -errno : 0;

    for (int waited = 0; ended == 0 && waited < PATIENCE_MS; waited = at == before ? waited + STEP_MS : 0, before = at) {
        ended = poll(&p, 1, STEP_MS);
        at = __atomic_load_n(&paper->at, __ATOMIC_SEQ_CST);
    }
    kill(reader, SIGKILL);
    if (p.fd >= 0) {
        (void)poll(&p, 1, PATIENCE_MS); /* it touches the paper no more */
        close(p.fd);
    }
    (void)waitpid(reader, NULL, WNOHANG);
    return ended;
}

static int look(struct sp_stray_paper *paper)
{
    struct pids pids = {0};
    bool goes_on = list_processes(&pids);
    pid_t looker = getpid();

    while (goes_on && paper->at < pids.n) {
        pid_t reader = fork();

        if (reader == 0)
            read_on(paper, &pids, looker);
        goes_on = reader > 0 && watch(paper, reader) == 0;
        if (goes_on && paper->at < pids.n) {
            goes_on = note_unread(paper, pids.pid[paper->at]);
            paper->at += goes_on; /* not that one again */
        }
    }
    paper->done = pids.n && paper->at >= pids.n;
    free(pids.pid);
    return 0;
}

int sp_strays_main(int argc, char **argv)
{
    const uint32_t keep = 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_READ_SEARCH;
    struct sp_stray_paper *paper;
    struct stat st;

    if (!sp_disposable_is(argc, argv, "--strays"))
        return -1;
    sp_disposable_settle("samepage-strays", keep);
    if (fstat(SP_STRAYS_FD, &st) || st.st_size < (off_t)sizeof(*paper))
        return 1;
    paper = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, SP_STRAYS_FD, 0);
    if (paper == MAP_FAILED || sp_strays_paper_size(paper->nfiles) > (size_t)st.st_size)
        return 1;
    return look(paper);
}
