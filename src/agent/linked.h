/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between libsamepage and the agent, which it brings into a program that is linked with it: the
 * agent is loaded by the dynamic linker and begins before main(), as when it is preloaded. What
 * libsamepage needs to know of it is here; it is called by the program's threads, at any time.
 */
#ifndef SP_AGENT_LINKED_H
#define SP_AGENT_LINKED_H

#include <stdbool.h>
#include <stdint.h>

/* An agent of another version may have been preloaded: size says what is there. */
struct sp_linked {
    uint32_t size;      /* bytes of this */
    uint32_t page_size; /* 0: the agent did not begin */
    const char *socket; /* where the program's daemon listens, "": not known */
    const char *why;    /* why the program is not merged, "": it was when it began */
    /* Is there an agent now that can merge? */
    bool (*merges)(void);
    /* The next run of pages in [addr, end) that lie in mappings of the pool. */
    bool (*next_run)(uint64_t addr, uint64_t end, uint64_t *start, uint64_t *stop);
    /* [start, end) will not change: its pages are not watched for a pass before they are merged.
     * The last SP_LINKED_CONSTANTS words count. */
    void (*constant)(uint64_t start, uint64_t end);
};

#define SP_LINKED_CONSTANTS 64u

__attribute__((visibility("default"))) const struct sp_linked *samepage_agent_linked(void);

/* The same name in libsamepage says to the agent that it is there. */
#define SP_LINKED_MARK samepage_is_linked

#endif
