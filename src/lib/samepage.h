/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsamepage: same-page merging for a program that wants it.
 *
 * A program that is linked with this library (pkg-config samepage) can have its private anonymous
 * memory merged with equal pages of its own and of its user's other merged programs; no LD_PRELOAD,
 * no "samepage run". It says which memory: nothing else is touched, unless it runs under "samepage
 * run --all".
 *
 * Nothing here ever makes a program fail. Without a daemon, on a kernel that cannot, in a program
 * that cannot be protected, every call returns SAMEPAGE_NOT_MERGED (or, where that is enough,
 * SAMEPAGE_DONE), and samepage_why() says why. SAMEPAGE_WRONG_USE is for arguments that are wrong
 * in any program.
 *
 * All functions can be called by any thread, at any time after main() began; none may be called by
 * a signal handler or between vfork and exec. errno is left as it was.
 */
#ifndef SAMEPAGE_H
#define SAMEPAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum samepage_result {
    SAMEPAGE_DONE = 0,
    SAMEPAGE_NOT_MERGED = 1,  /* samepage_why() says why; the program goes on without */
    SAMEPAGE_NOT_IN_TIME = 2, /* merging goes on */
    SAMEPAGE_WRONG_USE = 3,
};

/*
 * Is the program merged? SAMEPAGE_DONE: it was set up before main(), and what is advised will be
 * merged. Else SAMEPAGE_NOT_MERGED. Need not be called.
 */
int samepage_init(void);

/* Why the last call of this thread did not return SAMEPAGE_DONE: a sentence without a dot, never
 * NULL; it is valid until the thread's next call. */
const char *samepage_why(void);

enum samepage_advice {
    SAMEPAGE_MERGE = 0, /* merge what does not change any more, from now on */
    SAMEPAGE_CONSTANT =
        1, /* the same, and it is as it will stay: no need to watch it for long first */
    SAMEPAGE_DONT_MERGE = 2, /* not any more; what is merged is the program's own again on return */
};

/*
 * Advises [address, address + length), page aligned (length is rounded up). The advice holds for
 * the pages that are mapped there, is inherited by fork, and ends when they are unmapped. Memory
 * that is not private and anonymous is accepted and ignored. SAMEPAGE_WRONG_USE: not aligned,
 * wraps, has holes (the rest was advised), or no such advice.
 */
int samepage_advise(void *address, size_t length, enum samepage_advice advice);

struct samepage_merged {
    size_t size;           /* of this structure: set by the caller */
    uint64_t pages;        /* of the range */
    uint64_t pages_merged; /* of them: one of the shared pages takes their place */
};

/*
 * Advises the range SAMEPAGE_MERGE, and waits until all of it that can be merged is, at most
 * timeout_ms milliseconds (-1: as long as it takes). Pages that are written meanwhile, or have no
 * equal, stay the program's own. merged, if not NULL, is filled whatever is returned. Other threads
 * go on.
 */
int samepage_merge_now(void *address, size_t length, int timeout_ms,
                       struct samepage_merged *merged);

struct samepage_statistics {
    size_t size;            /* of this structure: set by the caller */
    uint64_t pages_tracked; /* that the program advised, and that are looked at */
    uint64_t pages_merged;  /* of them: merged now */
    uint64_t frames; /* shared pages in all that the program may share with: its user's, or its
                        domain's */
    uint64_t frames_sites; /* pages that they take the place of, in all those programs */
    double cpu_seconds;    /* that merging has used in this program */
    /* A page whose neighbours do not go on as its like's do needs a mapping for itself alone. */
    uint64_t mappings;        /* that merging uses in this program, */
    uint64_t mappings_budget; /* of so many that it may use */
    uint64_t pages_left;      /* equal to others, and left alone to save mappings; 0 also if it
                                 cannot be told now */
};

/* How this process is merged. All zeros with SAMEPAGE_NOT_MERGED. */
int samepage_statistics(struct samepage_statistics *statistics);

/* The library's version, as "0.1.0". */
const char *samepage_version(void);

#ifdef __cplusplus
}
#endif

#endif
