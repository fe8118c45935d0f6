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

#include <linux/sched.h>

/* What the assembly pushes, from the lowest address. */
struct sp_gate_frame {
    long nr; /* in: the number; out: the result */
    long a[6];
    uint64_t go_on;
    uint64_t sp; /* the program's, less the red zone */
};

#define PUSH_ALL                                                                                   \
    "    lea -128(%rsp), %rsp\n"                                                                   \
    "    mov %rsp, %r11\n"                                                                         \
    "    and $-16, %rsp\n"                                                                         \
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
    "    sub $8, %rsp\n"

#define POP_ALL                                                                                    \
    "    pop %rax\n"                                                                               \
    "    pop %rdi\n"                                                                               \
    "    pop %rsi\n"                                                                               \
    "    pop %rdx\n"                                                                               \
    "    pop %r10\n"                                                                               \
    "    pop %r8\n"                                                                                \
    "    pop %r9\n"                                                                                \
    "    pop %rcx\n"                                                                               \
    "    pop %rsp\n"                                                                               \
    "    lea 128(%rsp), %rsp\n"

__asm__(".text\n"
        ".hidden sp_gate_entry\n"
        ".globl sp_gate_entry\n"
        ".type sp_gate_entry, @function\n"
        "sp_gate_entry:\n" PUSH_ALL "    call sp_gate_dispatch\n"
        "    mov %rax, %r11\n"
        "    add $8, %rsp\n" POP_ALL "    add %r11, %rcx\n"
        "    jmp *%rcx\n"
        ".size sp_gate_entry, . - sp_gate_entry\n"
        ".hidden sp_gate_after_fork\n"
        ".globl sp_gate_after_fork\n"
        ".type sp_gate_after_fork, @function\n"
        "sp_gate_after_fork:\n" PUSH_ALL "    call sp_gate_forked\n"
        "    add $8, %rsp\n" POP_ALL "    jmp *%rcx\n"
        ".size sp_gate_after_fork, . - sp_gate_after_fork\n");

long sp_gate_dispatch(struct sp_gate_frame *frame) __attribute__((used, visibility("hidden")));
void sp_gate_forked(const struct sp_gate_frame *frame) __attribute__((used, visibility("hidden")));

/* The offsets of the kernel's struct clone_args, and of what it had in its first version. */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

/* A new thread: its control block is noted before it runs. */
static long on_thread(const struct sp_gate_frame *frame, uint64_t flags, uint64_t tls,
                      uint64_t child_tid)
{
    struct sp_gate_pass pass;

    sp_gate_enter(&pass, frame->sp);
    if (flags & CLONE_SETTLS)
        sp_gate_note_thread(tls);
    if (flags & (CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID))
        sp_gate_note_tcb(child_tid);
    sp_gate_leave(&pass);
    return SP_STUB_NATIVE;
}

/* A new process with a copy of the memory: the gate is held while the kernel copies it, and left
 * by sp_gate_forked() in the parent. */
static long on_fork(const struct sp_gate_frame *frame)
{
    struct sp_gate_pass pass;

    sp_gate_enter(&pass, frame->sp);
    return SP_STUB_FORK;
}

static long on_clone(const struct sp_gate_frame *frame)
{
    uint64_t flags = (uint64_t)frame->a[0];

    if (!(flags & CLONE_VM))
        return on_fork(frame);
    return on_thread(frame, flags, (uint64_t)frame->a[4], (uint64_t)frame->a[3]);
}

static long on_clone3(const struct sp_gate_frame *frame)
{
    const struct clone3_args *args = (const struct clone3_args *)frame->a[0];

    /* A call that only asks whether clone3 is there: the kernel refuses it. */
    if ((uint64_t)args < sp_gate.page_size || (uint64_t)frame->a[1] < sizeof(*args))
        return SP_STUB_NATIVE;
    if (!(args->flags & CLONE_VM))
        return on_fork(frame);
    return on_thread(frame, args->flags, args->tls, args->child_tid);
}

/* Called by sp_gate_entry: one of the SP_STUB_ distances. */
long sp_gate_dispatch(struct sp_gate_frame *frame)
{
    switch ((int)frame->nr) {
    case __NR_clone:
        return on_clone(frame);
    case __NR_clone3:
        return on_clone3(frame);
    case __NR_fork:
        return on_fork(frame);
    case __NR_execve:
    case __NR_execveat:
        __atomic_fetch_add(&sp_gate.execs, 1, __ATOMIC_SEQ_CST);
        return SP_STUB_NATIVE;
    case __NR_vmsplice:
        sp_gate_before_vmsplice(frame->a, frame->sp);
        return SP_STUB_NATIVE;
    }
    if (!sp_gate_is_gated(frame->nr, frame->a))
        return SP_STUB_NATIVE;
    frame->nr = sp_gate_call(frame->nr, frame->a, frame->sp);
    return SP_STUB_DONE;
}

/* Called by sp_gate_after_fork, in the parent (nr is the child's pid, or an error) and in the child
 * (nr is 0; maybe on a stack of its own, so nothing of the parent's frame is used). */
void sp_gate_forked(const struct sp_gate_frame *frame)
{
    struct sp_gate_pass pass;

    if (frame->nr == 0) {
        sp_gate_reset();
        sp_agent_forked();
        return;
    }
    sp_gate_same_pass(&pass, frame->sp);
    sp_gate_leave(&pass);
}

#endif
