/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who looks for processes that map frames (strays.h): a process of its own, for one look.
 *
 * It reads /proc of all processes, whoever they are, as far as it may: children without an agent map frames, too. A page of a
 * private mapping of a segment is the frame where the program has no page of its own there: it is a file's page, or none yet, which the
 * first touch makes the frame (so also where the frame is out of memory). Who holds the lock of his address
 * space has the reader wait: that one is killed then, and another one goes on after him, some times.
 */
#ifndef SP_DAEMON_STRAYS_LOOK_H
#define SP_DAEMON_STRAYS_LOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "agent_name.h"
#include "pool.h"

#define SP_STRAYS_FD        3 /* where it finds the memory that it shares with the daemon */
#define SP_STRAYS_PROCESSES 1024u
#define SP_STRAYS_OF_SET    64u /* so that no domain's processes are all of them */
#define SP_STRAYS_UNREAD    4u  /* with one more it gives up */

struct sp_stray_process {
    int32_t pid;
    uint32_t set;
    uint32_t young; /* began a moment ago: it may not have said HELLO yet */
    char comm[SP_COMM_SIZE];
};

/* One whose memory could not be looked at in time, or for want of memory. */
struct sp_stray_unread {
    int32_t pid;
    uint32_t uid;
    char comm[SP_COMM_SIZE];
};

/* A segment, by the file that mappings name. */
struct sp_stray_file {
    uint32_t dev_major, dev_minor;
    uint64_t inode;
    uint32_t set;   /* whose it is */
    uint32_t found; /* frames of it that somebody maps: the answer */
    uint64_t frame[SP_POOL_SEGMENT_PAGES / 64]; /* these */
};

/* The memory that they share. */
struct sp_stray_paper {
    uint32_t nfiles; /* of file[] */
    /* The answer. */
    uint32_t done;       /* 1: it came to its end, and knows of all processes but the unread */
    uint32_t nprocesses; /* that map some, the first ones found; agents are none */
    uint32_t nunread;
    uint32_t at;         /* how far it is */
    struct sp_stray_unread unread[SP_STRAYS_UNREAD];
    struct sp_stray_process process[SP_STRAYS_PROCESSES];
    struct sp_stray_file file[];
};

/* Bytes of a paper for so many segments. */
size_t sp_strays_paper_size(uint32_t nfiles);

/* What the process itself runs: -1 if the program was started as something else, or its exit status. */
int sp_strays_main(int argc, char **argv);

#endif
