/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's two processes, which outlive the daemon (D1): they serve the pages of its segments
 * (store_fuse.h) from the store (store.h), and keep those in memory that are not in the store.
 *
 * A frame is in one of three states. **Kept**: its page is in the kernel's cache and locked there,
 * by the worker's view of the segment; the store has no copy. **Out**: the store has a copy, and
 * the cache no page. **Back**: it was touched since, so both have it: the kernel may drop the page
 * again by itself, and we at no cost.
 *
 * The **server** answers the kernel, with a thread on each processor, and does nothing else:
 * whoever touches a frame waits for it. It reads the store without a lock (store_reader.h) and
 * touches no page of a segment, so whatever happens to anybody else it goes on, and when it is
 * killed it ends. The next one is started on its end, with the same descriptors; until then who
 * touches a frame that is out waits.
 *
 * The **worker** does what it is asked by messages, one at a time, each answered; the daemon is the
 * one who asks. It alone writes the store. It reads pages of segments, so it may wait for the
 * server: killed while no server is there it ends only when there is one again. What is kept is so
 * by locks that go with this process: the next one locks again what it finds in the cache, and what
 * the kernel dropped in between, if anything, is lost and said to be (S8).
 *
 * What both must know of each other is in the store's index: which segments there are, who opened
 * them, the marks of frames. Each is one word, or a bit that is set by an atomic operation; so any
 * of the two may be killed anywhere.
 *
 * Beside the daemon agents speak to it, each over a connection that the daemon passes on, to have
 * frames held while they un-merge them (stall.h, store_stalls.c).
 *
 * Where locking is refused (RLIMIT_MEMLOCK) a copy is made at once of every frame that is filled.
 */
#ifndef SP_POOL_STORE_PROCESS_H
#define SP_POOL_STORE_PROCESS_H

#include "store.h"

#define SP_STORE_PAGES 128u  /* that one message is about, at most */
#define SP_STORE_NEWS  1024u /* frames in one answer, at most */

enum sp_store_what {
    SP_STORE_ADD,  /* a segment: from now on it can be opened. -EEXIST: frames of one of that number
                      were filled, and somebody has it; another number is to be tried */
    SP_STORE_FD,   /* answered with a descriptor of the segment for reading */
    SP_STORE_FILL, /* frames that were never filled: bytes lie in the shared pages. They are kept */
    SP_STORE_EVICT,  /* frames to the store, and from everybody who maps them (S1, S3) */
    SP_STORE_BRING,  /* frames into memory, to be kept; their copies go */
    SP_STORE_FORGET, /* nobody knows of a site: gone, where nobody has the segment open; else
                        evicted */
    SP_STORE_HOLD, /* evicts frames, all or none; who touches them waits, for the next process, too.
                      Until they are released every other question about them is -EBUSY */
    SP_STORE_RELEASE, /* the frames that are held no longer are */
    SP_STORE_GET,     /* frames' bytes into the shared pages, wherever they are */
    SP_STORE_WHERE,   /* of each page: SP_STORE_AGAIN if only the store has it, else DONE */
    SP_STORE_FILLED,  /* how many frames of a segment, from the first, may have been filled: n. Who
                         asks that is new, and told anew of lost frames that are touched */
    SP_STORE_REMOVE,  /* a segment: -EBUSY as long as anybody has it open or mapped (K9) */
    SP_STORE_TELL,    /* the frames that came back, or could not, since this was last asked */
    SP_STORE_COUNT,   /* what there is */
    SP_STORE_AGENT,   /* an agent: index is its number, n its process; with its connection (stall.h)
                         and its   pidfd, copies of which are kept. In the shared pages: bits, of the
                         segments whose frames it may have held. Given with the same connection again
                         it is the same one, of which only these are new */
    SP_STORE_ALLOW,   /* a segment more to the agent with that number */
};

#define SP_STORE_AGENT_FDS 2u

struct sp_store_ask {
    uint32_t what, seq;
    uint32_t segment, index, n;
};

/* Of one page. */
enum sp_store_result { SP_STORE_DONE, SP_STORE_AGAIN, SP_STORE_CANNOT };

struct sp_store_news {
    uint32_t frame;
    uint32_t lost; /* 1: its bytes could not be had (S8); 0: it is in memory */
};

struct sp_store_answer {
    uint32_t seq;          /* the question's */
    int32_t status;        /* 0 or a negative errno; with results, that they are there */
    uint32_t n;            /* pages, or news */
    uint32_t locks;        /* COUNT: 1 if what is kept is locked */
    uint32_t write_errors; /* TELL: of the file, since this worker began */
    union {
        uint8_t result[SP_STORE_PAGES];
        struct sp_store_news news[SP_STORE_NEWS];
        struct sp_store_counters counters;
    };
};

struct sp_store_server_run {
    int dev; /* of sp_store_fuse_open() */
    int store[SP_STORE_FDS];
    int file; /* of the store; -1: none */
};

/* Becomes the server. Returns when the mount is gone: 0, or a negative errno. */
int sp_store_server_process(const struct sp_store_server_run *run);

struct sp_store_worker_run {
    int dev, mount; /* of sp_store_fuse_open(); dev is the worker's from now on */
    int sock;       /* SOCK_SEQPACKET: questions come here */
    int pages;      /* memory of SP_STORE_PAGES pages, shared with who asks */
    struct sp_store *store;
};

/* Becomes the worker; a server must run, or be started. Returns at the last end of sock: 0, or a
 * negative errno. */
int sp_store_worker_process(const struct sp_store_worker_run *run);

static inline bool sp_store_bit(const uint64_t *map, uint32_t i)
{
    return __atomic_load_n(&map[i / 64], __ATOMIC_ACQUIRE) >> (i % 64) & 1;
}

static inline void sp_store_set_bit(uint64_t *map, uint32_t i, bool is)
{
    uint64_t mask = UINT64_C(1) << (i % 64);

    if (is)
        __atomic_fetch_or(&map[i / 64], mask, __ATOMIC_ACQ_REL);
    else
        __atomic_fetch_and(&map[i / 64], ~mask, __ATOMIC_ACQ_REL);
}

#endif
