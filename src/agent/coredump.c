/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a core dump holds (X). The kernel leaves out private mappings of files that were not written
 * to, and so the merged pages, unless the process' coredump_filter says otherwise. Where it asks
 * for private anonymous memory, which the pages were, it is made to ask for private file mappings,
 * too. The filter belongs to the memory, so the agent can set it.
 */
#include "agent.h"
#include "mem.h"
#include "sys.h"

#define O_RDWR_CLOEXEC 02000002
#define ANON_PRIVATE   0x1u
#define MAPPED_PRIVATE 0x4u

void sp_coredump_open(void)
{
    sp_agent.coredump =
        (int)sp_sys(__NR_openat, -100, "/proc/self/coredump_filter", O_RDWR_CLOEXEC);
}

void sp_coredump_hold_merged(void)
{
    char buf[32];
    const char *p = buf;
    struct sp_text text;
    long n = sp_sys(__NR_pread64, sp_agent.coredump, buf, sizeof(buf), 0);
    uint64_t filter;

    if (n <= 0)
        return;
    filter = sp_parse_hex(&p, buf + n);
    if (!(filter & ANON_PRIVATE) || filter & MAPPED_PRIVATE)
        return;
    sp_text_init(&text, buf, sizeof(buf));
    sp_text_str(&text, "0x");
    sp_text_hex(&text, filter | MAPPED_PRIVATE);
    sp_sys(__NR_pwrite64, sp_agent.coredump, buf, text.len, 0);
}
