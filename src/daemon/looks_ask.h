/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who asks the kernel which frames were used (looks.h): a process of its own, for one look.
 *
 * A frame lies in a physical page, whose number is read from the page tables of the store's worker
 * and of the programs (/proc/PID/pagemap); one of them that maps it is enough. The kernel has a
 * mark of each physical page, "idle", that it takes away when somebody uses it. DAMON (of the
 * physical addresses, with its user interface) asks all who map the page, whoever they are: children
 * without an agent, stopped programs, too: a scheme for pages that are young and mapped takes the
 * mark off those, and /proc/kpageflags shows it. It is one for the whole machine: who finds it in use
 * does without this look.
 *
 * It needs root. A processor that has a page in its cache of translations sets no mark while it is
 * there: a page that is used a hundred times between two looks may be missed, seldom.
 */
#ifndef SP_DAEMON_LOOKS_ASK_H
#define SP_DAEMON_LOOKS_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store_process.h"

#define SP_LOOKS_FD   3 /* where the asker finds the memory that it shares with the daemon */
#define SP_LOOKS_PIDS 16384u

/* Of one frame. */
enum sp_look_answer {
    SP_LOOK_UNKNOWN = 0, /* nobody was found who maps it */
    SP_LOOK_IDLE,        /* not used since the look before */
    SP_LOOK_USED,        /* used, or not there then */
};

enum sp_look_how { SP_LOOK_NOHOW, SP_LOOK_DAMON };

/* The memory that they share. */
struct sp_look_paper {
    uint32_t dev_major, dev_minor; /* of the files whose mappings show frames */
    uint32_t npids;
    int32_t pid[SP_LOOKS_PIDS];
    /* The answer. */
    uint32_t how; /* enum sp_look_how; what is below is worth nothing with SP_LOOK_NOHOW */
    int32_t error;
    uint64_t segment[SP_STORE_SEGMENTS / 64]; /* bits: of which there are answers */
    _Alignas(4096) uint8_t frame[(size_t)SP_STORE_SEGMENTS * SP_POOL_SEGMENT_PAGES];
};

/* A frame and where it lies. */
struct sp_look_page {
    uint64_t pfn;
    uint32_t segment, index;
    bool used; /* the answer */
};

/* Fills in used of n pages, with ascending pfn, and has the kernel begin anew. 0; -EOPNOTSUPP:
 * this kernel cannot, or we may not; -EBUSY: somebody else has it. */
int sp_look_damon(struct sp_look_page *page, size_t n);

/* What the asker itself runs: -1 if the program was started as something else, or its exit status.
 */
int sp_looks_main(int argc, char **argv);

#endif
