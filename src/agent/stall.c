/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Un-merging where frames can leave memory: the stall (K13, X; stall.h).
 *
 * No userfaultfd takes the store's mappings, so nobody is held off by one. But as long as the
 * store's worker holds frames, who touches a page that maps one of them waits for it, unless the
 * page was written before, and then the kernel's tables say so. So: the bytes are copied, the
 * frames held, it is looked which pages still are theirs, and of those the copy is put in place, by
 * mremap. Then the frames are given back, and who waited finds the copy.
 *
 * Somebody may wait who cannot let go of the lock on the memory's mappings: a debugger that reads
 * the page, or a thread that waited for it before. mremap waits for him then, and he for us. So
 * what needs the lock is done by a process of its own, the **putter**, which has little time; when
 * that is over it ends, and the frames are given back. It ends with us, too; the threads that wait
 * at the gate wait for it (sp_gate.putter): when they go on nothing is put any more. And the
 * store's worker gives frames back when both of us are dead: the connection is open until then.
 */
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/time.h>
#include <linux/time_types.h>
#include <linux/uio.h>

#include "agent.h"
#include "clone.h"
#include "gate.h"
#include "kernel.h"
#include "stall.h"
#include "sys.h"

#define ANSWER_SECONDS    2
#define PUT_USECS         20000 /* that the putter may take */
#define PUT_TRIES         3u
#define REST_TIMES        10u /* as long as was lost with tries that all came to nothing */
#define SIGNAL_ALARM      14
#define FUTEX_WAIT_SHARED 0
#define LOOK_NS           5000000
#define WAIT_NOT          1          /* WNOHANG */
#define WAIT_ALL_KINDS    0x40000000 /* __WALL */

_Static_assert(SP_STALL_CLONE == (CLONE_VM | CLONE_FILES | CLONE_UNTRACED | CLONE_PARENT_SETTID |
                                  CLONE_CHILD_CLEARTID),
               "clone's flags");
_Static_assert(SP_LIFT_PAGES <= SP_STALL_PAGES, "a run is held at once");

/* What the putter does, and did. Bits are of pages. */
static struct {
    uint64_t addr, copy;
    uint32_t npages;
    bool whole; /* all that is wanted, or nothing */
    uint64_t want;
    volatile uint64_t trying, moved; /* what was begun, and what is done */
    long parent;
} job;

static struct {
    uint32_t segment; /* 0: the page is not to be put */
    uint16_t index;
} frame[SP_LIFT_PAGES];

static uint64_t page_at(uint64_t base, uint32_t i)
{
    return base + ((uint64_t)i << sp_agent.page_shift);
}

/*
 * The connection.
 */

void sp_stall_take(int fd)
{
    uint32_t stored = fd >= 0 ? SP_STORED_STALLS : sp_gate.stored ? SP_STORED : SP_NOT_STORED;

    if (sp_agent.stall >= 0)
        sp_sys(__NR_close, sp_agent.stall);
    sp_agent.stall = fd;
    __atomic_store_n(&sp_gate.stored, stored, __ATOMIC_SEQ_CST);
}

/* The worker may hold frames for us for all we know: hanging up tells it that nothing will be put.
 */
static int hang_up(void)
{
    sp_stall_take(-1);
    return -EINVAL;
}

static bool wait_for_answer(struct sp_stall_answer *answer)
{
    struct pollfd p = {.fd = sp_agent.stall, .events = POLLIN};
    struct __kernel_timespec limit = {.tv_sec = ANSWER_SECONDS};

    return sp_sys(__NR_ppoll, &p, 1, &limit, 0, 8) > 0 &&
           sp_sys(__NR_read, sp_agent.stall, answer, sizeof(*answer)) == sizeof(*answer);
}

/* Until that question is answered. */
static int ask_until_answered(const struct sp_stall_ask *ask)
{
    struct sp_stall_answer answer = {.seq = 0};

    while (answer.seq != ask->seq) {
        if (!answer.seq && sp_is_err(sp_link_put(sp_agent.stall, ask, sizeof(*ask))))
            return hang_up();
        if (!wait_for_answer(&answer))
            return hang_up();
    }
    return answer.status;
}

/* Has the frames of that segment among `pages` held. 0 or a negative errno. */
static int hold(uint32_t segment, uint64_t pages)
{
    static uint32_t seq;
    struct sp_stall_ask ask = {
        .what = SP_STALL_HOLD, .seq = ++seq ? seq : ++seq, .segment = segment};

    for (uint32_t i = 0; i < job.npages; i++)
        if (pages >> i & 1) {
            uint32_t k = ask.n++;

            for (; k && ask.index[k - 1] > frame[i].index; k--)
                ask.index[k] = ask.index[k - 1];
            ask.index[k] = frame[i].index;
        }
    return ask_until_answered(&ask);
}

static void release(void)
{
    const struct sp_stall_ask ask = {.what = SP_STALL_RELEASE};

    if (sp_is_err(sp_link_put(sp_agent.stall, &ask, sizeof(ask))))
        hang_up();
}

/*
 * The putter.
 */

/* The agent ends, or the time is over: by a signal, with nothing to do first. */
static void have_an_end(void)
{
    const struct {
        uint64_t handler, flags, restorer, mask;
    } default_action = {0};
    const uint64_t alarm = 1ull << (SIGNAL_ALARM - 1);
    const struct __kernel_old_itimerval limit = {.it_value = {.tv_usec = PUT_USECS}};

    sp_sys(__NR_prctl, PR_SET_PDEATHSIG, 9, 0, 0, 0);
    if (sp_sys(__NR_getppid) != job.parent)
        sp_sys(__NR_exit, 0);
    sp_sys(__NR_rt_sigaction, SIGNAL_ALARM, &default_action, 0, 8);
    sp_sys(__NR_rt_sigprocmask, 1 /* SIG_UNBLOCK */, &alarm, 0, 8);
    sp_sys(__NR_setitimer, 0 /* ITIMER_REAL */, &limit, 0);
}

static void put_all(uint64_t pages)
{
    for (uint32_t i = 0, n; i < job.npages; i += n ? n : 1) {
        uint64_t len;

        for (n = 0; i + n < job.npages && (pages >> (i + n) & 1); n++)
            ;
        if (!n)
            continue;
        len = (uint64_t)n << sp_agent.page_shift;
        job.trying = (n == 64 ? ~0ull : (1ull << n) - 1) << i;
        /* Not sp_move_over(): what that does besides is done before and after, by the agent. */
        if (sp_is_err(sp_sys(__NR_mremap, page_at(job.copy, i), len, len,
                             MREMAP_MAYMOVE | MREMAP_FIXED, page_at(job.addr, i))))
            break;
        job.moved |= job.trying;
    }
    job.trying = 0;
}

static void putter(void *arg)
{
    uint64_t frames;

    (void)arg;
    have_an_end();
    if (!sp_unmerge_frames(job.addr, job.npages, &frames) && (!job.whole || !(job.want & ~frames)))
        put_all(frames & job.want);
    sp_sys(__NR_exit, 0);
}

static bool query(uint64_t addr, struct sp_procmap_query *q)
{
    *q = (struct sp_procmap_query){.size = sizeof(*q), .addr = addr};
    return !sp_is_err(sp_sys(__NR_ioctl, sp_agent.maps, SP_PROCMAP_QUERY, q));
}

/* It was killed in the middle of one: where the program's memory lies now, that was done. */
static void see_what_was_tried(void)
{
    struct sp_procmap_query q;

    if (job.trying && query(page_at(job.addr, (uint32_t)__builtin_ctzll(job.trying)), &q) &&
        !q.inode)
        job.moved |= job.trying;
}

/* 0; or -EAGAIN: it did not come to its end. */
static int run_putter(uint64_t want, long *child)
{
    uint32_t tid;

    job.want = want;
    job.trying = job.moved = 0;
    *child = sp_clone_vm(SP_STALL_CLONE, sp_agent.putter_stack_top, &sp_gate.putter, putter, 0);
    if (sp_is_err(*child))
        return -EINVAL;
    sp_fault_point("unmerge-putting");
    while ((tid = __atomic_load_n(&sp_gate.putter, __ATOMIC_SEQ_CST))) {
        struct __kernel_timespec limit = {.tv_nsec = LOOK_NS};

        sp_sys(__NR_futex, &sp_gate.putter, FUTEX_WAIT_SHARED, tid, &limit);
        /* The kernel cannot write the word of one that is killed while its page is to be copied. */
        if (sp_sys(__NR_wait4, *child, 0, WAIT_ALL_KINDS | WAIT_NOT) == *child)
            __atomic_store_n(&sp_gate.putter, 0, __ATOMIC_SEQ_CST);
    }
    return job.trying || (want & ~job.moved) ? -EAGAIN : 0;
}

/* Of one segment. *moved: adds what was put. */
static int put_held(uint32_t segment, uint64_t pages, uint64_t *moved)
{
    long child = -1;
    int ret = hold(segment, pages);

    if (ret)
        return ret;
    sp_fault_point("unmerge-held");
    ret = run_putter(pages, &child);
    release();
    if (child > 0)
        sp_sys(__NR_wait4, child, 0, WAIT_ALL_KINDS, 0);
    see_what_was_tried();
    *moved |= job.moved;
    return ret;
}

/*
 * Which frames they are.
 */

static int find_frames(uint64_t pages)
{
    struct sp_procmap_query q = {0};
    uint32_t segment = 0;

    for (uint32_t i = 0; i < job.npages; i++) {
        uint64_t addr = page_at(job.addr, i);

        frame[i].segment = 0;
        if (!(pages >> i & 1))
            continue;
        if (addr >= q.end) {
            if (!query(addr, &q))
                return -EINVAL;
            segment = sp_view_of_file((q.dev_minor & 0xff) | (uint64_t)q.dev_major << 8 |
                                          (uint64_t)(q.dev_minor & ~0xffu) << 12,
                                      q.inode);
        }
        if (!segment)
            return -EINVAL;
        frame[i].segment = segment;
        frame[i].index = (uint16_t)((q.offset + (addr - q.start)) >> sp_agent.page_shift);
    }
    return 0;
}

/* Those of the pages whose frames are in the segment of the first of them; none of a frame that is
 * there already. */
static uint64_t of_one_segment(uint64_t pages)
{
    uint32_t segment = frame[__builtin_ctzll(pages)].segment;
    uint64_t some = 0;

    for (uint32_t i = 0; i < job.npages; i++) {
        bool again = false;

        if (!(pages >> i & 1) || frame[i].segment != segment)
            continue;
        for (uint32_t k = 0; k < i && !again; k++)
            again = (some >> k & 1) && frame[k].index == frame[i].index;
        if (!again)
            some |= 1ull << i;
    }
    return some;
}

int sp_stall_put(uint64_t addr, uint32_t npages, uint64_t copy, uint64_t frames, bool whole,
                 uint64_t *moved)
{
    static uint64_t rest_until;
    uint64_t left = frames, begun = sp_now_us();
    int ret;

    *moved = 0;
    if (sp_agent.stall < 0 || sp_agent.maps < 0 || begun < rest_until)
        return -EINVAL;
    job.addr = addr;
    job.copy = copy;
    job.npages = npages;
    job.whole = whole;
    job.parent = sp_sys(__NR_getpid);
    ret = find_frames(frames);
    if (!ret && whole && of_one_segment(frames) != frames)
        ret = -EINVAL; /* they cannot be held at once */
    /* The kernel looks after what is advised while it moves it, and might lose the target
     * (sp_move_over()). */
    sp_sys(__NR_madvise, copy, (uint64_t)npages << sp_agent.page_shift, MADV_UNMERGEABLE);
    *(volatile uint64_t *)(sp_agent.putter_stack_top - 64) =
        0; /* nothing of it is missing when it is needed */
    while (!ret && left) {
        uint64_t some = of_one_segment(left), now = some, still;

        ret = -EAGAIN;
        for (uint32_t n = 0; n < PUT_TRIES && ret == -EAGAIN && now; n++) {
            ret = put_held(frame[__builtin_ctzll(some)].segment, now, moved);
            /* What was written meanwhile is the program's own. */
            if (ret == -EAGAIN && !sp_unmerge_frames(addr, npages, &still)) {
                now = some & still & ~*moved;
                ret = now ? ret : 0;
            }
        }
        left &= ~some;
    }
    if (ret == -EAGAIN)
        rest_until = begun + (sp_now_us() - begun) * (1 + REST_TIMES);
    return ret;
}
