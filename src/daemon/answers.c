/* SPDX-License-Identifier: Apache-2.0 */
#include "answers.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "ops.h"

#define COUNT_MAX (1ull << 36) /* pages in one address space: 256 TiB of them */

static bool aligned(uint64_t addr, uint32_t page_size)
{
    return (addr & (page_size - 1)) == 0;
}

static bool range_ok(uint64_t addr, uint64_t npages, uint32_t page_size)
{
    return aligned(addr, page_size) && addr < SP_ADDRESS_END && npages != 0 &&
           npages <= (SP_ADDRESS_END - addr) / page_size;
}

static bool next_ok(uint64_t next, uint64_t from, uint32_t page_size)
{
    return next == 0 || (aligned(next, page_size) && next > from && next < SP_ADDRESS_END);
}

static bool ends_with_zero(const char *name, size_t size)
{
    return memchr(name, 0, size) != NULL;
}

int sp_check_header(const void *packet, size_t size, struct sp_msg *out)
{
    if (size < sizeof(*out) || size > SP_WIRE_MAX)
        return -EPROTO;
    memcpy(out, packet, sizeof(*out));
    if (out->magic != SP_WIRE_MAGIC || out->version != SP_WIRE_VERSION ||
        out->length != size - sizeof(*out))
        return -EPROTO;
    return 0;
}

static bool domain_ok(const char *name)
{
    for (; *name; name++) {
        bool letter = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z');

        if (!letter && !(*name >= '0' && *name <= '9') && !strchr("_.-", *name))
            return false;
    }
    return true;
}

int sp_check_hello(const void *body, size_t length, uint32_t page_size, struct sp_hello *out)
{
    const uint32_t known = SP_HELLO_ALL | SP_HELLO_FORKED | SP_HELLO_REJOIN;

    if (length != sizeof(*out))
        return -EPROTO;
    memcpy(out, body, sizeof(*out));
    out->comm[sizeof(out->comm) - 1] = 0;
    if (out->program_pid == 0 || out->program_pid > INT32_MAX || (out->flags & ~known) ||
        out->page_size != page_size || !ends_with_zero(out->domain, sizeof(out->domain)) ||
        !domain_ok(out->domain))
        return -EPROTO;
    if (!aligned(out->wait_page, page_size) || out->wait_page >= SP_ADDRESS_END)
        return -EPROTO;
    return 0;
}

static int check_runs(const struct sp_run *run, uint32_t nruns, uint32_t page_size)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < nruns; i++) {
        if (!range_ok(run[i].addr, run[i].npages, page_size) || run[i].addr < end)
            return -EPROTO;
        end = run[i].addr + run[i].npages * page_size;
    }
    return 0;
}

static int check_pages(const struct sp_page_hash *page, uint32_t npages, uint32_t page_size,
                       bool nodes)
{
    const uint64_t said = SP_PAGE_KEPT | (nodes ? SP_PAGE_NODE : 0);

    for (uint32_t i = 0; i < npages; i++) {
        if (!range_ok(page[i].addr & ~said, 1, page_size) ||
            (page[i].addr & said) >> SP_PAGE_NODE_SHIFT > SP_WIRE_NODES ||
            (i && (page[i].addr & ~said) <= (page[i - 1].addr & ~said)))
            return -EPROTO;
    }
    return 0;
}

int sp_check_report(const void *body, size_t length, uint32_t page_size, uint64_t from, bool nodes,
                    struct sp_report_view *out)
{
    const struct sp_report *head = body;

    if (length < sizeof(*head) || head->npages > SP_REPORT_PAGES ||
        head->nchanged > SP_REPORT_RUNS || head->ngone > SP_REPORT_RUNS)
        return -EPROTO;
    if (length != sizeof(*head) + head->npages * sizeof(struct sp_page_hash) +
                      ((size_t)head->nchanged + head->ngone) * sizeof(struct sp_run))
        return -EPROTO;
    if (!next_ok(head->next, from, page_size) || head->tracked > COUNT_MAX ||
        head->looked > COUNT_MAX || head->passed > COUNT_MAX || head->waiting > COUNT_MAX ||
        head->merged > COUNT_MAX || head->kept > COUNT_MAX || head->useless > COUNT_MAX)
        return -EPROTO;
    out->head = head;
    out->page = (const struct sp_page_hash *)(head + 1);
    out->changed = (const struct sp_run *)(out->page + head->npages);
    out->gone = out->changed + head->nchanged;
    if (check_pages(out->page, head->npages, page_size, nodes) ||
        check_runs(out->changed, head->nchanged, page_size) ||
        check_runs(out->gone, head->ngone, page_size))
        return -EPROTO;
    return 0;
}

int sp_check_sites(const void *body, size_t length, uint32_t page_size, uint64_t from,
                   const struct sp_sites **out)
{
    const struct sp_sites *sites = body;
    uint64_t end = 0;

    if (length < sizeof(*sites) || sites->nruns > SP_SITES_RUNS ||
        length != sizeof(*sites) + sites->nruns * sizeof(sites->run[0]) ||
        !next_ok(sites->next, from, page_size))
        return -EPROTO;
    for (uint32_t i = 0; i < sites->nruns; i++) {
        const struct sp_site_run *run = &sites->run[i];

        if (!range_ok(run->addr, run->npages, page_size) || run->addr < end ||
            run->segment == 0 || run->segment > 0xffffu || run->index >= SP_SEGMENT_PAGES_MAX ||
            run->npages > SP_SEGMENT_PAGES_MAX - run->index)
            return -EPROTO;
        end = run->addr + (uint64_t)run->npages * page_size;
    }
    *out = sites;
    return 0;
}

int sp_check_zeroed(const void *body, size_t length, uint32_t page_size, uint64_t from,
                    const struct sp_zeroed **out)
{
    const struct sp_zeroed *zeroed = body;

    if (length < sizeof(*zeroed) || zeroed->nruns > SP_SITES_RUNS ||
        length != sizeof(*zeroed) + zeroed->nruns * sizeof(zeroed->run[0]) ||
        !next_ok(zeroed->next, from, page_size) ||
        check_runs(zeroed->run, zeroed->nruns, page_size))
        return -EPROTO;
    *out = zeroed;
    return 0;
}

static bool result_ok(uint8_t result, uint32_t flags)
{
    return result <= SP_OUT_OF_MEMORY || (result == SP_RESULT_HELD && (flags & SP_MERGE_WRITTEN)) ||
           (result == SP_OTHER_NODE && (flags & SP_MERGE_NODE));
}

int sp_check_merged(const void *body, size_t length, uint32_t npages, uint32_t flags,
                    const struct sp_merged **out)
{
    const struct sp_merged *merged = body;

    if (length < sizeof(*merged) || merged->npages != npages ||
        length != sizeof(*merged) + npages)
        return -EPROTO;
    for (uint32_t i = 0; i < npages; i++) {
        if (!result_ok(merged->result[i], flags))
            return -EPROTO;
    }
    *out = merged;
    return 0;
}

int sp_check_filled(const void *body, size_t length, uint32_t npages, struct sp_filled *out)
{
    if (length != sizeof(*out) || npages == 0 || npages > SP_FILL_PAGES)
        return -EPROTO;
    memcpy(out, body, sizeof(*out));
    for (uint32_t i = npages; i < SP_FILL_PAGES; i++)
        if (out->ok[i / 64] >> (i % 64) & 1)
            return -EPROTO;
    return 0;
}

int sp_check_unmerged(const void *body, size_t length, uint32_t page_size, uint64_t from,
                      uint64_t end, struct sp_unmerged *out)
{
    if (length != sizeof(*out))
        return -EPROTO;
    memcpy(out, body, sizeof(*out));
    if (out->status > 0 || out->status < -4095 || out->npages > COUNT_MAX ||
        !next_ok(out->next, from, page_size))
        return -EPROTO;
    if (out->next >= end)
        out->next = 0;
    return 0;
}

int sp_check_done(const void *body, size_t length, int32_t *status)
{
    struct sp_done done;

    if (length != sizeof(done))
        return -EPROTO;
    memcpy(&done, body, sizeof(done));
    if (done.status > 0 || done.status < -4095)
        return -EPROTO;
    *status = done.status;
    return 0;
}

int sp_check_explained(const void *body, size_t length, uint32_t page_size, uint64_t from,
                       struct sp_explained *out)
{
    const uint32_t known = SP_EXPLAINED_LOCKS_FUTURE | SP_EXPLAINED_GAVE_BACK | SP_EXPLAINED_SHORT |
                           SP_EXPLAINED_STAYS | SP_EXPLAINED_RAW_CODE |
                           SP_EXPLAINED_RAW_CHANGE | SP_EXPLAINED_RING_ADVICE;

    if (length != sizeof(*out))
        return -EPROTO;
    memcpy(out, body, sizeof(*out));
    if (!next_ok(out->next, from, page_size) || (out->flags & ~known))
        return -EPROTO;
    for (unsigned i = 0; i < SP_NOW_KINDS; i++) {
        if (out->page[i] > COUNT_MAX)
            return -EPROTO;
    }
    for (unsigned i = 0; i < SP_LEFT_KINDS; i++) {
        if (out->left[i] > SP_ADDRESS_END)
            return -EPROTO;
    }
    return 0;
}

int sp_check_journal(const struct sp_journal *journal, uint32_t page_size)
{
    if (journal->state != SP_JOURNAL_LIFT || journal->npages > SP_LIFT_PAGES ||
        !range_ok(journal->addr, journal->npages, page_size) ||
        !range_ok(journal->staging, journal->npages, page_size))
        return -EPROTO;
    return 0;
}
