/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a page holds, and what happens when it holds something else.
 *
 * Words 0 to 3 say what the page is, for whoever finds it where it should not be; word 4 counts;
 * the last one is a checksum of the first; all others follow from the same numbers. A near page is
 * an equal one but for one byte. A page of zeros has only its counting word.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker.h"

#define TITLE    0x215245524f525254ull
#define COUNTING 4u
#define LAST     (WORDS - 1)
/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_OF_FILE (1ull << 61)
#define ODD          0xd6e8feb86659fd93ull

static uint64_t owner_of(const struct page *page)
{
    return page->kind == KIND_OWN ? options.id + 1ull : 0;
}

static uint64_t seed_of(const struct page *page)
{
    return mix(mix(mix(page->number + 1ull) ^ page->version) + owner_of(page));
}

/* Which byte of a near page differs from the equal one. */
static unsigned near_byte(const struct page *page)
{
    return (COUNTING + 1) * 8 + mix(page->number ^ (options.id + 1ull) << 32) % (PAGE - 48);
}

static uint64_t word_of(const struct page *page, uint64_t seed, unsigned i)
{
    uint64_t head = (uint64_t)(page->kind == KIND_OWN) << 32 | page->version;

    switch (i) {
    case 0:
        return TITLE;
    case 1:
        return head;
    case 2:
        return page->number;
    case 3:
        return owner_of(page);
    case COUNTING:
        return mix(seed) + page->additions;
    case LAST:
        return mix(seed ^ head);
    default:
        return seed + i * ODD;
    }
}

void page_fill(void *at, const struct page *page)
{
    uint64_t seed = seed_of(page), *word = at;

    if (page->kind == KIND_ZERO) {
        memset(at, 0, PAGE);
        word[COUNTING] = page->additions;
        return;
    }
    for (unsigned i = COUNTING + 1; i < LAST; i++)
        word[i] = seed + i * ODD;
    for (unsigned i = 0; i <= COUNTING; i++)
        word[i] = word_of(page, seed, i);
    word[LAST] = word_of(page, seed, LAST);
    if (page->kind == KIND_NEAR)
        ((uint8_t *)at)[near_byte(page)] ^= 0x41;
}

/* The usual way: is every word right? */
static bool words_right(const volatile uint64_t *word, const struct page *page)
{
    uint64_t seed = seed_of(page), bad = 0;
    unsigned near = page->kind == KIND_NEAR ? near_byte(page) : 0;

    if (page->kind == KIND_ZERO) {
        for (unsigned i = 0; i < WORDS; i++)
            bad |= i == COUNTING ? 0 : word[i];
        return !bad;
    }
    for (unsigned i = COUNTING + 1; i < LAST; i++) {
        uint64_t want = seed + i * ODD;

        if (near && near / 8 == i)
            want ^= 0x41ull << (near % 8 * 8);
        bad |= word[i] ^ want;
    }
    for (unsigned i = 0; i < COUNTING; i++)
        bad |= word[i] ^ word_of(page, seed, i);
    return !(bad | (word[LAST] ^ word_of(page, seed, LAST)));
}

static bool counting_right(const volatile uint64_t *word, const struct page *page)
{
    uint64_t base = page->kind == KIND_ZERO ? 0 : mix(seed_of(page));

    return word[COUNTING] == base + page->additions;
}

bool page_is(const void *at, const struct page *page)
{
    return words_right(at, page) && counting_right(at, page);
}

void page_add(void *at, struct page *page)
{
    __atomic_add_fetch(&page->additions, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch((uint64_t *)at + COUNTING, 1, __ATOMIC_RELAXED);
}

/* What to look at afterwards. */

static void copy_file(const char *from, const char *name)
{
    static char path[300], buf[65536];
    int in = open(from, O_RDONLY | O_CLOEXEC), out;
    ssize_t n;

    snprintf(path, sizeof(path), "%s/wrong-%d-%s", options.directory, getpid(), name);
    out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    while (in >= 0 && out >= 0 && (n = read(in, buf, sizeof(buf))) > 0)
        if (write(out, buf, (size_t)n) != n)
            break;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
}

static void keep_bytes(const void *bytes, const char *name)
{
    char path[300];
    int out;

    snprintf(path, sizeof(path), "%s/wrong-%d-%s", options.directory, getpid(), name);
    out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0 || write(out, bytes, PAGE) != PAGE)
        perror(path);
    if (out >= 0)
        close(out);
}

static uint64_t pagemap_entry(const void *at)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t entry = 0;

    if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) != 8)
        entry = 0;
    if (fd >= 0)
        close(fd);
    return entry;
}

bool page_is_merged(const void *at)
{
    uint64_t entry = pagemap_entry(at);

    return (entry & PAGE_OF_FILE) || !(entry & (PAGE_PRESENT | PAGE_SWAPPED));
}

static const char *name_of_op(uint64_t i)
{
    return i < ops_count() ? op_table[i].name : "none";
}

static void say_what_threads_do(void)
{
    for (uint32_t i = 0; i < stats->nthreads; i++) {
        const struct thread_stats *t = &stats->thread[i];

        dprintf(2, "  thread %u: step %llu, %s on block %llu since %llu ms\n", i,
                (unsigned long long)t->steps, name_of_op(t->op), (unsigned long long)t->block,
                (unsigned long long)(now_ms() - t->since_ms));
    }
}

static void say_which_block(const void *at)
{
    for (uint32_t i = 0; i < nblocks; i++)
        if ((const char *)at >= block[i].base &&
            (const char *)at < page_at(&block[i], block[i].npages))
            dprintf(2, "  block %u at %p: page %zu of %u, %u pins\n", i, (void *)block[i].base,
                    (size_t)((const char *)at - block[i].base) / PAGE, block[i].npages,
                    block[i].pins);
}

/* The first to come reports; the others keep still. */
static void only_one(void)
{
    static uint64_t reporting;

    __atomic_store_n(&stats->wrong, 1, __ATOMIC_SEQ_CST);
    while (__atomic_exchange_n(&reporting, 1, __ATOMIC_SEQ_CST))
        pause();
}

static void end(void) __attribute__((noreturn));
static void end(void)
{
    say_its_agent();
    say_what_threads_do();
    copy_file("/proc/self/smaps", "smaps");
    __atomic_store_n(&stats->wrong, 2, __ATOMIC_SEQ_CST);
    if (getenv("TORTURE_HOLD"))
        for (;;)
            pause();
    abort();
}

static void say_words(const uint64_t *found, const uint64_t *wanted, const volatile uint64_t *again)
{
    unsigned shown = 0, differ = 0;

    for (unsigned i = 0; i < WORDS; i++) {
        if (found[i] == wanted[i])
            continue;
        if (shown++ < 6)
            dprintf(2, "  word %u: found %016llx, expected %016llx, read again %016llx\n", i,
                    (unsigned long long)found[i], (unsigned long long)wanted[i],
                    (unsigned long long)again[i]);
        differ++;
    }
    dprintf(
        2,
        "  %u of %u words differ; the page says: kind and version %llx, number %llx, owner %llu\n",
        differ, (unsigned)WORDS, (unsigned long long)found[1], (unsigned long long)found[2],
        (unsigned long long)found[3]);
}

/* What needs no system call but write(): a child may be under a filter. */
static void say_first(const void *at, const struct page *page, const char *when,
                      const uint64_t *found, const uint64_t *wanted)
{
    char text[300];
    unsigned i = 0;
    int n;

    while (i < WORDS - 1 && found[i] == wanted[i])
        i++;
    n = snprintf(text, sizeof(text),
                 "WRONG BYTES %s: page %p, expected kind %u number %x version %u; word %u: found "
                 "%016llx, expected %016llx, read again %016llx\n",
                 when, at, page->kind, page->number, page->version, i, (unsigned long long)found[i],
                 (unsigned long long)wanted[i],
                 (unsigned long long)((const volatile uint64_t *)at)[i]);
    (void)!write(2, text, (size_t)n);
}

static void wrong_page(const void *at, const struct page *page, const char *when)
    __attribute__((noreturn));
static void wrong_page(const void *at, const struct page *page, const char *when)
{
    static uint64_t found[WORDS], wanted[WORDS];

    for (unsigned i = 0; i < WORDS; i++)
        found[i] = ((const volatile uint64_t *)at)[i];
    only_one();
    page_fill(wanted, page);
    say_first(at, page, when, found, wanted);
    dprintf(
        2,
        "WRONG BYTES %s: seed %llu worker %u pid %d, page %p (pagemap %016llx), expected kind %u "
        "number %x version %u additions %u\n",
        when, (unsigned long long)options.seed, options.id, getpid(), at,
        (unsigned long long)pagemap_entry(at), page->kind, page->number, page->version,
        page->additions);
    say_words(found, wanted, at);
    say_which_block(at);
    keep_bytes(found, "found");
    keep_bytes(wanted, "expected");
    end();
}

void wrong(const char *what, const char *when)
{
    only_one();
    dprintf(2, "WRONG %s: seed %llu worker %u pid %d: %s (errno %d: %s)\n", when,
            (unsigned long long)options.seed, options.id, getpid(), what, errno, strerror(errno));
    end();
}

void fatal(const char *what)
{
    dprintf(2, "torture worker: %s: %s\n", what, strerror(errno));
    exit(3);
}

void page_check(const void *at, const struct page *page, bool counting, const char *when)
{
    if (!words_right(at, page) || (counting && !counting_right(at, page)))
        wrong_page(at, page, when);
    __atomic_add_fetch(&stats->pages_checked, 1, __ATOMIC_RELAXED);
}

void page_check_zero(const void *at, const char *when)
{
    static const struct page zero = {.kind = KIND_ZERO};

    page_check(at, &zero, true, when);
}
