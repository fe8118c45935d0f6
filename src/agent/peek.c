/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the program's memory. It is our own address space, so a read is a read; but the program
 * may unmap a page at any time, so a fault is caught and means "not there". Never used with pages
 * in the air.
 */
#include "agent.h"
#include "mem.h"
#include "sys.h"

#define SIGBUS_NR 7
#define SIGSEGV_NR 11
#define SA_NODEFER_FLAG 0x40000000ul
#define SA_RESTORER_FLAG 0x04000000ul

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static void *resume[5]; /* what __builtin_setjmp saves */
static volatile int armed;

static void on_fault(int sig)
{
    (void)sig;
    if (armed) {
        armed = 0;
        __builtin_longjmp(resume, 1);
    }
    /* A fault of our own: better no agent than a wrong one. What is in the air is put right by the
     * daemon (D2). */
    sp_sys(__NR_exit_group, 1);
}

#if defined(__x86_64__)
__attribute__((naked, used)) static void restorer(void)
{
    __asm__ volatile("mov $15, %eax\n\tsyscall");
}
#endif

void sp_peek_init(void)
{
    struct kernel_sigaction sa = {.handler = on_fault, .flags = SA_NODEFER_FLAG};

#if defined(__x86_64__)
    sa.flags |= SA_RESTORER_FLAG;
    sa.restorer = restorer;
#endif
    sp_sys(__NR_rt_sigaction, SIGSEGV_NR, &sa, 0, 8);
    sp_sys(__NR_rt_sigaction, SIGBUS_NR, &sa, 0, 8);
}

bool sp_peek_copy(void *dst, uint64_t src)
{
    if (__builtin_setjmp(resume))
        return false;
    armed = 1;
    memcpy(dst, (const void *)src, sp_agent.page_size);
    armed = 0;
    return true;
}

/* Whether two pages are equal, 512 bytes at a time so that unequal ones end early. */
static bool pages_equal(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    unsigned words = sp_agent.page_size / 8;

    for (unsigned i = 0; i < words; i += 64) {
        uint64_t differ = 0;

        for (unsigned k = 0; k < 64; k++)
            differ |= x[i + k] ^ y[i + k];
        if (differ)
            return false;
    }
    return true;
}

bool sp_peek_equal(uint64_t addr, const void *frame, bool *equal)
{
    if (__builtin_setjmp(resume))
        return false;
    armed = 1;
    *equal = pages_equal((const void *)addr, frame);
    armed = 0;
    return true;
}

bool sp_peek_hash(uint64_t addr, struct sp_hash128 *hash)
{
    if (__builtin_setjmp(resume))
        return false;
    armed = 1;
    *hash = sp_agent.hash((const void *)addr, sp_agent.page_size, sp_agent.seed);
    armed = 0;
    return true;
}
