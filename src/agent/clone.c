/* SPDX-License-Identifier: Apache-2.0 */
#include "clone.h"

#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/time_types.h>

#include "gate.h"
#include "sys.h"

#define ASIDE_PAGES 8u
#define ASIDE_FLAGS (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_UNTRACED | CLONE_CHILD_CLEARTID)
#define SET_MASK    2          /* of rt_sigprocmask */
#define WAIT_SHARED 0          /* of futex: the kernel wakes so */
#define YIELDS      100u       /* before it sleeps so long: */
#define MOMENT_NS   50000
#define P_ALL_IDS   0          /* of waitid, and what it is to look at: */
#define LOOK_ONLY   0x41000005 /* __WALL, WNOWAIT, WNOHANG, WEXITED */

#if defined(__x86_64__)
long sp_clone_vm(unsigned long flags, uint64_t stack, uint32_t *tid, void (*fn)(void *), void *arg)
{
    long ret;

    __asm__ volatile("mov %[stack], %%rsi\n\t"
                     "mov %[tid], %%rdx\n\t"
                     "mov %[tid], %%r10\n\t"
                     "mov %[fn], %%r9\n\t"
                     "xor %%r8d, %%r8d\n\t"
                     "syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[arg], %%rdi\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "and $-16, %%rsp\n\t"
                     "call *%%r9\n\t"
                     "hlt\n\t"
                     "1:"
                     : "=a"(ret)
                     : "a"(__NR_clone), "D"(flags), [stack] "r"(stack), [tid] "r"(tid),
                       [fn] "r"(fn), [arg] "r"(arg)
                     : "rsi", "rdx", "r10", "r8", "r9", "rcx", "r11", "memory");
    return ret;
}
#else
long sp_clone_vm(unsigned long flags, uint64_t stack, uint32_t *tid, void (*fn)(void *), void *arg)
{
    (void)flags, (void)stack, (void)tid, (void)fn, (void)arg;
    return -ENOSYS;
}
#endif

struct aside {
    void (*fn)(void *arg);
    void *arg;
    uint32_t alive; /* a futex, cleared by the kernel when the thread has ended, whatever ended it */
};

static void aside_entry(void *arg)
{
    const struct aside *a = arg;

    a->fn(a->arg);
    sp_sys(__NR_exit, 0);
}

/* Not as after a vfork, which who is stopped would not take part in: then the program would not be. */
static void wait_done(const struct aside *a)
{
    while (__atomic_load_n(&a->alive, __ATOMIC_SEQ_CST))
        sp_sys(__NR_futex, &a->alive, WAIT_SHARED, 1, 0);
}

/*
 * Until the program has one thread less: one that has another may not have a user namespace of its own, for example.
 * When nobody has the number any more the kernel is in the middle of taking the thread away, with a lock that who
 * looks for children waits for.
 */
static void wait_gone(long tid)
{
    struct __kernel_timespec moment = {.tv_nsec = MOMENT_NS};
    long pid = sp_sys(__NR_getpid);

    /* Not for ever at any other answer, which a filter may give. The thread may need the processor of one that runs
     * before all others. */
    for (unsigned n = 0; sp_sys(__NR_tgkill, pid, tid, 0) == 0; n++)
        if (n < YIELDS)
            sp_sys(__NR_sched_yield);
        else
            sp_sys(__NR_nanosleep, &moment, 0);
    sp_sys(__NR_waitid, P_ALL_IDS, 0, 0, LOOK_ONLY, 0);
}

long sp_aside(void (*fn)(void *arg), void *arg, uint64_t stack)
{
    struct aside a = {fn, arg, 1};
    uint64_t length = ASIDE_PAGES * (uint64_t)sp_gate.page_size, all = ~(uint64_t)0, old = 0;
    long own = 0, tid;

    if (!stack) {
        own = sp_sys(__NR_mmap, 0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (sp_is_err(own))
            return own;
        stack = (uint64_t)own + length;
    }
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    tid = sp_clone_vm(ASIDE_FLAGS, stack, &a.alive, aside_entry, &a);
    if (!sp_is_err(tid)) {
        wait_done(&a);
        wait_gone(tid);
    }
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
    if (own)
        sp_sys(__NR_munmap, own, length);
    return sp_is_err(tid) ? tid : 0;
}
