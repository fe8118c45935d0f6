/* SPDX-License-Identifier: Apache-2.0 */
#include "socket_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

int sp_socket_path(char *buf, size_t size)
{
    const char *path = getenv("SAMEPAGE_SOCKET");
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n;

    if (path && *path)
        n = snprintf(buf, size, "%s", path);
    else if (geteuid() != 0 && runtime && *runtime)
        n = snprintf(buf, size, "%s/samepage/samepage.sock", runtime);
    else
        n = snprintf(buf, size, "/run/samepage/samepage.sock");
    if (n < 0 || (size_t)n >= size || (size_t)n >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    return 0;
}
