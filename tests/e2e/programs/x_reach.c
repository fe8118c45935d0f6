/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: another process reads and writes merged pages: process_vm_readv and process_vm_writev,
 * /proc/PID/mem, ptrace. That process is a child from before the region was there.
 *
 * Known limit: while a page is in the air, /proc/PID/mem and ptrace get EIO; then they are asked
 * again.
 */
#include "x_table.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define NEW   7
#define PATIENCE 60.0 /* seconds; a page is in the air for as long as its agent waits for a processor */
#define WORD  1u   /* of a page: the one that is written at random */
#define POKES 128u /* a round */
#define FRESH 32u  /* rounds after which the region is new again */

enum op { READ_VM, WRITE_VM, READ_MEM, WRITE_MEM, PEEK, POKE, LEAVE };

struct job {
    int op;
    char *at;
    size_t length;
};

static int to_helper[2], from_helper[2];
static char *box; /* shared with the helper: what is written, or was read */
static pid_t self, helper;

static int open_mem(pid_t pid)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        x_skip("/proc/PID/mem cannot be opened");
    return fd;
}

/* All of it, part by part where a page of it is in the air. */
static long through_mem(int fd, bool out, const struct job *job)
{
    double until = seconds_now() + PATIENCE;
    size_t n = 0;

    while (n < job->length && seconds_now() < until) {
        off_t at = (off_t)((uintptr_t)job->at + n);
        ssize_t now = out ? pread(fd, box + n, job->length - n, at)
                          : pwrite(fd, box + n, job->length - n, at);

        if (now < 0 && errno != EIO)
            return -1;
        n += now > 0 ? (size_t)now : 0;
    }
    return (long)n;
}

static long traced_words(pid_t pid, bool out, const struct job *job)
{
    double until = seconds_now() + PATIENCE;
    size_t n = 0;

    while (n < job->length && seconds_now() < until) {
        long word;

        memcpy(&word, box + n, sizeof(word));
        errno = 0;
        if (out)
            word = ptrace(PTRACE_PEEKDATA, pid, job->at + n, 0);
        else
            ptrace(PTRACE_POKEDATA, pid, job->at + n, word);
        if (errno == EIO || errno == EFAULT)
            continue;
        if (errno)
            return -1;
        if (out)
            memcpy(box + n, &word, sizeof(word));
        n += sizeof(word);
    }
    return (long)n;
}

/* The program is stopped meanwhile, as under a debugger. */
static long through_ptrace(pid_t pid, bool out, const struct job *job)
{
    int status;
    long done;

    if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0) ||
        waitpid(pid, &status, __WALL) != pid)
        return -1;
    done = traced_words(pid, out, job);
    return ptrace(PTRACE_DETACH, pid, 0, 0) ? -1 : done;
}

static long help(int mem, pid_t pid, const struct job *job)
{
    struct iovec mine = {box, job->length}, theirs = {job->at, job->length};

    switch (job->op) {
    case READ_VM:
        return process_vm_readv(pid, &mine, 1, &theirs, 1, 0);
    case WRITE_VM:
        return process_vm_writev(pid, &mine, 1, &theirs, 1, 0);
    case READ_MEM:
    case WRITE_MEM:
        return through_mem(mem, job->op == READ_MEM, job);
    default:
        return through_ptrace(pid, job->op == PEEK, job);
    }
}

static void helper_loop(void)
{
    int mem = open_mem(self);
    struct job job;

    while (read(to_helper[0], &job, sizeof(job)) == sizeof(job) && job.op != LEAVE) {
        long done = help(mem, self, &job);

        if (done < 0)
            done = -errno;
        if (write(from_helper[1], &done, sizeof(done)) != sizeof(done))
            break;
    }
    _exit(0);
}

static void start_helper(void)
{
    self = getpid();
    box = mmap(NULL, X_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    x_must(box != MAP_FAILED && !pipe(to_helper) && !pipe(from_helper), "no helper");
    helper = fork();
    if (!helper) {
        close(to_helper[1]);
        helper_loop();
    }
    x_must(helper > 0, "no helper");
}

static long ask(int op, char *at, size_t length)
{
    struct job job = {op, at, length};
    long done = -1;

    x_must(write(to_helper[1], &job, sizeof(job)) == sizeof(job), "the helper is gone");
    while (read(from_helper[0], &done, sizeof(done)) != sizeof(done))
        x_must(errno == EINTR, "the helper is gone");
    if (done < 0) {
        errno = (int)-done;
        done = -1;
    }
    return done;
}

static void reach(int op, const char *what)
{
    long done = ask(op, x_window, X_BYTES);

    x_result(what, done);
    x_must(done == X_BYTES, what);
}

static void read_with(int op)
{
    memset(box, 0, X_BYTES);
    reach(op, "read");
    x_check_pages(box, x_first, X_WINDOW, 0, "read by another process");
}

/* The whole window, and then single words anywhere, each of which must be there. */
static void write_with(int op)
{
    static uint64_t want[X_PAGES];
    uint64_t *word;

    x_fill_pages(box, x_first, X_WINDOW, NEW);
    reach(op, "write");
    x_check_window(NEW, "written by another process");
    x_renew_window();
    memset(want, 0, sizeof(want));
    for (unsigned i = 0; i < POKES; i++) {
        size_t page = pattern_mix(x_round * POKES + i) % X_PAGES;

        want[page] = pattern_mix(~(uint64_t)(x_round * POKES + i));
        memcpy(box, &want[page], sizeof(want[page]));
        x_must(ask(op, x_region + page * PAGE + WORD * sizeof(*word), sizeof(*word)) ==
                   sizeof(*word),
               "a word was not written");
    }
    for (size_t page = 0; page < X_PAGES; page++) {
        word = (uint64_t *)(x_region + page * PAGE) + WORD;
        if (want[page] && *word != want[page]) {
            fprintf(stderr, "WRONG BYTES: page %zu: %016llx, not %016llx\n", page,
                    (unsigned long long)*word, (unsigned long long)want[page]);
            exit(3);
        }
        if (want[page])
            *word = pattern_mix(pattern_seed(page, 0) + WORD);
    }
    if (x_round % FRESH == FRESH - 1) {
        x_check_all("beside the words");
        x_renew(0, X_PAGES);
    }
}

static void row_vm_readv(void)
{
    read_with(READ_VM);
    x_result("beyond", ask(READ_VM, x_region + (X_PAGES - 2) * PAGE, 3 * PAGE));
    x_result("a hole", ask(READ_VM, x_region + X_PAGES * PAGE, PAGE));
}

static void row_vm_writev(void)
{
    write_with(WRITE_VM);
}

static void row_mem_read(void)
{
    read_with(READ_MEM);
}

static void row_mem_write(void)
{
    write_with(WRITE_MEM);
}

static void row_peek(void)
{
    read_with(PEEK);
}

static void row_poke(void)
{
    write_with(POKE);
}

static void row_self_mem(void)
{
    static int mem = -1;
    struct job job = {0, x_window, X_BYTES};

    box = x_copy;
    if (mem < 0)
        mem = open_mem(getpid());
    x_result("read", through_mem(mem, true, &job));
    x_check_copy(0, "/proc/self/mem");
    x_fill_pages(x_copy, x_first, X_WINDOW, NEW);
    x_result("write", through_mem(mem, false, &job));
    x_check_window(NEW, "written through /proc/self/mem");
    x_renew_window();
}

/*
 * A write whose source comes late: a thread calls process_vm_writev on its own process, and the
 * page that it reads from is missing, so the window's pages stay pinned for as long as we like.
 */
static char *late;

static void *write_late(void *arg)
{
    struct iovec mine = {late, X_BYTES}, theirs = {x_window, X_BYTES};

    *(long *)arg = process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0);
    return NULL;
}

static void row_vm_writev_late(void)
{
    static int uffd = -1;
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    struct uffdio_copy copy = {.src = (uintptr_t)x_copy, .len = X_BYTES};
    struct uffd_msg event;
    pthread_t thread;
    long done = 0;

    if (uffd < 0) {
        uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
        if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
            x_skip("no userfaultfd");
    }
    late = mmap(NULL, X_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    reg.range = (struct uffdio_range){(uintptr_t)late, X_BYTES};
    copy.dst = (uintptr_t)late;
    x_fill_pages(x_copy, x_first, X_WINDOW, NEW);
    x_must(late != MAP_FAILED && !ioctl(uffd, UFFDIO_REGISTER, &reg), "the late pages");
    x_must(!pthread_create(&thread, NULL, write_late, &done), "no thread");
    x_must(read(uffd, &event, sizeof(event)) == sizeof(event), "nobody reads the late pages");
    pause_ms(5);
    x_check_window(0, "not yet written");
    pause_ms(5);
    x_must(!ioctl(uffd, UFFDIO_COPY, &copy) && !pthread_join(thread, NULL), "the late pages");
    x_result("process_vm_writev", done);
    x_check_window(NEW, "written late");
    x_must(!munmap(late, X_BYTES), "munmap");
    x_renew_window();
}

static const struct x_row rows[] = {
    {"process-vm-readv", row_vm_readv, start_helper},
    {"process-vm-writev", row_vm_writev, start_helper},
    {"proc-pid-mem-read", row_mem_read, start_helper},
    {"proc-pid-mem-write", row_mem_write, start_helper},
    {"proc-self-mem", row_self_mem, NULL},
    {"process-vm-writev-late", row_vm_writev_late, NULL},
    {"ptrace-peek", row_peek, start_helper},
    {"ptrace-poke", row_poke, start_helper},
};

int main(int argc, char **argv)
{
    return x_main(argc, argv, rows, sizeof(rows) / sizeof(rows[0]));
}
