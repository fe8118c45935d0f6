/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order matters. First the pages, then the registration, then the wake: as long as the range is
 * registered, a thread that touches a page in the air waits; the moment it is not, a page that is
 * not back would read as zeros. The wait page comes last: threads behind the gate go on only into
 * memory that is whole.
 *
 * The program is alive and may be hostile: what its staging area maps is not trusted to be what the
 * agent put there. Only pages of anonymous memory that are present are read, because reading
 * anything else could make this daemon wait for the program.
 */
#include "repair.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "answers.h"
#include "log.h"

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE    (1ull << 61) /* of a file, or shared anonymous */
#define COPY_TRIES      1000
#define PAGE_SIZE_MAX   65536u

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

static int open_pagemap(const struct sp_client *client)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)client->program);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* 1: this staging page holds a page in the air; 0: it does not; negative: could not be seen. */
static int staged(const struct sp_client *client, int pagemap, uint64_t addr)
{
    uint64_t entry;
    off_t at = (off_t)(addr / client->daemon->page_size * sizeof(entry));

    if (pread(pagemap, &entry, sizeof(entry), at) != sizeof(entry))
        return -EIO;
    return (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) && !(entry & PAGEMAP_FILE);
}

static bool give_back(struct sp_client *client, int pagemap, uint64_t staging, uint64_t addr)
{
    static _Alignas(64) char page[PAGE_SIZE_MAX];
    size_t size = client->daemon->page_size;
    struct iovec local = {page, size}, remote = {(void *)(uintptr_t)staging, size};
    int there = staged(client, pagemap, staging);

    if (there <= 0)
        return there == 0;
    if (process_vm_readv(client->program, &local, 1, &remote, 1, 0) != (ssize_t)size)
        return errno == ESRCH;
    return is_back(give_page(client, addr, page));
}

static bool give_back_all(struct sp_client *client, const struct sp_journal *journal)
{
    uint32_t page_size = client->daemon->page_size;
    int pagemap = open_pagemap(client);
    bool whole = true;

    if (pagemap < 0)
        return errno == ENOENT || errno == ESRCH; /* no program, nobody who waits */
    for (uint32_t i = 0; i < journal->npages; i++) {
        uint64_t offset = (uint64_t)i * page_size;

        if (!give_back(client, pagemap, journal->staging + offset, journal->addr + offset))
            whole = false;
    }
    close(pagemap);
    return whole;
}

static void let_go(struct sp_client *client, uint64_t addr, uint64_t len)
{
    struct uffdio_range range = {addr, len};

    /* Errors mean that it is not registered, or that there is no program: nobody waits. */
    ioctl(client->uffd, UFFDIO_UNREGISTER, &range);
    ioctl(client->uffd, UFFDIO_WAKE, &range);
}

static void abandon_gate(struct sp_client *client)
{
    static _Alignas(64) uint32_t page[PAGE_SIZE_MAX / sizeof(uint32_t)] = {SP_WAIT_PAGE_ABANDONED};
    struct uffdio_range range = {client->wait_page, client->daemon->page_size};

    if (!client->wait_page)
        return;
    give_page(client, client->wait_page, page);
    ioctl(client->uffd, UFFDIO_WAKE, &range);
}

bool sp_repair(struct sp_client *client)
{
    struct sp_journal journal = {0};
    bool whole = true;
    char name[sizeof(client->comm) + 1];

    if (client->uffd < 0 || client->daemon->page_size > PAGE_SIZE_MAX)
        return true;
    if (client->shm) {
        memcpy(&journal, client->shm, sizeof(journal));
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    }
    sp_log_name(name, sizeof(name), client->comm, sizeof(client->comm));
    if (journal.state == SP_JOURNAL_LIFT) {
        if (sp_check_journal(&journal, client->daemon->page_size)) {
            sp_log(SP_LOG_WARNING, "%s (pid %d): its agent died with a journal that makes no sense",
                   name, (int)client->program);
        } else {
            whole = give_back_all(client, &journal);
            if (!whole && !client->repair_told)
                sp_log(SP_LOG_ERROR,
                       "%s (pid %d): a page of its dead agent cannot be given back yet; "
                       "threads that need it wait",
                       name, (int)client->program);
            client->repair_told = true;
            if (!whole)
                return false;
            let_go(client, journal.addr, (uint64_t)journal.npages * client->daemon->page_size);
            sp_log(SP_LOG_INFO, "%s (pid %d): gave back the pages of its dead agent", name,
                   (int)client->program);
        }
        client->shm->journal.state = SP_JOURNAL_NONE;
        client->daemon->repairs++;
    }
    abandon_gate(client);
    return true;
}
