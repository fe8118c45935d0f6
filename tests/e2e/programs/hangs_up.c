/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program with an agent that hangs up before it answered anything, and lives. usage: hangs_up
 *
 * Prints "wait-page ADDRESS", a page that is missing and registered with its userfaultfd. A line is
 * the HELLO that the agent, a process with the same memory, sends with it to SAMEPAGE_SOCKET; when
 * WELCOME is there it closes the connection: "hung up". On the next line it is killed, and the
 * program waits for the page as a thread does at the gate: "given WORD", status 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (256 << 10)

static unsigned char hello[256], welcome[256];
static size_t hello_size;
static int uffd;

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "hangs_up: %s (%s)\n", what, strerror(errno));
    _exit(3);
}

static void send_hello(int sock)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {hello, hello_size};
    struct msghdr msg = {.msg_iov = &part,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &uffd, sizeof(uffd));
    must(sendmsg(sock, &msg, 0) == (ssize_t)hello_size, "sendmsg");
}

static int agent(void *arg)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", getenv("SAMEPAGE_SOCKET"));
    must(!connect(sock, (struct sockaddr *)&address, sizeof(address)), "connect");
    send_hello(sock);
    must(recv(sock, welcome, sizeof(welcome), 0) > 16, "no answer to HELLO");
    close(sock);
    must(write(1, "hung up\n", 8) == 8, "write");
    while (pause())
        ;
    return 0;
}

static void read_hello(void)
{
    char line[2 * sizeof(hello) + 2];
    unsigned byte;

    must(fgets(line, sizeof(line), stdin) != NULL, "no HELLO");
    while (sscanf(line + 2 * hello_size, "%2x", &byte) == 1)
        hello[hello_size++] = (unsigned char)byte;
}

/* The agent only uses the stack and what is above; errno is shared, and nobody else's meanwhile. */
static pid_t start_agent(void)
{
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t pid;

    must(stack != MAP_FAILED, "mmap");
    pid = clone(agent, stack + STACK, CLONE_VM, NULL);
    must(pid > 0, "clone");
    return pid;
}

int main(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    volatile uint32_t *page =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register reg = {.range = {(uintptr_t)page, size},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    char word;
    pid_t pid;

    must(page != MAP_FAILED, "mmap");
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    must(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &reg),
         "userfaultfd");
    printf("wait-page %p\n", (void *)page);
    fflush(stdout);
    read_hello();
    pid = start_agent();
    must(read(0, &word, 1) == 1, "no line");
    must(!kill(pid, SIGKILL) && waitpid(pid, NULL, __WALL) == pid, "the agent cannot be killed");
    printf("given %u\n", *page);
    return 0;
}
