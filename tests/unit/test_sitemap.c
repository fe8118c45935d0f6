/* SPDX-License-Identifier: Apache-2.0 */
/* The site map against a plain array of flags: random sets, clears and questions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sitemap.h"

#define PAGE  4096u
#define PAGES 200000u /* six groups of the map */
#define BASE  0x7f0012345000u

static unsigned char flag[PAGES];

static uint64_t address(unsigned page)
{
    return BASE + (uint64_t)page * PAGE;
}

static unsigned first_set(unsigned from, unsigned to, unsigned char value)
{
    while (from < to && flag[from] != value)
        from++;
    return from;
}

static int failed(const char *what, unsigned from, unsigned to)
{
    printf("%s differs for pages %u to %u\n", what, from, to);
    return 1;
}

static int compare(unsigned from, unsigned to)
{
    unsigned start = first_set(from, to, 1), stop = first_set(start, to, 0);
    uint64_t a = 0, b = 0;
    bool any = sp_sitemap_next(address(from), address(to), &a, &b);

    if (any != (start < to) || any != sp_sitemap_any(address(from), address(to)))
        return failed("any", from, to);
    if (any && (a != address(start) || b != address(stop)))
        return failed("next", from, to);
    return 0;
}

/* The map of spliced pages is one of its own, and says yes to everything when it is full. */
static int spliced_differs(void)
{
    uint64_t far = BASE + ((uint64_t)1 << 40), group = (uint64_t)1 << 27;

    sp_spliced_add(BASE, BASE + 2 * PAGE);
    sp_spliced_add((uint64_t)1 << 60, ((uint64_t)1 << 60) + PAGE);
    if (!sp_spliced_any(BASE + PAGE, BASE + 3 * PAGE) || sp_spliced_any(0, BASE) ||
        sp_spliced_any(BASE + 2 * PAGE, ~0ul) || sp_sitemap_any(0, ~0ul))
        return failed("spliced", 0, 2);
    if (!sp_spliced_clear(BASE, BASE + PAGE) || sp_spliced_clear(BASE, BASE + PAGE) ||
        sp_spliced_any(BASE, BASE + PAGE) || !sp_spliced_any(BASE, BASE + 2 * PAGE))
        return failed("cleared", 0, 1);
    for (unsigned i = 0; i < 512; i++)
        sp_spliced_add(far + i * group, far + i * group + PAGE);
    if (!sp_spliced_any(BASE, BASE + PAGE) || !sp_spliced_any(far, far + PAGE))
        return failed("a full map of spliced pages", 0, 1);
    return 0;
}

/* That of zeroed pages is one of its own, too, and counts. */
static int zeroed_differs(void)
{
    uint64_t a, b;

    if (sp_zeroed_set(BASE + PAGE, BASE + 4 * PAGE) || sp_sitemap_any(0, ~0ul) || sp_zeroed_pages() != 3)
        return failed("zeroed", 1, 4);
    sp_zeroed_clear(BASE, BASE + 2 * PAGE);
    if (!sp_zeroed_next(0, ~0ul, &a, &b) || a != BASE + 2 * PAGE || b != BASE + 4 * PAGE ||
        sp_zeroed_any(0, a))
        return failed("zeroed cleared", 0, 2);
    sp_zeroed_clear(0, ~0ul);
    return sp_zeroed_pages() ? failed("zeroed all cleared", 0, 4) : 0;
}

/* Only sites are guarded or frozen, and only frozen ones owed, as long as they are sites: once. */
static int guarded_differ(void)
{
    uint32_t times = sp_guarded_times();
    uint64_t a, b;

    if (sp_sitemap_set(BASE + PAGE, BASE + 5 * PAGE))
        return failed("sites", 1, 5);
    sp_guarded_add(BASE + 3 * PAGE, BASE + 9 * PAGE);
    if (sp_guarded_times() == times || !sp_guarded_next(0, ~0ul, &a, &b) || a != BASE + 3 * PAGE || b != BASE + 5 * PAGE ||
        sp_guarded_next(BASE + 5 * PAGE, ~0ul, &a, &b))
        return failed("guarded", 3, 5);
    sp_frozen_add(BASE + 3 * PAGE, BASE + 9 * PAGE, sp_thawed_times());
    sp_owed_add(BASE, BASE + 9 * PAGE);
    sp_sitemap_clear(BASE + 3 * PAGE, BASE + 4 * PAGE);
    if (!sp_owed_take(BASE, BASE + 9 * PAGE, &a, &b) || a != BASE + 4 * PAGE || b != BASE + 5 * PAGE ||
        sp_owed_take(0, ~0ul, &a, &b) || sp_guarded_next(0, BASE + 4 * PAGE, &a, &b))
        return failed("owed", 3, 5);
    times = sp_thawed_times();
    sp_frozen_clear(BASE + 4 * PAGE, BASE + 5 * PAGE);
    sp_owed_add(BASE, BASE + 9 * PAGE);
    sp_frozen_add(BASE + 4 * PAGE, BASE + 5 * PAGE, times); /* another thread gave the right back */
    sp_owed_add(BASE, BASE + 9 * PAGE);
    if (sp_owed_next(0, ~0ul, &a, &b))
        return failed("thawed", 4, 5);
    sp_guarded_forget();
    sp_sitemap_clear(0, ~0ul);
    if (sp_guarded_next(0, ~0ul, &a, &b))
        return failed("guarded, forgotten", 3, 5);
    for (uint64_t i = 0, group = (uint64_t)1 << 27; i < 512; i++) {
        if (sp_sitemap_set(BASE + i * group, BASE + i * group + PAGE))
            return failed("sites far apart", 0, 1);
        sp_guarded_add(BASE + i * group, BASE + i * group + PAGE);
    }
    if (!sp_guarded_next(0, PAGE, &a, &b) || a != 0 || b != PAGE)
        return failed("a full map of guarded sites", 0, 1);
    sp_sitemap_clear(0, ~0ul);
    return 0;
}

int main(void)
{
    uint64_t pages, a, b;

    if (sp_sitemap_init(PAGE) != 0 || sp_sitemap_pages() != 0 || sp_sitemap_any(0, ~0ul))
        return failed("an empty map", 0, 0);
    srand(1);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned from = (unsigned)rand() % (PAGES - 1);
        unsigned length = 1 + (unsigned)rand() % (i % 7 ? 700 : 60000);
        unsigned to = from + length < PAGES ? from + length : PAGES;

        if (i % 3 == 0) {
            if (sp_sitemap_set(address(from), address(to)) != 0)
                return failed("set", from, to);
            memset(flag + from, 1, to - from);
        } else if (i % 3 == 1) {
            sp_sitemap_clear(address(from), address(to));
            memset(flag + from, 0, to - from);
        } else if (compare(from, to) || compare(0, PAGES)) {
            return 1;
        }
        pages = 0;
        for (unsigned k = 0; k < PAGES; k++)
            pages += flag[k];
        if (pages != sp_sitemap_pages())
            return failed("the number of pages", from, to);
    }
    sp_sitemap_clear(0, ~0ul);
    if (sp_sitemap_pages() != 0 || sp_sitemap_next(0, ~0ul, &a, &b))
        return failed("the cleared map", 0, PAGES);
    if (sp_sitemap_set((uint64_t)1 << 52, ((uint64_t)1 << 52) + PAGE) == 0)
        return failed("an address out of reach", 0, 0);
    if (spliced_differs() || zeroed_differs() || guarded_differ())
        return 1;
    puts("ok");
    return 0;
}
