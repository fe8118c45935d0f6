/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order matters. First the pages, then the registration, then the wake: as long as the range is
 * registered, a thread that touches a page in the air waits; the moment it is not, a page that is
 * not back would read as zeros. The wait page comes last: threads behind the gate go on only into
 * memory that is whole.
 *
 * The program is alive and may be hostile, in two ways that decide how this is done:
 *  - It can make whoever looks at its memory wait, for ever: by a userfaultfd or a FUSE file of its
 *    own, in its staging area, or under the lock of its address space, which a pagemap, the ioctls
 *    and every read take. So all of it is done by a short-lived child process, the repairer. The
 *    daemon waits a moment for its word, and else looks again each second; a client has one
 *    repairer at a time.
 *  - It can exec a program with more rights than it had, under the same pid. So the memory is read
 *    through a descriptor, which stays with the memory it was opened for, and only if that is its
 *    user's to look at; a userfaultfd of another process would get the bytes otherwise.
 */
#include "repair.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answers.h"
#include "log.h"

#define PAGEMAP_PRESENT  (1ull << 63)
#define PAGEMAP_SWAPPED  (1ull << 62)
#define PAGEMAP_FILE     (1ull << 61) /* of a file, or shared anonymous */
#define COPY_TRIES       1000
#define PAGE_SIZE_MAX    65536u
#define WAIT_MSECS       50 /* for a repairer: one that meets no resistance needs far less, */
#define WAIT_AGAIN_MSECS 2  /* ... and for one of those that came after it */

/* What a repairer says, in one byte. */
enum { NOTHING_DUE = 1, GAVE_BACK, NO_SENSE, NOT_WHOLE };

/* Copies a page to addr of the program, if none is there. 0, or a negative errno. */
static int give_page(struct sp_client *client, uint64_t addr, const void *page)
{
    for (int i = 0; i < COPY_TRIES; i++) {
        struct uffdio_copy copy = {
            .dst = addr, .src = (uintptr_t)page, .len = client->daemon->page_size};

        if (ioctl(client->uffd, UFFDIO_COPY, &copy) == 0)
            return 0;
        if (errno != EAGAIN) /* the mappings are being changed: again */
            return -errno;
    }
    return -EAGAIN;
}

/* EEXIST: it is there. ENOENT: no such mapping of ours, the program replaced it. ESRCH: the program
 * is gone. All of these are an end; anything else is a page that is not back. */
static bool is_back(int err)
{
    return err == 0 || err == -EEXIST || err == -ENOENT || err == -ESRCH || err == -EINVAL;
}

/* The program's memory, -1: none. Who opens these files holds on to the memory, not to the pid. */
struct memory {
    int mem, pagemap;
};

/* A process that its own user may not look into, a set-user-id program say, is not this client any
 * more. The descriptor's owner is that of the process now. */
static bool is_clients(uid_t uid, int fd)
{
    struct stat st;

    return uid == 0 || (fstat(fd, &st) == 0 && st.st_uid == uid);
}

static int open_file(pid_t program, uid_t uid, const char *name, int how)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)program, name);
    /* Asked before and after: in between it could be another program. */
    if (uid != 0 && stat(path, &st) == 0 && st.st_uid != uid) {
        errno = EPERM;
        return -1;
    }
    return open(path, how | O_CLOEXEC);
}

/* how: O_RDONLY, or O_RDWR. 0, or a negative errno. */
static int open_memory(const struct sp_client *client, struct memory *memory, int how)
{
    memory->mem = open_file(client->program, client->uid, "mem", how);
    if (memory->mem < 0)
        return -errno;
    memory->pagemap = open_file(client->program, client->uid, "pagemap", O_RDONLY);
    if (memory->pagemap < 0)
        return -errno;
    if (!is_clients(client->uid, memory->mem) || !is_clients(client->uid, memory->pagemap))
        return -EPERM;
    return 0;
}

int sp_repair_possible(pid_t program, uid_t uid)
{
    int fd = open_file(program, uid, "mem", O_RDONLY), err = fd < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return err;
}

/* 1: this staging page holds a page in the air; 0: it does not; negative: could not be seen. */
static int staged(const struct sp_client *client, int pagemap, uint64_t addr)
{
    uint64_t entry;
    off_t at = (off_t)(addr / client->daemon->page_size * sizeof(entry));
    ssize_t n = pread(pagemap, &entry, sizeof(entry), at);

    if (n == 0)
        return 0; /* the memory is gone */
    if (n != sizeof(entry))
        return -EIO;
    return (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) && !(entry & PAGEMAP_FILE);
}

static bool give_back(struct sp_client *client, const struct memory *memory, uint64_t staging,
                      uint64_t addr)
{
    static _Alignas(64) char page[PAGE_SIZE_MAX];
    size_t size = client->daemon->page_size;
    int there = staged(client, memory->pagemap, staging);
    ssize_t n;

    if (there <= 0)
        return there == 0;
    n = pread(memory->mem, page, size, (off_t)staging);
    if (n != (ssize_t)size)
        return n == 0; /* the memory is gone, and with it whoever waits */
    return is_back(give_page(client, addr, page));
}

static bool give_back_all(struct sp_client *client, const struct sp_journal *journal)
{
    uint32_t page_size = client->daemon->page_size;
    struct memory memory = {-1, -1};
    int err = open_memory(client, &memory, O_RDONLY);
    bool whole = true;

    if (err)
        return err == -ENOENT || err == -ESRCH; /* no program, nobody who waits */
    for (uint32_t i = 0; i < journal->npages; i++) {
        uint64_t offset = (uint64_t)i * page_size;

        if (!give_back(client, &memory, journal->staging + offset, journal->addr + offset))
            whole = false;
    }
    return whole;
}

static void let_go(struct sp_client *client, uint64_t addr, uint64_t len)
{
    struct uffdio_range range = {addr, len};

    /* Errors mean that it is not registered, or that there is no program: nobody waits. */
    ioctl(client->uffd, UFFDIO_UNREGISTER, &range);
    ioctl(client->uffd, UFFDIO_WAKE, &range);
}

/* The page is there: the agent died while it gave it, or the program has it locked. */
static bool overwrite_wait_page(const struct sp_client *client)
{
    const uint32_t word = SP_WAIT_PAGE_ABANDONED;
    struct memory memory = {-1, -1};
    int err = open_memory(client, &memory, O_RDWR);

    if (err)
        return err == -ENOENT || err == -ESRCH;
    return pwrite(memory.mem, &word, sizeof(word), (off_t)client->wait_page) != -1 ||
           errno == ESRCH;
}

/* Whoever waits at the gate of a dead agent goes on. False: somebody may still wait. */
static bool abandon_gate(struct sp_client *client)
{
    static _Alignas(64) uint32_t page[PAGE_SIZE_MAX / sizeof(uint32_t)] = {SP_WAIT_PAGE_ABANDONED};
    struct uffdio_range range = {client->wait_page, client->daemon->page_size};
    bool done = true;

    if (!client->wait_page)
        return true;
    if (give_page(client, client->wait_page, page) == -EEXIST)
        done = overwrite_wait_page(client);
    ioctl(client->uffd, UFFDIO_WAKE, &range);
    return done;
}

/* All that there is to do, in the repairer. */
static int repair(struct sp_client *client)
{
    struct sp_journal journal = {0};
    int said = NOTHING_DUE;

    if (client->shm) {
        memcpy(&journal, client->shm, sizeof(journal));
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    }
    if (journal.state == SP_JOURNAL_LIFT) {
        if (sp_check_journal(&journal, client->daemon->page_size)) {
            said = NO_SENSE;
        } else if (give_back_all(client, &journal)) {
            let_go(client, journal.addr, (uint64_t)journal.npages * client->daemon->page_size);
            said = GAVE_BACK;
        } else {
            return NOT_WHOLE;
        }
        client->shm->journal.state = SP_JOURNAL_NONE;
    }
    return abandon_gate(client) ? said : NOT_WHOLE;
}

/* One that is held up keeps nothing open of what it does not need: not the lock, no connection. */
static void close_others(int a, int b)
{
    unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

    close_range(0, low - 1, 0);
    if (high - low > 1)
        close_range(low + 1, high - 1, 0);
    close_range(high + 1, ~0u, 0);
}

/* 0, or a negative errno. No signal tells of its end, and no wait for other children meets it. */
static int start_repairer(struct sp_client *client)
{
    int word[2];
    long pid;

    if (pipe2(word, O_CLOEXEC | O_NONBLOCK))
        return -errno;
    pid = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        char said;

        close_others(client->uffd, word[1]);
        said = (char)repair(client);
        (void)!write(word[1], &said, 1);
        _exit(0);
    }
    close(word[1]);
    if (pid < 0) {
        int err = -errno;

        close(word[0]);
        return err;
    }
    client->repair_fd = word[0];
    return 0;
}

/* What the repairer said within that time; 0: nothing yet; NOT_WHOLE: it died. */
static int hear_repairer(struct sp_client *client, int msecs)
{
    struct pollfd pfd = {client->repair_fd, POLLIN, 0};
    char said = NOT_WHOLE;

    if (poll(&pfd, 1, msecs) != 1)
        return 0;
    (void)!read(client->repair_fd, &said, 1);
    close(client->repair_fd);
    client->repair_fd = -1;
    sp_repair_reap();
    return said;
}

void sp_repair_reap(void)
{
    while (waitpid(-1, NULL, __WCLONE | WNOHANG) > 0)
        ;
}

bool sp_repair(struct sp_client *client)
{
    char name[sizeof(client->comm) + 1];
    int said, msecs = 0;

    if (client->uffd < 0 || client->daemon->page_size > PAGE_SIZE_MAX)
        return true;
    if (client->repair_fd < 0) {
        if (start_repairer(client))
            return false;
        msecs = client->repair_told ? WAIT_AGAIN_MSECS : WAIT_MSECS;
    }
    said = hear_repairer(client, msecs);
    sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm));
    if (said == NO_SENSE)
        sp_log(SP_LOG_WARNING, "%s (pid %d): its agent died with a journal that makes no sense",
               name, (int)client->program);
    if (said == GAVE_BACK)
        sp_log(SP_LOG_INFO, "%s (pid %d): gave back the pages of its dead agent", name,
               (int)client->program);
    if (said == GAVE_BACK || said == NO_SENSE)
        client->daemon->repairs++;
    if (said && said != NOT_WHOLE)
        return true;
    if (!client->repair_told)
        sp_log(SP_LOG_ERROR,
               "%s (pid %d): a page of its dead agent cannot be given back yet; "
               "threads that need it wait",
               name, (int)client->program);
    client->repair_told = true;
    return false;
}
