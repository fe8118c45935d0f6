/* SPDX-License-Identifier: Apache-2.0 */
#include "sitemap.h"

#include <linux/mman.h>

#include "pagemap.h"
#include "sys.h"

#define SITE_GROUPS    8192u /* of 128 MiB: 1 TiB of densely merged memory */
#define SPLICED_GROUPS 512u
#define ZEROED_GROUPS  4096u /* 512 GiB */
#define GUARDED_GROUPS 512u
#define OWED_GROUPS    512u
#define FROZEN_GROUPS  512u

static struct sp_pagemap sites, spliced, zeroed, guarded, frozen, owed;
static bool spliced_full; /* some page could not be noted: any may lie in a pipe */
static bool guarded_full; /* the same of guarded sites */
static uint32_t guarded_times, thawed_times;
static uint64_t area, area_end;

int sp_sitemap_init(uint32_t page_size)
{
    uint64_t bytes = sp_pagemap_bytes(SITE_GROUPS, page_size);
    uint64_t more = sp_pagemap_bytes(SPLICED_GROUPS, page_size);
    uint64_t rest = sp_pagemap_bytes(ZEROED_GROUPS, page_size);
    uint64_t few = sp_pagemap_bytes(GUARDED_GROUPS, page_size);
    uint64_t due = sp_pagemap_bytes(OWED_GROUPS, page_size);
    uint64_t all = bytes + more + rest + few + due + sp_pagemap_bytes(FROZEN_GROUPS, page_size);
    long ret;

    if (area)
        return 0;
    ret = sp_sys(__NR_mmap, 0, all, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sp_is_err(ret))
        return (int)ret;
    area = (uint64_t)ret;
    area_end = area + all;
    sp_pagemap_init(&sites, SITE_GROUPS, page_size, area);
    sp_pagemap_init(&spliced, SPLICED_GROUPS, page_size, area + bytes);
    sp_pagemap_init(&zeroed, ZEROED_GROUPS, page_size, area + bytes + more);
    sp_pagemap_init(&guarded, GUARDED_GROUPS, page_size, area + bytes + more + rest);
    sp_pagemap_init(&owed, OWED_GROUPS, page_size, area + bytes + more + rest + few);
    sp_pagemap_init(&frozen, FROZEN_GROUPS, page_size, area + bytes + more + rest + few + due);
    return 0;
}

int sp_sitemap_set(uint64_t addr, uint64_t end)
{
    return sp_pagemap_set(&sites, addr, end);
}

void sp_sitemap_clear(uint64_t addr, uint64_t end)
{
    sp_pagemap_clear(&sites, addr, end);
    if (sp_pagemap_pages(&guarded))
        sp_pagemap_clear(&guarded, addr, end);
    if (sp_pagemap_pages(&frozen))
        sp_pagemap_clear(&frozen, addr, end);
    if (sp_pagemap_pages(&owed))
        sp_pagemap_clear(&owed, addr, end);
}

bool sp_sitemap_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    return sp_pagemap_next(&sites, addr, end, start, stop);
}

bool sp_sitemap_any(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    return sp_pagemap_next(&sites, addr, end, &start, &stop);
}

uint64_t sp_sitemap_pages(void)
{
    return sp_pagemap_pages(&sites);
}

void sp_sitemap_area(uint64_t *start, uint64_t *end)
{
    *start = area;
    *end = area_end;
}

void sp_spliced_add(uint64_t addr, uint64_t end)
{
    if (end >> SP_PAGEMAP_ADDRESS_BITS)
        return; /* nothing is merged up there */
    if (end > addr && sp_pagemap_set(&spliced, addr, end) != 0)
        __atomic_store_n(&spliced_full, true, __ATOMIC_SEQ_CST);
}

bool sp_spliced_clear(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    if (!sp_pagemap_next(&spliced, addr, end, &start, &stop))
        return false;
    sp_pagemap_clear(&spliced, addr, end);
    return true;
}

bool sp_spliced_any(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    return __atomic_load_n(&spliced_full, __ATOMIC_SEQ_CST) ||
           sp_pagemap_next(&spliced, addr, end, &start, &stop);
}

void sp_guarded_add(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    __atomic_fetch_add(&guarded_times, 1, __ATOMIC_SEQ_CST);
    for (; sp_sitemap_next(addr, end, &start, &stop); addr = stop)
        if (sp_pagemap_set(&guarded, start, stop) != 0)
            __atomic_store_n(&guarded_full, true, __ATOMIC_SEQ_CST);
}

void sp_guarded_clear(uint64_t addr, uint64_t end)
{
    sp_pagemap_clear(&guarded, addr, end);
}

void sp_guarded_forget(void)
{
    __atomic_store_n(&guarded_full, false, __ATOMIC_SEQ_CST);
    for (uint64_t at = 0, start, stop; sp_pagemap_next(&guarded, at, ~0ull, &start, &stop); at = stop)
        sp_pagemap_clear(&guarded, start, stop);
}

bool sp_guarded_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    if (!__atomic_load_n(&guarded_full, __ATOMIC_SEQ_CST))
        return sp_pagemap_next(&guarded, addr, end, start, stop);
    *start = addr;
    *stop = end;
    return addr < end;
}

void sp_frozen_add(uint64_t addr, uint64_t end, uint32_t times)
{
    uint64_t start, stop;

    for (uint64_t at = addr; sp_sitemap_next(at, end, &start, &stop); at = stop)
        (void)sp_pagemap_set(&frozen, start, stop);
    if (sp_thawed_times() != times)
        sp_pagemap_clear(&frozen, addr, end);
}

void sp_frozen_clear(uint64_t addr, uint64_t end)
{
    __atomic_fetch_add(&thawed_times, 1, __ATOMIC_SEQ_CST);
    sp_pagemap_clear(&frozen, addr, end);
}

uint32_t sp_thawed_times(void)
{
    return __atomic_load_n(&thawed_times, __ATOMIC_SEQ_CST);
}

void sp_owed_add(uint64_t addr, uint64_t end)
{
    uint32_t times = sp_thawed_times();
    uint64_t start, stop;

    for (uint64_t at = addr; sp_pagemap_next(&frozen, at, end, &start, &stop); at = stop)
        (void)sp_pagemap_set(&owed, start, stop);
    if (sp_thawed_times() != times)
        sp_pagemap_clear(&owed, addr, end);
}

bool sp_owed_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    return sp_pagemap_next(&owed, addr, end, start, stop);
}

bool sp_owed_take(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    if (!sp_pagemap_next(&owed, addr, end, start, stop))
        return false;
    sp_pagemap_clear(&owed, *start, *stop);
    return true;
}

uint32_t sp_guarded_times(void)
{
    return __atomic_load_n(&guarded_times, __ATOMIC_SEQ_CST);
}

int sp_zeroed_set(uint64_t addr, uint64_t end)
{
    return sp_pagemap_set(&zeroed, addr, end);
}

void sp_zeroed_clear(uint64_t addr, uint64_t end)
{
    sp_pagemap_clear(&zeroed, addr, end);
}

bool sp_zeroed_any(uint64_t addr, uint64_t end)
{
    uint64_t start, stop;

    return sp_pagemap_next(&zeroed, addr, end, &start, &stop);
}

bool sp_zeroed_next(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop)
{
    return sp_pagemap_next(&zeroed, addr, end, start, stop);
}

uint64_t sp_zeroed_pages(void)
{
    return sp_pagemap_pages(&zeroed);
}
