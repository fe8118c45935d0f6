/* SPDX-License-Identifier: Apache-2.0 */
#include "store_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mount_child.h"

#ifndef FUSE_NOTIFY_RESEND /* Linux 6.9 */
#define FUSE_NOTIFY_RESEND 7
#endif

#define REQUEST_BYTES 65536u /* the kernel wants 8 KiB and what may be written: nothing may */
#define READAHEAD     32768u /* first touches in order: 3.4 us in the mean instead of 5.4 (issue 7) */
#define MOST_BYTES    (1u << 20)   /* of one answer */
#define FOR_EVER      (1ull << 30) /* s: what the kernel knows of a file does not change */
#define SEGMENTS      65536u
#define NODE(segment) ((uint64_t)(segment) + FUSE_ROOT_ID)
#define MINOR_NOFLUSH 35u
#define UNIQUE_RESENT (UINT64_C(1) << 63) /* in the number of a request that comes again */

struct withheld {
    uint64_t unique, node, offset;
    uint32_t size;
};

struct sp_store_server {
    int dev;
    size_t page_size;
    const struct sp_store_fuse_ops *ops;
    void *arg;
    char *request, *answer;
    struct withheld *withheld;
    unsigned nwithheld, room;
};

static int option(int fs, const char *key, const char *value)
{
    int kind = value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;

    return fsconfig(fs, (unsigned)kind, key, value, 0) ? -errno : 0;
}

static int make_mount(int dev, bool root, int *mount)
{
    int fs = fsopen("fuse", FSOPEN_CLOEXEC), err;
    char number[3][16];

    if (fs < 0)
        return -errno;
    snprintf(number[0], sizeof(number[0]), "%d", dev);
    snprintf(number[1], sizeof(number[1]), "%u", (unsigned)geteuid());
    snprintf(number[2], sizeof(number[2]), "%u", (unsigned)getegid());
    err = option(fs, "fd", number[0]);
    if (!err)
        err = option(fs, "rootmode", "40000");
    if (!err)
        err = option(fs, "user_id", number[1]);
    if (!err)
        err = option(fs, "group_id", number[2]);
    /* Agents of all users look what they were given (fstat); there is no path to come by. In a user
     * namespace "other" would be who is in there: nobody. The user himself may look. */
    if (!err && root)
        err = option(fs, "allow_other", NULL);
    if (!err && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        err = -errno;
    if (!err) {
        *mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        if (*mount < 0)
            err = -errno;
    }
    close(fs);
    return err;
}

int sp_store_fuse_clone(int dev)
{
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC), err;
    uint32_t of = (uint32_t)dev;

    if (clone < 0)
        return -errno;
    if (!ioctl(clone, FUSE_DEV_IOC_CLONE, &of))
        return clone;
    err = -errno;
    close(clone);
    return err;
}

/* The device must have been opened in the user namespace in which its file system is mounted, each
 * time. */
static int make_connection(bool root, int *fd, char *why, size_t why_size)
{
    int mount = -1, err;

    fd[SP_STORE_FUSE_DEV] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd[SP_STORE_FUSE_DEV] < 0) {
        err = -errno;
        snprintf(why, why_size,
                 "swap = store needs /dev/fuse, which cannot be opened: %s; have root make it mode"
                 " 666, or run samepaged",
                 strerror(-err));
        return err;
    }
    err = make_mount(fd[SP_STORE_FUSE_DEV], root, &mount);
    if (!err)
        fd[SP_STORE_FUSE_CLONE] = sp_store_fuse_clone(fd[SP_STORE_FUSE_DEV]);
    if (!err && fd[SP_STORE_FUSE_CLONE] < 0)
        err = fd[SP_STORE_FUSE_CLONE];
    if (!err)
        fd[SP_STORE_FUSE_MOUNT] = sp_mount_detached(mount);
    if (!err && fd[SP_STORE_FUSE_MOUNT] < 0)
        err = fd[SP_STORE_FUSE_MOUNT];
    if (err)
        snprintf(why, why_size, "making the store's mount failed: %s", strerror(-err));
    return err;
}

int sp_store_fuse_open(int fd[SP_STORE_FUSE_FDS], char *why, size_t why_size)
{
    bool root;

    return sp_mount_child(make_connection, fd, SP_STORE_FUSE_FDS, &root, why, why_size);
}

int sp_store_fuse_segment(int mount, uint32_t segment)
{
    char name[16];
    int fd;

    snprintf(name, sizeof(name), "%u", segment);
    fd = openat(mount, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int sp_store_server_new(struct sp_store_server **out, int dev, const struct sp_store_fuse_ops *ops,
                        void *arg)
{
    struct sp_store_server *server = calloc(1, sizeof(*server));

    if (!server)
        return -ENOMEM;
    server->dev = dev;
    server->page_size = (size_t)sysconf(_SC_PAGESIZE);
    server->ops = ops;
    server->arg = arg;
    server->request = malloc(REQUEST_BYTES);
    server->answer = aligned_alloc(server->page_size, MOST_BYTES);
    if (!server->request || !server->answer) {
        sp_store_server_free(server);
        return -ENOMEM;
    }
    *out = server;
    return 0;
}

void sp_store_server_free(struct sp_store_server *server)
{
    if (!server)
        return;
    free(server->request);
    free(server->answer);
    free(server->withheld);
    free(server);
}

/* Who asked may have been killed meanwhile (ENOENT): that is no matter. */
static void answer(const struct sp_store_server *server, uint64_t unique, int err, const void *body,
                   size_t size)
{
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof(head) + size), .error = err, .unique = unique};
    struct iovec v[2] = {{&head, sizeof(head)}, {(void *)body, size}};

    (void)!writev(server->dev, v, size ? 2 : 1);
}

/* The segment of a file's node; 0: none. */
static uint32_t segment_of(const struct sp_store_server *server, uint64_t node, uint32_t *pages)
{
    uint64_t segment = node - FUSE_ROOT_ID;

    *pages = node > FUSE_ROOT_ID && segment < SEGMENTS
                 ? server->ops->pages(server->arg, (uint32_t)segment)
                 : 0;
    return *pages ? (uint32_t)segment : 0;
}

/* 0 or -ENOENT. */
static int attributes(const struct sp_store_server *server, uint64_t node, struct fuse_attr *to)
{
    uint32_t pages;

    *to = (struct fuse_attr){.ino = node, .nlink = 1, .blksize = (uint32_t)server->page_size};
    if (node == FUSE_ROOT_ID) {
        to->mode = S_IFDIR | 0500;
        return 0;
    }
    if (!segment_of(server, node, &pages))
        return -ENOENT;
    to->mode = S_IFREG | 0444;
    to->size = pages * server->page_size;
    to->blocks = to->size / 512;
    return 0;
}

static void init(const struct sp_store_server *server, uint64_t unique,
                 const struct fuse_init_in *in)
{
    const uint32_t want =
        FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_EXPLICIT_INVAL_DATA;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor : FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = READAHEAD,
        .flags = want & in->flags,
        .max_background = 64,
        .congestion_threshold = 48,
        .max_write = 4096,
        .time_gran = 1,
        .max_pages = (uint16_t)(MOST_BYTES / server->page_size),
    };

    if (in->major != FUSE_KERNEL_VERSION || in->minor < MINOR_NOFLUSH)
        answer(server, unique, -EPROTO, NULL, 0);
    else
        answer(server, unique, 0, &out, sizeof(out));
}

static void look_up(const struct sp_store_server *server, uint64_t unique, const char *name)
{
    struct fuse_entry_out out = {.entry_valid = FOR_EVER, .attr_valid = FOR_EVER};
    char *end;
    unsigned long segment = strtoul(name, &end, 10);

    if (*end || !segment || segment >= SEGMENTS || attributes(server, NODE(segment), &out.attr)) {
        answer(server, unique, -ENOENT, NULL, 0);
        return;
    }
    out.nodeid = NODE(segment);
    answer(server, unique, 0, &out, sizeof(out));
}

static void get_attributes(const struct sp_store_server *server, uint64_t unique, uint64_t node)
{
    struct fuse_attr_out out = {.attr_valid = FOR_EVER};
    int err = attributes(server, node, &out.attr);

    answer(server, unique, err, &out, err ? 0 : sizeof(out));
}

/* Who has a descriptor could open the file again by /proc, and again, until no opening is left for anybody. */
static bool may_open(const struct fuse_in_header *head)
{
    return head->uid == 0 || head->uid == geteuid();
}

static void open_file(const struct sp_store_server *server, const struct fuse_in_header *head,
                      const struct fuse_open_in *in)
{
    struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH};
    uint64_t unique = head->unique;
    uint32_t pages, segment = segment_of(server, head->nodeid, &pages);

    if (!may_open(head)) {
        answer(server, unique, -EACCES, NULL, 0);
        return;
    }
    if (!segment || (in->flags & O_ACCMODE) != O_RDONLY) {
        answer(server, unique, segment ? -EROFS : -ENOENT, NULL, 0);
        return;
    }
    out.fh = unique & ~UNIQUE_RESENT;
    if (server->ops->opened(server->arg, segment, out.fh))
        answer(server, unique, 0, &out, sizeof(out));
    else
        answer(server, unique, -ENFILE, NULL, 0);
}

static void release_file(const struct sp_store_server *server, uint64_t unique, uint64_t node,
                         const struct fuse_release_in *in)
{
    server->ops->closed(server->arg, (uint32_t)(node - FUSE_ROOT_ID), in->fh);
    answer(server, unique, 0, NULL, 0);
}

/* False: it is to be asked again later. */
static bool read_pages(const struct sp_store_server *server, const struct withheld *ask)
{
    uint32_t pages, segment = segment_of(server, ask->node, &pages);
    uint64_t first = ask->offset / server->page_size, n = ask->size / server->page_size;
    int err = 0;

    if (!segment || ask->offset % server->page_size || ask->size % server->page_size ||
        ask->size > MOST_BYTES || n > pages || first > pages - n)
        err = -EIO;
    if (!err)
        err = server->ops->read(server->arg, segment, (uint32_t)first, (uint32_t)n, server->answer);
    /* Of more than one page the others would stay locked, and nobody could drop them: the one that
     * was touched is asked for again, alone. */
    if (err == -EAGAIN && n == 1)
        return false;
    answer(server, ask->unique, err ? -EIO : 0, server->answer, err ? 0 : ask->size);
    return true;
}

static void withhold(struct sp_store_server *server, const struct withheld *ask)
{
    unsigned room = server->room ? server->room * 2 : 64;
    struct withheld *more;

    if (server->nwithheld == server->room) {
        more = realloc(server->withheld, room * sizeof(*more));
        if (!more) {
            answer(server, ask->unique, -EIO, NULL, 0);
            return;
        }
        server->withheld = more;
        server->room = room;
    }
    server->withheld[server->nwithheld++] = *ask;
}

unsigned sp_store_fuse_release(struct sp_store_server *server)
{
    unsigned left = 0;

    for (unsigned i = 0; i < server->nwithheld; i++)
        if (!read_pages(server, &server->withheld[i]))
            server->withheld[left++] = server->withheld[i];
    server->nwithheld = left;
    return left;
}

static void serve(struct sp_store_server *server, const struct fuse_in_header *in, const void *body)
{
    struct withheld ask = {.unique = in->unique, .node = in->nodeid};

    switch (in->opcode) {
    case FUSE_READ:
        ask.offset = ((const struct fuse_read_in *)body)->offset;
        ask.size = ((const struct fuse_read_in *)body)->size;
        if (!read_pages(server, &ask))
            withhold(server, &ask);
        break;
    case FUSE_INIT:
        init(server, in->unique, body);
        break;
    case FUSE_LOOKUP:
        look_up(server, in->unique, body);
        break;
    case FUSE_GETATTR:
        get_attributes(server, in->unique, in->nodeid);
        break;
    case FUSE_OPEN:
        open_file(server, in, body);
        break;
    case FUSE_RELEASE:
        release_file(server, in->unique, in->nodeid, body);
        break;
    case FUSE_SETATTR:
        answer(server, in->unique, -EROFS, NULL, 0);
        break;
    case FUSE_FORGET: /* these are not answered; a read is never given up */
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    case FUSE_DESTROY:
        answer(server, in->unique, 0, NULL, 0);
        break;
    default:
        answer(server, in->unique, -ENOSYS, NULL, 0);
    }
}

int sp_store_serve(struct sp_store_server *server)
{
    ssize_t n = read(server->dev, server->request, REQUEST_BYTES);

    if (n < 0 && errno == ENODEV)
        return 0;
    /* ENOENT: who asked has gone already. */
    if (n < 0)
        return errno == EINTR || errno == EAGAIN || errno == ENOENT ? 1 : -errno;
    if ((size_t)n < sizeof(struct fuse_in_header))
        return -EPROTO;
    serve(server, (const struct fuse_in_header *)server->request,
          server->request + sizeof(struct fuse_in_header));
    return 1;
}

static int notify(int dev, int code, const void *what, size_t size, const void *bytes,
                  size_t nbytes)
{
    struct fuse_out_header head = {.len = (uint32_t)(sizeof(head) + size + nbytes), .error = code};
    struct iovec v[3] = {{&head, sizeof(head)}, {(void *)what, size}, {(void *)bytes, nbytes}};

    return writev(dev, v, nbytes ? 3 : size ? 2 : 1) < 0 ? -errno : 0;
}

int sp_store_fuse_fill(int dev, uint32_t segment, uint32_t index, unsigned n, const void *pages)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    struct fuse_notify_store_out what = {
        .nodeid = NODE(segment), .offset = index * page_size, .size = (uint32_t)(n * page_size)};

    if (!n || n > SP_FUSE_FILL_PAGES)
        return -EINVAL;
    return notify(dev, FUSE_NOTIFY_STORE, &what, sizeof(what), pages, n * page_size);
}

int sp_store_fuse_drop(int dev, uint32_t segment, uint32_t index, uint32_t n)
{
    int64_t page_size = sysconf(_SC_PAGESIZE);
    struct fuse_notify_inval_inode_out what = {
        .ino = NODE(segment), .off = index * page_size, .len = n * page_size};
    int err;

    if (!n)
        return 0; /* the kernel would take it for all of the file */
    err = notify(dev, FUSE_NOTIFY_INVAL_INODE, &what, sizeof(what), NULL, 0);
    return err == -ENOENT ? 0 : err;
}

int sp_store_fuse_resend(int dev)
{
    return notify(dev, FUSE_NOTIFY_RESEND, NULL, 0, NULL, 0);
}
