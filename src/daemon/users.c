/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names become numbers once, when the file is read: whoever may be asked later decides nothing. The
 * groups of an asker are those that its process has, not those of the group file.
 */
#include "users.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "control_parse.h"
#include "log.h"

#define NAME_MAX_BYTES 64

static const char blanks[] = " \t,";

static int complain(char *why, size_t why_size, const char *what, const char *name)
{
    char shown[NAME_MAX_BYTES];

    snprintf(why, why_size, "%s \"%s\"", what,
             sp_log_name(shown, sizeof(shown), name, strlen(name)));
    return -1;
}

/* By number, without asking anybody, or by name. The number -1 means "none" to system calls. */
static bool find_user(const char *name, uid_t *uid)
{
    const struct passwd *entry;
    uint64_t number;

    if (sp_parse_number(name, UINT32_MAX - 1, &number)) {
        *uid = (uid_t)number;
        return true;
    }
    entry = getpwnam(name);
    if (entry)
        *uid = entry->pw_uid;
    return entry != NULL;
}

static bool find_group(const char *name, gid_t *gid)
{
    const struct group *entry;
    uint64_t number;

    if (sp_parse_number(name, UINT32_MAX - 1, &number)) {
        *gid = (gid_t)number;
        return true;
    }
    entry = getgrnam(name);
    if (entry)
        *gid = entry->gr_gid;
    return entry != NULL;
}

static int add_one(struct sp_users *users, const char *name, char *why, size_t why_size)
{
    bool group = name[0] == '@';

    if (!strcmp(name, "*")) {
        users->everybody = true;
        return 0;
    }
    if ((group ? users->ngroups : users->nusers) >= SP_USERS_MAX)
        return complain(why, why_size, "too many names; put these users into one group, before",
                        name);
    if (group && !find_group(name + 1, &users->group[users->ngroups]))
        return complain(why, why_size, "there is no group", name + 1);
    if (!group && !find_user(name, &users->user[users->nusers]))
        return complain(why, why_size, "there is no user", name);
    if (group)
        users->ngroups++;
    else
        users->nusers++;
    return 0;
}

int sp_users_add(struct sp_users *users, const char *text, char *why, size_t why_size)
{
    char name[NAME_MAX_BYTES];

    for (text += strspn(text, blanks); *text; text += strspn(text, blanks)) {
        size_t len = strcspn(text, blanks);

        if (len >= sizeof(name))
            return complain(why, why_size, "a name is too long:", text);
        memcpy(name, text, len);
        name[len] = 0;
        if (add_one(users, name, why, why_size))
            return -1;
        text += len;
    }
    return 0;
}

int sp_asker_of(int sock, struct sp_asker *asker)
{
    socklen_t size = sizeof(struct ucred);
    struct ucred cred;

    asker->ngroups = 0;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size))
        return -errno;
    asker->uid = cred.uid;
    asker->group[asker->ngroups++] = cred.gid;
    size = sizeof(asker->group) - sizeof(asker->group[0]);
    /* ERANGE: more than fit; then they count as none but the effective one. */
    if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, asker->group + 1, &size) == 0)
        asker->ngroups += (unsigned)(size / sizeof(asker->group[0]));
    return 0;
}

bool sp_users_have(const struct sp_users *users, const struct sp_asker *asker)
{
    if (users->everybody)
        return true;
    for (unsigned i = 0; i < users->nusers; i++)
        if (users->user[i] == asker->uid)
            return true;
    for (unsigned i = 0; i < users->ngroups; i++)
        for (unsigned k = 0; k < asker->ngroups; k++)
            if (users->group[i] == asker->group[k])
                return true;
    return false;
}
