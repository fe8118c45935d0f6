/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that the agent asks of the operating system: raw system calls, by architecture.
 *
 * Assumptions common to all: no libc, no errno, no thread-local storage; a result between -4095
 * and -1 is a negative errno. Nothing here allocates. The names follow the man pages of section 2.
 */
#ifndef SP_AGENT_SYS_H
#define SP_AGENT_SYS_H

#include <stddef.h>
#include <stdint.h>

#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/mman.h>

#if defined(__x86_64__)
static inline long sp_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline long sp_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "samepage knows x86-64 and aarch64"
#endif

#define SP_SYS_PICK(nr, a, b, c, d, e, f, ...)                                                     \
    sp_sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sp_sys(__NR_x, up to six arguments) */
#define sp_sys(nr, ...) SP_SYS_PICK(nr, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)

static inline int sp_is_err(long ret)
{
    return ret < 0 && ret >= -4095;
}

/*
 * Moves [from, from + length) over what is at `at`, by mremap with these flags. 0, or a negative errno:
 * then what was there still is.
 *
 * The kernel unmaps the target first. Then, of memory that is MADV_MERGEABLE, it looks whether a
 * signal waits, and gives up: the target is lost (seen: one time in ten that an agent was killed in
 * there). So the memory must not be; advised tells to advise it again at its new place.
 */
static inline long sp_move_over(uint64_t from, uint64_t length, uint64_t at, int flags, int advised)
{
    long ret = sp_sys(__NR_madvise, from, length, MADV_UNMERGEABLE);

    if (ret != 0 && ret != -EINVAL) /* a kernel without KSM does not know the advice */
        return ret;
    ret = sp_sys(__NR_mremap, from, length, length, flags, at);
    if (sp_is_err(ret))
        return ret;
    if (advised)
        sp_sys(__NR_madvise, at, length, MADV_MERGEABLE);
    return 0;
}

#endif
