/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls on merged memory whose outcome is the kernel's, also where no agent is. usage: alone KIND
 *
 * Fills a region that is equal in every one of them (with zeros for splice-zeros), prints "ready ADDRESS BYTES"; at a line on
 * stdin does what KIND says, and prints "ok", or "skip WHY". What goes wrong ends it by a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "pattern.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

#define PAGES 512u
#define HALF  (PAGES / 2)

static char *region;

static char *page_at(unsigned i)
{
    return region + i * PAGE;
}

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "not so: %s\n", what);
    abort();
}

static void skip(const char *why)
{
    printf("skip %s\n", why);
    exit(0);
}

/* What the call refused is as it was: it has its bytes, and can be written. */
static void write_all(unsigned first, unsigned last)
{
    for (unsigned i = first; i < last; i++) {
        pattern_check(page_at(i), i, 0, "after a call that was refused");
        pattern_fill(page_at(i), i, 1);
        pattern_check(page_at(i), i, 1, "written");
    }
}

/* The kernel goes up to the first hole, and leaves what is above it as it is. */
static void protect_with_hole(void)
{
    if (munmap(page_at(HALF), PAGE))
        die("munmap");
    must(mprotect(region, PAGES * PAGE, PROT_READ) == -1 && errno == ENOMEM, "ENOMEM of the hole");
    write_all(HALF + 1, PAGES);
    for (unsigned i = 0; i < HALF; i++)
        pattern_check(page_at(i), i, 0, "below the hole");
}

static void protect_forbidden(void)
{
    if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
        skip("this kernel has no PR_SET_MDWE");
    must(mprotect(region, PAGES * PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EACCES,
         "EACCES: no new code");
    write_all(0, PAGES);
}

static void protect_with_bad_key(void)
{
    must(syscall(SYS_pkey_mprotect, region, PAGES * PAGE, PROT_READ, 15) == -1 && errno == EINVAL,
         "EINVAL: no such key");
    write_all(0, PAGES);
}

#define PART 8u /* pages that lose the right at once */

static volatile uint32_t faults, part_begun, part_ended;

static void allow_page(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if (mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE))
        abort();
    faults++;
}

/* Writes to the first page of each part until it loses the right, and then, sooner or later, to the others. */
static void *write_on(void *arg)
{
    volatile uint32_t spins;

    (void)arg;
    for (unsigned part = 0; part < PAGES / PART; part++) {
        uint32_t before = faults;

        while (part_begun <= part)
            ;
        while (faults == before)
            *(volatile uint64_t *)page_at(part * PART) = 0;
        for (unsigned i = part * PART; i < (part + 1) * PART; i++) {
            for (spins = pattern_mix(i) % 20000; spins; spins--)
                ;
            *(volatile uint64_t *)page_at(i) = ~(uint64_t)i;
        }
        part_ended = part + 1;
    }
    return NULL;
}

/* As a collector of garbage protects, and the handler of who writes gives the right back to a page. */
static void protect_raced(void)
{
    struct sigaction action = {.sa_sigaction = allow_page, .sa_flags = SA_SIGINFO};
    pthread_t writer;

    if (sigaction(SIGSEGV, &action, NULL) || pthread_create(&writer, NULL, write_on, NULL))
        die("pthread_create");
    for (unsigned part = 0; part < PAGES / PART; part++) {
        part_begun = part + 1;
        if (mprotect(page_at(part * PART), PART * PAGE, PROT_READ))
            die("mprotect");
        while (part_ended <= part)
            ;
    }
    if (pthread_join(writer, NULL))
        die("pthread_join");
    for (unsigned i = 0; i < PAGES; i++) {
        must(*(uint64_t *)page_at(i) == ~(uint64_t)i, "what was written since stays");
        pattern_check_from(page_at(i), 1, i, 0, "behind it");
    }
}

/* A pipe takes what may be read, and what is written later shows there. */
static void splice_zeros(void)
{
    struct iovec part = {page_at(0), 8 * PAGE};
    static char page[PAGE];
    int ends[2];

    if (mprotect(region, PAGES * PAGE, PROT_READ))
        die("mprotect");
    if (pipe(ends) || vmsplice(ends[1], &part, 1, 0) != 8 * PAGE)
        die("vmsplice");
    if (mprotect(region, PAGES * PAGE, PROT_READ | PROT_WRITE))
        die("mprotect");
    for (unsigned i = 0; i < 8; i++)
        pattern_fill(page_at(i), i, 2);
    for (unsigned i = 0; i < 8; i++) {
        if (read(ends[0], page, PAGE) != PAGE)
            die("read");
        pattern_check(page, i, 2, "in the pipe");
    }
}

/* The same, written before or not. */
static void splice_protected(void)
{
    for (unsigned i = 0; i < PAGES; i += 2)
        pattern_fill(page_at(i), i, 1);
    splice_zeros();
}

/* What nobody may read a pipe does not take. */
static void splice_forbidden(void)
{
    struct iovec part = {page_at(0), 8 * PAGE};
    int ends[2];

    pattern_fill(page_at(0), 0, 1);
    if (mprotect(region, PAGES * PAGE, PROT_NONE) || pipe(ends))
        die("mprotect");
    must(vmsplice(ends[1], &part, 1, 0) == -1 && errno == EFAULT, "EFAULT of the pipe");
}

/* In the child: another file's memory lies where the region is not. */
static void use_hole(void)
{
    int file = memfd_create("hole", 0);
    char *map;

    if (ftruncate(file, PAGES * PAGE))
        die("ftruncate");
    map = mmap(region, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file,
               0);
    must(map == region, "the child is without it");
    region_fill(region, PAGES, 7);
    if (madvise(region, PAGES * PAGE, MADV_DONTNEED))
        die("madvise");
    region_check(region, PAGES, 7, "of the file");
}

static void must_stay_here(void)
{
    int status;
    pid_t child;

    child = fork();
    if (!child) {
        use_hole();
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && status == 0, "the child ends well");
    region_check(region, PAGES, 0, "in the parent");
}

/* The second call asks the agent for something, so that it is known where there is none. */
static void fork_without(void)
{
    if (madvise(region, PAGES * PAGE, MADV_DONTFORK) || mlock(region, PAGE))
        die("madvise");
    must_stay_here();
}

/* What loses a right stays kept from children. */
static void protect_kept_from_fork(void)
{
    if (madvise(region, PAGES * PAGE, MADV_DONTFORK) || mprotect(region, PAGES * PAGE, PROT_READ))
        die("madvise");
    must_stay_here();
}

/* From now on who maps anything is killed. */
static void forbid_mmap(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        die("seccomp");
}

/* A forked child makes no call under the filter that it did not ask for. */
static void fork_filtered(void)
{
    int status;
    pid_t child;

    region_fill(region, PAGES, 1);
    forbid_mmap();
    child = fork();
    if (!child) {
        if (madvise(region, PAGES * PAGE, MADV_DONTNEED))
            die("madvise");
        region_zero(region, PAGES, "in the child");
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && status == 0, "the child ends well");
    region_check(region, PAGES, 1, "in the parent");
}

static void return_at_once(char *at)
{
#if defined(__x86_64__)
    *at = (char)0xc3;
#else
    (void)at;
#endif
}

static void call(char *at)
{
#if defined(__x86_64__)
    void (*function)(void);

    memcpy(&function, &at, sizeof(function));
    function();
#else
    (void)at;
#endif
}

/* What is protected when a filter is put up, and was written since its merge, is zeros when it is dropped, as is all
 * else; and it is what it was until then. */
static void filter_protected(int protection)
{
    for (unsigned i = 0; i < HALF; i += 3)
        pattern_fill(page_at(i), i, 1);
    return_at_once(page_at(3));
    if (mprotect(region, HALF * PAGE, protection))
        die("mprotect");
    forbid_mmap();
    for (unsigned i = 0; (protection & PROT_READ) && i < HALF; i++)
        if (i != 3)
            pattern_check(page_at(i), i, i % 3 == 0, "under the filter");
    if (protection & PROT_EXEC)
        call(page_at(3));
    if (madvise(page_at(HALF), HALF * PAGE, MADV_DONTNEED))
        die("madvise");
    region_zero(page_at(HALF), PAGES - HALF, "dropped");
    if (madvise(region, HALF * PAGE, MADV_DONTNEED) || mprotect(region, HALF * PAGE, PROT_READ | PROT_WRITE))
        die("madvise");
    region_zero(region, PAGES, "dropped while protected");
}

static void filter_protected_none(void)
{
    filter_protected(PROT_NONE);
}

static void filter_protected_read(void)
{
    filter_protected(PROT_READ);
}

static void filter_protected_exec(void)
{
    filter_protected(PROT_READ | PROT_EXEC);
}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {
    {"protect-hole", protect_with_hole},
    {"protect-forbidden", protect_forbidden},
    {"protect-bad-key", protect_with_bad_key},
    {"protect-raced", protect_raced},
    {"splice-protected", splice_protected},
    {"splice-zeros", splice_zeros},
    {"splice-forbidden", splice_forbidden},
    {"fork-without", fork_without},
    {"protect-kept-from-fork", protect_kept_from_fork},
    {"fork-filtered", fork_filtered},
    {"filter-protected-none", filter_protected_none},
    {"filter-protected-read", filter_protected_read},
    {"filter-protected-exec", filter_protected_exec},
};

int main(int argc, char **argv)
{
    region = region_map(PAGES);
    region_fill(region, PAGES, 0);
    if (argc > 1 && !strcmp(argv[1], "splice-zeros"))
        memset(region, 0, PAGES * PAGE);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    if (argc < 2 || getchar() == EOF)
        return 4;
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (!strcmp(argv[1], kinds[i].name)) {
            kinds[i].run();
            printf("ok\n");
            return 0;
        }
    return 5;
}
