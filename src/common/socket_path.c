/* SPDX-License-Identifier: Apache-2.0 */
#include "socket_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int put(char *buf, size_t size, int n)
{
    if (n < 0 || (size_t)n >= size || (size_t)n >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    return 0;
}

/* The user's own place, NULL: none. */
static const char *own_folder(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    return geteuid() != 0 && runtime && *runtime ? runtime : NULL;
}

int sp_socket_path(char *buf, size_t size)
{
    const char *path = getenv("SAMEPAGE_SOCKET"), *own = own_folder();

    if (path && *path)
        return put(buf, size, snprintf(buf, size, "%s", path));
    if (own)
        return put(buf, size, snprintf(buf, size, "%s/samepage/samepage.sock", own));
    return put(buf, size, snprintf(buf, size, "%s", SP_SYSTEM_SOCKET));
}

bool sp_socket_listens(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, err = 0;

    if (strlen(path) >= sizeof(address.sun_path))
        return false;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)))
        err = errno;
    close(fd);
    return err == 0 || err == EAGAIN; /* EAGAIN: so many call that one has to wait */
}

int sp_socket_choose(char *buf, size_t size)
{
    const char *named = getenv("SAMEPAGE_SOCKET");
    int err = sp_socket_path(buf, size);

    if (err || (named && *named) || !own_folder() || sp_socket_listens(buf) ||
        !sp_socket_listens(SP_SYSTEM_SOCKET))
        return err;
    return put(buf, size, snprintf(buf, size, "%s", SP_SYSTEM_SOCKET));
}
