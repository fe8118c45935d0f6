/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merged memory that is locked. "ready", and where it is; then by line of stdin:
 *
 *   written   writes some of the pages, and locks all
 *   full      can lock no more than it has locked from now on
 *   less      can lock less than it has locked already (both without CAP_IPC_LOCK)
 *   wipe      MADV_WIPEONFORK: "wipe" and the errno
 *   onfault   locks what comes to be there: "onfault" and the errno
 *   tell      "locked", how many pages are (VmLck), how many of the area's are in locked mappings, and
 *             whether any of them is a frame
 *   check     all pages hold what they held: "ok"
 *   lock, unlock, drop   mlock, munlock, MADV_DONTNEED of all: the word and the errno
 *   some      writes some of the pages: "some 0"
 *   move      mremap of all to another place, and back: "move" and the errno
 *   protect   mprotect to read-only, looks, and back: the same
 *   fork      a child finds all pages, none locked, and writes one: "fork" and its exit status
 *   more      may lock one page more than it has, and maps such a one (MAP_LOCKED) again and again until
 *             the area's pages are frames: "more" and the errno
 *
 * With the argument "advised" the memory is MADV_MERGEABLE.
 */
#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "pattern.h"

#define PAGES 512u
#define STEP  16u /* pages from one that is written to the next */

static char *region;
static unsigned version; /* of those */

static void check(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, i % STEP ? 0 : version, "locked");
}

static void write_some(void)
{
    version++;
    for (unsigned i = 0; i < PAGES; i += STEP)
        pattern_fill(region + i * PAGE, i, version);
}

static void lock_written(void)
{
    write_some();
    if (mlock(region, PAGES * PAGE))
        die("mlock");
}

static void limit_to(unsigned pages)
{
    struct rlimit limit = { (rlim_t)pages * PAGE, (rlim_t)pages * PAGE };

    if (setrlimit(RLIMIT_MEMLOCK, &limit))
        die("setrlimit");
}

static long locked_pages(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;

    if (!status)
        die("status");
    while (fgets(line, sizeof(line), status))
        sscanf(line, "VmLck: %ld", &kib);
    fclose(status);
    return kib * 1024 / PAGE;
}

/* How many pages of the area lie in mappings with the flag. */
static unsigned pages_with(const char *flag)
{
    unsigned long start = 0, end = 0, low = (unsigned long)region, high = low + PAGES * PAGE;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    unsigned pages = 0;
    char line[512];

    if (!smaps)
        die("smaps");
    while (fgets(line, sizeof(line), smaps)) {
        unsigned long a, b;

        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            start = a < low ? low : a;
            end = b > high ? high : b;
        } else if (!strncmp(line, "VmFlags:", 8) && end > start && strstr(line, flag)) {
            pages += (unsigned)((end - start) / PAGE);
        }
    }
    fclose(smaps);
    return pages;
}

/* How many pages that are there are a file's? */
static unsigned frames(void)
{
    FILE *pagemap = fopen("/proc/self/pagemap", "rb");
    uint64_t entry[PAGES];
    unsigned n = 0;

    if (!pagemap || fseek(pagemap, (long)((uintptr_t)region / PAGE * sizeof(*entry)), SEEK_SET) ||
        fread(entry, sizeof(*entry), PAGES, pagemap) != PAGES)
        die("pagemap");
    for (unsigned i = 0; i < PAGES; i++)
        n += entry[i] >> 63 && (entry[i] >> 61 & 1);
    fclose(pagemap);
    return n;
}

static int lock_more(void)
{
    limit_to((unsigned)locked_pages() + 1);
    do {
        for (unsigned i = 0; i < 64; i++) {
            char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);

            if (page == MAP_FAILED)
                return errno;
            munmap(page, PAGE);
        }
    } while (frames() < PAGES);
    return 0;
}

static int move_and_back(void)
{
    char *old = region, *place = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    region = mremap(old, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    if (region == MAP_FAILED)
        return errno;
    check();
    region = mremap(region, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old);
    return region == MAP_FAILED ? errno : 0;
}

static int protect_and_back(void)
{
    if (mprotect(region, PAGES * PAGE, PROT_READ))
        return errno;
    check();
    return mprotect(region, PAGES * PAGE, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int look_in_child(void)
{
    int status = 0;

    if (fork() == 0) {
        check();
        pattern_fill(region + PAGE, 1, 9);
        pattern_check(region + PAGE, 1, 9, "written in the child");
        _exit(locked_pages() ? 1 : 0);
    }
    wait(&status);
    return status;
}

static void obey(const char *word)
{
    if (!strcmp(word, "written")) {
        lock_written();
        puts("locked");
    } else if (!strcmp(word, "full") || !strcmp(word, "less")) {
        limit_to(*word == 'f' ? PAGES : PAGES - 1);
        puts("limited");
    } else if (!strcmp(word, "wipe")) {
        printf("wipe %d\n", madvise(region, PAGES * PAGE, MADV_WIPEONFORK) ? errno : 0);
    } else if (!strcmp(word, "onfault")) {
        printf("onfault %d\n", mlock2(region, PAGES * PAGE, MLOCK_ONFAULT) ? errno : 0);
    } else if (!strcmp(word, "lock")) {
        printf("lock %d\n", mlock(region, PAGES * PAGE) ? errno : 0);
    } else if (!strcmp(word, "unlock")) {
        printf("unlock %d\n", munlock(region, PAGES * PAGE) ? errno : 0);
    } else if (!strcmp(word, "more")) {
        printf("more %d\n", lock_more());
    } else if (!strcmp(word, "drop")) {
        printf("drop %d\n", madvise(region, PAGES * PAGE, MADV_DONTNEED) ? errno : 0);
    } else if (!strcmp(word, "some")) {
        write_some();
        puts("some 0");
    } else if (!strcmp(word, "move")) {
        printf("move %d\n", move_and_back());
    } else if (!strcmp(word, "protect")) {
        printf("protect %d\n", protect_and_back());
    } else if (!strcmp(word, "fork")) {
        printf("fork %d\n", look_in_child());
    } else if (!strcmp(word, "tell")) {
        printf("locked %ld %u %d\n", locked_pages(), pages_with(" lo"), frames() != 0);
    } else if (!strcmp(word, "check")) {
        check();
        puts("ok");
    } else {
        exit(2);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char word[32];

    region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        die("mmap");
    madvise(region, PAGES * PAGE, MADV_NOHUGEPAGE);
    if (argc > 1 && !strcmp(argv[1], "advised"))
        madvise(region, PAGES * PAGE, MADV_MERGEABLE);
    for (unsigned i = 0; i < PAGES; i++)
        pattern_fill(region + i * PAGE, i, 0);
    printf("ready %lx %u\n", (unsigned long)region, PAGES * PAGE);
    fflush(stdout);
    while (scanf("%31s", word) == 1)
        obey(word);
    return 0;
}
