/* SPDX-License-Identifier: Apache-2.0 */
#include "pageout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kernel-page-flags.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "damon.h"
#include "log.h"
#include "meanwhile.h"
#include "self.h"

#define CHOSEN_MAX  1024u   /* frames that go together: some 50 ms */
#define ANSWER_USEC 200000u /* so long the daemon waits; the disk may need longer */
#define ASKER_USEC  2000000u /* for him to ask again */
#define LOOK_PAGES  128u    /* frames in one question (pool.h) */
#define LOOK_USEC   10000u  /* of each second, to see what came and went */
#define ORDER_SIZE  (sizeof(struct sp_damon_order) + CHOSEN_MAX * sizeof(struct sp_damon_run))
#define ORDER_FD    3
#define SEGMENTS    65536u

struct chosen {
    sp_frame frame;
    uint64_t number; /* of its physical page; 0: it is out already */
};

struct sp_pageout {
    struct sp_daemon *daemon;
    struct chosen chosen[CHOSEN_MAX];
    uint32_t n;
    bool ready;  /* frames can be chosen */
    int process; /* pidfd; -1: none is at work */
    struct sp_damon_order *order; /* shared with it */
    uint32_t look;                /* segment that is looked at next */
    bool some_out;                /* there were frames out when it was last looked at all */
    bool found_out;
    uint64_t asked_at; /* us: who asked for it last may ask again, what became of it */
    bool left_over; /* a process was killed, and may have left something with DAMON */
};

/* ---- what is possible ---- */

static bool swap_in_use(void)
{
    struct sysinfo info;

    return !sysinfo(&info) && info.freeswap < info.totalswap;
}

static bool swap_is_full(void)
{
    struct sysinfo info;

    return !sysinfo(&info) && info.freeswap == 0;
}

int sp_pageout_can(void)
{
    struct sysinfo info;

    if (sysinfo(&info) || info.totalswap == 0)
        return -ENODEV;
    return sp_damon_can();
}

static struct sp_pageout *pageout_of(struct sp_daemon *daemon)
{
    struct sp_pageout *p = daemon->pageout;

    if (p)
        return p;
    p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->daemon = daemon;
    p->process = -1;
    p->look = 1;
    daemon->pageout = p;
    return p;
}

enum sp_evicted sp_pageout_choose(struct sp_daemon *daemon, sp_frame frame)
{
    struct sp_pageout *p = daemon->pageout;

    if (!p || !p->ready || p->n == CHOSEN_MAX)
        return SP_EVICTED_AGAIN;
    p->chosen[p->n++] = (struct chosen){.frame = frame};
    return SP_EVICTED_LATER;
}

/* ---- the order ---- */

static int by_frame(const void *a, const void *b)
{
    const struct chosen *x = a, *y = b;

    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static int by_from(const void *a, const void *b)
{
    const struct sp_damon_run *x = a, *y = b;

    return x->from < y->from ? -1 : x->from > y->from;
}

/* How many of what was chosen, from the i-th on, are neighbours of one segment. */
static uint32_t neighbours(const struct sp_pageout *p, uint32_t i)
{
    uint32_t n = 1;

    while (i + n < p->n && n < LOOK_PAGES && p->chosen[i + n].frame == p->chosen[i].frame + n &&
           SP_FRAME_SEGMENT(p->chosen[i + n].frame) == SP_FRAME_SEGMENT(p->chosen[i].frame))
        n++;
    return n;
}

static struct sp_pool_set *set_of(const struct sp_pageout *p, sp_frame frame)
{
    return sp_pool_set_of(p->daemon->pool, SP_FRAME_SEGMENT(frame));
}

/* Where the chosen frames are. Of what cannot be asked, because it is gone by now, nothing goes. */
static int locate(struct sp_pageout *p)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t number[LOOK_PAGES];

    if (pagemap < 0)
        return -errno;
    qsort(p->chosen, p->n, sizeof(p->chosen[0]), by_frame);
    for (uint32_t i = 0, n; i < p->n; i += n) {
        sp_frame frame = p->chosen[i].frame;
        struct sp_pool_set *set = set_of(p, frame);

        n = neighbours(p, i);
        if (!set || sp_pool_numbers(set, pagemap, SP_FRAME_SEGMENT(frame), SP_FRAME_INDEX(frame), n, number))
            memset(number, 0, sizeof(number));
        for (uint32_t k = 0; k < n; k++)
            p->chosen[i + k].number = number[k];
    }
    close(pagemap);
    return 0;
}

static void write_order(struct sp_pageout *p)
{
    struct sp_damon_order *order = p->order;
    uint32_t n = 0, runs = 0;

    for (uint32_t i = 0; i < p->n; i++)
        if (p->chosen[i].number)
            order->run[n++] = (struct sp_damon_run){p->chosen[i].number, p->chosen[i].number + 1};
    qsort(order->run, n, sizeof(order->run[0]), by_from);
    for (uint32_t i = 0; i < n; i++) {
        if (runs && order->run[runs - 1].to == order->run[i].from)
            order->run[runs - 1].to++;
        else
            order->run[runs++] = order->run[i];
    }
    order->nruns = runs;
    order->status = -ECHILD; /* until it says something else */
}

/* ---- the process ---- */

/* The socket says whose it is. */
static int spawn(char *socket, int order)
{
    char *argv[] = {(char *)"samepaged", (char *)"--pageout", socket, NULL};

    _Static_assert(ORDER_FD == SP_SELF_FD, "where it looks for the order");
    return sp_self_start_pidfd(&(struct sp_self){.argv = argv, .fd = &order, .nfds = 1, .apart = true});
}

static void drop_order(struct sp_pageout *p)
{
    if (p->order)
        munmap(p->order, ORDER_SIZE);
    p->order = NULL;
    p->n = 0;
}

static int start(struct sp_pageout *p)
{
    int fd = memfd_create("samepage-pageout", MFD_CLOEXEC), high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, ORDER_FD + 1);
    int err = high < 0 || ftruncate(high, (off_t)ORDER_SIZE) ? -errno : 0;
    void *order = err ? MAP_FAILED : mmap(NULL, ORDER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, high, 0);

    if (!err && order == MAP_FAILED)
        err = -errno;
    if (!err) {
        p->order = order;
        write_order(p);
        p->process = spawn(p->daemon->config.socket, high);
        err = p->process < 0 ? p->process : 0;
    }
    if (err) {
        p->process = -1;
        drop_order(p);
    }
    if (fd >= 0)
        close(fd);
    if (high >= 0)
        close(high);
    return err;
}

/* ---- what became of it ---- */

static struct sp_engine *engine_of(const struct sp_pageout *p, uint32_t segment)
{
    const struct sp_pool_set *set = sp_pool_set_of(p->daemon->pool, segment);
    struct sp_domain *domain;

    TAILQ_FOREACH(domain, &p->daemon->domains, link)
    if (set && domain->set == set)
        return domain->engine;
    return NULL;
}

/* Unevictable: locked by somebody (S4). */
static bool is_locked(int flags, uint64_t number)
{
    uint64_t is = 0;

    return flags >= 0 && pread(flags, &is, sizeof(is), (off_t)(number * sizeof(is))) == sizeof(is) &&
           is & UINT64_C(1) << KPF_UNEVICTABLE;
}

static void note_left(struct sp_pageout *p, const struct chosen *chosen, struct sp_reclaimed *out)
{
    struct sp_engine *engine = engine_of(p, SP_FRAME_SEGMENT(chosen->frame));

    p->found_out = p->some_out = true;
    if (chosen->number == 0) { /* the kernel itself was first */
        if (engine)
            sp_engine_frame_out(engine, chosen->frame);
        return;
    }
    out->evicted++;
    if (engine)
        sp_engine_frame_left(engine, chosen->frame);
}

static void note_stayed(struct sp_pageout *p, const struct chosen *chosen, uint32_t *could_not, struct sp_reclaimed *out)
{
    struct sp_engine *engine = engine_of(p, SP_FRAME_SEGMENT(chosen->frame));

    if (*could_not) {
        --*could_not;
        out->again++;
        return;
    }
    out->referenced++;
    if (engine)
        sp_engine_frames_spared(engine, 1);
}

/* How many the kernel tried in vain: they had not been used, and stayed. */
static uint32_t tried_in_vain(const struct sp_pageout *p, uint32_t locked)
{
    const struct sp_damon_order *order = p->order;
    uint64_t stayed = order->passed == UINT64_MAX ? 0 : order->passed - order->applied;

    if (order->passed != UINT64_MAX && order->passed < order->applied)
        return 0;
    return stayed > locked ? (uint32_t)(stayed - locked) : 0;
}

/* Looks at each that was chosen. Those that stayed are the used ones, but for what is locked or was tried in vain. */
static void see_what_left(struct sp_pageout *p, struct sp_reclaimed *out)
{
    int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    uint32_t stayed = 0, could_not;
    bool is_out[LOOK_PAGES];

    for (uint32_t i = 0, n; i < p->n; i += n) {
        struct chosen *chosen = &p->chosen[i];
        struct sp_pool_set *set = set_of(p, chosen->frame);

        n = neighbours(p, i);
        if (!set || sp_pool_out(set, SP_FRAME_SEGMENT(chosen->frame), SP_FRAME_INDEX(chosen->frame), n, is_out))
            continue;
        for (uint32_t k = 0; k < n; k++) {
            if (is_out[k])
                note_left(p, &chosen[k], out);
            else if (is_locked(flags, chosen[k].number))
                out->locked++;
            else
                p->chosen[stayed++] = chosen[k]; /* behind i: it was looked at */
        }
    }
    could_not = tried_in_vain(p, out->locked);
    for (uint32_t i = 0; i < stayed; i++)
        note_stayed(p, &p->chosen[i], &could_not, out);
    if (out->again && swap_is_full()) {
        out->cannot += out->again;
        out->again = 0;
    }
    if (flags >= 0)
        close(flags);
}

static void add(struct sp_reclaimed *sum, const struct sp_reclaimed *more)
{
    sum->evicted += more->evicted;
    sum->referenced += more->referenced;
    sum->locked += more->locked;
    sum->again += more->again;
    sum->cannot += more->cannot;
}

/* The process has ended: what it did is taken note of, and added to out. Its errors. */
static int settle(struct sp_pageout *p, struct sp_reclaimed *out)
{
    struct sp_reclaimed got = {0};
    int status = p->order->status;
    siginfo_t info;

    (void)waitid(P_PIDFD, (id_t)p->process, &info, WEXITED | WNOHANG);
    close(p->process);
    p->process = -1;
    p->left_over = status == -ECHILD;
    if (status == 0)
        see_what_left(p, &got);
    add(out, &got);
    drop_order(p);
    return status;
}

/* 0, and it has ended; -EINPROGRESS: it needs longer; or its error. */
static int await(struct sp_pageout *p, struct sp_reclaimed *out)
{
    struct pollfd process = {.fd = p->process, .events = POLLIN};

    if (sp_meanwhile_poll(p->daemon, &process, sp_now_usecs() + ANSWER_USEC) <= 0)
        return -EINPROGRESS;
    return settle(p, out);
}

int sp_pageout_begin(struct sp_daemon *daemon, struct sp_reclaimed *out)
{
    int err = sp_pageout_can();
    struct sp_pageout *p = err ? NULL : pageout_of(daemon);

    if (daemon->pageout)
        daemon->pageout->ready = false;
    if (err)
        return err;
    if (!p)
        return -ENOMEM;
    p->asked_at = sp_now_usecs();
    if (p->process >= 0)
        err = await(p, out);
    p->ready = !err;
    return err;
}

int sp_pageout_run(struct sp_daemon *daemon, struct sp_reclaimed *out)
{
    struct sp_pageout *p = daemon->pageout;
    int err;

    if (!p || !p->ready || p->n == 0)
        return 0;
    p->ready = false;
    err = locate(p);
    if (!err)
        err = start(p);
    if (err)
        p->n = 0;
    return err ? err : await(p, out);
}

/* ---- what comes and goes by itself ---- */

static void look_at(struct sp_pageout *p, struct sp_pool_set *set, struct sp_engine *engine, uint32_t segment)
{
    uint32_t npages = sp_pool_segment_pages(set, segment);
    bool is_out[LOOK_PAGES];

    for (uint32_t i = 0; i < npages; i += LOOK_PAGES) {
        uint32_t n = npages - i < LOOK_PAGES ? npages - i : LOOK_PAGES;

        if (sp_pool_out(set, segment, i, n, is_out))
            return; /* nothing was handed out from there on */
        for (uint32_t k = 0; k < n; k++) {
            sp_frame frame = SP_FRAME(segment, i + k);

            p->found_out |= is_out[k];
            if (is_out[k] == sp_engine_frame_is_out(engine, frame))
                continue;
            if (is_out[k])
                sp_engine_frame_out(engine, frame);
            else
                sp_engine_frame_returned(engine, frame);
        }
    }
}

static void look_around(struct sp_pageout *p)
{
    uint64_t until = sp_now_usecs() + LOOK_USEC;

    do {
        struct sp_pool_set *set = sp_pool_set_of(p->daemon->pool, p->look);
        struct sp_engine *engine = set ? engine_of(p, p->look) : NULL;

        if (engine && !sp_pool_is_stored(set, p->look))
            look_at(p, set, engine, p->look);
        if (++p->look == SEGMENTS) {
            p->look = 1;
            p->some_out = p->found_out;
            p->found_out = false;
            return;
        }
    } while (sp_now_usecs() < until);
}

/* One that is still at what it was told before. */
static bool is_at_work(struct sp_pageout *p)
{
    struct pollfd process = {.fd = p->process, .events = POLLIN};
    struct sp_reclaimed told = {0};

    if (p->process >= 0 && sp_now_usecs() > p->asked_at + ASKER_USEC && poll(&process, 1, 0) > 0)
        (void)settle(p, &told);
    return p->process >= 0;
}

/* What a process that was killed left with DAMON, of this daemon's or of one before. */
static void tidy(struct sp_pageout *p)
{
    if (p->process >= 0 || !p->left_over || sp_damon_can())
        return;
    p->left_over = false;
    p->n = 0;
    (void)start(p);
}

void sp_pageout_each_second(struct sp_daemon *daemon)
{
    struct sp_pageout *p = daemon->pageout;

    if (!p) {
        if (!swap_in_use())
            return;
        p = pageout_of(daemon);
        if (!p)
            return;
        p->left_over = true; /* of a daemon before, perhaps */
    }
    if (is_at_work(p))
        return;
    tidy(p);
    if (p->some_out || swap_in_use())
        look_around(p);
}

void sp_pageout_free(struct sp_daemon *daemon)
{
    struct sp_pageout *p = daemon->pageout;

    if (!p)
        return;
    if (p->process >= 0)
        close(p->process);
    drop_order(p);
    free(p);
    daemon->pageout = NULL;
}

/* ---- what the process runs ---- */

/* It has nothing but files of root's, and is root. */
static void drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};

    (void)!syscall(SYS_capset, &head, none);
}

static bool is_sound(const struct sp_damon_order *order)
{
    return order->nruns <= CHOSEN_MAX;
}

int sp_pageout_main(int argc, char **argv)
{
    struct sp_damon_order *order;
    struct stat file;

    if (argc != 3 || strcmp(argv[1], "--pageout"))
        return -1;
    prctl(PR_SET_NAME, "samepage-pageout");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    drop_capabilities();
    if (fstat(ORDER_FD, &file) || file.st_size != (off_t)ORDER_SIZE)
        return 1;
    order = mmap(NULL, ORDER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ORDER_FD, 0);
    if (order == MAP_FAILED || !is_sound(order))
        return 1;
    sp_damon_carry_out(order);
    return 0;
}
