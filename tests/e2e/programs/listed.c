/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of a list of steps (src/sim/list.c): has up to 96 pages, which it advises for merging, and does
 * with them what it is told.
 *
 * usage: listed SOCKET NUMBER. Connects to SOCKET and says "NUMBER PID ADDRESS"; each packet that comes is one
 * step, answered by one packet. Pages and how many: P N; contents: the first page's C, and A more for each further.
 *   map P N C A      maps new memory there, advises it and writes it
 *   write P N C A    writes those that are mapped
 *   unmap, zero, special, lock, unlock P N
 *                    those that are mapped: munmap(), MADV_DONTNEED and zeros written, MADV_DONTDUMP or
 *                    MADV_DODUMP in turn, mlock(), munlock()
 *   read P N         answers with the contents of those that are mapped, "PAGE:CONTENT", "PAGE:wrong" where they
 *                    are those of no page
 *   fork NUMBER      the child connects for itself
 *   exec NUMBER      begins anew
 *   plain            gives up what keeps pages from being merged again after they were written: a file that is open
 *                    with O_DIRECT, by which something may have them pinned
 * All else is answered by "ok", or "failed" and why. Ends when the other side hangs up.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / 8u)
#define PAGES 96u
#define AREA  ((char *)0x100000000000)

static struct {
    bool mapped, special, locked;
} page[PAGES];

static const char *self, *path;
static int sock;
static int held;
static char answer[8192];

static void die(const char *what)
{
    fprintf(stderr, "listed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static char *at(unsigned p)
{
    return AREA + (size_t)p * PAGE;
}

static void failed(const char *what, unsigned p)
{
    snprintf(answer, sizeof(answer), "failed: %s of page %u: %s", what, p, strerror(errno));
}

/* Content 0 is a page of zeros. Of each other the first word says which it is. */
static uint64_t word_of(uint64_t content, uint64_t i)
{
    if (content == 0 || i == 0)
        return content;
    return (content * UINT64_C(0x9e3779b97f4a7c15)) ^ (i * UINT64_C(0xc2b2ae3d27d4eb4f));
}

static void fill(unsigned p, uint64_t content)
{
    volatile uint64_t *word = (uint64_t *)at(p);

    for (uint64_t i = 0; i < WORDS; i++)
        word[i] = word_of(content, i);
}

static bool holds(unsigned p, uint64_t content)
{
    const volatile uint64_t *word = (uint64_t *)at(p);

    for (uint64_t i = 0; i < WORDS; i++)
        if (word[i] != word_of(content, i))
            return false;
    return true;
}

static void map(unsigned p, unsigned n, uint64_t content, uint64_t add)
{
    if (mmap(at(p), (size_t)n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
            at(p) ||
        madvise(at(p), (size_t)n * PAGE, MADV_MERGEABLE)) {
        failed("map", p);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        fill(p + i, content + i * add);
        memset(&page[p + i], 0, sizeof(page[p]));
        page[p + i].mapped = true;
    }
}

/* The place stays reserved: nothing else is to come there. */
static void unmap(unsigned p, unsigned n)
{
    if (munmap(at(p), (size_t)n * PAGE) ||
        mmap(at(p), (size_t)n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
             -1, 0) != at(p))
        failed("unmap", p);
    memset(&page[p], 0, n * sizeof(page[0]));
}

static void zero(unsigned p)
{
    if (page[p].special)
        return;
    if ((page[p].locked && munlock(at(p), PAGE)) || madvise(at(p), PAGE, MADV_DONTNEED))
        failed("zero", p);
    page[p].locked = false;
    if (!holds(p, 0))
        snprintf(answer, sizeof(answer), "failed: page %u is not of zeros after MADV_DONTNEED", p);
    fill(p, 0);
}

static void special(unsigned p)
{
    if (madvise(at(p), PAGE, page[p].special ? MADV_DODUMP : MADV_DONTDUMP))
        failed("special", p);
    page[p].special = !page[p].special;
}

static void lock(unsigned p, bool on)
{
    if (on ? mlock(at(p), PAGE) : munlock(at(p), PAGE))
        failed(on ? "lock" : "unlock", p);
    page[p].locked = on;
}

static void read_page(unsigned p)
{
    uint64_t content = *(volatile uint64_t *)at(p);
    size_t used = strlen(answer);

    if (holds(p, content))
        snprintf(answer + used, sizeof(answer) - used, " %u:%llu", p, (unsigned long long)content);
    else
        snprintf(answer + used, sizeof(answer) - used, " %u:wrong", p);
}

static void hold(void)
{
    char name[] = "/var/tmp/samepage-listed-XXXXXX";

    held = mkostemp(name, O_DIRECT | O_CLOEXEC);
    if (held < 0)
        die("a file with O_DIRECT in /var/tmp");
    unlink(name);
}

static void connect_as(const char *number)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char hello[128];

    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
    if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof(to)))
        die("connect");
    snprintf(hello, sizeof(hello), "%s %d %llx", number, (int)getpid(), (unsigned long long)(uintptr_t)AREA);
    if (send(sock, hello, strlen(hello), MSG_NOSIGNAL) < 0)
        die("send");
}

static void make_child(const char *number)
{
    pid_t child = fork();

    if (child < 0)
        failed("fork", 0);
    if (child)
        return;
    close(sock);
    for (unsigned p = 0; p < PAGES; p++)
        page[p].locked = false; /* locks are not inherited */
    connect_as(number);
    answer[0] = 0;
}

static void on_pages(const char *what, unsigned p, unsigned n, uint64_t content, uint64_t add)
{
    if (!strcmp(what, "map"))
        map(p, n, content, add);
    else if (!strcmp(what, "unmap"))
        unmap(p, n);
    else if (!strcmp(what, "read"))
        strcpy(answer, "read");
    for (unsigned i = p; i < p + n; i++) {
        if (!page[i].mapped)
            continue;
        if (!strcmp(what, "write"))
            fill(i, content + (i - p) * add);
        else if (!strcmp(what, "zero"))
            zero(i);
        else if (!strcmp(what, "special"))
            special(i);
        else if (!strcmp(what, "lock") || !strcmp(what, "unlock"))
            lock(i, what[0] == 'l');
        else if (!strcmp(what, "read"))
            read_page(i);
    }
}

static void obey(const char *line)
{
    unsigned long long content = 0, add = 0;
    unsigned p, n;
    char what[16], number[16];

    strcpy(answer, "ok");
    if (sscanf(line, "fork %15s", number) == 1) {
        make_child(number);
    } else if (sscanf(line, "exec %15s", number) == 1) {
        execl(self, self, path, number, NULL);
        failed("exec", 0);
    } else if (!strcmp(line, "plain")) {
        if (close(held))
            failed("plain", 0);
    } else if (sscanf(line, "%15s %u %u %llu %llu", what, &p, &n, &content, &add) >= 3 && p < PAGES &&
               n <= PAGES - p) {
        on_pages(what, p, n, content, add);
    } else {
        strcpy(answer, "failed: what?");
    }
}

int main(int argc, char **argv)
{
    char line[256];
    ssize_t got;

    if (argc != 3)
        return 2;
    self = argv[0];
    path = argv[1];
    signal(SIGCHLD, SIG_IGN); /* nobody waits for children */
    if (mmap(AREA, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
             0) != AREA)
        die("mmap");
    hold();
    connect_as(argv[2]);
    while ((got = recv(sock, line, sizeof(line) - 1, 0)) > 0) {
        line[got] = 0;
        obey(line);
        if (answer[0] && send(sock, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            break;
    }
    return 0;
}
