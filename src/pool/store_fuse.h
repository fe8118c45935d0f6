/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments as files of a FUSE mount of our own: pages that the kernel drops when told, from all who
 * map them at once (S3), and asks for again when anybody touches one (S6).
 *
 * What exists. A connection is a descriptor of /dev/fuse and a mount in no tree, so that no path
 * leads to a frame. A segment's file has its number as its name, and a mode without any right to
 * write, by which agents know it. It can be opened for reading only,
 * by whoever has the mount and is the server's user, or root; nothing writes to it but sp_store_fuse_fill(), which puts pages
 * straight into the kernel's cache. A page in the cache is as any page of a file: mapped privately
 * by the sites, copied when written (K11).
 *
 * Who serves. Any process that has /dev/fuse, one at a time. Nothing of a session is in its memory:
 * when it is killed while somebody else (the keeper) has the descriptor, too, whoever touches a
 * page waits, and the next process goes on, after sp_store_fuse_resend() also with what the dead
 * one had begun (D1). When the last descriptor is closed, they get SIGBUS.
 *
 * An answer is all the bytes that were asked for, or an error: the kernel takes a shorter one for
 * the file's end, and cuts the file off there. Of an error in what it read ahead nobody learns: the
 * page that was touched is asked for once more, alone (S8).
 *
 * A process that waits in such a request while it holds the server's descriptor itself could not
 * even be killed if the server died: so the server never touches a page of the files that is not in
 * the cache, who has the descriptor only to keep it maps no frame, and who does touch pages uses
 * another descriptor of the connection (sp_store_fuse_clone()): what a server has read and not
 * answered ends, with an error, when nobody has the server's own any more.
 *
 * The raw protocol (linux/fuse.h) and not libfuse, which cannot take a session over.
 */
#ifndef SP_POOL_STORE_FUSE_H
#define SP_POOL_STORE_FUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_store_fuse_fd {
    SP_STORE_FUSE_DEV,   /* the server's, */
    SP_STORE_FUSE_CLONE, /* ... and for who touches pages: of the same connection */
    SP_STORE_FUSE_MOUNT,
    SP_STORE_FUSE_FDS
};

/* Makes the connection: needs the right to mount, or a user namespace and a /dev/fuse that this
 * user may open; then only processes of this user and group may have the files. It works only when
 * somebody serves. 0, or a negative errno with a sentence for the log in why. */
int sp_store_fuse_open(int fd[SP_STORE_FUSE_FDS], char *why, size_t why_size);
/* Another descriptor of the same connection, for all but serving. Negative errno. */
int sp_store_fuse_clone(int dev);
/* A descriptor for reading of a segment's file. Waits for the server. Negative errno. */
int sp_store_fuse_segment(int mount, uint32_t segment);

struct sp_store_fuse_ops {
    /* The pages of a segment; 0: there is none. */
    uint32_t (*pages)(void *arg, uint32_t segment);
    /* The bytes of n pages. 0; -EAGAIN: not now, the toucher is to wait for
     * sp_store_fuse_release(); another negative errno: he gets SIGBUS (S8). */
    int (*read)(void *arg, uint32_t segment, uint32_t index, uint32_t n, void *pages);
    /* The file is being opened, by the request of that number, which no other one has. False: it
     * cannot be. Both this and its end may be said more than once of the same opening. */
    bool (*opened)(void *arg, uint32_t segment, uint64_t request);
    /* The last descriptor and mapping of that opening is gone. */
    void (*closed)(void *arg, uint32_t segment, uint64_t request);
};

struct sp_store_server;

/* -ENOMEM. dev stays the caller's. */
int sp_store_server_new(struct sp_store_server **out, int dev, const struct sp_store_fuse_ops *ops,
                        void *arg);
void sp_store_server_free(struct sp_store_server *server);
/* Waits for one request, and answers it. 1; 0: the connection is at its end; a negative errno. */
int sp_store_serve(struct sp_store_server *server);
/* Asks for the pages of all withheld requests again. Returns how many are still withheld. */
unsigned sp_store_fuse_release(struct sp_store_server *server);

/* All that follows may be done by any process that has dev, in any thread. */

/* Puts n pages, at most SP_FUSE_FILL_PAGES, into the cache: what is there already gets these bytes.
 * The file must be open somewhere (-ENOENT). 0 or a negative errno. */
#define SP_FUSE_FILL_PAGES 128u
int sp_store_fuse_fill(int dev, uint32_t segment, uint32_t index, unsigned n, const void *pages);
/* Takes n pages from the cache and from everybody who maps them; copies that programs have are
 * theirs (S7). Also what is locked. 0 or a negative errno. */
int sp_store_fuse_drop(int dev, uint32_t segment, uint32_t index, uint32_t n);
/* Has the kernel ask again for what a dead server had read and not answered. -EINVAL before
 * Linux 6.9. */
int sp_store_fuse_resend(int dev);

#endif
