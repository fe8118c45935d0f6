/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Zeros in place of sites that the program drops, where the gate can put no new mapping there: it
 * would lose what else the mapping is (its protection, a lock, MADV_DONTFORK), and where the program
 * may not write, the gate cannot either.
 *
 * In a private mapping of a file in memory a userfaultfd fills a page that is not there with a
 * private one, whatever the protection. It is the mapping's until the program drops it again.
 */
#include "agent.h"
#include "gate.h"
#include "kernel.h"
#include "sitemap.h"
#include "sys.h"

#define GATE_SPIN_US  20000u
#define GATE_TRIES    10u
#define PAGE_TRIES    1000u /* a thread that reads meanwhile maps the frame's page again */
#define PAGES_AT_ONCE 512u

static int zero_page(uint64_t addr)
{
    long ret = -EAGAIN;

    for (uint32_t tries = 0; tries < PAGE_TRIES && ret; tries++) {
        struct uffdio_zeropage zero = {.range = {addr, sp_agent.page_size}};

        ret = sp_sys(__NR_madvise, addr, sp_agent.page_size, SP_MADV_DONTNEED_LOCKED);
        if (!ret)
            ret = sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_ZEROPAGE, &zero);
        if (ret && ret != -EEXIST && ret != -EAGAIN)
            break;
    }
    return (int)ret;
}

static int zero_run(uint64_t start, uint64_t end)
{
    struct uffdio_range range = {.start = start, .len = end - start};
    struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_MISSING};
    int ret = (int)sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_REGISTER, &reg);

    if (ret)
        return ret;
    for (uint64_t at = start; at < end && !ret; at += sp_agent.page_size)
        ret = zero_page(at);
    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_UNREGISTER, &range);
    sp_sys(__NR_ioctl, sp_agent.uffd, UFFDIO_WAKE, &range);
    return ret;
}

/* With the gate closed: some sites from *at on; *at is then where to go on. */
static int zero_some(uint64_t *at, uint64_t end)
{
    uint64_t most = (uint64_t)PAGES_AT_ONCE << sp_agent.page_shift, start, stop;
    int ret = 0;

    for (uint64_t done = 0; !ret && done < most; done += stop - start) {
        if (!sp_sitemap_next(*at, end, &start, &stop)) {
            *at = end;
            break;
        }
        if (stop - start > most)
            stop = start + most;
        ret = zero_run(start, stop);
        *at = stop;
    }
    return ret;
}

int sp_zero_sites(uint64_t start, uint64_t end)
{
    uint64_t at = start;
    unsigned tries = 0;
    int ret = 0;

    while (at < end && !ret) {
        if (!sp_gate_close(GATE_SPIN_US)) {
            sp_serve_gate();
            if (++tries > GATE_TRIES)
                return -EAGAIN;
            continue;
        }
        ret = zero_some(&at, end);
        if (sp_gate_open())
            sp_serve_gate();
    }
    return ret;
}
