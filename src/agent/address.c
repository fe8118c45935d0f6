/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's address, where the program cannot change it.
 *
 * A confined agent may connect to a Unix socket, for when the daemon was restarted (D1). Whoever
 * takes the program over has the agent's memory, too, and could connect to any socket with the
 * rights that the agent's user has, after the program gave them up. So the seccomp filter knows one
 * address in memory, and what stands there is fixed: a sealed file, shared, never mapped writable,
 * in a sealed mapping.
 */
#include <linux/mman.h>
#include <linux/socket.h>
#include <linux/un.h>

#include "agent.h"
#include "mem.h"
#include "sys.h"

#ifndef __NR_mseal
#define __NR_mseal 462
#endif

#define MEMFD_FLAGS    3 /* MFD_CLOEXEC | MFD_ALLOW_SEALING */
#define F_ADD_SEALS_NR 1033
#define SEALS          0xf /* F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE */

_Static_assert(sizeof(struct sockaddr_un) == SP_ADDRESS_SIZE, "the filter knows another size");

static long map_sealed(int fd)
{
    struct sockaddr_un addr = {.sun_family = SP_LINK_FAMILY};
    struct sp_text text;
    long at;

    sp_text_init(&text, addr.sun_path, sizeof(addr.sun_path));
    sp_text_str(&text, sp_agent.socket_path);
    if (sp_sys(__NR_write, fd, &addr, sizeof(addr)) != (long)sizeof(addr) ||
        sp_is_err(sp_sys(__NR_fcntl, fd, F_ADD_SEALS_NR, SEALS)))
        return -EIO;
    at = sp_sys(__NR_mmap, 0, sp_agent.page_size, 1 /* PROT_READ */, MAP_SHARED, fd, 0);
    if (!sp_is_err(at) && sp_is_err(sp_sys(__NR_mseal, at, sp_agent.page_size, 0))) {
        sp_sys(__NR_munmap, at, sp_agent.page_size);
        return -ENOSYS;
    }
    return at;
}

void sp_address_seal(void)
{
    long fd = sp_agent.test_no_mseal ? -ENOSYS
                                     : sp_sys(__NR_memfd_create, "samepage-address", MEMFD_FLAGS);
    long at;

    if (sp_is_err(fd))
        return;
    at = map_sealed((int)fd);
    sp_sys(__NR_close, fd);
    sp_agent.address = sp_is_err(at) ? 0 : (uint64_t)at;
}
