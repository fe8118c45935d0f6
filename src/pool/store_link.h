/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking end of the store's worker (store_process.h): one question at a time, waited for.
 *
 * A question outlives the worker: when it is killed the question is put again to the next one, so
 * each question may be carried out twice, and all are such that this does no harm. Whoever has the
 * link tends the two processes meanwhile, for the worker may be waiting for a dead server.
 */
#ifndef SP_POOL_STORE_LINK_H
#define SP_POOL_STORE_LINK_H

#include "store_process.h"

struct sp_store_link;

/* Sees to it that both processes run. 1: the worker is a new one; 0: it is the one that was asked;
 * a negative errno: there is none. */
typedef int (*sp_store_tend_fn)(void *arg);

/* The other end of the worker's socket, and the memory that is shared with it; both stay the
 * caller's. 0 or -ENOMEM. */
int sp_store_link_new(struct sp_store_link **out, int sock, int pages, sp_store_tend_fn tend,
                      void *arg);
void sp_store_link_free(struct sp_store_link *link);
/* So long, in milliseconds, instead of half a minute. */
void sp_store_link_be_patient(struct sp_store_link *link, unsigned msecs);
/* The shared pages, SP_STORE_PAGES: what FILL takes, and GET gives until the next question. */
void *sp_store_link_pages(const struct sp_store_link *link);
/* The number of the last question: while it is the same nothing was asked. */
uint32_t sp_store_link_seq(const struct sp_store_link *link);
/*
 * Asks and waits, for half a minute at most (-ETIMEDOUT), and after that for a tenth of a second, until
 * something comes from the worker again: who asks does nothing else meanwhile. *out is valid until the next question; of
 * FD the descriptor is returned, which is the caller's. Else 0; or the answer's status; or -EPIPE:
 * there is no worker.
 */
int sp_store_ask(struct sp_store_link *link, enum sp_store_what what, uint32_t segment,
                 uint32_t index, uint32_t n, const struct sp_store_answer **out);
/* SP_STORE_AGENT: fd are its connection and its pidfd, which stay the caller's; segments: bits, of
 * those whose frames it may have held. 0 or a negative errno. A new worker does not have those that
 * the one before was given. */
int sp_store_give_agent(struct sp_store_link *link, uint32_t key, uint32_t pid,
                        const int fd[SP_STORE_AGENT_FDS], const uint64_t *segments);

#endif
