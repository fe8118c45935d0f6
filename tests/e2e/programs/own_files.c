/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads files in the ways that programs open them. Fills a region that is equal in every own_files,
 * prints "ready ADDRESS BYTES", then for every line "HOW PATH" on stdin prints the file's text, a |
 * for each end of a line, or "error NUMBER". "end" checks the region. With the
 * argument "advise" it advises its region, with "filtered" it begins anew
 * under a filter.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pattern.h"

#define NPAGES 512u
#define TEXT   512u
#define ROUNDS 300u

static char *region;
static const char *path;
static char text[TEXT];

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "own_files: %s (errno %d)\n", what, errno);
    exit(3);
}

static void set_error(void)
{
    snprintf(text, sizeof(text), "error %d", errno);
}

/* Twice: a file that is kept open is read from its start again. */
static void read_fd(int fd)
{
    char again[TEXT] = "";
    ssize_t n;

    if (fd < 0) {
        set_error();
        return;
    }
    must(lseek(fd, 0, SEEK_CUR) == 0, "it is not at its start");
    n = read(fd, text, sizeof(text) - 1);
    must(n >= 0, "read");
    text[n] = 0;
    must(lseek(fd, 0, SEEK_SET) == 0 && read(fd, again, sizeof(again) - 1) == n &&
             !strcmp(again, text),
         "read again it is another text");
    must(close(fd) == 0, "close");
}

static void by_open(void)
{
    read_fd(open(path, O_RDONLY));
}

static void by_openat(void)
{
    read_fd(openat(-7, path, O_RDONLY | O_CLOEXEC));
}

static void by_fopen(void)
{
    FILE *file = fopen(path, "re");
    size_t n;

    if (!file) {
        set_error();
        return;
    }
    n = fread(text, 1, sizeof(text) - 1, file);
    text[n] = 0;
    fclose(file);
}

static void by_syscall(void)
{
    read_fd((int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0));
}

static void by_syscall_open(void)
{
    read_fd((int)syscall(SYS_open, path, O_RDONLY, 0));
}

/* The folder first, then the name in it. */
static void by_folder(void)
{
    const char *name = strrchr(path, '/') + 1;
    char folder[256];
    int fd;

    snprintf(folder, sizeof(folder), "%.*s", (int)(name - path), path);
    fd = open(folder, O_RDONLY | O_DIRECTORY);
    must(fd >= 0, "open a folder");
    read_fd(openat(fd, name, O_RDONLY));
    close(fd);
}

static void by_chdir(void)
{
    const char *name = strrchr(path, '/') + 1;
    char folder[256];

    snprintf(folder, sizeof(folder), "%.*s", (int)(name - path), path);
    must(chdir(folder) == 0, "chdir");
    read_fd(open(name, O_RDONLY));
    must(chdir("/") == 0, "chdir");
}

/* At the very end of a page, with nothing behind. */
static void by_edge(void)
{
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = pages + PAGE - strlen(path) - 1;

    must(pages != MAP_FAILED && munmap(pages + PAGE, PAGE) == 0, "a page with nothing behind");
    strcpy(at, path);
    read_fd(open(at, O_RDONLY));
    munmap(pages, PAGE);
}

static void *run_open(void *arg)
{
    (void)arg;
    by_open();
    return NULL;
}

static void in_thread(void *(*run)(void *))
{
    pthread_t thread;

    must(pthread_create(&thread, NULL, run, NULL) == 0 && pthread_join(thread, NULL) == 0,
         "a thread");
}

static void by_thread(void)
{
    in_thread(run_open);
}

/* A child, which opens when it is told to, so often as it is, and is found by its parent's /proc.
 */
static void by_fork(void)
{
    pid_t child = fork();
    char line[16];

    if (child == 0) {
        printf("child %d\n", getpid());
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin) && !strcmp(line, "again\n")) {
            by_open();
            for (char *p = text; *p; p++)
                *p = *p == '\n' ? '|' : *p;
            puts(text);
            fflush(stdout);
        }
        _exit(0);
    }
    must(child > 0 && waitpid(child, NULL, 0) == child, "fork");
    strcpy(text, "done");
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* What a descriptor is, besides what is read from it. */
static void by_nature(void)
{
    unsigned before = open_descriptors();
    sigset_t set, now;
    struct stat st;
    int first = open("/dev/null", O_RDONLY), plain, cloexec;

    close(first);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_SETMASK, &set, NULL);
    plain = open(path, O_RDONLY);
    cloexec = open(path, O_RDONLY | O_CLOEXEC);
    sigprocmask(SIG_SETMASK, NULL, &now);
    must(sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGUSR2) == 0,
         "the signal mask changed");
    must(plain == first && cloexec == first + 1, "not the lowest descriptors");
    must(fcntl(plain, F_GETFD) == 0 && fcntl(cloexec, F_GETFD) == FD_CLOEXEC,
         "not closed on exec as asked");
    must((fcntl(plain, F_GETFL) & O_ACCMODE) == O_RDONLY && write(plain, "x", 1) < 0 &&
             errno == EBADF,
         "it can be written");
    must(fstat(plain, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0400,
         "not a file like the kernel's");
    close(cloexec);
    must(open_descriptors() == before + 1, "descriptors are left");
    read_fd(plain);
}

static atomic_bool stop;

/* Behind the path, which nobody knows is left alone. */
static void *change_mappings(void *pages)
{
    while (!stop) {
        must(mprotect((char *)pages + PAGE, PAGE, PROT_READ) == 0, "mprotect");
        must(mprotect((char *)pages + PAGE, PAGE, PROT_NONE) == 0, "mprotect");
    }
    return NULL;
}

/* Never the kernel's, though other threads change mappings all the time. */
static void by_flood(void)
{
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread[2];

    must(pages != MAP_FAILED, "mmap");
    path = strcpy(pages, path);
    stop = false;
    for (unsigned i = 0; i < 2; i++)
        must(pthread_create(&thread[i], NULL, change_mappings, pages) == 0, "a thread");
    for (unsigned i = 0; i < ROUNDS; i++) {
        by_open();
        must(!strstr(text, "ksm_merging_pages 0\n"), "the kernel's file in the flood");
    }
    stop = true;
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    munmap(pages, 2 * PAGE);
}

#define ALLOW(name)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1),                                        \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What a program that only reads files needs; all else kills it. */
static void filter(unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(openat),
        ALLOW(read),
        ALLOW(lseek),
        ALLOW(close),
        ALLOW(write),
        ALLOW(newfstatat),     /* of stdio */
        ALLOW(rt_sigprocmask), /* of a thread's end */
        ALLOW(madvise),
        ALLOW(munmap),
        ALLOW(futex),
        ALLOW(exit),
        ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

    must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
             !syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program),
         "seccomp");
}

#define KILL(name)                                                                                 \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1),                                        \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

/* A filter that was there before the program, and lets all pass but what nobody but samepage calls.
 */
static void begin_filtered(char **argv)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL(readlinkat),
        KILL(setsockopt),
        KILL(fchmod),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

    must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
             !syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program),
         "seccomp");
    execl("/proc/self/exe", argv[0], NULL);
    must(false, "exec");
}

static void *run_filtered(void *arg)
{
    (void)arg;
    filter(0);
    by_open();
    return NULL;
}

/* A thread under a filter of its own, which the agent does not see. */
static void by_filtered_thread(void)
{
    in_thread(run_filtered);
}

/* All of the program, at once: before the agent can know. */
static void by_filtered(void)
{
    filter(SECCOMP_FILTER_FLAG_TSYNC);
    by_open();
}

/* Where a write to any file would kill. */
static void by_limited(void)
{
    struct rlimit old, none;

    must(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    none = (struct rlimit){0, old.rlim_max};
    must(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
    by_open();
    must(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
}

/* Paths that are no paths are an error, not a fault. */
static void by_bad_path(void)
{
    must(open((const char *)8, O_RDONLY) < 0 && errno == EFAULT, "no EFAULT");
    must(open(NULL, O_RDONLY) < 0 && errno == EFAULT, "no EFAULT");
    by_edge();
}

static void *open_fifo(void *name)
{
    int fd = open(name, O_RDONLY);

    must(fd >= 0, "open a fifo");
    close(fd);
    return NULL;
}

static char waits_at[64];

static void *open_and_go(void *page)
{
    snprintf(waits_at, sizeof(waits_at), "/proc/self/task/%d/wchan", gettid());
    return open_fifo(page);
}

/* The kernel has read the path when the open waits in the fifo. */
static bool waits_in_fifo(void)
{
    char where[64] = "";
    int fd = *(volatile char *)waits_at ? open(waits_at, O_RDONLY) : -1;

    if (fd >= 0) {
        (void)!read(fd, where, sizeof(where) - 1);
        close(fd);
    }
    return strstr(where, "fifo") || strstr(where, "wait_for_partner");
}

/* PATH is to be made a fifo. The page that its path lies in is unmapped while the open waits. */
static void by_unmapped_path(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    int fd;

    must(mkfifo(path, 0600) == 0, "mkfifo");
    strcpy(page, path);
    must(pthread_create(&thread, NULL, open_and_go, page) == 0, "a thread");
    while (!waits_in_fifo())
        pause_ms(1);
    must(munmap(page, PAGE) == 0, "munmap");
    fd = open(path, O_WRONLY);
    must(fd >= 0, "open the fifo");
    pthread_join(thread, NULL);
    close(fd);
    strcpy(text, "opened");
}

/*
 * The page with PATH, which is made a fifo, among merged ones, is protected by a call that waits for the agent
 * when the open begins, and is through when it ends. In steps, one a line, so that both can be seen to wait. No
 * other call on memory is made meanwhile: a thread that ends makes one.
 */
static sem_t may_protect, did_protect, may_open, may_end;
static atomic_int protects_as, opens_as;
static pthread_t protects, opens;
static char first_page[PAGE];

static void *protect_when_told(void *unused)
{
    protects_as = gettid();
    must(sem_wait(&may_protect) == 0, "sem_wait");
    must(mprotect(region, 4 * PAGE, PROT_NONE) == 0, "mprotect");
    must(sem_post(&did_protect) == 0 && sem_wait(&may_end) == 0, "semaphores");
    return unused;
}

static void *open_when_told(void *unused)
{
    opens_as = gettid();
    must(sem_wait(&may_open) == 0, "sem_wait");
    open_fifo(region);
    return unused;
}

static void by_protected_path(void)
{
    must(mkfifo(path, 0600) == 0, "mkfifo");
    memcpy(first_page, region, PAGE);
    strcpy(region, path);
    must(sem_init(&may_protect, 0, 0) == 0 && sem_init(&did_protect, 0, 0) == 0 &&
             sem_init(&may_open, 0, 0) == 0 && sem_init(&may_end, 0, 0) == 0 &&
             pthread_create(&protects, NULL, protect_when_told, NULL) == 0 &&
             pthread_create(&opens, NULL, open_when_told, NULL) == 0,
         "two threads");
    while (!protects_as || !opens_as)
        pause_ms(1);
    snprintf(text, sizeof(text), "%d %d", protects_as, opens_as);
}

static void now_protect(void)
{
    must(sem_post(&may_protect) == 0, "sem_post");
    strcpy(text, "told");
}

static void now_open(void)
{
    must(sem_post(&may_open) == 0, "sem_post");
    strcpy(text, "told");
}

static void now_both_end(void)
{
    int fd;

    must(sem_wait(&did_protect) == 0, "sem_wait");
    fd = open(path, O_WRONLY);
    must(fd >= 0, "open the fifo");
    pthread_join(opens, NULL);
    must(sem_post(&may_end) == 0, "sem_post");
    pthread_join(protects, NULL);
    close(fd);
    must(mprotect(region, 4 * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
    memcpy(region, first_page, PAGE);
    strcpy(text, "opened");
}

static void note(void *done)
{
    *(bool *)done = true;
}

static bool cleaned;

static void *open_and_be_cancelled(void *name)
{
    pthread_cleanup_push(note, &cleaned);
    open_and_go(name);
    pthread_cleanup_pop(0);
    return NULL;
}

/* PATH is to be made a fifo. open is a place where a thread can be cancelled. */
static void by_cancelled(void)
{
    pthread_t thread;
    void *result;

    must(mkfifo(path, 0600) == 0, "mkfifo");
    must(pthread_create(&thread, NULL, open_and_be_cancelled, (void *)path) == 0, "a thread");
    while (!waits_in_fifo())
        pause_ms(1);
    must(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0 &&
             result == PTHREAD_CANCELED && cleaned,
         "not cancelled, or not cleaned up");
    strcpy(text, "cancelled");
}

static const struct {
    const char *name;
    void (*run)(void);
} ways[] = {
    {"open", by_open},
    {"openat", by_openat},
    {"fopen", by_fopen},
    {"syscall", by_syscall},
    {"syscall-open", by_syscall_open},
    {"folder", by_folder},
    {"chdir", by_chdir},
    {"edge", by_edge},
    {"thread", by_thread},
    {"fork", by_fork},
    {"nature", by_nature},
    {"flood", by_flood},
    {"bad-path", by_bad_path},
    {"unmapped-path", by_unmapped_path},
    {"protected-path", by_protected_path},
    {"now-protect", now_protect},
    {"now-open", now_open},
    {"now-both-end", now_both_end},
    {"filtered-thread", by_filtered_thread},
    {"filtered", by_filtered},
    {"cancelled", by_cancelled},
    {"limited", by_limited},
};

static void serve(char *line)
{
    char *blank = strchr(line, ' ');

    must(blank != NULL, "HOW PATH");
    *blank = 0;
    path = blank + 1;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
        if (!strcmp(line, ways[i].name))
            ways[i].run();
    for (char *p = text; *p; p++)
        *p = *p == '\n' ? '|' : *p;
    puts(text);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[512];

    if (argc > 1 && !strcmp(argv[1], "filtered"))
        begin_filtered(argv);
    region = region_map(NPAGES);
    if (argc > 1 && !strcmp(argv[1], "advise"))
        must(madvise(region, NPAGES * PAGE, MADV_MERGEABLE) == 0, "madvise");
    region_fill(region, NPAGES, 0);
    printf("ready %p %u\n", (void *)region, NPAGES * PAGE);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) && strcmp(line, "end\n")) {
        line[strcspn(line, "\n")] = 0;
        serve(line);
    }
    region_check(region, NPAGES, 0, "held");
    puts("ok");
    return 0;
}
