/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Can anything have a page of this process pinned for writing?
 *
 * The kernel does not tell it of a page in a mapping of the pool, so it is told of the process as a
 * whole, by what could hold such a pin: an account of pinned memory (VmPin), an asynchronous I/O
 * context, and descriptors. Of these only those pass that are known to copy to user memory through its
 * mappings, as read(2) does: files of ordinary file systems without O_DIRECT, pipes, terminals, the
 * usual sockets, eventfds and the like. Whatever else is open, or cannot be looked at, counts as a
 * pin: then pages that were written after their merge stay as they are (wire.h, SP_RESULT_HELD).
 *
 * Looking reads /proc/PID/status, maps, mountinfo, fdinfo and the links in fd. The program can make
 * that take long, or for ever: so it is done in a process of its own (pins_looker.h).
 */
#ifndef SP_DAEMON_PINS_H
#define SP_DAEMON_PINS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum sp_pins {
    SP_PINS_UNKNOWN,    /* it was not looked at yet, or cannot be */
    SP_PINS_NONE,       /* nothing can */
    SP_PINS_MEMORY,     /* it has pinned memory: VmPin */
    SP_PINS_AIO,        /* an asynchronous I/O context */
    SP_PINS_IO_URING,
    SP_PINS_DIRECT,     /* a file opened with O_DIRECT */
    SP_PINS_FILESYSTEM, /* a file of a file system that may read into pinned pages */
    SP_PINS_DEVICE,     /* a device, or another kind of file that is not known */
    SP_PINS_SOCKET,     /* a socket of an unusual kind */
    SP_PINS_KINDS
};

/* May wait for the program, for ever. Who wants to know what this says of a process holds its pidfd, and
 * looks afterwards whether it lives: the pid may be another's by then. */
enum sp_pins sp_pins_look(pid_t pid);

/* The name of a kind in JSON, such as "direct_io"; "none" for SP_PINS_NONE. */
const char *sp_pins_name(enum sp_pins pins);

/* ---- its parts, pure ---- */

/* VmPin and FDSize of the text of status: pinned, nothing, or not known. */
enum sp_pins sp_pins_of_status(const char *text);
/* One line of maps. */
enum sp_pins sp_pins_of_mapping(const char *line);
/* What kind of descriptor a link in /proc/PID/fd shows. */
enum sp_pins_link { SP_PINS_LINK_FINE, SP_PINS_LINK_SOCKET, SP_PINS_LINK_FILE, SP_PINS_LINK_OTHER };
enum sp_pins_link sp_pins_of_link(const char *link, enum sp_pins *why);
/* The text of fdinfo: *flags and *mount are what it says. False: it says not both. */
bool sp_pins_fdinfo(const char *text, unsigned *flags, int *mount);
/* The type of the mount with this id in the text of mountinfo, in type; false: there is none. */
bool sp_pins_mount_type(const char *mountinfo, int mount, char *type, size_t size);
bool sp_pins_type_copies(const char *type);
bool sp_pins_protocol_copies(const char *protocol);
/* The text of net/tls_stat: a socket decrypts what it receives. */
bool sp_pins_tls_receives(const char *tls_stat);

#endif
