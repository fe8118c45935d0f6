/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of users as the configuration file has them, and whether somebody is on one. */
#ifndef SP_DAEMON_USERS_H
#define SP_DAEMON_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SP_USERS_MAX  64u  /* users, and groups, that a list names at most */
#define SP_GROUPS_MAX 256u /* groups of one asker that are looked at */

struct sp_users {
    bool everybody;
    unsigned nusers, ngroups;
    uid_t user[SP_USERS_MAX];
    gid_t group[SP_USERS_MAX];
};

/*
 * Adds what text names: users, @groups, by name or number, or "*" for everybody, with blanks or
 * commas in between. 0; or -1 with what is wrong in why: then the list is of no use.
 */
int sp_users_add(struct sp_users *users, const char *text, char *why, size_t why_size);

/* The asker at the other end of a connected Unix socket, as the kernel noted it at connect(). */
struct sp_asker {
    uid_t uid;
    unsigned ngroups;
    gid_t group[SP_GROUPS_MAX]; /* of the process, the effective one included */
};

/* 0, or a negative errno. Of a process with more groups than fit only the effective one counts. */
int sp_asker_of(int sock, struct sp_asker *asker);

/* Whether the list names the asker. */
bool sp_users_have(const struct sp_users *users, const struct sp_asker *asker);

#endif
