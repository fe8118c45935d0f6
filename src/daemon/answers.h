/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of what agents send: pure functions over bytes, so that a fuzzer can call them.
 *
 * Assumptions common to all: body is aligned to 8 bytes, length is what really arrived, page_size
 * is a power of two. They return 0, or -EPROTO for anything that an agent of ours never sends; only
 * after 0 may the other fields be used, and then every count and address in them is in bounds.
 */
#ifndef SP_DAEMON_ANSWERS_H
#define SP_DAEMON_ANSWERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

/* Addresses of user space end below this on every machine that we know. */
#define SP_ADDRESS_END (1ull << 56)

/* Magic, version, and that exactly length bytes follow. Copies the header to out. */
int sp_check_header(const void *packet, size_t size, struct sp_msg *out);
/* The first packet of a client. The names in out end with 0. */
int sp_check_hello(const void *body, size_t length, uint32_t page_size, struct sp_hello *out);

struct sp_report_view {
    const struct sp_report *head;
    const struct sp_page_hash *page;
    const struct sp_run *changed, *gone;
};
/* Ascending pages and runs, none overlapping, next beyond from; nodes only where they were asked for. */
int sp_check_report(const void *body, size_t length, uint32_t page_size, uint64_t from, bool nodes,
                    struct sp_report_view *out);
/* Ascending runs, next beyond from; whether the frames exist is the caller's matter. */
int sp_check_sites(const void *body, size_t length, uint32_t page_size, uint64_t from,
                   const struct sp_sites **out);
/* Ascending runs, next beyond from. */
int sp_check_zeroed(const void *body, size_t length, uint32_t page_size, uint64_t from,
                    const struct sp_zeroed **out);
/* One known result for each of the npages asked, that what is in flags, of SP_MERGE_, allows. */
int sp_check_merged(const void *body, size_t length, uint32_t npages, uint32_t flags,
                    const struct sp_merged **out);
int sp_check_filled(const void *body, size_t length, uint32_t npages, struct sp_filled *out);
int sp_check_unmerged(const void *body, size_t length, uint32_t page_size, uint64_t from,
                      uint64_t end, struct sp_unmerged *out);
int sp_check_done(const void *body, size_t length, int32_t *status);
/* Counts and bytes so small that sums of them over one mm do not overflow; next beyond from. */
int sp_check_explained(const void *body, size_t length, uint32_t page_size, uint64_t from,
                       struct sp_explained *out);

/* A journal copied out of the shared memory of a dead agent (D2). */
int sp_check_journal(const struct sp_journal *journal, uint32_t page_size);

#endif
