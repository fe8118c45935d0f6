/* SPDX-License-Identifier: Apache-2.0 */
#include "attributes.h"

#include <linux/mman.h>

#include "gate.h"
#include "policy.h"
#include "sys.h"

#define DONTFORK_TRIES 100u

static const struct {
    char flag[3];
    uint32_t attribute;
    int advice; /* that gives it, 0: none does */
} known[] = {
    {"nr", SP_RANGE_NORESERVE, 0},
    {"nh", SP_RANGE_NO_HUGE, MADV_NOHUGEPAGE},
    {"hg", SP_RANGE_HUGE, MADV_HUGEPAGE},
    {"dc", SP_RANGE_DONTFORK, 0}, /* sp_keep_from_fork() */
    {"mg", SP_RANGE_ADVISED, MADV_MERGEABLE},
    {"dd", SP_RANGE_DONTDUMP, MADV_DONTDUMP},
    {"wf", SP_RANGE_WIPEONFORK, MADV_WIPEONFORK},
    {"rr", SP_RANGE_RANDOM, MADV_RANDOM},
    {"sr", SP_RANGE_SEQUENTIAL, MADV_SEQUENTIAL},
    {"lo", SP_RANGE_LOCKED, 0},
    {"lf", SP_RANGE_ONFAULT, 0},
};

#define NKNOWN (sizeof(known) / sizeof(known[0]))

uint32_t sp_attribute_of(const char *f)
{
    for (unsigned i = 0; i < NKNOWN; i++)
        if (known[i].flag[0] == f[0] && known[i].flag[1] == f[1])
            return known[i].attribute;
    return 0;
}

long sp_keep_from_fork(uint64_t addr, uint64_t length)
{
    long ret = -ENOMEM;

    for (unsigned n = 0; n < DONTFORK_TRIES && sp_is_err(ret); n++)
        ret = sp_sys(__NR_madvise, addr, length, MADV_DONTFORK);
    return ret;
}

bool sp_is_locked(uint64_t addr, uint64_t length)
{
    return sp_sys(__NR_msync, addr, length, MS_ASYNC | MS_INVALIDATE) == -EBUSY;
}

long sp_lock_as(uint64_t addr, uint64_t length, uint32_t attributes)
{
    return sp_sys(__NR_mlock2, addr, length, attributes & SP_RANGE_ONFAULT ? MLOCK_ONFAULT : 0);
}

static int protection(uint32_t attributes)
{
    return (attributes & SP_RANGE_READ ? PROT_READ : 0) |
           (attributes & SP_RANGE_WRITE ? PROT_WRITE : 0) |
           (attributes & SP_RANGE_EXEC ? PROT_EXEC : 0);
}

long sp_map_with(uint64_t addr, uint64_t length, int flags, uint32_t attributes)
{
    long ret = sp_sys(__NR_mmap, addr, length, protection(attributes),
                      MAP_PRIVATE | MAP_ANONYMOUS | flags |
                          (attributes & SP_RANGE_NORESERVE ? MAP_NORESERVE : 0),
                      -1, 0);

    if (sp_is_err(ret))
        return ret;
    /* Over the program's own memory (MAP_FIXED) a hole would be worse than what is lacking. */
    if ((((attributes & SP_RANGE_DONTFORK) && sp_is_err(sp_keep_from_fork((uint64_t)ret, length))) ||
         sp_is_err(sp_policy_give((uint64_t)ret, length, attributes))) &&
        !(flags & MAP_FIXED)) {
        sp_sys(__NR_munmap, ret, length);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < NKNOWN; i++)
        if (known[i].advice && (attributes & known[i].attribute))
            sp_sys(__NR_madvise, ret, length, known[i].advice);
    if (sp_gate.locks_future && !(attributes & SP_RANGE_LOCKED))
        sp_sys(__NR_munlock, ret, length); /* it is no new memory to the program */
    if (attributes & SP_RANGE_LOCKED)
        sp_lock_as((uint64_t)ret, length, attributes);
    return ret;
}
