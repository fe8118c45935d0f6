/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handshake: who is this, is it what it says, and may it merge with whom.
 *
 * Nothing in a HELLO is believed that decides about memory. The user comes from SO_PEERCRED, the
 * sender's pid from the kernel, the program must be the very same address space as the sender
 * (kcmp), and must still be that user's. The domain's name only makes the user's own domain
 * smaller.
 */
#include "hello.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "answers.h"
#include "ask.h"
#include "domain.h"
#include "log.h"
#include "strangers.h"

int sp_pidfd_open(pid_t pid)
{
    int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

    return fd < 0 ? -1 : fd;
}

bool sp_same_memory(pid_t a, pid_t b)
{
    return a == b || syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

/* The effective uid of a process now; (uid_t)-1 if it cannot be read. */
static uid_t uid_of(pid_t pid)
{
    char path[64], line[128];
    unsigned uid = (unsigned)-1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return (uid_t)-1;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Uid: %*u %u", &uid) == 1)
            break;
    }
    fclose(f);
    return (uid_t)uid;
}

const char *sp_hello_check(struct sp_daemon *daemon, const struct sp_hello_packet *packet,
                           struct sp_hello *hello)
{
    struct sp_msg msg;
    const void *body = (const char *)packet->packet + sizeof(msg);

    if (sp_check_header(packet->packet, packet->size, &msg) || msg.type != SP_MSG_HELLO ||
        sp_check_hello(body, msg.length, daemon->page_size, hello)) {
        daemon->malformed++;
        sp_strangers_note(daemon, SP_STRANGE_MESSAGE, packet->uid, packet->sender);
        return "the daemon does not understand this agent: install both from one version";
    }
    if (packet->fd < 0) /* the taker lets nothing else through */
        return "no userfaultfd came with the agent's first message";
    if (packet->sender <= 0)
        return "the daemon cannot see this process: is it in another pid namespace?";
    if (!sp_same_memory(packet->sender, (pid_t)hello->program_pid))
        return "the agent does not share the memory of the program that it names, or the daemon "
               "cannot see it: is it in another pid namespace?";
    if (uid_of((pid_t)hello->program_pid) != packet->uid)
        return "the program changed its user since its agent began";
    if (daemon->nclients >= SP_MAX_CLIENTS)
        return "the daemon has as many programs as it can take";
    return NULL;
}

int sp_shm_make(struct sp_client *client, size_t bytes)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int fd = memfd_create("samepage-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, seals)) {
        int err = -errno;

        close(fd);
        return err;
    }
    client->shm_fd = fd;
    return sp_shm_map(client, bytes);
}

int sp_shm_map(struct sp_client *client, size_t bytes)
{
    void *shm;

    if (client->shm_fd < 0)
        return -EBADF;
    shm = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->shm_fd, 0);
    if (shm == MAP_FAILED)
        return -errno;
    client->shm = shm;
    return 0;
}

/* More than a client can do: who writes nonsense spoils no sum. */
#define COUNT_MAX (1ull << 48)

void sp_client_add_counts(const struct sp_client *client, uint64_t sum[SP_COUNTS])
{
    for (unsigned i = 0; client->shm && i < SP_COUNTS; i++) {
        uint64_t n = __atomic_load_n(&client->shm->count[i], __ATOMIC_RELAXED);

        if (n > client->counted[i] && n < COUNT_MAX)
            sum[i] += n - client->counted[i];
    }
}

size_t sp_shm_bytes(const struct sp_daemon *daemon)
{
    return SP_SHM_OFFER + (size_t)SP_FILL_PAGES * daemon->page_size;
}

void sp_hello_refuse(int sock, uint32_t seq, const char *why)
{
    struct sp_refuse refuse = {{0}};

    snprintf(refuse.why, sizeof(refuse.why), "%s", why);
    (void)!sp_send(sock, SP_MSG_REFUSE, seq, &refuse, sizeof(refuse), -1);
}
