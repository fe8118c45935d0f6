/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes address-space calls in every way that is hard for somebody who stands in them, while it is
 * merged: in handlers, while it forks, in threads that are cancelled, out of which a handler jumps,
 * or that end in a handler.
 *
 * usage: gate_stress CASE. Starts, says "ready ADDRESS BYTES" of memory that is filled only then and
 * is equal in every case; at "go" it stops, looks at all of its memory, and says "ok COUNT": how
 * often the thing happened. Cases that wait: see wait_in_call().
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "pattern.h"
#include "wchan.h"

#define WATCHED 2048u /* pages that are only looked at */
#define USED    1024u /* pages that calls are made on; equal in every case too */
#define THREADS 2u

static char *watched, *used;
static atomic_int stop;
static atomic_ulong count;

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "gate_stress: %s (errno %d)\n", what, errno);
    abort();
}

static void read_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(4);
}

static unsigned long rnd(void)
{
    static _Thread_local unsigned long state;

    state = pattern_mix(state + (unsigned long)pthread_self());
    return state;
}

/* A page of merged memory is un-merged by this, which takes the agent and a while. */
static void touch_used(unsigned long n)
{
    char *page = used + n % USED * PAGE;

    must(!mprotect(page, PAGE, PROT_READ), "mprotect to read");
    pattern_check(page, n % USED, 0, "while protected");
    must(!mprotect(page, PAGE, PROT_READ | PROT_WRITE), "mprotect to write");
}

/* Memory of its own: made, changed, moved, given back. Only what a handler may call. */
static void use_own(unsigned long n)
{
    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    must(p != MAP_FAILED, "mmap");
    memset(p, (int)n | 1, 4 * PAGE);
    must(!madvise(p, PAGE, MADV_DONTNEED), "madvise");
    must(p[0] == 0 && p[PAGE] == (char)(n | 1), "bytes of its own");
    p = mremap(p, 4 * PAGE, 2 * PAGE, 0);
    must(p != MAP_FAILED && p[PAGE] == (char)(n | 1), "mremap");
    must(!munmap(p, 2 * PAGE), "munmap");
}

static void *call_on(void *arg)
{
    for (unsigned long n = rnd(); !stop; n = rnd()) {
        use_own(n);
        if (n % 8 == 0)
            touch_used(n >> 8);
        usleep(100); /* others want a processor, too */
    }
    return arg;
}

static pthread_t caller[THREADS];

static void start_callers(void)
{
    for (unsigned i = 0; i < THREADS; i++)
        must(!pthread_create(&caller[i], NULL, call_on, NULL), "pthread_create");
}

static void join_callers(void)
{
    for (unsigned i = 0; i < THREADS; i++)
        must(!pthread_join(caller[i], NULL), "pthread_join");
}

static void on_signal(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    must(!sigaction(number, &action, NULL), "sigaction");
}

/*
 * handlers: handlers that make calls interrupt calls, and one another.
 */
static void handler_calls(int number)
{
    int saved = errno;
    unsigned long n = rnd();

    use_own(n);
    if (n % 4 == 0)
        touch_used(n >> 8);
    count++;
    errno = saved;
}

static void *send_signals(void *arg)
{
    while (!stop) {
        for (unsigned i = 0; i < THREADS; i++)
            pthread_kill(caller[i], rnd() % 2 ? SIGUSR1 : SIGUSR2);
        usleep(500);
    }
    return arg;
}

static pthread_t sender;

static void handlers_start(void)
{
    on_signal(SIGUSR1, handler_calls, SA_RESTART);
    on_signal(SIGUSR2, handler_calls, SA_RESTART);
    start_callers();
    must(!pthread_create(&sender, NULL, send_signals, NULL), "pthread_create");
}

static void handlers_end(void)
{
    must(!pthread_join(sender, NULL), "pthread_join");
    join_callers();
}

/*
 * deep: the same on a stack of the handler's own, where it is interrupted again and again by itself, in the
 * middle of its calls (SA_NODEFER).
 */
#define DEPTH      24
#define DEEP_STACK (1024u * 1024u)

static atomic_int depth[THREADS]; /* of each caller */
static atomic_uint deep_callers;  /* that know their number */
static _Thread_local unsigned caller_number;

static void handler_goes_deep(int number)
{
    atomic_int *mine = &depth[caller_number];
    int saved = errno, level = ++*mine;
    unsigned long n = rnd();

    use_own(n);
    if (level < DEPTH)
        must(!pthread_kill(pthread_self(), number), "pthread_kill");
    use_own(n >> 8);
    if (n % 8 == 0)
        touch_used(n >> 8);
    count += level == DEPTH;
    must((*mine)-- == level, "a handler that never returned");
    errno = saved;
}

static void *call_on_deep(void *arg)
{
    stack_t stack = {.ss_sp = region_map(DEEP_STACK / PAGE), .ss_size = DEEP_STACK};

    must(!sigaltstack(&stack, NULL), "sigaltstack");
    caller_number = (unsigned)(uintptr_t)arg;
    deep_callers++;
    call_on(arg);
    return arg;
}

/* Only who is in no handler is interrupted: else handlers might come faster than they return. */
static void *send_deep(void *arg)
{
    while (deep_callers < THREADS)
        usleep(500);
    while (!stop) {
        for (unsigned i = 0; i < THREADS; i++)
            if (!depth[i])
                pthread_kill(caller[i], rnd() % 2 ? SIGUSR1 : SIGUSR2);
        usleep(500);
    }
    return arg;
}

static void deep_start(void)
{
    on_signal(SIGUSR1, handler_goes_deep, SA_RESTART | SA_ONSTACK | SA_NODEFER);
    on_signal(SIGUSR2, handler_goes_deep, SA_RESTART | SA_ONSTACK | SA_NODEFER);
    for (unsigned i = 0; i < THREADS; i++)
        must(!pthread_create(&caller[i], NULL, call_on_deep, (void *)(uintptr_t)i), "pthread_create");
    must(!pthread_create(&sender, NULL, send_deep, NULL), "pthread_create");
}

/*
 * forks: a process of several threads forks, and so does a handler that interrupts them.
 */
static void fork_one(void)
{
    pid_t pid = fork();
    int status;

    must(pid >= 0, "fork");
    if (pid == 0) {
        unsigned long n = rnd();

        use_own(n);
        touch_used(n >> 8);
        for (unsigned i = 0; i < 64; i++)
            pattern_check(used + (n + i) % USED * PAGE, (n + i) % USED, 0, "in a child");
        _exit(7);
    }
    while (waitpid(pid, &status, 0) < 0)
        must(errno == EINTR, "waitpid");
    must(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child ended otherwise");
    count++;
}

static void handler_forks(int number)
{
    int saved = errno;

    fork_one();
    errno = saved;
}

static void *fork_on(void *arg)
{
    for (unsigned n = 0; !stop; n++) {
        fork_one();
        if (n % 4 == 0)
            pthread_kill(caller[0], SIGUSR1);
    }
    return arg;
}

static void forks_start(void)
{
    on_signal(SIGUSR1, handler_forks, SA_RESTART);
    start_callers();
    must(!pthread_create(&sender, NULL, fork_on, NULL), "pthread_create");
}

/*
 * cancel: threads are cancelled anywhere in their calls. They make none that would leak memory.
 */
static atomic_ulong cleaned;

static void clean(void *arg)
{
    cleaned++;
}

static void *be_cancelled(void *arg)
{
    char *own = arg;
    int old;

    pthread_cleanup_push(clean, NULL);
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    for (unsigned long n = rnd();; n = rnd()) {
        usleep(50);
        madvise(own, 8 * PAGE, MADV_DONTNEED);
        madvise(own, 8 * PAGE, MADV_POPULATE_WRITE);
        mprotect(used + n % USED * PAGE, PAGE, PROT_READ);
        mprotect(used + n % USED * PAGE, PAGE, PROT_READ | PROT_WRITE);
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void *cancel_on(void *arg)
{
    char *own = region_map(8);

    while (!stop) {
        pthread_t thread;
        void *answer;

        must(!pthread_create(&thread, NULL, be_cancelled, own), "pthread_create");
        usleep((useconds_t)(rnd() % 1000));
        must(!pthread_cancel(thread), "pthread_cancel");
        must(!pthread_join(thread, &answer) && answer == PTHREAD_CANCELED, "it was not cancelled");
        count++;
        must(cleaned == count, "a thread that was cancelled did not clean up");
    }
    return arg;
}

static void cancel_start(void)
{
    must(!pthread_create(&sender, NULL, cancel_on, NULL), "pthread_create");
    start_callers();
}

/*
 * jump: a handler jumps out of calls. The kernel calls it when it is done with the call, which lasts:
 * so it always comes while the thread is inside.
 */
static sigjmp_buf back;

static void handler_jumps(int number)
{
    siglongjmp(back, 1);
}

static void deeper(unsigned depth, char *own)
{
    volatile char room[512];

    room[0] = 1;
    if (depth)
        deeper(depth - 1, own);
    else
        for (;;)
            madvise(own, 512 * PAGE, MADV_POPULATE_READ);
    room[1] = room[0];
}

/* As any program does after a jump that goes on with something else. */
static void __attribute__((noinline)) use_stack(void)
{
    volatile char room[4 * PAGE];

    for (unsigned i = 0; i < sizeof(room); i++)
        room[i] = 1;
}

static void *jump_on(void *arg)
{
    struct itimerval soon = {.it_value = {.tv_usec = 300}};
    char *own = region_map(512);
    sigset_t alarms;

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    memset(own, 1, 512 * PAGE);
    while (!stop) {
        if (!sigsetjmp(back, 1)) {
            pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
            setitimer(ITIMER_REAL, &soon, NULL);
            deeper(rnd() % 4, own);
        }
        count++;
        use_stack();
        usleep(500);
        use_own(rnd());
    }
    return arg;
}

static void jump_start(void)
{
    sigset_t alarms;

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    must(!pthread_sigmask(SIG_BLOCK, &alarms, NULL), "pthread_sigmask");
    on_signal(SIGALRM, handler_jumps, 0);
    start_callers();
    must(!pthread_create(&sender, NULL, jump_on, NULL), "pthread_create");
}

/*
 * exit: a handler ends the thread that is inside.
 */
static void handler_exits(int number)
{
    pthread_exit((void *)9);
}

static void *be_ended(void *arg)
{
    for (;;) {
        usleep(50);
        madvise(arg, 512 * PAGE, MADV_POPULATE_READ);
    }
}

static void *end_on(void *arg)
{
    char *own = region_map(512);

    memset(own, 1, 512 * PAGE);
    while (!stop) {
        pthread_t thread;
        void *answer;

        must(!pthread_create(&thread, NULL, be_ended, own), "pthread_create");
        usleep((useconds_t)(rnd() % 1000));
        must(!pthread_kill(thread, SIGUSR1), "pthread_kill");
        must(!pthread_join(thread, &answer) && answer == (void *)9, "it ended otherwise");
        count++;
    }
    return arg;
}

static void exit_start(void)
{
    on_signal(SIGUSR1, handler_exits, 0);
    must(!pthread_create(&sender, NULL, end_on, NULL), "pthread_create");
    start_callers();
}

/*
 * Cases in which a thread waits for the agent, which the test stopped: at "go" it makes a call that
 * waits, says "waits", and at the next "go" something is done to it there. Then it says "done"; the
 * rest is as in other cases.
 */
static pthread_t waiter;
static atomic_int tid;

static void clean_scope(int *armed)
{
    cleaned += (unsigned)*armed;
}

static void *make_call(void *arg)
{
    /* Through a pointer: by its declaration nothing is ever thrown out of mprotect(). */
    int (*volatile protect)(void *, size_t, int) = mprotect;
    int armed __attribute__((cleanup(clean_scope))) = 1;
    int old;

    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    tid = (int)syscall(SYS_gettid);
    if (!sigsetjmp(back, 1))
        protect(used, PAGE, PROT_READ);
    return (void *)5;
}

/* Starts a thread that makes the call, until it waits for a page. */
static void start_call(void)
{
    tid = 0;
    must(!pthread_create(&waiter, NULL, make_call, NULL), "pthread_create");
    wchan_wait(&tid, "userfault");
}

static void wait_in_call(void)
{
    start_call();
    printf("waits\n");
    fflush(stdout);
    read_line();
}

static void end_wait(void *want)
{
    void *answer;

    must(!pthread_join(waiter, &answer) && answer == want, "the thread ended otherwise");
    must(cleaned == 1, "a thread that was cancelled did not clean up");
    count++;
    printf("done\n");
    fflush(stdout);
    read_line();
    must(!mprotect(used, PAGE, PROT_READ | PROT_WRITE), "mprotect");
}

static void wait_cancel_run(void)
{
    wait_in_call();
    must(!pthread_cancel(waiter), "pthread_cancel");
    end_wait(PTHREAD_CANCELED);
}

static void wait_jump_run(void)
{
    on_signal(SIGUSR1, handler_jumps, 0);
    for (unsigned i = 0; i < 20; i++) { /* more than there are requests */
        void *answer;

        cleaned = 0;
        if (i)
            start_call();
        else
            wait_in_call();
        must(!pthread_kill(waiter, SIGUSR1), "pthread_kill");
        if (i < 19)
            must(!pthread_join(waiter, &answer) && answer == (void *)5, "the thread ended otherwise");
    }
    end_wait((void *)5);
}

static void wait_call_run(void)
{
    on_signal(SIGUSR1, handler_calls, 0);
    wait_in_call();
    must(!pthread_kill(waiter, SIGUSR1), "pthread_kill");
    /* The handler's own call may wait as well; it began. */
    end_wait((void *)5);
}

static const struct {
    const char *name;
    void (*start)(void); /* begins, with threads */
    void (*end)(void);
    void (*run)(void); /* or: all of it, after "go" */
} cases[] = {
    {"handlers", handlers_start, handlers_end, NULL},
    {"deep", deep_start, handlers_end, NULL},
    {"forks", forks_start, handlers_end, NULL},
    {"cancel", cancel_start, handlers_end, NULL},
    {"jump", jump_start, handlers_end, NULL},
    {"exit", exit_start, handlers_end, NULL},
    {"wait-cancel", NULL, NULL, wait_cancel_run},
    {"wait-jump", NULL, NULL, wait_jump_run},
    {"wait-call", NULL, NULL, wait_call_run},
};

int main(int argc, char **argv)
{
    unsigned i = 0;

    while (i < sizeof(cases) / sizeof(cases[0]) && (argc < 2 || strcmp(argv[1], cases[i].name)))
        i++;
    if (i == sizeof(cases) / sizeof(cases[0]))
        return 2;
    used = region_map(USED);
    region_fill(used, USED, 0);
    if (cases[i].start)
        cases[i].start();
    while (cases[i].start && count < 20)
        usleep(1000);
    watched = region_map(WATCHED);
    region_fill(watched, WATCHED, 0);
    printf("ready %p %u\n", (void *)watched, WATCHED * PAGE);
    fflush(stdout);
    read_line();
    if (cases[i].run)
        cases[i].run();
    stop = 1;
    if (cases[i].end)
        cases[i].end();
    region_check(watched, WATCHED, 0, "at the end");
    region_check(used, USED, 0, "at the end");
    printf("ok %lu\n", (unsigned long)count);
    return 0;
}
