/* SPDX-License-Identifier: Apache-2.0 */
#include "exe_probe.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#endif

#define SCRIPTS_MAX     5  /* the kernel follows no more interpreters of interpreters either */
#define PROGRAM_HEADERS 64 /* more than any linker writes */
#define DEFAULT_PATH    "/bin:/usr/bin"

/* What one look at a file tells. */
static int check_executable(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return errno == EACCES ? -EACCES : -ENOENT;
    if (!S_ISREG(st.st_mode) || faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0)
        return -EACCES;
    return 0;
}

int sp_exe_find(const char *cmd, char *path, size_t size)
{
    const char *dir = getenv("PATH");
    int found = -ENOENT;

    if (strchr(cmd, '/')) {
        if ((size_t)snprintf(path, size, "%s", cmd) >= size)
            return -ENAMETOOLONG;
        return check_executable(path);
    }
    if (!*cmd)
        return -ENOENT;
    for (dir = dir ? dir : DEFAULT_PATH; dir;
         dir = strchr(dir, ':') ? strchr(dir, ':') + 1 : NULL) {
        int len = (int)strcspn(dir, ":");
        int ret;

        /* An empty entry is the current directory. */
        if ((size_t)snprintf(path, size, "%.*s%s%s", len, dir, len ? "/" : "", cmd) >= size)
            continue;
        ret = check_executable(path);
        if (ret == 0)
            return 0;
        if (ret == -EACCES)
            found = -EACCES;
    }
    return found;
}

/* The loader ignores LD_PRELOAD when the kernel sets AT_SECURE: when ids change or rights come. */
static const char *object_to_rights(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return NULL;
    if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
        return "it is set-user-ID, and the loader preloads nothing into such a program";
    if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getgid())
        return "it is set-group-ID, and the loader preloads nothing into such a program";
    if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
        return "it has file capabilities, and the loader preloads nothing into such a program";
    return NULL;
}

/* Our agent needs glibc's loader; another one (musl's) would not even start the program. */
static const char *object_to_loader(int fd, const Elf64_Phdr *interp)
{
    char loader[PATH_MAX];
    const char *name;
    size_t size = interp->p_filesz < sizeof(loader) ? interp->p_filesz : sizeof(loader) - 1;
    ssize_t n = pread(fd, loader, size, (off_t)interp->p_offset);

    if (n <= 0)
        return NULL;
    loader[n] = 0;
    name = strrchr(loader, '/') ? strrchr(loader, '/') + 1 : loader;
    if (strncmp(name, "ld-linux", strlen("ld-linux")) == 0 || strncmp(name, "ld64", 4) == 0)
        return NULL;
    return "it uses another C library than glibc, into which samepage cannot go";
}

static const char *object_to_elf(int fd, const Elf64_Ehdr *header)
{
    Elf64_Phdr ph[PROGRAM_HEADERS];
    unsigned count = header->e_phnum < PROGRAM_HEADERS ? header->e_phnum : PROGRAM_HEADERS;
    ssize_t n;

    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != OUR_MACHINE)
        return "it is a program for another architecture";
    if (header->e_phentsize != sizeof(ph[0]))
        return NULL;
    n = pread(fd, ph, count * sizeof(ph[0]), (off_t)header->e_phoff);
    if (n != (ssize_t)(count * sizeof(ph[0])))
        return NULL;
    for (unsigned i = 0; i < count; i++)
        if (ph[i].p_type == PT_INTERP)
            return object_to_loader(fd, &ph[i]);
    return "it is statically linked; only programs that the dynamic loader starts can be merged";
}

/* The interpreter that "#! path arg" names, into path. Returns false when there is none. */
static bool script_interpreter(const char *head, char *path, size_t size)
{
    size_t len;

    if (head[0] != '#' || head[1] != '!')
        return false;
    head += 2 + strspn(head + 2, " \t");
    len = strcspn(head, " \t\r\n");
    if (!len || len >= size)
        return false;
    memcpy(path, head, len);
    path[len] = 0;
    return true;
}

const char *sp_exe_objection(const char *path)
{
    char interpreter[PATH_MAX];
    const char *objection = NULL;

    for (int depth = 0; depth <= SCRIPTS_MAX; depth++) {
        union {
            char bytes[257];
            Elf64_Ehdr elf;
        } head = {{0}};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
            return NULL; /* may be executed but not read: the loader copes */
        n = pread(fd, head.bytes, sizeof(head.bytes) - 1, 0);
        if (n >= (ssize_t)sizeof(head.elf) && memcmp(head.bytes, ELFMAG, SELFMAG) == 0) {
            objection = object_to_rights(fd);
            if (!objection)
                objection = object_to_elf(fd, &head.elf);
            close(fd);
            return objection;
        }
        close(fd);
        if (n <= 0)
            return NULL;
        /* No ELF and no "#!": execvp gives it to the shell. */
        if (!script_interpreter(head.bytes, interpreter, sizeof(interpreter)))
            strcpy(interpreter, "/bin/sh");
        path = interpreter;
    }
    return NULL;
}

bool sp_exe_is_elf(const char *path)
{
    char magic[SELFMAG];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool elf =
        fd >= 0 && read(fd, magic, sizeof(magic)) == SELFMAG && memcmp(magic, ELFMAG, SELFMAG) == 0;

    if (fd >= 0)
        close(fd);
    return elf;
}
