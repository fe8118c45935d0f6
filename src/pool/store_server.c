/* SPDX-License-Identifier: Apache-2.0 */
/* The store's server: answers the kernel, and does nothing else (store_process.h). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "store_fuse.h"
#include "store_process.h"
#include "store_reader.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define THREADS 4u
#define FIRST   (-20)

/* What a dead server had read and not answered is asked for again at once, and a few times more: a
 * server that is being killed may take a request yet. */
#define RESENDS   10u
#define RESEND_MS 50
/* Held frames (SP_STORE_HOLD) are so for less than that, as a rule: nobody needs to tell us. */
#define HELD_MS 1

struct server_thread {
    struct sp_store_reader *reader;
    struct sp_store_server *server;
    size_t page_size;
    int dev, cpu;
    bool resends, waits_for_file;
};

/* Of the openings: the only notes that servers write and that are more than a bit. */
static pthread_mutex_t openings = PTHREAD_MUTEX_INITIALIZER;

static uint32_t served_pages(void *arg, uint32_t segment)
{
    struct server_thread *t = arg;

    return sp_store_bit(sp_store_reader_notes(t->reader)->segment, segment) ? SP_POOL_SEGMENT_PAGES
                                                                            : 0;
}

/*
 * Frames that nobody filled are zeros, as in any file: mlockall() of a program fills all mappings,
 * our agent's too, and on an error the kernel would begin anew for ever (6.18).
 *
 * Held before or while it is read: the worker marks first, waits until nobody answers who knew
 * nothing of the mark, and then drops what is in memory.
 */
static int read_page(struct server_thread *t, uint32_t segment, uint32_t index, void *page)
{
    struct sp_store_marks *marks = sp_store_reader_marks(t->reader, segment);
    int err;

    if (sp_store_bit(marks->held, index)) {
        __atomic_fetch_add(&sp_store_reader_notes(t->reader)->waited, 1, __ATOMIC_RELAXED);
        return -EAGAIN;
    }
    if (!sp_store_bit(marks->filled, index)) {
        memset(page, 0, t->page_size);
        return 0;
    }
    err = sp_store_reader_get(t->reader, segment << 16 | index, page);
    if (!err)
        sp_store_set_bit(marks->back, index, true);
    else if (err == -EIO || sp_store_bit(marks->kept, index))
        sp_store_set_bit(marks->lost, index, true);
    return err;
}

static int served_read(void *arg, uint32_t segment, uint32_t index, uint32_t n, void *pages)
{
    struct server_thread *t = arg;
    int err = 0;

    sp_store_reader_expect(t->reader, segment << 16 | index, n);
    for (uint32_t i = 0; i < n && !err; i++)
        err = read_page(t, segment, index + i, (char *)pages + i * t->page_size);
    return err;
}

/* The place of an opening in the notes, where free of none; 0: there is none. With the mutex. */
static uint32_t find_opening(const struct sp_store_notes *notes, uint64_t request, bool free)
{
    for (uint32_t i = 1; i < SP_STORE_OPENINGS && (free || i <= notes->openings); i++)
        if (free ? !notes->opening[i].segment
                 : notes->opening[i].segment && notes->opening[i].request == request)
            return i;
    return 0;
}

/* The kernel was perhaps asked to send it again: one request is one opening. */
static bool served_opened(void *arg, uint32_t segment, uint64_t request)
{
    struct sp_store_notes *notes = sp_store_reader_notes(((struct server_thread *)arg)->reader);
    uint32_t i;

    pthread_mutex_lock(&openings);
    i = find_opening(notes, request, false);
    if (!i)
        i = find_opening(notes, 0, true);
    if (i) {
        if (i > notes->openings)
            __atomic_store_n(&notes->openings, i, __ATOMIC_RELEASE);
        notes->opening[i].request = request;
        __atomic_store_n(&notes->opening[i].segment, segment, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&openings);
    return i;
}

static void served_closed(void *arg, uint32_t segment, uint64_t request)
{
    struct sp_store_notes *notes = sp_store_reader_notes(((struct server_thread *)arg)->reader);
    uint32_t i;

    pthread_mutex_lock(&openings);
    i = find_opening(notes, request, false);
    if (i)
        __atomic_store_n(&notes->opening[i].segment, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&openings);
}

static const struct sp_store_fuse_ops ops = {served_pages, served_read, served_opened,
                                             served_closed};

static void stay_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* or it runs anywhere */
}

/*
 * Whoever touches a frame waits for us. Where nothing is in a file: among programs, with more
 * weight than most. As SCHED_RR the threads on other processors, which are told, too, would win on
 * a busy machine, and being woken from another processor takes as long again as all the rest.
 * Whoever waits for a file loses little by that, and much if the server does not go on at once when
 * it has been read: for some milliseconds, if another program runs.
 */
static void go_first(bool waits_for_file)
{
    const struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_RR)};

    (void)setpriority(PRIO_PROCESS, 0, FIRST); /* this thread's; or as everybody else */
    if (waits_for_file)
        (void)sched_setscheduler(0, SCHED_RR, &lowest);
}

static void *serve(void *arg)
{
    struct server_thread *t = arg;
    struct sp_store_notes *notes = sp_store_reader_notes(t->reader);
    struct pollfd fd = {.fd = t->dev, .events = POLLIN};
    unsigned resends = t->resends ? RESENDS : 0, withheld = 0;
    int err = 1;

    stay_on(t->cpu);
    go_first(t->waits_for_file);
    while (err == 1) {
        int n = poll(&fd, 1, withheld ? HELD_MS : resends ? RESEND_MS : -1);

        if (resends && (n == 0 || resends == RESENDS)) {
            (void)sp_store_fuse_resend(t->dev);
            resends--;
        }
        __atomic_fetch_add(&notes->reading, 1, __ATOMIC_SEQ_CST);
        if (n > 0)
            err = sp_store_serve(t->server);
        withheld = sp_store_fuse_release(t->server);
        __atomic_fetch_sub(&notes->reading, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static int prepare_thread(struct server_thread *t, const struct sp_store_server_run *run)
{
    int err = sp_store_reader_new(&t->reader, run->store, run->file);

    return err ? err : sp_store_server_new(&t->server, run->dev, &ops, t);
}

/*
 * One on each processor, on large machines on some. Who touches a frame waits for a server: one on
 * the same processor runs at once, one elsewhere may have to be woken from its idle processor
 * first, which takes ten times as long as all the rest in a virtual machine (docs: issue 7). All
 * are told, the first one takes it.
 */
int sp_store_server_process(const struct sp_store_server_run *run)
{
    static struct server_thread threads[THREADS];
    int flags = fcntl(run->dev, F_GETFL), err = 0;
    pthread_t id[THREADS];
    cpu_set_t allowed;
    unsigned n = 0;

    /* Who waits for memory may wait for us: our own requests for memory do not wait for others'. */
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    if (flags < 0 || fcntl(run->dev, F_SETFL, flags | O_NONBLOCK) ||
        sched_getaffinity(0, sizeof(allowed), &allowed))
        return -errno;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < THREADS && !err; cpu++) {
        struct server_thread *t = &threads[n];

        if (!CPU_ISSET(cpu, &allowed))
            continue;
        *t = (struct server_thread){.dev = run->dev,
                                    .cpu = cpu,
                                    .resends = n == 0,
                                    .waits_for_file = run->file >= 0,
                                    .page_size = (size_t)sysconf(_SC_PAGESIZE)};
        err = prepare_thread(t, run);
        if (!err && !n) /* those of the server before ended with it */
            __atomic_store_n(&sp_store_reader_notes(t->reader)->reading, 0, __ATOMIC_SEQ_CST);
        if (!err)
            err = -pthread_create(&id[n], NULL, serve, t);
        n += !err;
    }
    (void)mlockall(MCL_CURRENT | MCL_ONFAULT); /* or it waits for its own pages, at times */
    for (unsigned i = 0; i < n; i++)
        pthread_join(id[i], NULL);
    return n ? 0 : err;
}
