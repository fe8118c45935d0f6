/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the agent maps what it needs while the program runs: views, what it shares with the daemon, copies.
 *
 * Left to the kernel, such a mapping comes to lie in a hole of the program's own memory: where it just
 * unmapped something and is about to map or grow something else. So they lie far from where the kernel puts
 * the program's mappings (it goes down from the stack, or up from a third of the address space), at a place
 * that is drawn for each program: frames hold what others of its user put into them, so where they lie is
 * not to be known beforehand. Nothing is reserved: RLIMIT_AS counts that. What the program has there already
 * stays, and the mapping goes where the kernel puts it.
 */
#include <linux/mman.h>

#include "agent.h"
#include "sys.h"

#define FIRST      (24ull << 40) /* behind the shadow of AddressSanitizer */
#define BEHIND     (38ull << 40) /* before a third of the address space */
#define SLOT       (16ull << 20) /* a segment of the pool */
#define SLOTS      (SP_AGENT_SEGMENTS + 1u)
#define ALIGN      (2ull << 20)
#define GRND_NONBLOCK_FLAG 1

void sp_room_choose(void)
{
    uint64_t drawn = 0;
    long n = sp_sys(__NR_getrandom, &drawn, sizeof(drawn), GRND_NONBLOCK_FLAG);

    sp_agent.room = 0;
    if (n == (long)sizeof(drawn))
        sp_agent.room = FIRST + ((drawn % (BEHIND - FIRST - SLOTS * SLOT)) & ~(ALIGN - 1));
}

static uint64_t room_at(uint32_t slot, uint64_t bytes)
{
    return sp_agent.room && slot < SLOTS && bytes <= SLOT ? sp_agent.room + slot * SLOT : 0;
}

long sp_room_map(uint32_t slot, uint64_t bytes, int protection, int fd)
{
    uint64_t at = room_at(slot, bytes);
    long ret = -ENOMEM;

    if (at)
        ret = sp_sys(__NR_mmap, at, bytes, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    return sp_is_err(ret) ? sp_sys(__NR_mmap, 0, bytes, protection, MAP_SHARED, fd, 0) : ret;
}

long sp_room_map_with(uint32_t slot, uint64_t bytes, uint32_t attributes)
{
    uint64_t at = room_at(slot, bytes);
    long ret = -ENOMEM;

    if (at)
        ret = sp_map_with(at, bytes, MAP_FIXED_NOREPLACE, attributes);
    return sp_is_err(ret) ? sp_map_with(0, bytes, 0, attributes) : ret;
}
