/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's read-only views of the pool's segments, and the answer to "which sites are there".
 *
 * A view is a shared mapping of the whole segment, for comparing. It is kept from forked children
 * (MADV_DONTFORK): they make their own, and a segment can be freed when nobody maps it (K9).
 */
#include <asm/stat.h>
#include <linux/mman.h>

#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "maps.h"
#include "mem.h"
#include "sitemap.h"
#include "sys.h"

#define PROT_READ_BIT        1
#define MADV_DONTFORK_ADVICE 10
#define MADV_DONTDUMP_ADVICE 16
#define WRITE_BITS 0222
#define LAST 256u

static uint32_t views_end; /* no view has this number or a higher one */

/* The size of the address space changed by our own doing: that alone is no reason to read all the
 * mappings again (ranges.c). */
static void size_changed(int64_t bytes)
{
    sp_agent.ranges_vm += (uint64_t)(bytes >> sp_agent.page_shift);
}

int sp_view_add(uint32_t id, uint32_t npages, int fd)
{
    uint64_t bytes = (uint64_t)npages << sp_agent.page_shift;
    struct stat st;
    long ret = -EINVAL;

    if (!id || id >= SP_AGENT_SEGMENTS || !npages || npages > SP_AGENT_SEGMENTS * 16u || fd < 0)
        goto out;
    if (sp_agent.view[id].base) {
        ret = -EEXIST;
        goto out;
    }
    ret = sp_sys(__NR_fstat, fd, &st);
    if (sp_is_err(ret))
        goto out;
    ret = sp_sys(__NR_mmap, 0, bytes, PROT_READ_BIT, MAP_SHARED, fd, 0);
    if (sp_is_err(ret))
        goto out;
    sp_sys(__NR_madvise, ret, bytes, MADV_DONTFORK_ADVICE);
    sp_sys(__NR_madvise, ret, bytes, MADV_DONTDUMP_ADVICE); /* other programs' pages */
    sp_agent.view[id] =
        (struct sp_view){.base = (uint64_t)ret, .device = st.st_dev, .inode = st.st_ino,
                         .npages = npages, .fd = fd};
    sp_agent.stored |= !(st.st_mode & WRITE_BITS); /* as the store makes its files (store_fuse.h) */
    if (sp_agent.stored && !sp_gate.stored)
        __atomic_store_n(&sp_gate.stored, SP_STORED, __ATOMIC_SEQ_CST);
    size_changed((int64_t)bytes);
    if (id >= views_end)
        views_end = id + 1;
    return 0;
out:
    if (fd >= 0)
        sp_sys(__NR_close, fd);
    return (int)ret;
}

void sp_view_drop(uint32_t id)
{
    struct sp_view *view;

    if (id >= SP_AGENT_SEGMENTS || !sp_agent.view[id].base)
        return;
    view = &sp_agent.view[id];
    sp_sys(__NR_munmap, view->base, (uint64_t)view->npages << sp_agent.page_shift);
    size_changed(-((int64_t)view->npages << sp_agent.page_shift));
    sp_sys(__NR_close, view->fd);
    *view = (struct sp_view){.device = view->device, .inode = view->inode};
}

void sp_views_forget(void)
{
    for (uint32_t id = 1; id < views_end; id++) {
        const struct sp_view *view = &sp_agent.view[id];

        sp_agent.view[id] = (struct sp_view){
            .device = view->device, .inode = view->inode, .dropped = view->dropped};
    }
}

void sp_views_drop_all(void)
{
    for (uint32_t id = 1; id < SP_AGENT_SEGMENTS; id++)
        sp_view_drop(id);
}

uint64_t sp_view_frame(uint32_t id, uint32_t index)
{
    if (id >= SP_AGENT_SEGMENTS || !sp_agent.view[id].base || index >= sp_agent.view[id].npages)
        return 0;
    return sp_agent.view[id].base + ((uint64_t)index << sp_agent.page_shift);
}

static bool is_file(uint32_t id, uint64_t device, uint64_t inode)
{
    return sp_agent.view[id].inode == inode && sp_agent.view[id].device == device;
}

/* Which view is, or was, of this file; 0: none. Asked for each of thousands of mappings, so where it was found the
 * last time is tried first. */
static uint32_t find(uint64_t device, uint64_t inode)
{
    static uint16_t last[LAST];
    uint16_t *tried = &last[inode % LAST];

    if (*tried && *tried < views_end && is_file(*tried, device, inode))
        return *tried;
    for (uint32_t id = 1; id < views_end; id++)
        if (is_file(id, device, inode)) {
            *tried = (uint16_t)id;
            return id;
        }
    return 0;
}

uint32_t sp_view_of_file(uint64_t device, uint64_t inode)
{
    uint32_t id = find(device, inode);

    return id && sp_agent.view[id].base ? id : 0;
}

bool sp_view_is_dropped(uint64_t device, uint64_t inode)
{
    uint32_t id = find(device, inode);

    return id && sp_agent.view[id].dropped;
}

/* A forked child's agent has no views before the daemon sends them, and one whose daemon died has none:
 * the program's calls want its memory all the same. */
bool sp_view_is_pool(const struct sp_mapping *m)
{
    uint64_t start, stop;

    if (!m->inode)
        return false;
    if (find(m->device, m->inode))
        return true;
    return !m->shared && sp_sitemap_next(m->start, m->end, &start, &stop) && start == m->start &&
           stop >= m->end;
}
