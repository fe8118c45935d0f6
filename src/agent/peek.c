/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the program's memory. It is our own address space, so a read is a read; but the program
 * may unmap a page at any time, so a fault is caught and means "not there". Never used with pages
 * in the air.
 */
#include "agent.h"
#include "mem.h"
#include "raw_calls.h"
#include "rings.h"
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

static volatile int armed;

/*
 * A place to come back to, as setjmp and longjmp. The compiler's builtins will not do: a loop that
 * only reads memory cannot jump as far as they know, and the way back is optimised into nonsense.
 */
#if defined(__x86_64__)
static uint64_t place[8] __attribute__((used));

__attribute__((naked, noinline, returns_twice)) static int mark(void)
{
    __asm__ volatile("lea place(%rip), %rax\n\t"
                     "mov %rbx, 0(%rax)\n\t"
                     "mov %rbp, 8(%rax)\n\t"
                     "mov %r12, 16(%rax)\n\t"
                     "mov %r13, 24(%rax)\n\t"
                     "mov %r14, 32(%rax)\n\t"
                     "mov %r15, 40(%rax)\n\t"
                     "lea 8(%rsp), %rdx\n\t"
                     "mov %rdx, 48(%rax)\n\t"
                     "mov (%rsp), %rdx\n\t"
                     "mov %rdx, 56(%rax)\n\t"
                     "xor %eax, %eax\n\t"
                     "ret");
}

__attribute__((naked, noinline, noreturn)) static void resume(void)
{
    __asm__ volatile("lea place(%rip), %rdx\n\t"
                     "mov 0(%rdx), %rbx\n\t"
                     "mov 8(%rdx), %rbp\n\t"
                     "mov 16(%rdx), %r12\n\t"
                     "mov 24(%rdx), %r13\n\t"
                     "mov 32(%rdx), %r14\n\t"
                     "mov 40(%rdx), %r15\n\t"
                     "mov 48(%rdx), %rsp\n\t"
                     "mov $1, %eax\n\t"
                     "jmp *56(%rdx)");
}
#else
/* No agent runs there yet (sp_gate_install() refuses): a fault ends it. */
static int mark(void)
{
    return 0;
}

__attribute__((noreturn)) static void resume(void)
{
    sp_sys(__NR_exit_group, 1);
    __builtin_unreachable();
}
#endif

static void on_fault(int sig)
{
    (void)sig;
    if (armed) {
        armed = 0;
        resume();
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
    armed = 0; /* a fork copied it in the middle of something */
    sp_sys(__NR_rt_sigaction, SIGSEGV_NR, &sa, 0, 8);
    sp_sys(__NR_rt_sigaction, SIGBUS_NR, &sa, 0, 8);
}

bool sp_peek_copy(void *dst, uint64_t src)
{
    if (mark())
        return false;
    armed = 1;
    memcpy(dst, (const void *)src, sp_agent.page_size);
    armed = 0;
    return true;
}

/*
 * Whether two pages are equal, 512 bytes at a time so that unequal ones end early. Both come from
 * memory, and the processor's own prefetching ends where a page does: the pages behind, which are
 * compared next in a lift, are asked for here (a hint: nothing happens where nothing is mapped).
 */
static bool pages_equal(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    unsigned words = sp_agent.page_size / 8;

    for (unsigned i = 0; i < words; i += 64) {
        uint64_t differ = 0;

        for (unsigned k = 0; k < 64; k += 8) {
            __builtin_prefetch(x + words + i + k);
            __builtin_prefetch(y + words + i + k);
        }
        for (unsigned k = 0; k < 64; k++)
            differ |= x[i + k] ^ y[i + k];
        if (differ)
            return false;
    }
    return true;
}

bool sp_peek_equal(uint64_t addr, const void *frame, bool *equal)
{
    if (mark())
        return false;
    armed = 1;
    *equal = pages_equal((const void *)addr, frame);
    armed = 0;
    return true;
}

static bool page_is_zero(const uint64_t *word)
{
    unsigned words = sp_agent.page_size / 8;

    for (unsigned i = 0; i < words; i += 64) {
        uint64_t any = 0;

        for (unsigned k = 0; k < 64; k++)
            any |= word[i + k];
        if (any)
            return false;
    }
    return true;
}

bool sp_peek_zero(uint64_t addr, bool *zero)
{
    if (mark())
        return false;
    armed = 1;
    *zero = page_is_zero((const uint64_t *)addr);
    armed = 0;
    return true;
}

bool sp_peek_hash(uint64_t addr, struct sp_hash128 *hash)
{
    if (mark())
        return false;
    armed = 1;
    *hash = sp_agent.hash((const void *)addr, sp_agent.page_size, sp_agent.seed);
    armed = 0;
    return true;
}

bool sp_peek_word(uint64_t addr, uint64_t *word)
{
    if (mark())
        return false;
    armed = 1;
    *word = __atomic_load_n((const uint64_t *)addr, __ATOMIC_SEQ_CST);
    armed = 0;
    return true;
}

bool sp_peek_raw_call(uint64_t start, uint64_t end, uint64_t *found)
{
    if (mark())
        return false;
    armed = 1;
    *found = sp_raw_call(start, end, false);
    armed = 0;
    return true;
}

bool sp_peek_ring(uint64_t start, uint64_t end, bool *found)
{
    if (mark())
        return false;
    armed = 1;
    *found = sp_ring_advises((const uint64_t *)start, (const uint64_t *)end);
    armed = 0;
    return true;
}
