/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a patched site and C.
 *
 * A site `mov $nr,%eax; syscall` has become a jump to its **stub** (patch.c), which comes here with
 * the call in its registers, just as the kernel would get it, and in rcx where to go on. What the
 * system call instruction keeps, this keeps: all registers but rax, rcx and r11, 128 bytes below
 * the stack pointer, and the vector registers, which the C code behind it does not use.
 *
 * The verdict of sp_gate_dispatch() is the distance from rcx to where the stub goes on: the call is
 * done and its result in rax; the stub does the call natively, without touching the stack, as a new
 * thread or a vfork child needs it; or it does a fork and comes to sp_gate_after_fork in both
 * processes.
 */
#include "gate_entry.h"

#include "gate_inside.h"
#include "sys.h"

#ifdef __x86_64__

#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>

/* What the assembly pushes, from the lowest address. */
struct sp_gate_frame {
    long nr; /* in: the number; out: the result */
    long a[6];
    uint64_t go_on;
    uint64_t sp; /* the program's, less the red zone: for unwinding */
    struct sp_gate_pass pass; /* as near to the program's own frames as can be: gate.h, ghosts */
};

/*
 * For unwinding (a thread that is cancelled in a call, an exception, a debugger): whoever called
 * this is the site, with the program's stack pointer. It is found by the stub's jmp behind the site
 * (patch.c), five bytes at the address where to go on: that address + 5 + the distance in it. The
 * frame's address (0x0f) and the return address (0x16, register 16) are given as expressions.
 */
#define SITE "0x12, 0x23, 0x01, 0x94, 0x04, 0x08, 0x20, 0x24, 0x08, 0x20, 0x26, 0x22, 0x23, 0x05"
/* Where to go on is in rcx (register 2). */
#define CFI_SITE_RCX "    .cfi_escape 0x16, 0x10, 0x10, 0x72, 0x00, " SITE "\n"
/* It is in the frame, 64 bytes above rsp (register 7), and the program's stack pointer above it. */
#define CFI_SITE_FRAME                                                                             \
    "    .cfi_escape 0x0f, 0x07, 0x77, 0xc8, 0x00, 0x06, 0x23, 0x80, 0x01\n"                       \
    "    .cfi_escape 0x16, 0x10, 0x12, 0x77, 0xc0, 0x00, 0x06, " SITE "\n"

#define PUSH_ALL                                                                                   \
    "    .cfi_startproc\n"                                                                         \
    "    .cfi_def_cfa rsp, 0\n" CFI_SITE_RCX                                                       \
    "    lea -128(%rsp), %rsp\n"                                                                   \
    "    .cfi_def_cfa_offset 128\n"                                                                \
    "    mov %rsp, %r11\n"                                                                         \
    "    .cfi_def_cfa_register r11\n"                                                              \
    "    and $-16, %rsp\n"                                                                         \
    "    sub $16, %rsp\n"                                                                          \
    "    push %r11\n"                                                                              \
    "    push %rcx\n"                                                                              \
    "    push %r9\n"                                                                               \
    "    push %r8\n"                                                                               \
    "    push %r10\n"                                                                              \
    "    push %rdx\n"                                                                              \
    "    push %rsi\n"                                                                              \
    "    push %rdi\n"                                                                              \
    "    push %rax\n"                                                                              \
    "    mov %rsp, %rdi\n"                                                                         \
    "    sub $8, %rsp\n" CFI_SITE_FRAME

#define POP_ALL                                                                                    \
    "    mov 8(%rsp), %rax\n"                                                                      \
    "    mov 16(%rsp), %rdi\n"                                                                     \
    "    mov 24(%rsp), %rsi\n"                                                                     \
    "    mov 32(%rsp), %rdx\n"                                                                     \
    "    mov 40(%rsp), %r10\n"                                                                     \
    "    mov 48(%rsp), %r8\n"                                                                      \
    "    mov 56(%rsp), %r9\n"                                                                      \
    "    mov 64(%rsp), %rcx\n"                                                                     \
    "    mov 72(%rsp), %rsp\n"                                                                     \
    "    .cfi_def_cfa rsp, 128\n" CFI_SITE_RCX                                                     \
    "    lea 128(%rsp), %rsp\n"                                                                    \
    "    .cfi_def_cfa_offset 0\n"

__asm__(".text\n"
        ".hidden sp_gate_entry\n"
        ".globl sp_gate_entry\n"
        ".type sp_gate_entry, @function\n"
        "sp_gate_entry:\n" PUSH_ALL "    call sp_gate_dispatch\n"
        "    mov %rax, %r11\n" POP_ALL "    add %r11, %rcx\n"
        "    jmp *%rcx\n"
        "    .cfi_endproc\n"
        ".size sp_gate_entry, . - sp_gate_entry\n"
        ".hidden sp_gate_after_fork\n"
        ".globl sp_gate_after_fork\n"
        ".type sp_gate_after_fork, @function\n"
        "sp_gate_after_fork:\n" PUSH_ALL "    call sp_gate_forked\n" POP_ALL "    jmp *%rcx\n"
        "    .cfi_endproc\n"
        ".size sp_gate_after_fork, . - sp_gate_after_fork\n");

long sp_gate_dispatch(struct sp_gate_frame *frame) __attribute__((used, visibility("hidden")));
void sp_gate_forked(const struct sp_gate_frame *frame) __attribute__((used, visibility("hidden")));

/* The offsets of the kernel's struct clone_args, and of what it had in its first version. */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

/* A new thread: its control block is noted before it runs. */
static long on_thread(struct sp_gate_pass *pass, uint64_t flags, uint64_t tls, uint64_t child_tid)
{
    sp_gate_enter(pass);
    if (flags & CLONE_SETTLS) {
        sp_gate_note_thread(tls);
        if (!(flags & CLONE_VFORK))
            sp_gate_thread_begins(tls, flags & CLONE_CHILD_CLEARTID ? child_tid : 0);
    }
    if (flags & (CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID))
        sp_gate_note_tcb(child_tid);
    if (!(flags & (CLONE_SETTLS | CLONE_VFORK)))
        sp_store(&sp_gate.shares_tls, true);
    sp_gate_leave(pass);
    return SP_STUB_NATIVE;
}

/* A new process with a copy of the memory: the gate is held while the kernel copies it, and left
 * by sp_gate_forked() in the parent. */
static long on_fork(void)
{
    sp_gate_enter_counted();
    return SP_STUB_FORK;
}

static long on_clone(struct sp_gate_frame *frame)
{
    uint64_t flags = (uint64_t)frame->a[0];

    if (!(flags & CLONE_VM))
        return on_fork();
    return on_thread(&frame->pass, flags, (uint64_t)frame->a[4], (uint64_t)frame->a[3]);
}

static long on_clone3(struct sp_gate_frame *frame)
{
    const struct clone3_args *args = (const struct clone3_args *)frame->a[0];

    /* A call that only asks whether clone3 is there: the kernel refuses it. */
    if ((uint64_t)args < sp_gate.page_size || (uint64_t)frame->a[1] < sizeof(*args))
        return SP_STUB_NATIVE;
    if (!(args->flags & CLONE_VM))
        return on_fork();
    return on_thread(&frame->pass, args->flags, args->tls, args->child_tid);
}

/* May it put the thread under a filter? Without one the kernel is only asked what it knows. */
static bool sets_filter(const struct sp_gate_frame *frame)
{
    const long *a = frame->a;

    if ((int)frame->nr == __NR_prctl)
        return (int)a[0] == PR_SET_SECCOMP &&
               (a[1] == SECCOMP_MODE_STRICT || (a[1] == SECCOMP_MODE_FILTER && a[2]));
    if ((int)frame->nr != __NR_seccomp)
        return false;
    return (int)a[0] == SECCOMP_SET_MODE_STRICT ? !(int)a[1] && !a[2]
                                                : (int)a[0] == SECCOMP_SET_MODE_FILTER && a[2];
}

/* Called by sp_gate_entry: one of the SP_STUB_ distances. */
long sp_gate_dispatch(struct sp_gate_frame *frame)
{
    if (sets_filter(frame)) {
        sp_gate_before_filter(&frame->pass);
        return SP_STUB_NATIVE;
    }
    switch ((int)frame->nr) {
    case __NR_clone:
        return on_clone(frame);
    case __NR_clone3:
        return on_clone3(frame);
    case __NR_fork:
        return on_fork();
    case __NR_execve:
    case __NR_execveat:
        __atomic_fetch_add(&sp_gate.execs, 1, __ATOMIC_SEQ_CST);
        return SP_STUB_NATIVE;
    case __NR_open:
    case __NR_openat:
        if (!sp_gate_may_open_own(frame->nr, frame->a))
            return SP_STUB_NATIVE;
        frame->nr = sp_gate_open_file(&frame->pass, frame->nr, frame->a);
        return SP_STUB_DONE;
    case __NR_io_uring_register:
        return sp_gate_ring_register(&frame->pass, frame->a, &frame->nr) ? SP_STUB_DONE
                                                                         : SP_STUB_NATIVE;
    case __NR_vmsplice:
        sp_gate_before_vmsplice(frame->a);
        return SP_STUB_NATIVE;
    }
    if (!sp_gate_is_gated(frame->nr, frame->a))
        return SP_STUB_NATIVE;
    frame->nr = sp_gate_call(&frame->pass, frame->nr, frame->a);
    return SP_STUB_DONE;
}

/* Called by sp_gate_after_fork, in the parent (nr is the child's pid, or an error) and in the child
 * (nr is 0; maybe on a stack of its own, so nothing of the parent's frame is used). */
void sp_gate_forked(const struct sp_gate_frame *frame)
{
    if (frame->nr == 0) {
        sp_gate_reset();
        sp_agent_forked();
        return;
    }
    sp_gate_leave_counted();
}

#endif
