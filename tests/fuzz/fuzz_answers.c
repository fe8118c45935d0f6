/* SPDX-License-Identifier: Apache-2.0 */
/* X, Trust: no bytes from an agent take the checks of answers out of bounds, and what they let
 * through is in bounds. The first byte picks the check. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "answers.h"
#include "ops.h"

#define PAGE 4096u

static void expect_report(const struct sp_report_view *view, uint64_t said)
{
    uint64_t last = 0;

    for (uint32_t i = 0; i < view->head->npages; i++) {
        uint64_t addr = view->page[i].addr & ~said;

        expect(addr % PAGE == 0 && (i == 0 || addr > last));
        last = addr;
    }
    for (uint32_t i = 0; i < view->head->nchanged; i++)
        expect(view->changed[i].npages <= SP_ADDRESS_END / PAGE);
    for (uint32_t i = 0; i < view->head->ngone; i++)
        expect(view->gone[i].addr + view->gone[i].npages * PAGE <= SP_ADDRESS_END);
}

static void expect_sites(const struct sp_sites *sites)
{
    for (uint32_t i = 0; i < sites->nruns; i++)
        expect(sites->run[i].segment != 0 &&
               (uint64_t)sites->run[i].index + sites->run[i].npages <= SP_SEGMENT_PAGES_MAX);
}

static void check(unsigned which, const void *body, size_t size)
{
    const struct sp_merged *merged;
    const struct sp_sites *sites;
    const struct sp_zeroed *zeroed;
    struct sp_report_view view;
    struct sp_explained explained;
    struct sp_unmerged unmerged;
    struct sp_journal journal;
    struct sp_hello hello;
    struct sp_msg msg;
    struct sp_filled filled;
    int32_t status;

    switch (which % 11) {
    case 0:
        if (!sp_check_header(body, size, &msg))
            expect(msg.length + sizeof(msg) == size);
        break;
    case 1:
        if (!sp_check_hello(body, size, PAGE, &hello))
            expect(strlen(hello.domain) < sizeof(hello.domain));
        break;
    case 2:
        if (!sp_check_report(body, size, PAGE, 0x1000, false, &view))
            expect_report(&view, SP_PAGE_KEPT);
        if (!sp_check_report(body, size, PAGE, 0x1000, true, &view))
            expect_report(&view, SP_PAGE_KEPT | SP_PAGE_NODE);
        break;
    case 3:
        if (!sp_check_sites(body, size, PAGE, 0, &sites))
            expect_sites(sites);
        break;
    case 4:
        if (!sp_check_merged(body, size, 5, 0, &merged))
            expect(merged->result[4] <= SP_OUT_OF_MEMORY);
        if (!sp_check_merged(body, size, 5, SP_MERGE_NODE, &merged))
            expect(merged->result[4] <= SP_OTHER_NODE);
        if (!sp_check_merged(body, size, 5, SP_MERGE_WRITTEN, &merged))
            expect(merged->result[4] <= SP_OUT_OF_MEMORY || merged->result[4] == SP_RESULT_HELD);
        break;
    case 5:
        if (!sp_check_filled(body, size, 7, &filled))
            expect(filled.ok[0] < 1u << 7 && !filled.ok[1]);
        break;
    case 6:
        if (!sp_check_unmerged(body, size, PAGE, 0, ~0ull, &unmerged))
            expect(unmerged.status <= 0);
        break;
    case 7:
        if (!sp_check_done(body, size, &status))
            expect(status <= 0);
        break;
    case 8:
        if (size >= sizeof(journal)) {
            memcpy(&journal, body, sizeof(journal));
            if (!sp_check_journal(&journal, PAGE))
                expect(journal.npages >= 1 && journal.npages <= SP_LIFT_PAGES);
        }
        break;
    case 9:
        if (!sp_check_explained(body, size, PAGE, 0x1000, &explained))
            expect(explained.next == 0 || explained.next > 0x1000);
        break;
    case 10:
        if (!sp_check_zeroed(body, size, PAGE, 0, &zeroed))
            expect(zeroed->nruns <= SP_SITES_RUNS &&
                   (!zeroed->nruns || zeroed->run[zeroed->nruns - 1].npages));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    void *body; /* aligned, and exactly as long as the input: the sanitizer sees every step over */

    if (size < 1)
        return 0;
    body = malloc(size - 1);
    if (size > 1 && !body)
        return 0;
    if (size > 1)
        memcpy(body, data + 1, size - 1);
    check(data[0], body, size - 1);
    free(body);
    return 0;
}
