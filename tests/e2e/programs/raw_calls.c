/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes system calls that go round libc, in every way that there is.
 *
 * usage: raw_calls HOW [LIBRARY]: "wrapper", a function that takes the number; "constant", one with the
 * number in a form that libc does not use; "register", the same with it in another register; "late", a
 * wrapper in LIBRARY, loaded at "go"; "made", code that the program makes itself. Says "ready ADDRESS BYTES",
 * at "go" does it (late: loads only) and says "done", at the next "go" drops half of its memory that way,
 * looks whether it reads as zeros, gives other memory back and makes it anew, looks at all, and says "ok".
 */
#include <dlfcn.h>
#include <sys/syscall.h>

#include "pattern.h"

#define PAGES 2048u
#define OTHER 512u /* pages that are unmapped with a raw call */

#ifdef RAW_LIBRARY
#define HOW_WRAPPER 1
#endif

#if defined(HOW_WRAPPER) || defined(RAW_WRAPPER)
/* As system call wrappers of other languages' libraries are. */
long raw_call(long number, long a, long b, long c);
__asm__(".text\n.p2align 4\n.globl raw_call\n.type raw_call, @function\nraw_call:\n"
        "    mov %rdi, %rax\n    mov %rsi, %rdi\n    mov %rdx, %rsi\n    mov %rcx, %rdx\n"
        "    syscall\n    ret\n.size raw_call, . - raw_call\n");
#endif

#ifndef RAW_LIBRARY
#ifdef RAW_CONSTANT
long raw_constant(long a, long b, long c);
__asm__(".text\n.p2align 4\n.globl raw_constant\n.type raw_constant, @function\nraw_constant:\n"
        "    mov $28, %rax\n    syscall\n    ret\n.size raw_constant, . - raw_constant\n");
#endif

#ifdef RAW_REGISTER
/* As compilers make it of an inlined call that is made twice. */
long raw_register(long a, long b, long c);
__asm__(".text\n.p2align 4\n.globl raw_register\n.type raw_register, @function\nraw_register:\n"
        "    mov $28, %ecx\n    mov %ecx, %eax\n    syscall\n    ret\n.size raw_register, . - raw_register\n");
#endif

typedef long (*call)(long number, long a, long b, long c);

static long constant(long number, long a, long b, long c)
{
#ifdef RAW_CONSTANT
    if (number == SYS_madvise)
        return raw_constant(a, b, c);
#endif
#ifdef RAW_REGISTER
    if (number == SYS_madvise)
        return raw_register(a, b, c);
#endif
    return syscall(number, a, b, c);
}

/* mov %rdi,%rax; mov %rsi,%rdi; mov %rdx,%rsi; mov %rcx,%rdx; syscall; ret */
static call make_code(void)
{
    static const unsigned char code[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6,
                                         0x48, 0x89, 0xca, 0x0f, 0x05, 0xc3};
    void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        die("mmap");
    memcpy(p, code, sizeof(code));
    return (call)p;
}

static call find(const char *how, const char *library)
{
    void *object;

    if (!strcmp(how, "made"))
        return make_code();
#ifdef RAW_WRAPPER
    return raw_call;
#endif
    if (strcmp(how, "late"))
        return constant;
    object = dlopen(library, RTLD_NOW);
    if (!object)
        exit(5);
    return (call)dlsym(object, "raw_call");
}

static void read_line(void)
{
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(4);
}

static void say(const char *what)
{
    puts(what);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    /* In one piece, so that who merges the one knows of the other. */
    char *region = region_map(PAGES + OTHER), *other = region + PAGES * PAGE;
    call raw;

    if (argc < 2)
        return 2;
    region_fill(region, PAGES, 0);
    region_fill(other, OTHER, 0);
    printf("ready %p %u\n", (void *)region, PAGES * PAGE);
    fflush(stdout);
    read_line();
    raw = find(argv[1], argv[2]);
    if (!strcmp(argv[1], "made") && raw(SYS_munmap, (long)other, OTHER * PAGE, 0))
        die("munmap");
    say("done");
    read_line();
    if (raw(SYS_madvise, (long)region, PAGES / 2 * PAGE, MADV_DONTNEED))
        die("madvise");
    region_zero(region, PAGES / 2, "after a raw MADV_DONTNEED");
    for (size_t i = PAGES / 2; i < PAGES; i++)
        pattern_check(region + i * PAGE, i, 0, "beside it");
    say("ok");
    return 0;
}
#endif
