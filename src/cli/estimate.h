/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What samepage estimate is made of.
 *
 * The model. A **process** that is looked at becomes a list of **runs**: neighbouring pages that
 * are in memory and that an agent would track; for each page a hash of its bytes, nothing else.
 * Reading (estimate_scan.c, with estimate_smaps.c for the rule which memory it is) changes nothing
 * in the process: only pages that are present are read. Then the engine itself, the one of the
 * daemon, merges these hashes in a world that consists of our lists (estimate_tally.c): so what it
 * would merge, in how many mappings, where it gives up for want of them and what it needs to
 * remember is not guessed but done, without touching a page.
 *
 * One engine for each user: memory of different users is never shared.
 *
 * Memory needed: 12 bytes a page here, and the engine's (engine/types.h): about 35 bytes a page,
 * less than a hundredth of the memory that is read.
 */
#ifndef SP_CLI_ESTIMATE_H
#define SP_CLI_ESTIMATE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Neighbouring pages in memory; the first one's hash is hash[first] of the process. */
struct sp_estimate_run {
    uint64_t addr;
    uint64_t first;
    uint64_t npages;
};

/* A page's hash (62 bits, as many as the engine keeps) and two bits about the page. */
#define SP_ESTIMATE_HASH  ((UINT64_C(1) << 62) - 1)
#define SP_ESTIMATE_FORK  (UINT64_C(1) << 62) /* fork shares it, or shared it (K8) */
#define SP_ESTIMATE_APART (UINT64_C(1) << 63) /* changed between two looks, or cannot merge */

struct sp_estimate_process {
    pid_t pid;
    uid_t uid;
    char comm[16];

    struct sp_estimate_run *run; /* ascending */
    size_t nruns, run_room;
    uint64_t *hash;  /* npages of them */
    uint32_t *frame; /* that the tally's engine mapped there, 0: none; allocated by the tally */
    uint64_t npages, page_room;

    uint32_t own_mappings;    /* without those that merging uses already */
    uint32_t mappings_budget; /* that merging may use */
    uint64_t swapped;         /* pages that would be tracked, but are in swap: not looked at */
    uint64_t zero_pages;      /* pages of zeros among npages */
    uint64_t volatile_pages;  /* that changed between two looks */
    uint64_t merged_pages;    /* pages that are sites already */

    /* What the tally found. */
    bool reporting;    /* the pass that is going on asks for every page again */
    uint32_t mappings; /* that merging would use */
    uint64_t sites, zero_sites;
    double pages_sharing; /* its part of the pages that would be saved */
    double pages_saved;   /* the same, without what fork shares anyway */
};

/* Frees what the process holds, not the struct. */
void sp_estimate_process_free(struct sp_estimate_process *process);

/* ---- estimate_processes.c ---- */

/* Why a process is not looked at. */
enum sp_estimate_skip {
    SP_SKIP_OWN,          /* samepage's own */
    SP_SKIP_KERNEL,       /* a thread of the kernel */
    SP_SKIP_GONE,         /* ended meanwhile, or a zombie */
    SP_SKIP_DENIED,       /* we may not read it */
    SP_SKIP_NOT_DUMPABLE, /* it forbids looking into it (K17) */
    SP_SKIP_UNFIT, /* a program that samepage cannot merge, because it is static for example */
    SP_SKIPS
};

struct sp_estimate_list {
    struct sp_estimate_process *process; /* by ascending pid */
    size_t n, room;
    uint64_t skipped[SP_SKIPS];
};

/*
 * Adds the process, with who it is, or counts it as skipped. Returns 0 when it was added; 1 when it
 * was skipped, *skip saying why and why[] what is the matter (at most size bytes); or -ENOMEM.
 */
int sp_estimate_list_add(struct sp_estimate_list *list, pid_t pid, enum sp_estimate_skip *skip,
                         char *why, size_t size);

/* Adds all processes there are. Returns 0 or a negative errno. */
int sp_estimate_list_all(struct sp_estimate_list *list);

/* Takes process number i out again, and counts it as skipped. */
void sp_estimate_list_drop(struct sp_estimate_list *list, size_t i, enum sp_estimate_skip skip);

void sp_estimate_list_free(struct sp_estimate_list *list);

/* ---- estimate_smaps.c ---- */

/* A stretch of memory that an agent would track. */
struct sp_estimate_range {
    uint64_t start, end;
    bool pool; /* maps frames already: its pages of files are merged ones */
};

struct sp_estimate_ranges {
    struct sp_estimate_range *range; /* ascending */
    size_t n, room;
    uint32_t mappings, pool_mappings; /* of the whole process */
    uint32_t pool_stretches;          /* of mappings of frames that adjoin one another */
    uint64_t pool_end;                /* of the last one */
};

/*
 * Reads smaps from f: adds what would be tracked (K17): with all, private anonymous memory of at
 * least SP_MIN_RANGE_PAGES in a row, else what is advised. stack holds nstacks stack pointers of
 * threads: a mapping behind a guard page that one of them points into is a stack, or begins with
 * one. Returns 0, or -ENOMEM, -EIO. What ranges holds is the caller's, also after an error: free
 * ranges->range.
 */
int sp_estimate_read_smaps(FILE *f, bool all, const uint64_t *stack, size_t nstacks,
                           struct sp_estimate_ranges *ranges);

/* ---- estimate_scan.c ---- */

struct sp_estimate_scan {
    bool all; /* else only what is advised */
    uint64_t seed;
    uint32_t max_map_count;
    volatile sig_atomic_t *stop;                 /* set: come to an end */
    void (*progress)(void *arg, uint64_t pages); /* so many pages more were read; may be NULL */
    void *arg;
};

/*
 * Looks at the process->pid: fills everything but what the tally finds. Reads as much as it can
 * when scan->stop is set meanwhile. Returns 0; -EACCES or -EPERM: it may not be read; -ENOENT,
 * -ESRCH: it is gone; -ENOTTY: this kernel cannot say which pages are in memory (PAGEMAP_SCAN);
 * -ENOMEM. After an error the process holds what was read so far, and is still to be freed.
 */
int sp_estimate_scan(const struct sp_estimate_scan *scan, struct sp_estimate_process *process);

/* Looks a second time: pages that changed are marked SP_ESTIMATE_APART and counted. Returns 0, or a
 * negative errno as above; a process that is gone now is no error: nothing of it is left out. */
int sp_estimate_scan_again(const struct sp_estimate_scan *scan,
                           struct sp_estimate_process *process);

/* The hash that a page of zeros has. */
uint64_t sp_estimate_zero_hash(uint64_t seed);

/* ---- estimate_tally.c ---- */

struct sp_estimate_sum {
    uint64_t pages;         /* that would be tracked and are in memory */
    uint64_t pages_shared;  /* frames */
    uint64_t pages_sharing; /* pages saved, as status counts them (K12) */
    uint64_t zero_pages;    /* pages of zeros among those that would merge */
    uint64_t mappings;
    uint64_t volatile_pages, swapped_pages, merged_pages;
    double pages_saved;               /* pages_sharing without what fork shares anyway */
    uint64_t engine_bytes, own_bytes; /* what samepage would need itself: engine; all, with it */
    int64_t bytes_saved;              /* net of own_bytes */
    size_t nusers;
};

/*
 * Merges what the n processes hold, each user's with his own, and fills in what was found in each
 * process and in all. Returns 0 or -ENOMEM.
 */
int sp_estimate_tally(struct sp_estimate_process *process, size_t n, uint64_t zero_hash,
                      struct sp_estimate_sum *sum);

/* Bytes that merging saves in this process; samepage's own memory for it is not taken off. */
int64_t sp_estimate_process_bytes(const struct sp_estimate_process *process);

/* ---- estimate_print.c ---- */

struct sp_estimate_report {
    const struct sp_estimate_list *list;
    const struct sp_estimate_sum *sum;
    bool settled;  /* there was a second look */
    bool complete; /* nothing was left out because of an interruption */
    bool every;    /* print every process, not only those that would save most */
};

/* Print the report for a person, or as one line of JSON. Return the exit status. */
int sp_estimate_print(const struct sp_estimate_report *report);
int sp_estimate_print_json(const struct sp_estimate_report *report);

#endif
