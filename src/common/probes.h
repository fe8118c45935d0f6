/* SPDX-License-Identifier: Apache-2.0 */
/* What samepage needs of the kernel and of this process' rights, probed once into a table. */
#ifndef SP_COMMON_PROBES_H
#define SP_COMMON_PROBES_H

#include <stdbool.h>
#include <stddef.h>

enum sp_state {
    SP_STATE_OK,
    SP_STATE_WARNING, /* it works, with less of something */
    SP_STATE_MISSING, /* without it nothing is merged */
};

struct sp_check {
    const char *name;
    enum sp_state state;
    char found[200]; /* what is there */
    char fix[256];   /* what to change, "" if nothing */
};

#define SP_CHECKS_MAX 32u

struct sp_checks {
    unsigned n;
    struct sp_check check[SP_CHECKS_MAX];
};

/* Adds a line to the table. fix is NULL or "" where nothing is to be done; found is a format. */
void sp_checks_add(struct sp_checks *checks, const char *name, enum sp_state state, const char *fix,
                   const char *found, ...) __attribute__((format(printf, 5, 6)));

/* "ok", "warning" or "missing". */
const char *sp_state_name(enum sp_state state);

/*
 * A userfaultfd of this process, as an agent gets it: from the system call, or from
 * /dev/userfaultfd, or from device, a descriptor of that which the daemon passed (-1: none).
 * Returns it, the caller's to close, and the way in *how; or a negative errno.
 */
int sp_features_userfaultfd(int device, const char **how);

/* Version, what userfaultfd can (uffd -1: none is to be had), PAGEMAP_SCAN, memfd, kcmp, leases. */
void sp_features_kernel(struct sp_checks *checks, int uffd);

/* Whether this user could run a daemon: mounts of tmpfs, looking into own processes. severity is
 * the state of what is not there: a warning where a daemon runs already. */
void sp_features_daemon(struct sp_checks *checks, enum sp_state severity);

#endif
